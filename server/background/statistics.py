"""Numbers of the subscriptions and runs in the database, read shortly before the metrics are.

They are read at most every FRESH_SECONDS, however often metrics are requested, and in bounded time: nothing is read
that grows with a log. If the database does not answer within READ_SECONDS, the metrics keep the previous numbers, and
`signalbox_statistics_age_seconds` shows how old these are.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING, Final

from automation.run_store import waiting_counts
from automation.subscriptions.backlog import backlogs
from server.metrics.subscriptions import SubscriptionState
from server.sharing.current_project import SERVER, work_for
from server.storage.clock import transaction_time
from server.storage.projects.projects import project_ids

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import Connection

    from automation.subscriptions.backlog import Backlog
    from server.logs.outages import Outages
    from server.metrics import Metrics
    from server.storage.database import MeasuredDatabase

FRESH_SECONDS: Final = 2.0
READ_SECONDS: Final = 2.0

_SECOND: Final = 1_000_000


class Statistics:
    """Reads numbers of the database for the metrics."""

    def __init__(self, database: MeasuredDatabase, metrics: Metrics, outages: Outages) -> None:
        self._database = database
        self._metrics = metrics
        self._outages = outages
        self._read_at = monotonic() - FRESH_SECONDS
        self._tried_at = self._read_at
        self._waiting = self._overdue = 0
        metrics.watch(
            "signalbox_statistics_age_seconds",
            "Age of the numbers that were read from the database, such as the lags of subscriptions.",
            lambda: monotonic() - self._read_at,
        )
        metrics.watch(
            "signalbox_runs_waiting", "Runs that wait for an event, counted up to 10,000.", lambda: self._waiting
        )
        metrics.watch(
            "signalbox_runs_overdue",
            "Waiting runs whose time is over and which are not timed out yet, counted up to 10,000.",
            lambda: self._overdue,
        )

    async def refresh(self) -> None:
        """Read the numbers, unless they are fresh."""
        if monotonic() - self._tried_at < FRESH_SECONDS:
            return
        self._tried_at = monotonic()
        work_for(SERVER)
        try:
            async with asyncio.timeout(READ_SECONDS):
                states, (self._waiting, self._overdue) = await self._database.read(read_statistics)
                self._metrics.database.size = await self._database.size()
        except Exception as error:
            self._outages.report("statistics", error)
            return
        self._outages.succeeded("statistics")
        self._metrics.subscriptions.update(states)
        self._read_at = monotonic()


def read_statistics(connection: Connection) -> tuple[list[SubscriptionState], tuple[int, int]]:
    """Return the states of all subscriptions, and the numbers of waiting runs and of those that are overdue."""
    now = transaction_time(connection)
    found = backlogs(connection)
    names = project_ids(connection, {backlog.project_pk for backlog in found})
    return _states(found, names, now), waiting_counts(connection, now)


def _states(found: Sequence[Backlog], names: Mapping[int, str], now: int) -> list[SubscriptionState]:
    return [
        SubscriptionState(
            key=backlog.key,
            project_id=names[backlog.project_pk],
            name=backlog.name,
            lag_positions=max(0, backlog.head_position - backlog.floor_position),
            lag_seconds=max(0, now - backlog.oldest_matched_at) / _SECOND if backlog.oldest_matched_at else 0.0,
            outstanding=backlog.outstanding,
            retrying=backlog.retrying,
            parked=backlog.parked,
        )
        for backlog in found
        if backlog.project_pk in names
    ]
