"""The HTTP server: uvicorn's, in the event loop of the gRPC server, with its own protocol (`connection`)."""

from __future__ import annotations

import asyncio
import socket
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from typing import TYPE_CHECKING

import uvicorn

from server.http.connection import HttpConnection
from server.http.handshakes import Handshakes
from server.http.tls import server_context

if TYPE_CHECKING:
    from collections.abc import Callable

    from server.http.connections import HttpConnections
    from server.http.path_router import Application
    from server.settings import Tls


LAST_WORD_SECONDS = 1.0
"""The time for a client to read the last response."""
BACKLOG = 2048
KEEP_ALIVE_SECONDS = 75
DATE_SECONDS = 1.0


class HttpServer:
    """Serves an application."""

    def __init__(self, application: Application, grace_seconds: float, connections: HttpConnections) -> None:
        self._application, self._grace_seconds = application, grace_seconds
        self._connections = connections
        self._config = uvicorn.Config(
            application,
            loop="none",
            lifespan="off",
            http=HttpConnection,  # type: ignore[arg-type]  # a protocol with a buffer
            ws="none",
            interface="asgi3",
            access_log=False,
            log_config=None,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=round(grace_seconds + 2 * LAST_WORD_SECONDS),
        )
        self._server = _Server(self._config, connections)
        self._task: asyncio.Task[None] | None = None

    async def start(self, address: str, tls: Tls | None) -> str:
        """Listen, and return the address as HOST:PORT, with the actual port if it was 0. Raise OSError."""
        listening = _listen(address)
        self._config.load()
        self._config.ssl = server_context(tls) if tls is not None else None
        self._connections.start()
        self._task = asyncio.create_task(self._server.serve(sockets=[listening]), name="http")
        while not self._server.started:
            if self._task.done():
                self._task.result()
            await asyncio.sleep(0.001)
        return f"{address.rpartition(':')[0]}:{listening.getsockname()[1]}"

    async def stop(self) -> None:
        """Accept no more connections; respond with 503 to requests that do not finish within `grace_seconds`."""
        self._server.leave()
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=self._grace_seconds)
            self._application.end_calls()
            await self._task
        await self._connections.close()


class _Server(uvicorn.Server):
    """uvicorn's server without its signal handlers: the process handles signals itself."""

    def __init__(self, config: uvicorn.Config, connections: HttpConnections) -> None:
        super().__init__(config)
        self._connections = connections
        self._leaving = asyncio.Event()

    def leave(self) -> None:
        """Begin to stop."""
        self.should_exit = True
        self._leaving.set()

    async def main_loop(self) -> None:
        """Renew the date of the responses each second until `leave`; uvicorn looks ten times a second whether to."""
        while not await self.on_tick(0):
            with suppress(TimeoutError):
                async with asyncio.timeout(DATE_SECONDS):
                    await self._leaving.wait()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen on a socket. uvicorn's own way counts no connection before the end of its TLS handshake."""
        connect = partial(HttpConnection, self.config, self.server_state, {}, connections=self._connections)
        accept: Callable[[], asyncio.BaseProtocol] = connect
        if self.config.ssl is not None:
            accept = Handshakes(self.config.ssl, connect, self._connections, self.server_state).accept
        self.servers = [
            await asyncio.get_running_loop().create_server(accept, sock=listening, backlog=BACKLOG)
            for listening in sockets or ()
        ]
        self.started = True

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]
        return nullcontext()


def _listen(address: str) -> socket.socket:
    """Return a listening socket. Raise OSError."""
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Without an explicit protocol asyncio leaves Nagle's algorithm on, which delays a body by 40 ms after its header.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, int(port)))
        listening.listen(BACKLOG)
        listening.setblocking(False)
    except (OSError, OverflowError) as error:
        listening.close()
        raise OSError(f"Cannot listen on {address}: it is in use or not an address of this machine") from error
    return listening
