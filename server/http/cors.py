"""Cross-origin requests: which web pages of other origins may call this server from a browser. None by default.

Keys are sent in a header, never in cookies, so credentials in the sense of browsers are never allowed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from server.http.headers import SAFE_HEADERS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping

    Send = Callable[[dict[str, Any]], Awaitable[None]]
    Header = tuple[bytes, bytes]

ANY: Final = "*"
MAX_AGE_SECONDS: Final = 7_200
"""How long a browser may remember what is allowed; the longest that one of them accepts."""

_METHODS: Final = b"GET, POST, PUT, PATCH, DELETE"
_EXPOSED: Final = (
    b"content-encoding, connect-content-encoding, retry-after, ratelimit-limit, ratelimit-remaining, ratelimit-reset,"
    b" x-request-id"
)
"""Headers that a page may read beside those of every response."""


class Cors:
    """The origins whose pages may call: of each `https://HOST`, with a port if it is not the usual one, or ANY."""

    def __init__(self, origins: Collection[str]) -> None:
        self._origins = {origin.encode() for origin in origins}
        self._any = ANY in origins

    def allowed(self, scope: Mapping[str, Any]) -> bytes:
        """Return what to allow a request: its origin or ANY, empty for other origins and for requests without one."""
        if not self._origins:
            return b""
        origin: bytes = next((value for name, value in scope["headers"] if name == b"origin"), b"")
        if not origin:
            return b""
        return ANY.encode() if self._any else origin if origin in self._origins else b""


def is_preflight(scope: Mapping[str, Any]) -> bool:
    """Return whether a browser asks with this request whether it may send another one."""
    return scope["method"] == "OPTIONS" and any(name == _REQUESTED_METHOD for name, _ in scope["headers"])


async def answer_preflight(scope: Mapping[str, Any], send: Send, allowed: bytes) -> None:
    """Allow every method and the headers that are asked for."""
    requested = next((value for name, value in scope["headers"] if name == b"access-control-request-headers"), b"")
    headers = [
        *_allowing(allowed),
        (b"access-control-allow-methods", _METHODS),
        (b"access-control-max-age", str(MAX_AGE_SECONDS).encode()),
        (b"content-length", b"0"),
        *SAFE_HEADERS,
    ]
    if requested:
        headers.append((b"access-control-allow-headers", requested))
    await send({"type": "http.response.start", "status": 204, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


def exposing(allowed: bytes) -> tuple[Header, ...]:
    """Return the headers of a response which the page may read."""
    return (*_allowing(allowed), (b"access-control-expose-headers", _EXPOSED))


_REQUESTED_METHOD: Final = b"access-control-request-method"


def _allowing(allowed: bytes) -> tuple[Header, Header]:
    return ((b"access-control-allow-origin", allowed), (b"vary", b"origin"))
