"""Requests whose framing is clear, and requests whose framing is in doubt, as bytes with the outcome they must have.

`KEY` stands where an API key of the same length goes. `FIRST` and `SECOND` send events with the totals 1 and 2.
"""

from __future__ import annotations

from dataclasses import dataclass

KEY = b"be_the_key_of_the_caller"
FIRST = b'{"event":"order_completed","email":"ada@example.com","data":{"order_total":1}}'
SECOND = FIRST.replace(b":1}", b":2}")
PATH = b"/v1/events/send"
HOST = b"Host: signalbox"


@dataclass(frozen=True)
class Framing:
    """Bytes on one connection, and what comes of them: the totals recorded, the statuses answered, and whether the
    connection stays open."""

    name: str
    sent: bytes
    totals: tuple[int, ...]
    statuses: tuple[int, ...]
    stays_open: bool = True

    def __str__(self) -> str:
        return self.name


def request(
    *headers: bytes, body: bytes = b"", method: bytes = b"POST", target: bytes = PATH, version: bytes = b"HTTP/1.1"
) -> bytes:
    """Write a request of the caller; the Host header is up to `headers`."""
    line = b" ".join((method, target, version))
    return b"\r\n".join([line, b"Authorization: Bearer " + KEY, *headers, b"", body])


def sized(body: bytes, *headers: bytes, **line: bytes) -> bytes:
    """Write a request with a Content-Length."""
    return request(HOST, b"Content-Length: %d" % len(body), *headers, body=body, **line)


def chunks(body: bytes, size: int = 30) -> bytes:
    """Write a body in chunks, the last one left away."""
    parts = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)


