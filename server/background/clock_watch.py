"""Watches the system clock, whose steps the process does not follow (`registry.times.steady_clock`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

from registry.times.steady_clock import STEP_MICROS
from registry.times.timestamps import clock_skew, now_micros
from server.process.recurring import Recurring

if TYPE_CHECKING:
    from server.metrics import Metrics

log = structlog.get_logger()

CHECK_SECONDS: Final = 1.0
"""The interval at which the system clock is checked for steps."""


class ClockWatch:
    """Reports steps of the system clock, in the log and as a metric."""

    def __init__(self, metrics: Metrics) -> None:
        self._skew = 0
        self._task = Recurring("clock", self._check)
        metrics.watch_clock(lambda: clock_skew() / 1_000_000)

    def start(self) -> None:
        """Start watching."""
        self._task.start()

    async def close(self) -> None:
        """Stop watching."""
        await self._task.close()

    async def _check(self) -> float:
        now_micros()
        before, self._skew = self._skew, clock_skew()
        if before and not self._skew:
            log.info("clock_agrees")
        elif abs(self._skew - before) > STEP_MICROS:
            advice = "correct the system clock; if it is correct now, restart the server, which then follows it"
            log.error("clock_stepped", ahead_seconds=round(self._skew / 1_000_000, 3), advice=advice)
        return CHECK_SECONDS
