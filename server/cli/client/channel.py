"""The channel of a command: in clear, or over TLS with the authorities of the system or a file."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

from server.cli.arguments.value_parsers import is_loopback
from server.cli.errors import Failure

if TYPE_CHECKING:
    from server.cli.arguments.options import Connection

_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # `event tail` reconnects to a restarted server within a second.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 1_000),
)


def open_channel(connection: Connection) -> grpc.aio.Channel:
    """Return a channel to the server, which connects with the first call. Raise Failure for files of another kind."""
    if not connection.secure:
        # A proxy would see the key, and its loopback interface is another one.
        direct = (("grpc.enable_http_proxy", 0),) if is_loopback(connection.server) else ()
        return grpc.aio.insecure_channel(connection.server, (*_OPTIONS, *direct))
    credentials = grpc.ssl_channel_credentials(_authorities(connection.tls_ca), *_own_certificate(connection))
    return grpc.aio.secure_channel(connection.server, credentials, _OPTIONS)


def _authorities(file: Path | None) -> bytes | None:
    """Return the certificates of a file, else of the operating system; None for those that come with gRPC."""
    if file is not None:
        authorities = file.read_bytes()
        if b"-----BEGIN CERTIFICATE-----" not in authorities:
            raise Failure(f"{file} contains no certificate in PEM format (--tls-ca)")
        return authorities
    # It is that of SSL_CERT_FILE, if that is set.
    system = ssl.get_default_verify_paths().cafile
    return Path(system).read_bytes() if system else None


def _own_certificate(connection: Connection) -> tuple[bytes | None, bytes | None]:
    """Return the private key and the certificate that the command shows to the server, if it has any."""
    certificate, key = connection.tls_cert, connection.tls_key
    if certificate is None and key is None:
        return None, None
    if certificate is None or key is None:
        raise Failure("a client certificate needs both --tls-cert and --tls-key")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(certificate, key, password="")
    except OSError as error:
        why = str(error.strerror).partition(" (_ssl")[0]
        raise Failure(f"{certificate} and {key} are not a certificate and its private key: {why}") from error
    return key.read_bytes(), certificate.read_bytes()
