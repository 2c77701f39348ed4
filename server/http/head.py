"""The head of a request: read with httptools as it arrives, and bounded by its bytes.

The parts of an unfinished field are joined each time one arrives, without a bound. So the parser is given whole lines
here, except for the first line, which it hands over in parts; and it is given nothing after the empty line that ends
the head. The end is found in the bytes themselves: if the parser does not agree, the request is malformed.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Final

import httptools

from server.http.framing import Headers, HeadTooLarge, Malformed, TargetTooLong

MAX_HEAD: Final = 64 * 1024
"""Bytes of a head, with the empty lines before it; other servers take 8 to 64 KiB."""

MAX_LINE: Final = 16 * 1024
"""Bytes of the target, and of one header."""

MAX_HEADERS: Final = 100
"""The number of headers; real clients behind several proxies send thirty."""

HEAD_END: Final = b"\r\n\r\n"

_NO_UPGRADE: Final = suppress(httptools.HttpParserUpgrade)
"""RFC 9110 allows to ignore an upgrade, and the body is not read by this parser in any case."""


class RequestHead:
    """One head, of which the fields are known once `complete` is true."""

    __slots__ = (
        "__weakref__",
        "_count",
        "_held",
        "_parser",
        "_seen",
        "_tail",
        "complete",
        "headers",
        "keep_alive",
        "method",
        "target",
        "version",
    )

    def __init__(self) -> None:
        self.method = self.version = ""
        self.target = b""
        self.headers: Headers = []
        self.keep_alive = False
        self.complete = False
        self._parser: httptools.HttpRequestParser | None = httptools.HttpRequestParser(self)
        self._count = 0  # of headers, once they are complete
        self._seen = 0  # bytes, of the empty lines before the head too
        self._tail = b""  # the last bytes of the head so far, which may be part of its end
        self._held: bytearray | None = None  # after the first line: a line that has not ended

    def feed(self, data: bytes, start: int) -> int:
        """Read on from an offset. Return the offset after the head, or the size of the data if the head goes on.

        Raise Malformed and httptools.HttpParserError.
        """
        begin = start if self._tail else self._after_empty_lines(data, start)
        found = self._end(data, begin)
        end = found or len(data)
        room = MAX_HEAD - self._seen - (begin - start)
        part = data[begin:end] if end - begin <= room else data[begin : begin + max(room, 0)]
        self._seen += end - start
        if found and not self._tail:
            self._parse(part)
        else:
            self._tail = (self._tail + part[-3:])[-3:]
            self._parse_lines(part)
        if self._seen > MAX_HEAD:
            raise HeadTooLarge(f"The request head is larger than {MAX_HEAD:,} bytes")
        if found and not self.complete and part.startswith(b"PRI "):
            raise Malformed("It is HTTP/2; gRPC has a port of its own")
        if found and (not self.complete or len(self.headers) != self._count):
            raise Malformed("The head does not end with its empty line")
        return end

    def release(self) -> None:
        """Let go of the parser, which refers to the head: memory must not wait for a search for cycles."""
        self._parser = self._held = None

    def _after_empty_lines(self, data: bytes, start: int) -> int:
        return len(data) - len(data[start:].lstrip(b"\r\n")) if data[start] in b"\r\n" else start

    def _end(self, data: bytes, begin: int) -> int:
        """Return the offset after the head, 0 if it goes on."""
        tail = self._tail
        if tail:
            found = (tail + data[begin : begin + 3]).find(HEAD_END)
            if found >= 0:
                return begin + found + len(HEAD_END) - len(tail)
        found = data.find(HEAD_END, begin)
        return found + len(HEAD_END) if found >= 0 else 0

    def _parse_lines(self, part: bytes) -> None:
        """Pass whole lines on to the parser, and what there is of the first line."""
        if self._held is None:
            if b"\n" not in part:
                self._parse(part)
                return
            self._held = bytearray()
        self._held += part
        if b"\n" in part:
            lines = self._held.rfind(b"\n") + 1
            self._parse(bytes(self._held[:lines]))
            del self._held[:lines]

    def _parse(self, part: bytes) -> None:
        assert self._parser is not None
        with _NO_UPGRADE:
            self._parser.feed_data(part)

    # What the parser calls

    def on_url(self, part: bytes) -> None:
        """Append a part of the target."""
        self.target += part
        if len(self.target) > MAX_LINE:
            raise TargetTooLong(f"The request target is longer than {MAX_LINE:,} bytes")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Append a header."""
        self.headers.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        """Take what the first line said. Raise HeadTooLarge, and Malformed for CONNECT."""
        assert self._parser is not None
        self.complete, self._count = True, len(self.headers)
        if self._count > MAX_HEADERS:
            raise HeadTooLarge(f"The request has more than {MAX_HEADERS} headers")
        if self._seen > MAX_LINE and any(len(name) + len(value) > MAX_LINE for name, value in self.headers):
            raise HeadTooLarge(f"A header is larger than {MAX_LINE:,} bytes")
        self.method = self._parser.get_method().decode("ascii")
        self.version = self._parser.get_http_version()
        if self.method == "CONNECT":
            raise Malformed("CONNECT is not supported")
        self.keep_alive = self.version == "1.1" and self._parser.should_keep_alive()

    def on_body(self, _part: bytes) -> None:
        """Raise Malformed: the parser took something before the end of the head for a body."""
        raise Malformed("The head does not end with its empty line")


def asgi_scope(head: RequestHead) -> dict[str, Any]:
    """Return the scope of a request as ASGI has it. Raise Malformed."""
    try:
        target = httptools.parse_url(head.target)
    except httptools.HttpParserError as error:
        raise Malformed("Invalid request target") from error
    return {
        "type": "http",
        "http_version": head.version,
        "method": head.method,
        "raw_path": target.path or b"/",
        "query_string": target.query or b"",
        "headers": head.headers,
    }
