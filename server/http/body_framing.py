"""The body of a request on the wire: where it ends, by a length or in chunks.

Chunks are read here and not by llhttp, because after a body the connection must know at which byte the next head
begins: a head is bounded, a trailer is never a header of the next request, and no request is read while one is served.
Whatever could be read in two ways is refused.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, TypeAlias

from server.http.framing import HeadTooLarge, Malformed

if TYPE_CHECKING:
    from collections.abc import Callable

    Sink: TypeAlias = Callable[[bytes], None]

MAX_CHUNK_LINE: Final = 1024
"""Bytes of the line before a chunk; extensions are rare, and of no meaning here."""

MAX_TRAILERS: Final = 16 * 1024
"""Bytes of all trailers, which are dropped."""

_TOKEN: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_QUOTED: Final = rb'"(?:[\t\x20\x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t\x20-\x7e\x80-\xff])*"'
_EXTENSIONS: Final = rb"(?:;%b(?:=(?:%b|%b))?)*" % (_TOKEN, _TOKEN, _QUOTED)

_SIZE: Final = re.compile(rb"0*([0-9A-Fa-f]{1,15})%b\r\n" % _EXTENSIONS)
"""A size of at most 60 bits, and extensions."""

_TRAILER: Final = re.compile(rb"(%b):[\t\x20-\x7e\x80-\xff]*\r\n" % _TOKEN)
_FRAMING: Final = frozenset({b"content-length", b"transfer-encoding"})


class SizedBody:
    """A body of a known length."""

    def __init__(self, length: int) -> None:
        self._left = length
        self.complete = length == 0

    def feed(self, data: bytes, start: int, sink: Sink) -> int:
        """Read on from an offset, and pass the body to `sink`. Return the offset after what was read."""
        part = data[start : start + self._left]
        self._left -= len(part)
        sink(part)
        self.complete = self._left == 0
        return start + len(part)


class ChunkedBody:
    """A body in chunks.

    size line ──> data, its CRLF ──> size line ──> ... ──> size line of 0 ──> trailers ──> empty line
    """

    def __init__(self) -> None:
        self.complete = False
        self._left = 0  # of the data of a chunk
        self._line = bytearray()  # a line that has not ended
        self._read_line: Callable[[bytes], None] = self._read_size
        self._trailers = 0

    def feed(self, data: bytes, start: int, sink: Sink) -> int:
        """Read on from an offset, and pass the body to `sink`. Return the offset after what was read.

        Raise Malformed.
        """
        while start < len(data) and not self.complete:
            if self._left:
                part = data[start : start + self._left]
                self._left -= len(part)
                start += len(part)
                sink(part)
            else:
                start = self._take_line(data, start)
        return start

    def _take_line(self, data: bytes, start: int) -> int:
        end = data.find(b"\n", start, start + MAX_TRAILERS + 1) + 1
        self._line += data[start : end or start + MAX_TRAILERS + 1]
        if len(self._line) > (MAX_TRAILERS if self._read_line == self._read_trailer else MAX_CHUNK_LINE):
            self._refuse_line()
        if end:
            line = bytes(self._line)
            self._line.clear()
            self._read_line(line)
        return end or len(data)

    def _refuse_line(self) -> None:
        if self._read_line == self._read_trailer:
            raise HeadTooLarge(f"The trailers are larger than {MAX_TRAILERS:,} bytes")
        raise Malformed(
            "Invalid character in chunk size" if self._read_line == self._read_size else "Invalid chunk end"
        )

    def _read_size(self, line: bytes) -> None:
        found = _SIZE.fullmatch(line)
        if found is None:
            raise Malformed("Invalid character in chunk size")
        self._left = int(found[1], 16)
        self._read_line = self._read_end if self._left else self._read_trailer

    def _read_end(self, line: bytes) -> None:
        if line != b"\r\n":
            raise Malformed("A chunk does not end after its size")
        self._read_line = self._read_size

    def _read_trailer(self, line: bytes) -> None:
        self._trailers += len(line)
        if self._trailers > MAX_TRAILERS:
            self._refuse_line()
        if line == b"\r\n":
            self.complete = True
            return
        found = _TRAILER.fullmatch(line)
        if found is None or found[1].lower() in _FRAMING:
            raise Malformed("Invalid trailer")
