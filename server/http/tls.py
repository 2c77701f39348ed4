"""A TLS context that reloads its files when they change."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from server.settings import Tls

log = structlog.get_logger()


def server_context(tls: Tls) -> ssl.SSLContext:
    """Return a context that reloads its files at the next handshake after one has changed. Raise OSError."""
    context = current = _loaded(tls)
    seen = tls.stamp()

    def refresh(connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        nonlocal current, seen
        try:
            stamp = tls.stamp()
            if stamp != seen:
                current, seen = _loaded(tls), stamp
                log.info("certificate_reloaded", certificate=str(tls.certificate))
        except OSError as error:
            log.warning("certificate_not_read", cause=str(error))
        connection.context = current

    context.sni_callback = refresh
    return context


def _loaded(tls: Tls) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=tls.client_ca)
    context.verify_mode = ssl.CERT_REQUIRED if tls.client_ca is not None else ssl.CERT_NONE
    context.load_cert_chain(tls.certificate, tls.key)
    return context
