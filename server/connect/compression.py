"""gzip, in both directions, and bounded while inflating: in parts, so that the event loop serves others in between."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final

from server.http.body import ENCODINGS, GZIP_PIECE, gunzip_parts
from server.http.errors import UnsupportedEncoding
from server.sharing.current_project import current_project

if TYPE_CHECKING:
    from collections.abc import Iterator

    from server.sharing.loop_time import LoopTime

MIN_BYTES: Final = 1_024
"""Smaller responses are not compressed."""

_PART_BYTES: Final = 128 * 1024
"""Compressed in 2 ms."""

_LEVEL: Final = 1
_GZIP_HEADER: Final = 16 + zlib.MAX_WBITS

GZIP: Final = b"gzip"


def accepts_gzip(header: bytes) -> bool:
    """Return whether a list of encodings accepts gzip: it is named, and its weight is not 0."""
    for item in header.split(b","):
        name, _, parameters = item.partition(b";")
        if name.strip().lower() == GZIP:
            weight = parameters.partition(b"=")[2].strip()
            return weight.strip(b"0.") != b"" or not weight
    return False


def check_encoding(encoding: bytes, header: str = "Content-Encoding") -> bool:
    """Return whether the encoding in a header is gzip. Raise UnsupportedEncoding for others than gzip and identity."""
    name = encoding.strip().lower()
    if name == GZIP:
        return True
    if name in {b"", b"identity"}:
        return False
    raise UnsupportedEncoding(encoding.decode("latin-1"), ENCODINGS, header)


async def inflated(data: bytes, limit: int, loop_time: LoopTime) -> bytes:
    """Decompress a message. Raise BodyTooLarge before more than `limit` bytes are held, and MalformedBody."""
    # Clients do not compress an empty message.
    if not data:
        return data
    parts = gunzip_parts(data, limit, _PART_BYTES)
    first = next(parts)
    large = len(data) > GZIP_PIECE or len(first) == _PART_BYTES
    return first + (await _joined_in_slices(parts, loop_time) if large else b"".join(parts))


async def deflated(data: bytes, loop_time: LoopTime) -> bytes:
    """Compress a message."""
    parts = _compressed_parts(data)
    return await _joined_in_slices(parts, loop_time) if len(data) > _PART_BYTES else b"".join(parts)


async def _joined_in_slices(parts: Iterator[bytes], loop_time: LoopTime) -> bytes:
    joined = []
    async with loop_time.slices(current_project()) as slices:
        for part in parts:
            joined.append(part)
            if slices.used_up():
                await slices.pause()
    return b"".join(joined)


def _compressed_parts(data: bytes) -> Iterator[bytes]:
    gzip = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP_HEADER)
    for start in range(0, len(data), _PART_BYTES):
        yield gzip.compress(data[start : start + _PART_BYTES])
    yield gzip.flush()
