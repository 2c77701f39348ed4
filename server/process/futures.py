"""Futures whose callers may have gone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio


def mark_retrieved(done: asyncio.Future[Any]) -> None:
    """Mark the failure of a future as retrieved: asyncio logs failures that nobody has retrieved."""
    if not done.cancelled():
        done.exception()
