"""The body of a request: read, decoded, and checked to be JSON, each within the limit of bytes."""

from __future__ import annotations

import asyncio
import zlib
from codecs import BOM_UTF8
from typing import TYPE_CHECKING, Any, Final

from server.http.errors import (
    BodiesTooLarge,
    BodyTooLarge,
    BodyTooSlow,
    MalformedBody,
    UnsupportedCharset,
    UnsupportedEncoding,
    UnsupportedMediaType,
)
from server.sharing.fair_budget import FairBudget

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable, Iterator, Mapping

    from server.http.exchange import HttpExchange
    from server.sharing.loop_time import LoopTime

    Receive = Callable[[], Awaitable[dict[str, Any]]]
    Headers = Mapping[bytes, bytes]

BODY_SECONDS: Final = 30.0
"""The time within which a body must arrive."""

SMALL_BODY: Final = 16 * 1024
"""Bodies up to this size do not count towards ALL_BODIES; their number is bounded by that of connections."""

ALL_BODIES: Final = 64 * 1024 * 1024
"""The most bytes of larger bodies that are received or handled at once: more than a second's work for the event loop,
and ten times as much memory once they are JSON values."""

BODIES_OF_PROJECT: Final = 8 * 1024 * 1024
"""The share of one project; at least one body of the largest size."""

BODY_WAIT_SECONDS: Final = 10.0
"""How long a body waits until others leave room for its bytes."""

BYTES_DECODED: Final = 100
"""The bytes of a body that are decoded and checked in a microsecond, if it has many values."""

ENCODINGS: Final = ("gzip", "identity")
"""The content encodings that are decoded."""

GZIP_PIECE: Final = 32 * 1024
"""The bytes of compressed data that are inflated at a time, in at most 3 ms: blocks without content take as long."""

_JSON: Final = b"application/json"
_GZIP: Final = frozenset({b"gzip", b"x-gzip"})
_PLAIN: Final = frozenset({b"", b"identity"})
_UTF_8: Final = frozenset({b"utf-8", b"utf8"})
_GZIP_HEADER: Final = 16 + zlib.MAX_WBITS


class ClientGone(Exception):
    """The client went away in the middle of its request."""


class HeldBytes:
    """The bytes that the body of one request holds, from before it is read until it is answered."""

    __slots__ = ("_key", "_shared", "size")

    def __init__(self, shared: FairBudget, key: Hashable) -> None:
        self._shared = shared
        self._key = key
        self.size = 0

    async def take(self, size: int) -> None:
        """Wait until `size` bytes can be held. Raise BodiesTooLarge."""
        try:
            async with asyncio.timeout(BODY_WAIT_SECONDS):
                await self._shared.acquire(self._key, size)
        except TimeoutError:
            raise BodiesTooLarge from None
        self.size = size

    def shrink(self, size: int) -> None:
        """Give back the bytes beyond the size of the body; all of them if the body is small."""
        rest = size if size > SMALL_BODY else 0
        if self.size > rest:
            self._shared.give(self._key, self.size - rest)
            self.size = rest


