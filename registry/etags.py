"""Etags: an update that presents one is refused if the resource was changed since it was read."""

from __future__ import annotations

from registry.errors import EtagMismatch


def check_etag(given: str, current: str) -> None:
    """Raise EtagMismatch unless the given etag is the current one, or empty, which skips the check."""
    if given and given != current:
        raise EtagMismatch(given, current)