def chunked(body: bytes, *headers: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    """Write a request in chunks."""
    return request(HOST, b"Transfer-Encoding: chunked", *headers, body=chunks(body) + end)


UPGRADE = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAEAAEAAAAIAAAAB")
WEBSOCKET = (b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Key: x3JJHMbDL1EzLkh9GBhXDw==")
HEALTH = request(HOST, method=b"GET", target=b"/healthz")
MISSING = b"/v1/contacts/nobody"

_second = sized(SECOND)
_length = b"Content-Length: %d" % len(FIRST)
_coding = b"Transfer-Encoding: chunked"

CLEAR = [
    Framing("a length", sized(FIRST), (1,), (202,)),
    Framing("names of headers in any case", request(HOST.lower(), _length.upper(), body=FIRST), (1,), (202,)),
    Framing("zeros before a length", request(HOST, b"Content-Length: 00%d" % len(FIRST), body=FIRST), (1,), (202,)),
    Framing("blanks around a length", request(HOST, _length + b" \t", body=FIRST), (1,), (202,)),
    Framing("chunks", chunked(FIRST), (1,), (202,)),
    Framing(
        "chunks in another case",
        request(HOST, b"transfer-encoding:\tChunKed ", body=chunks(FIRST) + b"0\r\n\r\n"),
        (1,),
        (202,),
    ),
    Framing("zeros before a size", chunked(FIRST, end=b"00000000000000000000\r\n\r\n"), (1,), (202,)),
    Framing(
        "an extension of a chunk",
        request(HOST, _coding, body=b'%x;a=b;c="d"\r\n%b\r\n0;e\r\n\r\n' % (len(FIRST), FIRST)),
        (1,),
        (202,),
    ),
    Framing("trailers", chunked(FIRST, end=b"0\r\nX-Checksum: 5\r\n\r\n") + _second, (1, 2), (202, 202)),
    Framing(
        "a key in a trailer", chunked(FIRST, end=b"0\r\nAuthorization: Bearer no\r\n\r\n") + _second, (1, 2), (202, 202)
    ),
    Framing("an encoding in a trailer", chunked(FIRST, end=b"0\r\nContent-Encoding: br\r\n\r\n"), (1,), (202,)),
    Framing("one after the other", sized(FIRST) + HEALTH + chunked(SECOND), (1, 2), (202, 200, 202)),
    Framing("empty lines before a request", b"\r\n\r\n" + sized(FIRST), (1,), (202,)),
    Framing("an absolute target", sized(FIRST, target=b"http://elsewhere:80" + PATH), (1,), (202,)),
    Framing("an empty host", request(b"Host:", _length, body=FIRST), (1,), (202,)),
    Framing("a host with a port", request(b"Host: [::1]:8080", _length, body=FIRST), (1,), (202,)),
    Framing("bytes beyond ASCII in a header", sized(FIRST, b"X-Name: \xc3\xbc\xff"), (1,), (202,)),
    Framing("no host in HTTP/1.0", request(_length, body=FIRST, version=b"HTTP/1.0") + _second, (1,), (202,), False),
    Framing(
        "HTTP/1.0 that stays",
        request(_length, b"Connection: keep-alive", body=FIRST, version=b"HTTP/1.0") + _second,
        (1,),
        (202,),
        False,
    ),
    Framing("the last request", sized(FIRST, b"Connection: close") + _second, (1,), (202,), False),
    Framing("a body of GET", sized(_second, method=b"GET", target=b"/v1/events") + _second, (2,), (200, 202)),
    Framing("a body of HEAD", sized(_second, method=b"HEAD", target=b"/v1/events") + _second, (2,), (200, 202)),
    Framing("a body of DELETE", sized(_second, method=b"DELETE", target=MISSING) + _second, (2,), (404, 202)),
    Framing("an expectation", sized(FIRST, b"Expect: 100-continue") + _second, (1, 2), (202, 202)),
    Framing("an expectation of another kind", sized(FIRST, b"Expect: the-unexpected"), (1,), (202,)),
    Framing("a request in a body", sized(_second), (), (400,)),
    Framing("HTTP/2 with a length", sized(FIRST, *UPGRADE), (1,), (202,)),
    Framing("HTTP/2 twice", sized(FIRST, *UPGRADE) + sized(SECOND, *UPGRADE), (1, 2), (202, 202)),
    Framing("HTTP/2 in chunks", chunked(FIRST, *UPGRADE) + _second, (1, 2), (202, 202)),
    Framing("HTTP/2 with a request in the body", sized(sized(SECOND), *UPGRADE) + _second, (2,), (400, 202)),
    Framing(
        "HTTP/2 without a body", request(HOST, *UPGRADE, method=b"GET", target=b"/healthz") + _second, (2,), (200, 202)
    ),
    Framing(
        "HTTP/2 in the last request",
        sized(FIRST, b"Connection: close, Upgrade", b"Upgrade: h2c") + _second,
        (1,),
        (202,),
        False,
    ),
    Framing(
        "HTTP/2 in HTTP/1.0", request(_length, *UPGRADE, body=FIRST, version=b"HTTP/1.0") + _second, (1,), (202,), False
    ),
    Framing("WebSocket", sized(FIRST, *WEBSOCKET) + _second, (1, 2), (202, 202)),
    Framing(
        "an upgrade in a trailer",
        chunked(FIRST, b"Connection: Upgrade", end=b"0\r\nUpgrade: h2c\r\n\r\n") + _second,
        (1, 2),
        (202, 202),
    ),
]
"""Requests that are served."""


def _coded(*values: bytes, length: bool = False) -> bytes:
    fields = [b"Transfer-Encoding:" + value for value in values]
    return request(HOST, *fields, *([_length] if length else []), body=chunks(FIRST) + b"0\r\n\r\n")


def _measured(*values: bytes) -> bytes:
    return request(HOST, *(b"Content-Length:" + value for value in values), body=FIRST)


def _chunk(size: bytes, after_size: bytes = b"\r\n", after: bytes = b"\r\n") -> bytes:
    return request(HOST, _coding, body=size + after_size + FIRST + after + b"0\r\n\r\n")


_size = b"%d" % len(FIRST)
_hex = b"%x" % len(FIRST)

BROKEN = {
    "a length beside chunks": request(HOST, _length, _coding, body=chunks(FIRST) + b"0\r\n\r\n"),
    "chunks beside a length": request(HOST, _coding, _length, body=chunks(FIRST) + b"0\r\n\r\n"),
    "a length beside chunks and an upgrade": request(
        HOST, *UPGRADE, _length, _coding, body=chunks(FIRST) + b"0\r\n\r\n"
    ),
    "a length twice": _measured(_size, _size),
    "two lengths": _measured(_size, b" 5"),
    "two lengths and an upgrade": request(HOST, *UPGRADE, _length, b"Content-Length: 5", body=FIRST),
    "a list of lengths": _measured(_size + b", " + _size),
    "a length below zero": _measured(b"-1"),
    "a length with a sign": _measured(b"+" + _size),
    "a length in hexadecimal": _measured(b"0x" + _hex),
    "a length with a blank": _measured(b"7 8"),
    "no length": _measured(b""),
    "a length beyond 64 bits": _measured(b"99999999999999999999"),
    "chunks twice": _coded(b"chunked", b"chunked"),
    "chunks in chunks": _coded(b"chunked, chunked"),
    "a coding that is not known": _coded(b"gzip"),
    "a coding within chunks": _coded(b"gzip, chunked"),
    "a coding around chunks": _coded(b"chunked, gzip"),
    "a coding and chunks": _coded(b"gzip", b"chunked"),
    "the identity coding": _coded(b"identity", length=True),
    "the identity coding and chunks": _coded(b"identity", b"chunked"),
    "something like chunked": _coded(b"xchunked"),
    "chunked with a parameter": _coded(b"chunked;q=1"),
    "chunked in quotes": _coded(b'"chunked"'),
    "chunked after a vertical tab": _coded(b"\x0bchunked"),
    "no coding": _coded(b""),
    "a coding that is not known and an upgrade": request(
        HOST, *UPGRADE, b"Transfer-Encoding: gzip, chunked", body=chunks(FIRST) + b"0\r\n\r\n"
    ),
    "chunks in HTTP/1.0": request(HOST, _coding, body=chunks(FIRST) + b"0\r\n\r\n", version=b"HTTP/1.0"),
    "a blank before a colon": request(HOST, _length.replace(b":", b" :"), body=FIRST),
    "a tab before a colon": request(HOST, _coding.replace(b":", b"\t:"), body=chunks(FIRST) + b"0\r\n\r\n"),
    "a folded header": request(HOST, b"X-Note: a\r\n b", _length, body=FIRST),
    "a folded length": request(HOST, _length.replace(b" ", b"\r\n "), body=FIRST),
    "a folded coding": request(HOST, b"Transfer-Encoding:\r\n chunked", body=chunks(FIRST) + b"0\r\n\r\n"),
    "a blank before the first header": b"POST / HTTP/1.1\r\n " + HOST + b"\r\n\r\n",
    "LF after the first line": sized(FIRST).replace(b"\r\n", b"\n", 1),
    "LF after a header": request(HOST, b"X-Note: a\n" + _length, body=FIRST),
    "LF throughout": sized(FIRST).replace(b"\r\n", b"\n"),
    "CR after a header": request(HOST, b"X-Note: a\r" + _length, body=FIRST),
    "CR within the end of a line": request(HOST, b"X-Note: a\r", _length, body=FIRST),
    "an extension that ends with LF": _chunk(_hex + b";a\n", after_size=b""),
    "an extension that holds CR": _chunk(_hex + b";a\rb"),
    "a size that ends with LF": _chunk(_hex, after_size=b"\n"),
    "a size with a sign": _chunk(b"+" + _hex),
    "a size with a prefix": _chunk(b"0x" + _hex),
    "a size below zero": _chunk(b"-1"),
    "a size after a blank": _chunk(b" " + _hex),
    "a size before a blank": _chunk(_hex + b" "),
    "no size": _chunk(b""),
    "a size beyond 64 bits": _chunk(b"1" + b"0" * 14 + _hex),
    "a chunk longer than its size": _chunk(b"%x" % (len(FIRST) - 1)),
    "a chunk that ends with LF": _chunk(_hex, after=b"\n"),
    "a length in a trailer": chunked(FIRST, end=b"0\r\nContent-Length: 5\r\n\r\n"),
    "a coding in a trailer": chunked(FIRST, end=b"0\r\nTransfer-Encoding: chunked\r\n\r\n"),
    "no host": request(_length, body=FIRST),
    "no host but in a trailer": request(_coding, body=chunks(FIRST) + b"0\r\n" + HOST + b"\r\n\r\n"),
    "a host twice": request(HOST, HOST, _length, body=FIRST),
    "two hosts": request(HOST, b"Host: elsewhere", _length, body=FIRST),
    "a host that is none": request(b"Host: signal box", _length, body=FIRST),
    "a host with a path": request(b"Host: signalbox/x", _length, body=FIRST),
    "a host with a user": request(b"Host: ada@signalbox", _length, body=FIRST),
    "a list of hosts": request(b"Host: signalbox, elsewhere", _length, body=FIRST),
    "no host beside an absolute target": request(_length, body=FIRST, target=b"http://signalbox" + PATH),
    "two hosts in HTTP/1.0": request(HOST, b"Host: elsewhere", _length, body=FIRST, version=b"HTTP/1.0"),
    "HTTP/0.9": b"GET /v1/events\r\n",
    "HTTP/0.9 by name": sized(FIRST, version=b"HTTP/0.9"),
    "HTTP/1.2": sized(FIRST, version=b"HTTP/1.2"),
    "HTTP/2 by name": sized(FIRST, version=b"HTTP/2.0"),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "a method of nobody": sized(FIRST, method=b"BREW"),
    "a method in lower case": sized(FIRST, method=b"post"),
    "a tab after the method": sized(FIRST).replace(b" ", b"\t", 1),
    "no target": sized(FIRST, target=b""),
    "a host as the target": sized(FIRST, target=b"signalbox:80"),
    "a control character in the target": sized(FIRST, target=PATH + b"\x01"),
    "a byte beyond ASCII in the target": sized(FIRST, target=PATH + b"\xff"),
    "NUL in a header": sized(FIRST, b"X-Note: a\x00b"),
    "NUL in the name of a header": sized(FIRST, b"X-No\x00te: a"),
    "a control character in a header": sized(FIRST, b"X-Note: a\x01"),
    "DEL in a header": sized(FIRST, b"X-Note: a\x7f"),
    "a header without a colon": sized(FIRST, b"X-Note"),
    "a header without a name": sized(FIRST, b": a"),
    "CONNECT": request(HOST, method=b"CONNECT", target=b"signalbox:80"),
    "CONNECT with a body": sized(FIRST, method=b"CONNECT", target=b"signalbox:80"),
    "CONNECT with an upgrade": sized(FIRST, *UPGRADE, method=b"CONNECT", target=b"signalbox:80"),
}
"""Requests that are not executed, and neither are those after them."""

REFUSED = [Framing(name, sent + _second, (), (400,), stays_open=False) for name, sent in BROKEN.items()]
ANOTHER = sized(FIRST)
AFTER_ANOTHER = [
    Framing(f"{name}, after another", ANOTHER + sent + _second, (1,), (202, 400), stays_open=False)
    for name, sent in BROKEN.items()
]
