"""Headers of requests and responses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

SAFE_HEADERS: Final = ((b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store"))
"""Headers of every response: browsers do not guess its type, and caches do not keep data of customers."""


def repeated_header(headers: Iterable[tuple[bytes, bytes]], single: Collection[bytes]) -> bytes:
    """Return the name of a single-valued header that was sent more than once, empty if there is none."""
    seen: set[bytes] = set()
    for name, _ in headers:
        if name in seen:
            return name
        if name in single:
            seen.add(name)
    return b""
