"""Calls with one response: the body of a request is the message, and so is that of the response."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from server.connect.compression import GZIP, MIN_BYTES, accepts_gzip, check_encoding, deflated, inflated
from server.connect.errors import connect_status, error_json, retry_headers
from server.http.body import ClientGone, check_charset
from server.http.headers import SAFE_HEADERS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from server.connect.codecs import Codec
    from server.connect.request import ConnectRequest
    from server.sharing.loop_time import LoopTime

JSON = b"application/json"
_LARGE_RESPONSE = 64 * 1024
"""A smaller response fits into the buffers of the connection."""

_SMALL_DIGITS = 4
"""Digits of the length of a body that is always small enough to be parsed at once."""

_encode = msgspec.json.Encoder().encode


class UnaryCall:
    """What carries one call: a request, which is answered once the call has ended."""

    __slots__ = ("_codec", "_loop_time", "_request", "credentials", "error")

    own_errors = (ClientGone,)

    def __init__(self, request: ConnectRequest, codec: Codec, loop_time: LoopTime) -> None:
        self.error: Exception | None = None
        self.credentials = request.credentials
        self._request = request
        self._codec = codec
        self._loop_time = loop_time

    def arrived(self) -> bytes | None:
        """Return the message if it is small and has arrived already, as most have with the head of their request."""
        headers = self._request.headers
        if len(headers.get(b"content-length", b"-----")) > _SMALL_DIGITS or b"content-encoding" in headers:
            return None
        body = self._request.arrived()
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

    async def fail(self, error: Exception) -> None:
        """Keep the error, to be sent."""
        self.error = error

    async def send_response(self, response: Any, extra: Iterable[tuple[bytes, bytes]]) -> None:
        """Send the response."""
        content = await self._codec.write(response, self._loop_time)
        headers = list(extra)
        if len(content) >= MIN_BYTES and accepts_gzip(self._request.headers.get(b"accept-encoding", b"")):
            content = await deflated(content, self._loop_time)
            headers += ((b"content-encoding", GZIP), (b"vary", b"accept-encoding"))
        await send_content(self._request, 200, content, self._codec.media_type, headers)


async def send_error(request: ConnectRequest, error: Exception, extra: Iterable[tuple[bytes, bytes]] = ()) -> int:
    """Send an error as the whole response, and return its status."""
    status = connect_status(error)
    await send_content(request, status, _encode(error_json(error)), JSON, (*retry_headers(error), *extra))
    return status


async def send_content(
    request: ConnectRequest, status: int, content: bytes, media_type: bytes, extra: Iterable[tuple[bytes, bytes]]
) -> None:
    """Send a whole response; of a large one, the end waits until the client has read almost all of it."""
    length = str(len(content)).encode()
    headers = [(b"content-type", media_type), (b"content-length", length), *SAFE_HEADERS, *extra]
    large = len(content) > _LARGE_RESPONSE
    await request.send({"type": "http.response.start", "status": status, "headers": headers})
    await request.send({"type": "http.response.body", "body": content, "more_body": large})
    if large:
        await request.send({"type": "http.response.body", "body": b""})
