"""Deletes matches that are older than the retention period.

The period is that of the server, or how long the project keeps its events, if that is shorter: an event is kept as long
as its matches. A match is never deleted while a subscription still has to settle it, or has parked it: see
`automation.deletion.retention`.
The matches of a project are deleted in small transactions with pauses between them, so that a send waits for one at
most. Servers that share a database may all do this at once.
"""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING

import structlog

from automation.deletion.retention import deletable_matches, delete_matches, move_start, next_start
from server.background.each_project import try_each_project
from server.process.recurring import SETTLING_SECONDS, Recurring
from server.sharing.current_project import SERVER, work_for
from server.storage.events.retention import match_retentions
from server.storage.paced_writes import write_paced
from server.storage.projects.heads import lock_heads, match_positions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

    from server.background.retention_clock import RetentionClock
    from server.logs.outages import Outages
    from server.storage.database import Database

log = structlog.get_logger()

LOOK_SECONDS = 60.0
"""The interval at which all projects are examined; a shorter retention period shortens it."""

PORTION_MATCHES = 500
"""The matches deleted in one transaction, which takes a few milliseconds."""


class MatchRetention:
    """The task that deletes matches which were recorded longer ago than the retention period of their project.

    `retention_seconds` is the period of the server, None if that keeps them for ever.
    """

    def __init__(
        self, database: Database, retention_seconds: float | None, clock: RetentionClock, outages: Outages
    ) -> None:
        self._database = database
        self._clock = clock
        self._retention = None if retention_seconds is None else round(retention_seconds * 1_000_000)
        self._deleted = 0
        self._task = Recurring("pruning", self._prune_all, outages, wait_seconds=SETTLING_SECONDS)

    def start(self) -> None:
        """Start deleting."""
        self._task.start()

    async def close(self) -> None:
        """Stop, even between two transactions of a project: the next start continues there."""
        await self._task.close()

    async def _prune_all(self) -> float:
        """Delete in all projects. Return the seconds after which to do so again."""
        work_for(SERVER)
        if (now := await self._clock.now()) is None:
            return LOOK_SECONDS
        periods, heads = await self._database.read(self._periods, brief=True)
        self._deleted = 0
        projects = [(key, heads[key], now - period) for key, period in periods.items()]
        await try_each_project(self._database, projects, itemgetter(0), self._prune)
        if self._deleted:
            log.info("matches_pruned", count=self._deleted)
        return min([LOOK_SECONDS, *(period / 1_000_000 for period in (self._retention, *periods.values()) if period)])

    def _periods(self, connection: Connection) -> tuple[dict[int, int], dict[int, int]]:
        """Return the retention period of each project that has one, in microseconds, and the ends of all logs."""
        heads, own = match_positions(connection), match_retentions(connection)
        if self._retention is None:
            return own, heads
        return {key: min(self._retention, own.get(key, self._retention)) for key in heads}, heads

    async def _prune(self, project: tuple[int, int, int]) -> None:
        key, head, before = project
        work_for(key)
        if await self._database.read(lambda connection: next_start(connection, key, before, head)) is not None:
            await write_paced(self._database, lambda connection: _move_start(connection, key, before))
        after: int | None = 0
        while after is not None:
            gone, after = await self._gone(key, after)
            if gone:
                await self._delete(key, gone)

    async def _gone(self, project_pk: int, after: int) -> tuple[Sequence[int], int | None]:
        return await self._database.read(
            lambda connection: deletable_matches(connection, project_pk, after, PORTION_MATCHES)
        )

    async def _delete(self, project_pk: int, positions: Sequence[int]) -> None:
        await write_paced(self._database, lambda connection: delete_matches(connection, project_pk, positions))
        self._deleted += len(positions)


def _move_start(connection: Connection, project_pk: int, before: int) -> None:
    head = lock_heads(connection, [project_pk])[project_pk]
    move_start(connection, project_pk, before, head.match_position)
