"""Measures the delay of the event loop: how late it calls a timer, and so everything else that is due."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from server.metrics import Metrics

TICK_SECONDS: Final = 0.5


class LoopDelay:
    """A timer that measures how late it is called."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Start measuring."""
        self._expect()

    def stop(self) -> None:
        """Stop measuring."""
        if self._timer is not None:
            self._timer.cancel()

    def _expect(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time() + TICK_SECONDS
        self._timer = loop.call_at(due, self._called, due)

    def _called(self, due: float) -> None:
        self._metrics.observe_loop_delay(max(0.0, asyncio.get_running_loop().time() - due))
        self._expect()
