"""Numbers of things in sentences."""

from __future__ import annotations


def quantity(count: int, noun: str) -> str:
    """Return a number with its noun, which takes an s in the plural: `1 event`, `2,000 events`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
