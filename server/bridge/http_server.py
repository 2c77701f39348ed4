"""The HTTP server: uvicorn's, in the event loop of the gRPC server, with connections of our own (`http_connection`)."""

from __future__ import annotations

import asyncio
import socket
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import uvicorn

from server.bridge.http_connection import HttpConnection
from server.bridge.tls import server_context

if TYPE_CHECKING:
    from server.bridge.app import Bridge
    from server.settings import Tls

LAST_WORD_SECONDS = 1.0
"""Time for a client to read the last answer."""
BACKLOG = 2048
KEEP_ALIVE_SECONDS = 75


class HttpServer:
    """Serves the bridge."""

    def __init__(self, application: Bridge, grace_seconds: float) -> None:
        self._bridge, self._grace_seconds = application, grace_seconds
        self._config = uvicorn.Config(
            application,
            loop="none",
            lifespan="off",
            http=HttpConnection,
            ws="none",
            interface="asgi3",
            access_log=False,
            log_config=None,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=round(grace_seconds + 2 * LAST_WORD_SECONDS),
        )
        self._server = _Server(self._config)
        self._task: asyncio.Task[None] | None = None

    async def start(self, address: str, tls: Tls | None) -> str:
        """Listen, and say where: HOST:PORT, the port chosen if it was 0. Raises OSError."""
        listening = _listen(address)
        self._config.load()
        self._config.ssl = server_context(tls) if tls is not None else None
        self._task = asyncio.create_task(self._server.serve(sockets=[listening]), name="http")
        while not self._server.started:
            if self._task.done():
                self._task.result()
            await asyncio.sleep(0.001)
        return f"{address.rpartition(':')[0]}:{listening.getsockname()[1]}"

    async def stop(self) -> None:
        """Accept no more connections; answer 503 to requests that do not finish within `grace_seconds`."""
        self._server.should_exit = True
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=self._grace_seconds)
            self._bridge.end_calls()
            await self._task


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: whoever started the process says when it ends."""

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]
        return nullcontext()


def _listen(address: str) -> socket.socket:
    """Open the port. Raises OSError."""
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Without the protocol's name asyncio leaves Nagle's algorithm on: a header and its body would be 40 ms apart.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, int(port)))
        listening.listen(BACKLOG)
        listening.setblocking(False)
    except (OSError, OverflowError) as error:
        listening.close()
        raise OSError(f"Cannot listen on {address}: it is in use or not of this machine") from error
    return listening
