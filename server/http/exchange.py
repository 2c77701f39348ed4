"""One request over HTTP/1.1 and its answer, as ASGI messages."""

from __future__ import annotations

import asyncio
import http
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Protocol

import structlog

from server.http.headers import SAFE_HEADERS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    Application = Callable[..., Awaitable[None]]
    Header = tuple[bytes, bytes]

log = structlog.get_logger()

_STATUS_LINES: Final = {each.value: f"HTTP/1.1 {each.value} {each.phrase}\r\n".encode() for each in http.HTTPStatus}
_CHUNKED: Final = b"transfer-encoding: chunked\r\n"
_CLOSE: Final = b"connection: close\r\n\r\n"
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

LARGE_RESPONSE: Final = 64 * 1024
"""A smaller response fits into the buffers of the connection."""

_FAILED: Final = b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class ExchangeConnection(Protocol):
    """The connection of an exchange."""

    transport: asyncio.Transport

    @property
    def default_lines(self) -> bytes:
        """The header lines that every response begins with."""
        ...

    @property
    def is_writable(self) -> bool:
        """Whether the client reads what was written."""
        ...

    async def writable(self) -> None:
        """Wait until the client reads what was written."""
        ...

    def wants_body(self) -> None:
        """Resume reading: the buffered body was taken."""
        ...

    def end_after_answers(self) -> None:
        """End the connection once its requests are answered."""
        ...

    def is_last(self, exchange: HttpExchange) -> bool:
        """Return whether the answer must say that the connection ends."""
        ...


