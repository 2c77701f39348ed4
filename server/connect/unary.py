"""Calls with one response: the body of a request is the message, and so is that of the response."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from server.connect.compression import GZIP, MIN_BYTES, accepts_gzip, check_encoding, deflated, inflated
from server.connect.errors import connect_status, error_json, retry_headers
from server.http.body import ClientGone, check_charset, small_body

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from server.connect.codecs import Codec
    from server.connect.request import ConnectRequest
    from server.sharing.loop_time import LoopTime

JSON = b"application/json"
_encode = msgspec.json.Encoder().encode


class UnaryCall:
    """The transport of one call: a request, which is answered once the call has ended."""

    __slots__ = ("_codec", "_loop_time", "_request", "_sent", "credentials", "error")

    own_errors = (ClientGone,)

    def __init__(self, request: ConnectRequest, codec: Codec, loop_time: LoopTime) -> None:
        self.error: Exception | None = None
        self.credentials = request.credentials
        self._sent: Callable[[], None] | None = None
        self._request = request
        self._codec = codec
        self._loop_time = loop_time

    def arrived(self) -> bytes | None:
        """Return the message if it is small and has arrived already, or else None."""
        body = small_body(self._request.exchange, self._codec.max_bytes)
        return body if body is None else self._in_utf_8(body)

    async def receive(self) -> bytes:
        """Receive the message.

        Raise BodyTooLarge, UnsupportedEncoding, UnsupportedCharset, MalformedBody and ClientGone.
        """
        request, limit = self._request, self._codec.max_bytes
        encoding = request.headers.get(b"content-encoding")
        compressed = encoding is not None and check_encoding(encoding)
        body = await request.body(limit)
        return self._in_utf_8(await inflated(body, limit, self._loop_time) if compressed else body)

    def _in_utf_8(self, body: bytes) -> bytes:
        """Return the body. Raise UnsupportedCharset for JSON that is declared as other than UTF-8, and is not ASCII."""
        kind = self._request.headers[b"content-type"]
        if self._codec.media_type == JSON != kind:
            check_charset(kind, body)
        return body

    def on_sent(self, call: Callable[[], None]) -> None:
        """Call something once the response is sent."""
        self._sent = call

    def end(self) -> None:
        """Note that the response is sent, or never will be."""
        if self._sent is not None:
            self._sent()

    async def fail(self, error: Exception) -> None:
        """Keep the error, to be sent."""
        self.error = error

    async def send_response(self, response: Any, extra: Iterable[tuple[bytes, bytes]]) -> None:
        """Send the response."""
        codec = self._codec
        content = (
            codec.write(response) if codec.is_small(response) else await codec.write_large(response, self._loop_time)
        )
        if len(content) >= MIN_BYTES and accepts_gzip(self._request.headers.get(b"accept-encoding", b"")):
            content = await deflated(content, self._loop_time)
            extra = (*extra, (b"content-encoding", GZIP), (b"vary", b"accept-encoding"))
        await self._request.respond(200, content, self._codec.media_type, extra)


async def send_error(request: ConnectRequest, error: Exception, extra: Iterable[tuple[bytes, bytes]] = ()) -> int:
    """Send an error as the whole response, and return its status."""
    status = connect_status(error)
    await request.respond(status, _encode(error_json(error)), JSON, (*retry_headers(error), *extra))
    return status
