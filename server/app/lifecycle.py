"""How the parts of a server are started and closed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

import structlog

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AsyncExitStack

log = structlog.get_logger()


class Part(Protocol):
    """A part that works in the background."""

    def start(self) -> None:
        """Start working."""
        ...

    async def close(self) -> None:
        """Stop working."""
        ...


def begin(stack: AsyncExitStack, part: Part) -> None:
    """Start a part, and close it when the stack is left."""
    part.start()
    stack.push_async_callback(part.close)


async def close_in_time(close: Callable[[], Awaitable[None]], grace_seconds: float) -> None:
    """Close something that waits for the database, within the grace period. Only unconfirmed events can be lost."""
    try:
        async with asyncio.timeout(grace_seconds + 1):
            await close()
    except TimeoutError:
        log.error("not_closed_in_time", what=str(close.__qualname__), waited_seconds=grace_seconds + 1)  # noqa: TRY400 - where it hangs is known