class HttpExchange:
    """A request, whose body may still be arriving, and its answer.

    `headers` has the last value of each header, and `task` serves the request. `expected` is the number of bytes of the
    body still to come, -1 if unknown because the body is chunked. `exposing` are headers of every response to it.
    """

    __slots__ = (
        "_answered",
        "_asks_first",
        "_body",
        "_chunks",
        "_connection",
        "_disconnected",
        "_head",
        "_method",
        "_news",
        "_on_disconnect",
        "_on_half_close",
        "_scope",
        "_started",
        "_unsent",
        "closes",
        "complete",
        "expected",
        "exposing",
        "headers",
        "keep_alive",
        "status",
        "task",
    )

    task: asyncio.Task[None]

    def __init__(
        self,
        connection: ExchangeConnection,
        scope: dict[str, Any],
        headers: Mapping[bytes, bytes],
        length: int,
        *,
        keep_alive: bool,
    ) -> None:
        self.headers = headers
        self.exposing: tuple[Header, ...] = ()
        self.keep_alive = keep_alive
        self.complete = False
        self.expected = length
        self.status = 0  # of the answer, once it has begun
        self.closes = False  # the answer said that the connection ends
        self._connection = connection
        self._scope: dict[str, Any] = scope
        self._method: str = scope["method"]
        self._chunks: bool = (
            scope["http_version"] == "1.1"
        )  # otherwise a body of unknown length ends with the connection
        self._body = bytearray()
        self._news: asyncio.Future[None] | None = None  # of a handler that waits for more of the body
        self._disconnected = False
        self._asks_first = b"expect" in headers and _expects_continue(scope)
        self._started = False
        self._head = b""  # of the answer, until the first part of its body
        self._answered = False
        self._unsent: int | None = None  # of the answer's body in bytes; None if it goes out in chunks
        self._on_disconnect: Callable[[], None] | None = None
        self._on_half_close: Callable[[], None] | None = None

    @property
    def buffered(self) -> int:
        """The number of buffered bytes of the body."""
        return len(self._body)

    def on_disconnect(self, call: Callable[[], None], half_close: Callable[[], None] | None = None) -> None:
        """Call something once the client is gone. Without it, a handler goes on, and its answer is dropped.

        A client that has half-closed the connection counts as gone, unless there is something else to call then.
        """
        self._on_disconnect = call
        self._on_half_close = half_close

    def half_close(self) -> bool:
        """Note that the client sends nothing more; return whether it is answered nevertheless."""
        if self._on_half_close is not None:
            self._on_half_close()
            return True
        return self._on_disconnect is None

    # The request

    def feed(self, part: bytes) -> None:
        """Queue a part of the body for the handler; drop it once the request is answered."""
        self._asks_first = False
        if self.expected > 0:
            self.expected -= len(part)
        if part and not self._answered:
            self._body += part
            self._wake()

    def feed_end(self) -> None:
        """Mark the body as complete."""
        self.complete = True
        self._wake()

    def disconnect(self) -> None:
        """Mark the client as gone: the rest of the body will not come, and nobody waits for the answer."""
        self._disconnected = True
        self._body.clear()
        self._wake()
        if self._on_disconnect is not None and not self._answered:
            self._on_disconnect()

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    def arrived(self) -> bytes | None:
        """Return the whole body if it has arrived already, or else None."""
        if not self.complete or self._disconnected or self._answered:
            return None
        body = bytes(self._body)
        self._body.clear()
        self._connection.wants_body()
        return body

    async def receive(self) -> dict[str, Any]:
        """Wait for the next part of the body."""
        if self._asks_first and not self.complete and not self._disconnected:
            self._asks_first = False
            self._connection.transport.write(_CONTINUE)
        while not (self._body or self.complete or self._disconnected):
            self._news = asyncio.get_running_loop().create_future()
            await self._news
        if self._disconnected or self._answered:
            return {"type": "http.disconnect"}
        body = bytes(self._body)
        self._body.clear()
        self._connection.wants_body()
        return {"type": "http.request", "body": body, "more_body": not self.complete}

    # The answer

    async def run(self, application: Application) -> None:
        """Call the application; an incomplete answer closes the connection."""
        scope, self._scope = self._scope, {}
        # No reference back: a cycle would stay in memory until garbage is collected, which is rare.
        scope["exchange"] = self
        try:
            await application(scope, self.receive, self.send)
        except Exception as error:
            log.exception("request_failed", method=self._method, exc_info=error)
        finally:
            self._on_disconnect = self._on_half_close = None
            self._close_unless_answered()

    async def respond(self, status: int, content: bytes, media_type: bytes, extra: Iterable[Header] = ()) -> None:
        """Send the whole answer; of a large one, the end waits until the client has read almost all of it."""
        if not self._connection.is_writable:
            await self._connection.writable()
        if self._disconnected:
            return
        if self._started:
            raise RuntimeError("The answer has begun already")
        self._unsent = len(content)
        self._begin(status, (*extra, *self.exposing), b"%bcontent-length: %d\r\n" % (_lines(media_type), self._unsent))
        large = self._unsent > LARGE_RESPONSE
        self._send_body(content, more=large)
        if large:
            await self.send({"type": "http.response.body", "body": b""})

    async def send(self, message: dict[str, Any]) -> None:
        """Send a part of the answer; to a client that is gone, nothing."""
        await self._connection.writable()
        if self._disconnected:
            return
        if self._started:
            self._send_body(message.get("body", b""), more=message.get("more_body", False))
        else:
            self._send_head(message["status"], message.get("headers", ()))

    def _close_unless_answered(self) -> None:
        if self._answered or (self._disconnected and not self._started):
            return
        if not self._started:
            self._connection.transport.write(_FAILED)
        self._connection.transport.close()

    def _send_head(self, status: int, headers: Iterable[Header]) -> None:
        headers = tuple(headers)
        lengths = [value for name, value in headers if name == b"content-length"]
        if lengths:
            self._unsent = int(lengths[-1])
        self._begin(status, (*headers, *self.exposing), b"" if lengths or not self._chunks else _CHUNKED)

    def _begin(self, status: int, headers: Iterable[Header], lines: bytes) -> None:
        """Begin the answer with these headers, and with lines that are ready."""
        parts = [_STATUS_LINES[status], self._connection.default_lines, lines]
        for name, value in headers:
            if b"\n" in value or b"\r" in value:
                raise ValueError(f"The header {name!r} contains a line break")
            if name == b"connection":
                self._connection.end_after_answers()
                continue
            parts += name, b": ", value, b"\r\n"
        self.status = status
        self.closes = self._asks_first_still() or self._connection.is_last(self)
        parts.append(_CLOSE if self.closes else b"\r\n")
        self._started = True
        self._head = b"".join(parts)

    def _asks_first_still(self) -> bool:
        """Return whether the client still holds the body back; then its next bytes may be the body or a new request."""
        return self._asks_first and not self.complete

    def _chunk(self, part: bytes, *, more: bool) -> bytes:
        """Return a part of a body of unknown length as it is sent; in HTTP/1.0 it ends with the connection."""
        if not self._chunks:
            return part
        return (b"%x\r\n%b\r\n" % (len(part), part) if part else b"") + (b"" if more else b"0\r\n\r\n")

    def _send_body(self, part: bytes, *, more: bool) -> None:
        if self._answered:
            raise RuntimeError("The answer is complete already")
        if self._method == "HEAD":
            part = b""
        elif self._unsent is None:
            part = self._chunk(part, more=more)
        else:
            self._unsent -= len(part)
            if self._unsent < 0 or (self._unsent and not more):
                raise RuntimeError("The answer is not as long as its content-length")
        self._connection.transport.write(self._head + part if self._head else part)
        self._head = b""
        self._answered = not more
        if self._answered:
            self._body.clear()


@lru_cache(100)
def _lines(media_type: bytes) -> bytes:
    """Return the lines of the headers that every whole answer of a media type has."""
    return header_lines(((b"content-type", media_type), *SAFE_HEADERS))


def header_lines(headers: Iterable[Header]) -> bytes:
    """Return headers as they are sent."""
    return b"".join(b"%b: %b\r\n" % header for header in headers)


def _expects_continue(scope: dict[str, Any]) -> bool:
    if scope["http_version"] != "1.1":
        return False
    expected = [value for name, value in scope["headers"] if name == b"expect"]
    return bool(expected) and b"100-continue" in [value.lower() for value in expected]
