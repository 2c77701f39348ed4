"""Futures whose callers may have gone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio


def mark_retrieved(done: asyncio.Future[Any]) -> None:
    """Mark the failure of a future as seen: asyncio logs those that nobody has looked at."""
    if not done.cancelled():
        done.exception()
