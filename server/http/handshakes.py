"""TLS handshakes: connections are counted before them, and those that begin together do not hold up the event loop.

A server of asyncio makes an object of OpenSSL for each connection that it accepts, and calls nobody until the handshake
has ended: clients that never go on would not be counted. Here a connection is first a plain one:

    reading    until the client's first message is complete; counted, and among the idle ones that make room
    waiting    for its turn: addresses in turn, for SLICE_SECONDS in each round of the event loop
    shaking    by the library, for HANDSHAKE_SECONDS at most
    secured    an `HttpConnection`, which is counted in place of this one

A handshake takes 0.8 ms of the processor's time, so two thousand clients that send their first messages at the same
moment would hold the loop for a second and a half. Until then a connection takes 2 KB, and afterwards 60.
"""

from __future__ import annotations

import asyncio
from importlib import import_module
from math import inf
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from server.http.connections import address_of, file_of
from server.http.framing import TooManyHeads
from server.process.futures import mark_retrieved
from server.sharing.fair_queue import FairQueue
from server.sharing.loop_time import SLICE_SECONDS

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from uvicorn.server import ServerState

    from server.http.connection import HttpConnection
    from server.http.connections import HttpConnections

HANDSHAKE_SECONDS: Final = 10.0
"""The time for the client's first message, and then for the rest of the handshake."""

_HANDSHAKE: Final = 22
_HEADER: Final = 5
"""A record of TLS begins with its kind, and the last two bytes before its content are its length."""

_MAX_RECORD: Final = 16 * 1024
"""The longest record; one that says to be longer is none."""


class Handshakes:
    """The handshakes with the clients of one server.

    `connect` makes the connection that follows a handshake; it calls its `release` to take the place of the one before.
    """

    def __init__(
        self,
        context: ssl.SSLContext,
        connect: Callable[..., HttpConnection],
        connections: HttpConnections,
        server_state: ServerState,
    ) -> None:
        self.connections = connections
        self.server_state = server_state
        self._context = context
        self._connect = connect
        self._loop = asyncio.get_running_loop()
        self._library: Any = import_module("uvloop.loop" if _is_uvloop(self._loop) else "asyncio.sslproto").SSLProtocol
        self._waiting: FairQueue[PlainConnection] = FairQueue()

    def accept(self) -> PlainConnection:
        """Return the protocol of a new connection."""
        return PlainConnection(self)

    def wait(self, connection: PlainConnection) -> None:
        """Begin the handshake of a connection in one of the next rounds of the event loop."""
        if not self._waiting:
            self._loop.call_soon(self._begin_some)
        self._waiting.push(connection.address, connection)

    def _begin_some(self) -> None:
        until = perf_counter() + SLICE_SECONDS
        while self._waiting and perf_counter() < until:
            connection = self._waiting.pop()
            if not connection.lost:
                self._begin(connection)
        if self._waiting:
            self._loop.call_soon(self._begin_some)

    def _begin(self, connection: PlainConnection) -> None:
        ended = self._loop.create_future()
        ended.add_done_callback(connection.handshake_ended)
        secured = self._connect(release=connection.release)
        connection.hand_over(
            self._library(
                self._loop,
                secured,
                self._context,
                ended,
                server_side=True,
                ssl_handshake_timeout=HANDSHAKE_SECONDS,
            )
        )


class PlainConnection(asyncio.Protocol):
    """A connection until its handshake has ended."""

    def __init__(self, handshakes: Handshakes) -> None:
        self.address = ""
        self.lost = False
        """Whether the connection was lost before its handshake began."""
        self._handshakes = handshakes
        self._data = b""
        self._waiting = False
        self._deadline = inf
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # set before any other call

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count a new connection; it is closed at once if there are too many."""
        self.transport = transport  # type: ignore[assignment]  # uvloop's are of no class of asyncio
        self.address = address_of(transport)
        if not self._handshakes.connections.add(self, file_of(transport)):
            self._close()
            return
        self._handshakes.server_state.connections.add(self)  # type: ignore[arg-type]  # a protocol of our own
        self._deadline = asyncio.get_running_loop().time() + HANDSHAKE_SECONDS

    def data_received(self, data: bytes) -> None:
        """Keep what arrived until the handshake begins, bounded together with the unfinished heads of requests."""
        self._data += data
        try:
            self._handshakes.connections.count_head(len(data), len(self._data))
        except TooManyHeads:
            self._close()
            return
        if self._waiting:
            # It is read still, because that is how its loss is noticed.
            if len(self._data) > _MAX_RECORD:
                self.transport.pause_reading()
        elif _has_record(self._data):
            self._waiting = True
            self._deadline = inf
            self._handshakes.wait(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget a connection whose handshake has not begun."""
        self.lost = True
        self.release()

    # What uvicorn calls

    def shutdown(self) -> None:
        """Close a connection on which nothing was asked yet."""
        self._close()

    # What the set of connections calls

    @property
    def idle_since(self) -> float:
        """A time by which idle connections are ordered; infinite once the client has sent its first message."""
        return self._deadline

    def check_time(self, now: float) -> None:
        """Close the connection if its client is too slow."""
        if now >= self._deadline:
            self._close()

    def close_idle(self) -> None:
        """Close the connection to make room for another one."""
        self._close()

    def read_on(self) -> None:
        """Do nothing: no request has arrived."""

    # What others call once the handshake has begun

    def hand_over(self, library: Any) -> None:
        """Let a protocol of the library go on from the first message of the client."""
        transport, data = self.transport, memoryview(self._take_data())
        # Reading has to begin anew, because it reads into a buffer of the library then.
        transport.pause_reading()
        transport.set_protocol(library)
        library.connection_made(transport)
        while data:
            buffer = library.get_buffer(len(data))
            size = min(len(buffer), len(data))
            buffer[:size] = data[:size]
            data = data[size:]
            library.buffer_updated(size)
        if not transport.is_closing():
            transport.resume_reading()

    def handshake_ended(self, ended: asyncio.Future[None]) -> None:
        """Count the connection no longer if the handshake has failed."""
        mark_retrieved(ended)
        self.release()

    def release(self) -> None:
        """Count the connection no longer: it is lost, or one that is secured is counted now."""
        self._take_data()
        self._handshakes.connections.discard(self)
        self._handshakes.server_state.connections.discard(self)

    def _take_data(self) -> bytes:
        data, self._data = self._data, b""
        self._handshakes.connections.count_head(-len(data), 0)
        return data

    def _close(self) -> None:
        self.transport.abort()


def _has_record(data: bytes) -> bool:
    """Return whether data has a whole record of TLS, or is none, which is for the library to refuse."""
    if data[0] != _HANDSHAKE:
        return True
    if len(data) < _HEADER:
        return False
    size = int.from_bytes(data[_HEADER - 2 : _HEADER], "big")
    return size > _MAX_RECORD or len(data) >= _HEADER + size


def _is_uvloop(loop: asyncio.AbstractEventLoop) -> bool:
    return type(loop).__module__ == "uvloop"
