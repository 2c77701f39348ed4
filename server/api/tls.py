"""TLS credentials that follow their files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
import structlog

if TYPE_CHECKING:
    from server.settings import Tls

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
    def __init__(self, tls: Tls) -> None:
        self._tls = tls
        self._seen = self._tls.stamp()

    def read(self) -> grpc.ServerCertificateConfiguration:
        tls = self._tls
        pair = (tls.key.read_bytes(), tls.certificate.read_bytes())
        return grpc.ssl_server_certificate_configuration(
            [pair], root_certificates=tls.client_ca.read_bytes() if tls.client_ca else None
        )

    def changed(self) -> grpc.ServerCertificateConfiguration | None:
        """Return the new configuration, or None if no file has changed or one cannot be read."""
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
