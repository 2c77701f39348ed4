"""The framing of a request by its head: whether its end and its host are beyond doubt."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

Headers: TypeAlias = list[tuple[bytes, bytes]]


class Malformed(Exception):
    """The head leaves in doubt where the request ends, or for which host it is."""


def body_length(version: str, headers: Headers) -> int:
    """Return the length of the body, -1 if it is chunked. Raise Malformed.

    The parser has already rejected everything that two servers could read differently within one field, lengths beside
    chunks, and fields over several lines.
    """
    if version not in {"1.0", "1.1"}:
        raise Malformed(f"HTTP/{version} is not supported")
    length, hosts = 0, 0
    for name, value in headers:
        if name == b"content-length":
            length = int(value)
        elif name == b"host":
            hosts += 1
        elif name == b"transfer-encoding":
            if value.lower() != b"chunked" or version != "1.1":
                raise Malformed("The only Transfer-Encoding is chunked, in HTTP/1.1")
            length = -1
    if hosts > 1 or (hosts == 0 and version == "1.1"):
        raise Malformed("A request needs one Host header")
    return length


def bad_request(reason: str) -> bytes:
    """Return the complete response to a request with broken framing."""
    content = msgspec.json.encode({"error": f"The request is not valid HTTP/1.1: {reason}"})
    head = f"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: {len(content)}\r\n"
    return f"{head}connection: close\r\n\r\n".encode() + content
