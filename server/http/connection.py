"""One HTTP/1.1 connection: where requests begin and end, the order of answers, and the end of the connection.

The framing of a request is never guessed. A head that the parser or `body_length` refuses is answered with 400, and
nothing after it is read as a request:

    reading a head ── head complete ──> reading a body ── body complete, answered ──> reading a head
         │                                   │                                  │
         └── framing broken, too large, too slow, answered early ──> ended <────┘ `Connection: close`, HTTP/1.0, EOF

Requests are served one at a time, in the order they arrived. While one is served, the bytes of the next ones are kept
as they are, at most what one read of the socket returned, and the socket is not read. An *early* answer is one given
before the body has arrived. After 401, 408 and 413 the connection ends; after others a short rest of known length is
read and dropped, and in any other case the answer says `Connection: close`.

Every state but that of being served has a deadline, which `HttpConnections` looks after: no request sets a timer.
"""

from __future__ import annotations

import asyncio
from math import inf
from typing import TYPE_CHECKING, Any, Final

import httptools

from server.http.body_framing import ChunkedBody, SizedBody
from server.http.connections import HttpConnections, address_of, file_of
from server.http.exchange import HttpExchange
from server.http.framing import HeadTooSlow, Malformed, last_response, refusal
from server.http.head import RequestHead
from server.http.known_heads import KnownHead

if TYPE_CHECKING:
    from collections.abc import Callable

    import uvicorn
    from uvicorn.server import ServerState

DROPPED_BYTES: Final = 1024 * 1024
"""The most bytes of a body that are dropped after an early answer; if more are announced, the connection is closed."""

HEAD_SECONDS: Final = 10.0
"""The time for a head from its first byte on, for the first head from the connection on, and for dropped bytes."""

LINGER_SECONDS: Final = 2.0
"""The time for which a connection that ended early is still read, so that no reset loses the last answer."""

LINGER_BYTES: Final = 64 * 1024 * 1024
"""The most bytes that are read in that time."""

WRITE_SECONDS: Final = 30.0
"""The time in which a client must read what was written before more is, and a second more for each WRITE_BYTES."""

WRITE_BYTES: Final = 16 * 1024

BODY_BUFFER: Final = 32 * 1024
"""While more bytes of a body than this are buffered, the socket is not read."""

_FULL: Final = last_response(503, "The server has too many connections; try again in a second", "retry-after: 1")

_ENDING: Final = frozenset({401, 408, 413})
"""Statuses of early answers after which nothing more is read."""


