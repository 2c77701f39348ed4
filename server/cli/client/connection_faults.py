"""Connections that fail however often they are tried: with TLS on one side only, or to another port."""

from __future__ import annotations

import socket
import ssl
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from server.cli.arguments.options import Connection

PROBE_SECONDS: Final = 2.0

_BY_TEXT_OF_GRPC: Final = {
    "CERTIFICATE_VERIFY_FAILED": (
        "the certificate of {server} was not accepted: it has expired, or {authority} did not sign it "
        "(name the authority that signed it: --tls-ca FILE)"
    ),
    "Hostname Verification Check failed": "the certificate of {server} is for another name (use that name in --server)",
    "WRONG_VERSION_NUMBER": "{server} does not use TLS (leave out {tls_options})",
    "http1.x server": "{server} is not a gRPC port: `signalbox serve` prints the right one as grpc=HOST:PORT",
}


def connection_fault(details: str, connection: Connection) -> str:
    """Return the fault of a connection and the option to pass; empty if a later attempt may succeed.

    `details` is the text of gRPC's UNAVAILABLE.
    """
    for text, message in _BY_TEXT_OF_GRPC.items():
        if text in details:
            return message.format(
                server=connection.server,
                authority=connection.tls_ca or "an authority that this machine trusts",
                tls_options=" and ".join(_tls_options(connection)),
            )
    # A server that stops ends its connections in the same way.
    ended = "Socket closed" in details or "reset by peer" in details
    if not ended or not _uses_tls(connection.server):
        return ""
    if not connection.secure:
        return f"{connection.server} uses TLS (name the authority that signed its certificate: --tls-ca FILE, or --tls)"
    if connection.tls_cert is None:
        return f"{connection.server} requires a client certificate (show yours: --tls-cert FILE --tls-key FILE)"
    return f"{connection.server} did not accept the client certificate {connection.tls_cert}"


def _tls_options(connection: Connection) -> list[str]:
    """Return the options that turned TLS on."""
    given = {
        "--tls": connection.tls,
        "--tls-ca": connection.tls_ca,
        "--tls-cert": connection.tls_cert,
        "--tls-key": connection.tls_key,
    }
    return [option for option, value in given.items() if value]


def _uses_tls(server: str) -> bool:
    """Return whether a server answers a TLS handshake, with any certificate."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    # A server that supports HTTP/2 alone ends a handshake without it.
    context.set_alpn_protocols(["h2"])
    try:
        address = urlsplit(f"//{server}")
        with (
            socket.create_connection((address.hostname or "", address.port or 0), PROBE_SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=address.hostname),
        ):
            return True
    except (OSError, ValueError):
        return False
