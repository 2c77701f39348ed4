"""TLS credentials that follow their files."""

from __future__ import annotations

from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Final

import grpc
import structlog

if TYPE_CHECKING:
    from server.settings import Tls

LOOK_SECONDS: Final = 0.1
"""The files are looked at no more often: each look at one gives the interpreter away, and a flood of handshakes would
wait for it twice more each time, as would all calls."""

log = structlog.get_logger()


def server_credentials(tls: Tls) -> grpc.ServerCredentials:
    """Return credentials that are reloaded at the next handshake after a file has changed. Raise OSError."""
    files = _Files(tls)
    return grpc.dynamic_ssl_server_credentials(
        files.read(),
        files.changed,  # type: ignore[arg-type]  # None means that nothing changed
        require_client_authentication=tls.client_ca is not None,
    )


class _Files:
    """The files, as threads of the library ask for them: once for each handshake, and each time for the interpreter."""

    def __init__(self, tls: Tls) -> None:
        self._tls = tls
        self._seen = self._tls.stamp()
        self._looked = -inf

    def read(self) -> grpc.ServerCertificateConfiguration:
        tls = self._tls
        pair = (tls.key.read_bytes(), tls.certificate.read_bytes())
        return grpc.ssl_server_certificate_configuration(
            [pair], root_certificates=tls.client_ca.read_bytes() if tls.client_ca else None
        )

    def changed(self) -> grpc.ServerCertificateConfiguration | None:
        """Return the new configuration, or None if no file has changed or one cannot be read."""
        now = monotonic()
        if now < self._looked + LOOK_SECONDS:
            return None
        self._looked = now
        try:
            stamp = self._tls.stamp()
            if stamp == self._seen:
                return None
            configuration = self.read()
        except OSError as error:
            log.warning("certificate_not_read", cause=str(error))
            return None
        self._seen = stamp
        log.info("certificate_reloaded", certificate=str(self._tls.certificate))
        return configuration
