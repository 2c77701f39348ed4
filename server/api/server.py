"""The gRPC server: the services of the contract, health and reflection on one port."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from server.api.accepting import accepting_server
from server.api.connections import close_connections
from server.api.health_and_reflection import KeylessServices
from server.api.interceptor import method_handlers
from server.api.tls import server_credentials
from server.process.runtime import raise_file_limit
from server.rpc.call_limits import MAX_MESSAGE_BYTES
from server.rpc.contract import SERVICES
from server.rpc.open_calls import LAST_WORD_SECONDS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from server.rpc.calls import Calls
    from server.settings import Tls

_FLUSH_SECONDS = 0.1
"""Time for the last responses to reach the connections: a handler that has returned has not sent its response yet."""

MAX_CONNECTION_STREAMS: Final = 1_000
"""Calls of one connection that are open. More wait in the client; one connection thus has its project's share alone."""

MAX_CONNECTIONS: Final = 5_000
"""Connections that are open. Each takes 50 KB and a file descriptor. Further ones are closed at once."""

MAX_UNANSWERED: Final = 50_000
"""Calls whose headers have arrived and which this server has yet to look at, at 10 KB each. Beyond it, the library ends
calls as CANCELLED, which retry policies do not retry, so that the limits of calls must come first."""

UNREAD_BYTES: Final = 64 * 1024
"""The most bytes that a call may send before it is read; the rest of its message waits in the client."""

KEEPALIVE_SECONDS: Final = 60
"""A client that has sent nothing for this time is asked whether it is still there."""

KEEPALIVE_TIMEOUT_SECONDS: Final = 20
"""A client that does not respond for this time is gone: its calls are cancelled."""

IDLE_SECONDS: Final = 900
"""A connection without a call is closed after this time. Clients connect again with their next call."""

HANDSHAKE_SECONDS: Final = 10
"""Time until a connection is ready for calls."""

PING_SECONDS: Final = 10
"""The least time between two pings of a client. Clients keep idle connections through balancers alive by them."""

MAX_PING_STRIKES: Final = 2
"""Pings that may come earlier. A client without a key that sends nothing but pings is disconnected."""

SPARE_FILES: Final = 200
"""File descriptors for the database, listeners and logs."""


def _options() -> list[tuple[str, int]]:
    # The bridge may have the other half of the file descriptors.
    connections = max(1, min(MAX_CONNECTIONS, (raise_file_limit() - SPARE_FILES) // 2))
    return [
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_concurrent_streams", MAX_CONNECTION_STREAMS),
        ("grpc.max_allowed_incoming_connections", connections),
        ("grpc.server.max_pending_requests", MAX_UNANSWERED),
        ("grpc.server.max_pending_requests_hard_limit", MAX_UNANSWERED),
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_SECONDS * 1_000),
        ("grpc.keepalive_time_ms", KEEPALIVE_SECONDS * 1_000),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_SECONDS * 1_000),
        # The former is for a connection that takes nothing, this one for a client that takes pings and ignores them.
        ("grpc.http2.ping_timeout_ms", KEEPALIVE_TIMEOUT_SECONDS * 1_000),
        # The age of connections is not limited: it would end streams, which consumers keep open for days.
        ("grpc.max_connection_idle_ms", IDLE_SECONDS * 1_000),
        # By default the windows of a connection grow with its speed, to 16 MiB for each call, read or not. A message
        # that is being read has a window of its size.
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", UNREAD_BYTES),
        # Two servers on one port would each take some of the calls.
        ("grpc.so_reuseport", 0),
        ("grpc.http2.min_ping_interval_without_data_ms", PING_SECONDS * 1_000),
        ("grpc.http2.max_ping_strikes", MAX_PING_STRIKES),
        ("grpc.keepalive_permit_without_calls", 1),
    ]


class GrpcServer:
    """Serves the contract. `servicers` are by service name."""

    def __init__(self, calls: Calls, servicers: Mapping[str, object]) -> None:
        self._calls = calls.open_calls
        self._port = 0
        keyless = KeylessServices(self._calls, calls.metrics)
        self._health = keyless.health
        handlers = {
            service.full_name: method_handlers(service, servicers.get(service.name), calls) for service in SERVICES
        } | keyless.handlers()
        self._server = accepting_server(handlers, _options())

    async def start(self, address: str, tls: Tls | None) -> str:
        """Listen, and return the address as HOST:PORT, with the chosen port if it was 0. Raise OSError."""
        try:
            if tls is None:
                port = self._server.add_insecure_port(address)
            else:
                port = self._server.add_secure_port(address, server_credentials(tls))
        except RuntimeError as error:
            tls_files = "" if tls is None else ", or the TLS files do not match"
            raise OSError(
                f"Cannot listen on {address}: it is in use or not an address of this machine{tls_files}"
            ) from error
        self._port = port
        await self._server.start()
        return f"{address.rpartition(':')[0]}:{port}"

    async def report_ready(self, *, ready: bool) -> None:
        """Report the health of the services: NOT_SERVING while the database cannot be written.

        The health of the server as a whole, the empty name, stays SERVING: a restart would not help.
        """
        self._health.report_ready(ready=ready)

    async def leave(self) -> None:
        """Report NOT_SERVING and keep serving, because load balancers need time to notice."""
        self._calls.leaving.set()
        self._health.leave()

    async def stop(self, grace_seconds: float) -> None:
        """End streams, and give calls `grace_seconds` to finish.

        Those that do not finish are answered UNAVAILABLE. The connections are closed before the library stops: it
        cancels calls that arrive between its stop and the GOAWAY to the clients, and retry policies do not retry
        CANCELLED. On a closed connection such a call is UNAVAILABLE.
        """
        await self.leave()
        await self._calls.drain(grace_seconds)
        await asyncio.sleep(_FLUSH_SECONDS)
        close_connections(self._port)
        await self._server.stop(LAST_WORD_SECONDS)
