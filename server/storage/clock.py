"""The time by which a server measures leases, retries and waits, and dates what it records.

    SQLite        the clock of the process, which follows no step of the system clock (`registry.steady_clock`)
    PostgreSQL    the clock of the database, which all its servers share, read in the transaction that uses it

Between transactions a server on PostgreSQL estimates the time of the database, to know when the next lease ends.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import structlog

from registry.steady_clock import STEP_MICROS
from registry.timestamps import clock_skew, now_micros
from server.process.recurring import Recurring

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy import Connection

    from server.metrics import Metrics

log = structlog.get_logger()

CHECK_SECONDS: Final = 1.0
"""The interval at which the system clock is checked for steps."""

DATABASE_MICROS: Final = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
"""PostgreSQL's expression for the present instant."""

_SELECT_MICROS: Final = f"SELECT {DATABASE_MICROS}"


class _Estimate:
    """How far the clock of the database is ahead of this process's, in microseconds. A process has one database."""

    ahead = 0


def transaction_time(connection: Connection) -> int:
    """Return the present instant within a transaction. Call it once the transaction holds its locks."""
    if connection.dialect.name != "postgresql":
        return now_micros()
    now = int(connection.exec_driver_sql(_SELECT_MICROS).scalar_one())
    _Estimate.ahead = now - now_micros()
    return now


def log_time(head_read_at: int) -> int:
    """Return the time of entries appended to a log.

    `head_read_at` is the time at which PostgreSQL read the log's head row, 0 on SQLite.
    """
    return head_read_at or now_micros()


def database_now() -> int:
    """Return the present instant outside of a transaction, as `transaction_time` would; on PostgreSQL an estimate."""
    return now_micros() + _Estimate.ahead


class ClockWatch:
    """Reports steps of the system clock that the process does not follow, in the log and as a metric."""

    def __init__(self, metrics: Metrics) -> None:
        self._skew = 0
        metrics.watch_clock(lambda: clock_skew() / 1_000_000)

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Watch while the context is open."""
        task = Recurring("clock", self._check)
        task.start()
        try:
            yield
        finally:
            await task.close()

    async def _check(self) -> float:
        now_micros()
        before, self._skew = self._skew, clock_skew()
        if before and not self._skew:
            log.info("clock_agrees")
        elif abs(self._skew - before) > STEP_MICROS:
            advice = "correct the system clock; if it is correct now, restart the server, which then follows it"
            log.error("clock_stepped", ahead_seconds=round(self._skew / 1_000_000, 3), advice=advice)
        return CHECK_SECONDS
