"""The framing of a request by its head: whether its end and its host are beyond doubt."""

from __future__ import annotations

import http
import re
from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping

Headers: TypeAlias = list[tuple[bytes, bytes]]

_HOST: Final = re.compile(rb"[A-Za-z0-9._~%!$&'()*+;=:\[\]-]*")
"""The characters of a host and a port; an empty value is what some health checks send."""


class Malformed(Exception):
    """The head leaves in doubt where the request ends, or for which host it is."""

    status = 400


class HeadTooLarge(Malformed):
    """The head, or the trailers, are larger than the server takes."""

    status = 431


class TargetTooLong(Malformed):
    """The target is longer than the server takes."""

    status = 414


class TooManyHeads(Malformed):
    """The unfinished heads of all connections are too large together."""

    status = 503


class HeadTooSlow(Malformed):
    """The request did not arrive in time."""

    status = 408


def body_length(version: str, headers: Headers, values: Mapping[bytes, bytes]) -> int:
    """Return the length of the body, -1 if it is chunked; `values` has one value of each header. Raise Malformed.

    The parser has already rejected everything that two servers could read differently within one field, lengths beside
    chunks, and fields over several lines.
    """
    if version not in {"1.0", "1.1"}:
        raise Malformed(f"HTTP/{version} is not supported")
    if len(values) < len(headers):
        _check_repeated(version, headers)
    host = values.get(b"host")
    if host is None and version == "1.1":
        raise Malformed("A request needs one Host header")
    if host is not None and not _HOST.fullmatch(host):
        raise Malformed("The Host header is not a host with an optional port")
    coding = values.get(b"transfer-encoding")
    if coding is not None:
        _check_coding(version, coding)
        return -1
    return int(values.get(b"content-length", 0))


def _check_repeated(version: str, headers: Headers) -> None:
    """Raise Malformed for headers that occur more than once and must not."""
    hosts = 0
    for name, value in headers:
        if name == b"host":
            hosts += 1
        elif name == b"transfer-encoding":
            _check_coding(version, value)
    if hosts > 1:
        raise Malformed("A request needs one Host header")


def _check_coding(version: str, coding: bytes) -> None:
    if coding.lower() != b"chunked" or version != "1.1":
        raise Malformed("The only Transfer-Encoding is chunked, in HTTP/1.1")


def refusal(error: Exception) -> bytes:
    """Return the complete and last response to a request that is not read to its end."""
    status = error.status if isinstance(error, Malformed) else 400
    text = f"The request is not valid HTTP/1.1: {error}" if status == 400 else str(error)
    return last_response(status, text, *(["retry-after: 1"] if status == 503 else []))


def last_response(status: int, message: str, *headers: str) -> bytes:
    """Return a complete response after which the connection ends."""
    content = msgspec.json.encode({"error": message})
    lines = [
        f"HTTP/1.1 {status} {http.HTTPStatus(status).phrase}",
        "content-type: application/json",
        f"content-length: {len(content)}",
        "x-content-type-options: nosniff",
        "cache-control: no-store",
        *headers,
        "connection: close",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + content