class HttpConnection(asyncio.BufferedProtocol):
    """A connection of uvicorn's server, in place of uvicorn's own protocol."""

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        connections: HttpConnections | None = None,
        release: Callable[[], None] | None = None,
    ) -> None:
        self._application = config.loaded_app
        self._idle_seconds = config.timeout_keep_alive
        self._server_state = server_state
        self._loop = _loop or asyncio.get_running_loop()
        self._connections = HttpConnections() if connections is None else connections
        self._release = release  # called once this connection takes the place of the one with its TLS handshake
        self.address = ""  # of the client, as connections are counted
        self._head: RequestHead | None = None  # has begun to arrive
        self._head_bytes = 0
        self._body: SizedBody | ChunkedBody | None = None  # of the request whose body is arriving
        self._reading: HttpExchange | None = None  # that request, even if it is answered
        self._serving: HttpExchange | None = None  # not answered yet
        self._rest = b""  # what arrived after the request that is being served
        self._refusal = b""  # the last answer, which says why the request is not read on
        self._ended = False  # nothing that arrives is read as a request any more
        self._at_eof = False
        self._stopping = False
        self._read_paused = False
        self._lingering = 0  # bytes that were read since the connection ended
        self._deadline = inf
        self._write_deadline = inf
        self._writable = asyncio.Event()
        self._writable.set()
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # set before any other call

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start reading from a new connection, or refuse it."""
        self.transport = transport  # type: ignore[assignment]  # uvloop's are of no class of asyncio
        if self._release is not None:
            self._release()
            self._release = None
        self._server_state.connections.add(self)  # type: ignore[arg-type]  # a protocol of our own
        self._deadline = self._loop.time() + HEAD_SECONDS
        self.address = address_of(transport)
        if self._connections.add(self, file_of(transport)):
            return
        self._ended = True
        self.transport.write(_FULL)
        if self._connections.linger(self):
            self._linger()
        else:
            self._close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Disconnect the exchange; what was not yet read is dropped."""
        self._server_state.connections.discard(self)
        self._connections.discard(self)
        self._ended = True
        self._rest = b""
        self._forget_head()
        self._deadline = self._write_deadline = inf
        self._writable.set()
        for exchange in (self._serving, self._reading):
            if exchange is not None:
                exchange.disconnect()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return the buffer for the next read, which all connections share: it is copied before the next one."""
        return self._connections.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Read what is in the buffer."""
        self.data_received(bytes(self._connections.buffer[:nbytes]))

    def data_received(self, data: bytes) -> None:
        """Read what arrived."""
        if self._ended:
            self._lingering += len(data)
            if self._lingering > LINGER_BYTES:
                self._close()
            return
        self._rest += data
        self._read()

    def eof_received(self) -> bool:
        """Keep the connection for answers still due to a client that has half-closed it; not over TLS."""
        self._at_eof = True
        if self._serving is None or self._reading is not None or not self._serving.half_close():
            self._ended = True
            return False
        return self.transport.get_extra_info("sslcontext") is None

    def pause_writing(self) -> None:
        """Pause answers: the client does not read them."""
        self._writable.clear()
        seconds = WRITE_SECONDS + self.transport.get_write_buffer_size() / WRITE_BYTES
        self._write_deadline = self._loop.time() + seconds

    def resume_writing(self) -> None:
        """Resume answers."""
        self._write_deadline = inf
        self._writable.set()

    # What uvicorn calls

    def shutdown(self) -> None:
        """End the connection once its requests are answered."""
        self._stopping = True
        if self._serving is None:
            self._close()

    # What the set of connections calls

    @property
    def idle_since(self) -> float:
        """A time by which idle connections are ordered; infinite for others."""
        idle = self._serving is None and self._reading is None and self._head is None and not self._ended
        return self._deadline if idle else inf

    def check_time(self, now: float) -> None:
        """End the connection if a deadline has passed."""
        if now >= self._write_deadline or (now >= self._deadline and self.transport.is_closing()):
            self.transport.abort()
        elif now >= self._deadline:
            if self._head is not None:
                self._refuse(HeadTooSlow(f"The request head was not received within {HEAD_SECONDS:g} seconds"))
            else:
                self._close()

    def close_idle(self) -> None:
        """Close the connection to make room for another one."""
        self._close()

    # What exchanges call

    @property
    def default_lines(self) -> bytes:
        """The header lines that every response begins with: the date."""
        return self._connections.default_lines(self._server_state.default_headers)

    @property
    def is_writable(self) -> bool:
        """Whether the client reads what was written."""
        return self._writable.is_set()

    async def writable(self) -> None:
        """Wait until the client reads what was written."""
        await self._writable.wait()

    def wants_body(self) -> None:
        """Resume reading: the buffered body was taken."""
        self._pause_or_resume()

    def end_after_answers(self) -> None:
        """End the connection once its requests are answered."""
        self._stopping = True

    def is_last(self, exchange: HttpExchange) -> bool:
        """Return whether the answer to an exchange must say that the connection ends."""
        if not exchange.keep_alive or (self._stopping and not self._rest):
            return True
        if exchange.complete:
            return False
        return exchange.status in _ENDING or not 0 <= exchange.expected <= DROPPED_BYTES

    # Reading

    def _read(self) -> None:
        """Read until a request is complete and being served; what arrived after it is kept."""
        data, self._rest = self._rest, b""
        at = 0
        try:
            while at < len(data) and not self._ended:
                if self._reading is not None:
                    at = self._read_body(self._reading, data, at)
                elif self._serving is not None:
                    self._rest = data[at:]
                    break
                else:
                    at = self._read_head(data, at)
        except (Malformed, httptools.HttpParserError) as error:
            self._refuse(error)
        self._pause_or_resume()

    def _read_head(self, data: bytes, at: int) -> int:
        head = self._head
        first = head is None
        if head is None:
            if (known := self._connections.known_heads.find(data, at)) is not None:
                self._begin(known[0])
                return known[1]
            head = self._head = RequestHead()
        end = head.feed(data, at)
        if head.complete:
            self._forget_head()
            parsed = KnownHead.of(head)
            if first:
                self._connections.known_heads.add(data[at:end], parsed)
            self._begin(parsed)
            return end
        if first:
            self._deadline = min(self._deadline, self._loop.time() + HEAD_SECONDS)
        self._head_bytes += end - at
        self._connections.count_head(end - at, self._head_bytes)
        return end

    def _forget_head(self) -> None:
        if self._head is not None:
            self._head.release()
            self._head = None
        if self._head_bytes:
            self._connections.count_head(-self._head_bytes, 0)
            self._head_bytes = 0

    def _begin(self, head: KnownHead) -> None:
        """Begin an exchange."""
        length = head.length
        exchange = HttpExchange(self, {**head.scope}, head.headers, length, keep_alive=head.keep_alive)
        self._deadline = inf
        self._serving = exchange
        if length:
            self._reading, self._body = exchange, ChunkedBody() if length < 0 else SizedBody(length)
        else:
            self._finish_body(exchange)
        exchange.task = self._loop.create_task(self._answer(exchange))
        self._server_state.tasks.add(exchange.task)

    def _read_body(self, exchange: HttpExchange, data: bytes, at: int) -> int:
        assert self._body is not None
        at = self._body.feed(data, at, exchange.feed)
        if self._body.complete:
            self._reading = self._body = None
            self._finish_body(exchange)
        return at

    def _finish_body(self, exchange: HttpExchange) -> None:
        exchange.feed_end()
        self._ended = not exchange.keep_alive
        if self._serving is None:
            self._deadline = self._loop.time() + self._idle_seconds

    def _refuse(self, error: Exception) -> None:
        """Send a last answer, unless the unfinished request has been answered."""
        if self._ended:
            return
        own = error.__context__
        if isinstance(error, httptools.HttpParserCallbackError):
            if not isinstance(own, Malformed):
                raise error
            error = own
        self._ended = True
        broken, self._reading = self._reading, None
        self._forget_head()
        if broken is None or broken is self._serving:
            self._refusal = refusal(error)
        if broken is not None:
            broken.disconnect()
        if self._serving is None:
            self._end()

    def _pause_or_resume(self) -> None:
        reading = self._reading
        full = bool(self._rest) or (reading is not None and reading.buffered > BODY_BUFFER)
        if full is self._read_paused or self.transport.is_closing():
            return
        self._read_paused = full
        if full:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    # Answering

    async def _answer(self, exchange: HttpExchange) -> None:
        try:
            await exchange.run(self._application)
        finally:
            # Here and not as its callback, which would take another round of the loop.
            self._server_state.tasks.discard(exchange.task)
            # A task that failed refers to its frames, and so to the exchange.
            del exchange.task
            self._answered(exchange)

    def _answered(self, exchange: HttpExchange) -> None:
        """Read the next request, end the connection, or wait for more."""
        self._serving = None
        if self.transport.is_closing():
            return
        if exchange.closes or self._refusal or (self._ended and not self._rest):
            self._end()
            return
        self._deadline = self._loop.time() + (self._idle_seconds if self._reading is None else HEAD_SECONDS)
        if self._rest:
            self._connections.read_later(self)
        else:
            self._pause_or_resume()
            self._end_if_due()

    def read_on(self) -> None:
        """Read what arrived while a request was served."""
        if self._serving is None and self._rest:
            self._read()
            self._end_if_due()

    def _end_if_due(self) -> None:
        if self._at_eof and self._reading is not None:
            self._close()
        elif self._serving is None and not self._ended and (self._stopping or self._at_eof):
            self._end()

    def _end(self) -> None:
        """Close the connection, after the answer to a broken request if there is one.

        If a socket is closed with unread data, the kernel sends a reset, which can destroy the last answer. So where
        more may arrive, it is read and dropped until the client closes too, for LINGER_SECONDS.
        """
        unread = self._reading is not None or self._refusal != b""
        self._ended = True
        self._rest = b""
        if self._refusal:
            self.transport.write(self._refusal)
        if self._at_eof or not unread:
            self._close()
        else:
            self._linger()

    def _linger(self) -> None:
        self._pause_or_resume()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._deadline = self._loop.time() + LINGER_SECONDS

    def _close(self) -> None:
        """Close the connection once the client has read what was written, and within WRITE_SECONDS."""
        self._ended = True
        self._deadline = self._loop.time() + WRITE_SECONDS
        self.transport.close()
