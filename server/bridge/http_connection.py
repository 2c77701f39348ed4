"""One HTTP/1.1 connection: where requests begin and end, the order of answers, and the end of the connection.

The framing of a request is never guessed. A head that the parser or `body_length` refuses is answered with 400, after
all earlier requests, and nothing after it is read as a request:

    reading heads ── head complete ──> reading a body ── body complete ──> reading heads
         │                                   │                                  │
         └── framing broken, answered early and much still to come ──> ended <──┘ `Connection: close`, HTTP/1.0, EOF

Requests are served one at a time, in the order they arrived; while one waits, the socket is not read. An *early* answer
is one given before the body has arrived (401, 413, 415): a short rest of known length is then read and dropped, in any
other case the answer says `Connection: close`.

An upgrade is ignored, as RFC 9110 allows: llhttp stops after a head that asks for one, and would take the body for
another protocol, so the head is read a second time without its `Upgrade` field.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Final

import httptools

from server.bridge.http_exchange import HttpExchange
from server.bridge.http_framing import Headers, Malformed, bad_request, body_length

if TYPE_CHECKING:
    import uvicorn
    from uvicorn.server import ServerState

DROPPED_BYTES: Final = 1024 * 1024
"""The most bytes of a body that are dropped after an early answer; if more are announced, the connection is closed."""

LINGER_SECONDS: Final = 2.0
"""The time for which a connection that ended early is still read, so that no reset loses the last answer."""

BODY_BUFFER: Final = 64 * 1024
"""While more bytes of a body than this are buffered, the socket is not read."""


class HttpConnection(asyncio.Protocol):
    """A connection of uvicorn's server, in place of uvicorn's own protocol."""

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._application = config.loaded_app
        self._idle_seconds = config.timeout_keep_alive
        self._server_state = server_state
        self._loop = _loop or asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""
        self._headers: Headers = []
        self._exchanges: deque[HttpExchange] = deque()  # not answered yet; the first one is being served
        self._reading: HttpExchange | None = None  # its body is arriving
        self._refusal = ""  # why the framing is broken: the last answer, once the exchanges are done
        self._ended = False  # nothing that arrives is read as a request any more
        self._at_eof = False
        self._stopping = False
        self._read_paused = False
        self._timer: asyncio.TimerHandle | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # set before any other call

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start reading from a new connection."""
        self.transport = transport  # type: ignore[assignment]  # uvloop's are of no class of asyncio
        self._server_state.connections.add(self)  # type: ignore[arg-type]  # a protocol of our own

    def connection_lost(self, exc: Exception | None) -> None:
        """Disconnect every exchange; those not yet served are dropped."""
        self._server_state.connections.discard(self)
        self._ended = True
        self._set_timer(None)
        self._writable.set()
        for exchange in self._exchanges:
            exchange.disconnect()

    def data_received(self, data: bytes) -> None:
        """Read what arrived."""
        if self._ended:
            return
        try:
            self._parse(memoryview(data))
        except httptools.HttpParserError as error:
            self._refuse(error)
        self._pause_or_resume()

    def eof_received(self) -> bool:
        """Keep the connection for answers still due to a client that has half-closed it; not over TLS."""
        self._ended = self._at_eof = True
        if self._reading is not None or not self._exchanges:
            return False
        return self.transport.get_extra_info("sslcontext") is None

    def pause_writing(self) -> None:
        """Pause answers: the client does not read them."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Resume answers."""
        self._writable.set()

    # What uvicorn calls

    def shutdown(self) -> None:
        """End the connection once its requests are answered."""
        self._stopping = True
        if not self._exchanges:
            self.transport.close()

    # What the parser calls

    def on_message_begin(self) -> None:
        """Begin a head. Raise Malformed after the last request: the parser would read on."""
        if self._ended:
            raise Malformed("The connection has ended")
        self._url = b""
        self._headers = []

    def on_url(self, part: bytes) -> None:
        """Append a part of the target."""
        self._url += part

    def on_header(self, name: bytes, value: bytes) -> None:
        """Append a header. The parser also reports trailers here, after the body; they are dropped."""
        if self._reading is None:
            self._headers.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        """Begin an exchange. Raise Malformed if the framing is in doubt."""
        method, version = self._parser.get_method().decode("ascii"), self._parser.get_http_version()
        if self._parser.should_upgrade():
            if method == "CONNECT":
                raise Malformed("CONNECT is not supported")
            return
        length = body_length(version, self._headers)
        self._set_timer(None)
        keep_alive = version == "1.1" and self._parser.should_keep_alive()
        exchange = HttpExchange(self, self._scope(method, version), length, keep_alive=keep_alive)
        self._reading = exchange
        self._exchanges.append(exchange)
        if len(self._exchanges) == 1:
            self._serve(exchange)

    def on_body(self, part: bytes) -> None:
        """Pass a part of the body to its exchange."""
        assert self._reading is not None
        self._reading.feed(part)

    def on_message_complete(self) -> None:
        """End the body; after a head that asks for an upgrade, which is read again, there is none."""
        if self._reading is not None:
            self._reading.feed_end()
            self._ended = not self._reading.keep_alive
            self._reading = None

    # What exchanges call

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
        if not exchange.keep_alive or (self._stopping and exchange is self._exchanges[-1]):
            return True
        return not exchange.complete and not 0 <= exchange.expected <= DROPPED_BYTES

    # Reading

    def _parse(self, data: memoryview) -> None:
        while data:
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                head_size = upgrade.args[0]
            else:
                return
            data = data[head_size:]
            self._read_head_again()

    def _read_head_again(self) -> None:
        """Read the last head without its `Upgrade` field, in a new parser."""
        method, version = self._parser.get_method(), self._parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b" % (method, self._url, version)]
        lines += [b"%b: %b" % header for header in self._headers if header[0] != b"upgrade"]
        self._parser = httptools.HttpRequestParser(self)
        self._parser.feed_data(b"\r\n".join([*lines, b"", b""]))

    def _scope(self, method: str, version: str) -> dict[str, Any]:
        try:
            target = httptools.parse_url(self._url)
        except httptools.HttpParserError as error:
            raise Malformed("Invalid request target") from error
        return {
            "type": "http",
            "http_version": version,
            "method": method,
            "raw_path": target.path or b"/",
            "query_string": target.query or b"",
            "headers": self._headers,
        }

    def _refuse(self, error: httptools.HttpParserError) -> None:
        """Answer 400 as the last thing, unless the request whose framing is broken has its answer already."""
        if self._ended:
            return
        self._ended = True
        own = error.__context__
        if isinstance(error, httptools.HttpParserCallbackError) and not isinstance(own, Malformed):
            raise error
        broken, self._reading = self._reading, None
        if broken is None or broken in self._exchanges:
            self._refusal = str(own if isinstance(own, Malformed) else error)
        if broken is not None:
            broken.disconnect()
            if broken in self._exchanges and broken is not self._exchanges[0]:
                self._exchanges.remove(broken)
        if not self._exchanges:
            self._end()

    def _pause_or_resume(self) -> None:
        reading = self._reading
        full = len(self._exchanges) > 1 or (reading is not None and reading.buffered > BODY_BUFFER)
        if full is self._read_paused or self.transport.is_closing():
            return
        self._read_paused = full
        if full:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    # Answering

    def _serve(self, exchange: HttpExchange) -> None:
        task = self._loop.create_task(self._answer(exchange))
        self._server_state.tasks.add(task)
        task.add_done_callback(self._server_state.tasks.discard)

    async def _answer(self, exchange: HttpExchange) -> None:
        try:
            await exchange.run(self._application, self._server_state.default_headers)
        finally:
            self._answered(exchange)

    def _answered(self, exchange: HttpExchange) -> None:
        """Serve the next request, end the connection, or wait for more."""
        self._exchanges.popleft()
        if self.transport.is_closing():
            return
        if exchange.closes:
            self._exchanges.clear()
        if self._exchanges:
            self._serve(self._exchanges[0])
        elif exchange.closes or self._ended or self._stopping:
            self._end()
        else:
            self._set_timer(self._idle_seconds)
        self._pause_or_resume()

    def _end(self) -> None:
        """Close the connection, after the answer to broken framing if there is one.

        If a socket is closed with unread data, the kernel sends a reset, which can destroy the last answer. So where
        more may arrive, it is read and dropped until the client closes too, for LINGER_SECONDS.
        """
        unread = self._reading is not None or self._refusal != ""
        self._ended = True
        if self._refusal:
            self.transport.write(bad_request(self._refusal))
        if self._at_eof or not unread:
            self.transport.close()
            return
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._set_timer(LINGER_SECONDS)

    def _set_timer(self, seconds: float | None) -> None:
        """Close the connection after some seconds; None cancels that."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if seconds is None else self._loop.call_later(seconds, self.transport.close)
