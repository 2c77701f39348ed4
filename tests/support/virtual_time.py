"""An event loop whose time moves only when nothing is ready, and then straight to the next timer.

What runs on it does no input or output. A schedule of hours takes milliseconds, and is the same at every run.
"""

from __future__ import annotations

import asyncio
import selectors
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

T = TypeVar("T")


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """A loop in virtual time, which begins at 0."""

    def __init__(self) -> None:
        self.now = 0.0
        super().__init__(_TimerSelector(self))

    def time(self) -> float:
        """Return the virtual time in seconds."""
        return self.now


def run_virtually(work: Coroutine[Any, Any, T]) -> T:
    """Run work in a loop of its own, in virtual time."""
    loop = VirtualTimeLoop()
    try:
        return loop.run_until_complete(work)
    finally:
        loop.close()


def now() -> float:
    """Return the time of the running loop."""
    return asyncio.get_running_loop().time()


class _TimerSelector(selectors.SelectSelector):
    """Waits for no file: moves the time forward instead."""

    def __init__(self, loop: VirtualTimeLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise AssertionError("Deadlock: nothing is ready and no timer is set")
        self._loop.now += max(timeout, 0)
        return []
