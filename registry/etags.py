"""Etags: how an editor makes sure that nobody came between reading and writing."""

from __future__ import annotations

from registry.errors import EtagMismatch


def check_etag(given: str, current: str) -> None:
    """Raise EtagMismatch unless the given etag is empty, which asks for no check, or the current one."""
    if given and given != current:
        raise EtagMismatch(given, current)