class Bodies:
    """The limits that all bodies of a server share. One body has at most `limit` bytes."""

    def __init__(self, loop_time: LoopTime, limit: int) -> None:
        self.limit = limit
        self._loop_time = loop_time
        self._bytes = FairBudget(max(ALL_BODIES, 4 * limit), max(BODIES_OF_PROJECT, limit))

    def held_by(self, key: Hashable) -> HeldBytes:
        """Return the bytes that a request of a key, such as a project, holds: none as yet."""
        return HeldBytes(self._bytes, key)

    async def turn(self, key: Hashable, held: HeldBytes) -> None:
        """Wait until a body may be decoded and checked in this round of the event loop, at once if it is small."""
        if held.size:
            await self._loop_time.round(key, held.size // BYTES_DECODED)


def small_body(exchange: HttpExchange, limit: int) -> bytes | None:
    """Return the body if it is small and has arrived already, as most have with the head of their request, or None."""
    if exchange.buffered > min(limit, SMALL_BODY) or b"content-encoding" in exchange.headers:
        return None
    return exchange.arrived()


async def read_body(headers: Headers, receive: Receive, limit: int, held: HeldBytes) -> bytes:
    """Read the body as it was sent. Raise BodyTooLarge, BodiesTooLarge, BodyTooSlow and ClientGone."""
    length = headers.get(b"content-length", b"")
    announced = int(length) if length.isdigit() else 0
    if announced > limit:
        raise BodyTooLarge(limit)
    if b"content-encoding" in headers and (announced or b"transfer-encoding" in headers):
        # How large it will be is known once it is decoded.
        await held.take(limit)
    elif announced > SMALL_BODY:
        await held.take(announced)
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await _received(receive, limit, held)
    except TimeoutError:
        raise BodyTooSlow(BODY_SECONDS) from None


def decode_body(headers: Headers, body: bytes, limit: int) -> bytes:
    """Return the JSON text of a body, without a byte order mark; the headers of an empty body are not checked.

    Raise UnsupportedEncoding, UnsupportedMediaType, UnsupportedCharset, BodyTooLarge and MalformedBody.
    """
    if not body:
        return body
    kind = headers.get(b"content-type", _JSON)
    if not kind.startswith(_JSON) and not _is_json(kind):
        raise UnsupportedMediaType(kind.decode("latin-1"))
    encoding = headers.get(b"content-encoding")
    if encoding is not None:
        body = _decoded(encoding, body, limit)
    if kind != _JSON:
        check_charset(kind, body)
    return body.removeprefix(BOM_UTF8)


async def _received(receive: Receive, limit: int, held: HeldBytes) -> bytes:
    """Read all parts; for a body of unknown length, bytes are held once it is not small."""
    parts: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        parts.append(message["body"])
        size += len(parts[-1])
        if size > limit:
            raise BodyTooLarge(limit)
        more = message["more_body"]
        if size > SMALL_BODY and not held.size:
            await held.take(limit)
    return b"".join(parts)


def _is_json(kind: bytes) -> bool:
    essence = kind.partition(b";")[0].strip().lower()
    return essence == _JSON or (essence.startswith(b"application/") and essence.endswith(b"+json"))


def _decoded(encoding: bytes, body: bytes, limit: int) -> bytes:
    wanted = encoding.strip().lower()
    if wanted in _PLAIN:
        return body
    if wanted not in _GZIP:
        raise UnsupportedEncoding(encoding.decode("latin-1"), ENCODINGS)
    return _gunzipped(body, limit)


def _gunzipped(body: bytes, limit: int) -> bytes:
    """Decompress one gzip member, never beyond the limit.

    A second member is refused like any other data after the end: no HTTP client sends one, and each costs as much as a
    request.
    """
    content = bytearray()
    for part in gunzip_parts(body, limit, limit + 1):
        content += part
    return bytes(content)


def gunzip_parts(body: bytes, limit: int, step: int) -> Iterator[bytes]:
    """Decompress one gzip member in parts of up to `step` bytes, each from up to GZIP_PIECE bytes of the body.

    Raise BodyTooLarge before more than `limit` bytes are returned, and MalformedBody.
    """
    gzip = zlib.decompressobj(_GZIP_HEADER)
    size = place = 0
    while not gzip.eof:
        if gzip.unconsumed_tail:
            data = gzip.unconsumed_tail
        else:
            data = body[place : place + GZIP_PIECE]
            place += len(data)
        try:
            part = gzip.decompress(data, step)
        except zlib.error:
            raise MalformedBody("The body is not valid gzip, as its Content-Encoding says") from None
        size += len(part)
        if size > limit:
            raise BodyTooLarge(limit)
        if not (part or data or gzip.eof):
            raise MalformedBody("The body's gzip data is truncated")
        yield part
    if gzip.unused_data or place < len(body):
        raise MalformedBody("The body has other data after the end of its gzip data")


def check_charset(kind: bytes, body: bytes) -> None:
    """Raise UnsupportedCharset if the body is declared as other than UTF-8, and is not ASCII."""
    for parameter in kind.split(b";")[1:]:
        name, _, value = parameter.partition(b"=")
        charset = value.strip().strip(b'"').lower()
        if name.strip().lower() == b"charset" and charset not in _UTF_8 and not body.isascii():
            raise UnsupportedCharset(charset.decode("latin-1"))
