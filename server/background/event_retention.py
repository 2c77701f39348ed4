"""Deletes events that are older than their retention period.

A project has a period, and each of its definitions may have another one: see `server.storage.events.retention`, which
also says which events are kept although they are due. Each minute the events that became due since are examined and
deleted, in small transactions with pauses between them, so that a send waits for one at most. Those that were in use
then are examined again bit by bit, RETRIED_EVENTS a minute, so that no list of them has to be kept. Servers that share
a database may all do this at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING

import structlog

from server.background.each_project import try_each_project
from server.process.recurring import SETTLING_SECONDS, Recurring
from server.sharing.current_project import SERVER, work_for
from server.storage.events.retention import delete_events, due_events, end_of_due, event_retentions
from server.storage.paced_writes import write_paced

if TYPE_CHECKING:
    from collections.abc import Sequence

    from server.background.retention_clock import RetentionClock
    from server.logs.outages import Outages
    from server.storage.database import Database
    from server.storage.events.retention import RetentionPeriods

log = structlog.get_logger()

LOOK_SECONDS = 60.0
"""The interval at which all projects are examined; a shorter retention period shortens it."""

PORTION_EVENTS = 500
"""The events examined and deleted at a time, which takes a few milliseconds."""

RETRIED_EVENTS = 10_000
"""The events that were in use and are examined again each time."""


@dataclass(slots=True)
class _Period:
    """The deletion of the events of one name, or of all names but `others`, after one period."""

    project_pk: int
    name: str
    others: Sequence[str]
    micros: int
    examined: int = 0
    """All events up to this position were examined."""
    retried: int = 0
    """Those up to this position were examined again, to delete events that are no longer in use."""


class EventRetention:
    """The task that deletes the events of all projects when they are due."""

    def __init__(self, database: Database, clock: RetentionClock, outages: Outages) -> None:
        self._database = database
        self._clock = clock
        self._retentions: dict[int, RetentionPeriods] = {}
        self._periods: dict[int, list[_Period]] = {}
        self._deleted = 0
        self._task = Recurring("event_retention", self._delete_all, outages, wait_seconds=SETTLING_SECONDS)

    def start(self) -> None:
        """Start deleting."""
        self._task.start()

    async def close(self) -> None:
        """Stop, even between two transactions of a project: the next start examines everything once more."""
        await self._task.close()

    async def _delete_all(self) -> float:
        """Delete in all projects. Return the seconds after which to do so again."""
        work_for(SERVER)
        if (now := await self._clock.now()) is None:
            return LOOK_SECONDS
        self._update(await self._database.read(event_retentions, brief=True))
        self._deleted = 0
        periods = [period for periods in self._periods.values() for period in periods]
        await try_each_project(self._database, periods, attrgetter("project_pk"), partial(self._delete_due, now))
        if self._deleted:
            log.info("events_deleted", count=self._deleted, reason="retention")
        return min([LOOK_SECONDS, *(period.micros / 1_000_000 for period in periods)])

    def _update(self, retentions: dict[int, RetentionPeriods]) -> None:
        """Take over the retentions of all projects. After a change, the events of a project are examined again."""
        for project_pk in self._retentions.keys() - retentions.keys():
            del self._periods[project_pk]
        for project_pk, retention in retentions.items():
            if self._retentions.get(project_pk) != retention:
                self._periods[project_pk] = [
                    _Period(project_pk, name, () if name else tuple(retention.by_name), micros)
                    for name, micros in retention.finite.items()
                ]
        self._retentions = retentions

    async def _delete_due(self, now: int, period: _Period) -> None:
        project_pk, before = period.project_pk, now - period.micros
        work_for(project_pk)
        end = await self._database.read(lambda connection: end_of_due(connection, project_pk, before))
        retried = await self._delete(period, period.retried, min(period.examined + 1, end), RETRIED_EVENTS)
        period.retried = retried or 0
        await self._delete(period, period.examined, end)
        period.examined = max(period.examined, end - 1)

    async def _delete(self, period: _Period, after: int, end: int, limit: int | None = None) -> int | None:
        """Delete events after a position and before `end`; examine about `limit` events, or all of them.

        Return the position after which to continue, None at the end.
        """
        examined, next_after = 0, after
        while limit is None or examined < limit:
            positions, resume = await self._due(period, next_after, end)
            if positions:
                await self._delete_at(period.project_pk, positions)
            if resume is None:
                return None
            examined, next_after = examined + PORTION_EVENTS, resume
        return next_after

    async def _due(self, period: _Period, after: int, end: int) -> tuple[Sequence[int], int | None]:
        return await self._database.read(
            lambda connection: due_events(
                connection, period.project_pk, period.name, period.others, after, end, PORTION_EVENTS
            )
        )

    async def _delete_at(self, project_pk: int, positions: Sequence[int]) -> None:
        self._deleted += await write_paced(
            self._database, lambda connection: delete_events(connection, project_pk, positions)
        )
