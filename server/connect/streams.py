"""Calls with a stream of responses: bodies are envelopes, each of five bytes and a message.

    flags (1 byte): 1 the message is compressed, 2 it is the end of the stream     length (4 bytes)     message

The last envelope is JSON and says how the call ended; the HTTP status is 200 even for an error.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Any, Final

import msgspec

from server.connect.compression import GZIP, MIN_BYTES, accepts_gzip, check_encoding, deflated, inflated
from server.connect.errors import error_json
from server.errors import MalformedRequest
from server.http.body import ClientGone
from server.http.errors import BodyTooLarge
from server.http.headers import SAFE_HEADERS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from server.connect.codecs import Codec
    from server.connect.request import ConnectRequest
    from server.sharing.loop_time import LoopTime

COMPRESSED: Final = 1
END: Final = 2

_ENVELOPE: Final = Struct(">BI")
_encode = msgspec.json.Encoder().encode


class StreamCall:
    """The transport of one call: a request with one envelope, and a response with many."""

    own_errors = (ClientGone,)

    def __init__(
        self,
        request: ConnectRequest,
        codec: Codec,
        loop_time: LoopTime,
        extra: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:
        self.credentials = request.credentials
        self._request = request
        self._codec = codec
        self._loop_time = loop_time
        self._extra = extra
        self._begun = False
        self._compresses = accepts_gzip(request.headers.get(b"connect-accept-encoding", b""))

    def arrived(self) -> None:
        """Return nothing: a stream has time."""

    async def receive(self) -> bytes:
        """Receive the message. Raise MalformedRequest, BodyTooLarge, UnsupportedEncoding, MalformedBody, ClientGone."""
        limit = self._codec.max_bytes
        header = "Connect-Content-Encoding"
        gzip = check_encoding(self._request.headers.get(header.lower().encode(), b""), header)
        body = await self._request.body(limit + _ENVELOPE.size)
        flags, message = _only_envelope(body, limit)
        if not flags & COMPRESSED:
            return message
        if not gzip:
            raise MalformedRequest("The message is compressed, but Connect-Content-Encoding does not say how")
        return await inflated(message, limit, self._loop_time)

    async def write(self, response: Any) -> None:
        """Write a response, and wait until the client has read what was written before."""
        codec = self._codec
        small = codec.is_small(response)
        message = codec.write(response) if small else await codec.write_large(response, self._loop_time)
        flags = 0
        if self._compresses and len(message) >= MIN_BYTES:
            flags, message = COMPRESSED, await deflated(message, self._loop_time)
        await self._send(flags, message)

    async def fail(self, error: Exception) -> None:
        """End the stream with an error."""
        await self._send(END, _encode({"error": error_json(error)}))

    async def end(self) -> None:
        """End the stream."""
        await self._send(END, b"{}")

    async def _send(self, flags: int, message: bytes) -> None:
        if not self._begun:
            self._begun = True
            headers = [(b"content-type", self._codec.media_type), *SAFE_HEADERS, *self._extra]
            if self._compresses:
                headers.append((b"connect-content-encoding", GZIP))
            await self._request.send({"type": "http.response.start", "status": 200, "headers": headers})
        body = _ENVELOPE.pack(flags, len(message)) + message
        await self._request.send({"type": "http.response.body", "body": body, "more_body": flags != END})


def _only_envelope(body: bytes, limit: int) -> tuple[int, bytes]:
    """Return the flags and the message of a body of one envelope. Raise MalformedRequest and BodyTooLarge."""
    if len(body) < _ENVELOPE.size:
        raise MalformedRequest("The body must be one envelope: a byte of flags, four bytes of length, and the message")
    flags, length = _ENVELOPE.unpack_from(body)
    if length > limit:
        raise BodyTooLarge(limit)
    if flags & ~COMPRESSED:
        raise MalformedRequest(f"The flags of the envelope are {flags}; they must be 0, or 1 for a compressed message")
    if len(body) != _ENVELOPE.size + length:
        found = len(body) - _ENVELOPE.size
        raise MalformedRequest(f"The envelope says that the message has {length:,} bytes, but {found:,} follow")
    return flags, body[_ENVELOPE.size :]
