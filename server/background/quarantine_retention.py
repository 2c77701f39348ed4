"""Deletes refused events that have been in quarantine for long.

They are deleted in small transactions with pauses between them, so that a send waits for one at most. Servers that
share a database may all do this at once.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

import structlog

from server.background.each_project import try_each_project
from server.process.recurring import SETTLING_SECONDS, Recurring
from server.services.quarantine import delete
from server.sharing.current_project import SERVER, work_for
from server.storage.paced_writes import write_paced
from server.storage.quarantine.refused_events import quarantined_projects
from server.storage.quarantine.search import refused_before

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

    from server.background.retention_clock import RetentionClock
    from server.logs.outages import Outages
    from server.storage.database import Database

log = structlog.get_logger()

LOOK_SECONDS: Final = 60.0
"""The interval at which all projects are examined; a shorter retention period shortens it."""

PORTION_EVENTS: Final = 100
"""The events deleted in one transaction, which takes a few milliseconds."""


class QuarantineRetention:
    """The task that deletes events which were refused longer ago than `retention_seconds`."""

    def __init__(self, database: Database, retention_seconds: float, clock: RetentionClock, outages: Outages) -> None:
        self._database = database
        self._clock = clock
        self._retention_seconds = retention_seconds
        self._deleted = 0
        self._task = Recurring("quarantine", self._prune_all, outages, wait_seconds=SETTLING_SECONDS)

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
        projects = await self._database.read(quarantined_projects, brief=True)
        self._deleted = 0
        await try_each_project(self._database, projects, int, partial(self._prune, now))
        if self._deleted:
            log.info("refused_events_pruned", count=self._deleted)
        return min(LOOK_SECONDS, self._retention_seconds)

    async def _prune(self, now: int, project_pk: int) -> None:
        work_for(project_pk)
        before = now - round(self._retention_seconds * 1_000_000)
        while old := await self._old(project_pk, before):
            self._deleted += await write_paced(self._database, partial(_delete, project_pk, old))

    async def _old(self, project_pk: int, before: int) -> Sequence[str]:
        return await self._database.read(
            lambda connection: refused_before(connection, project_pk, before, PORTION_EVENTS)
        )


def _delete(project_pk: int, ids: Sequence[str], connection: Connection) -> int:
    return delete(connection, project_pk, ids)
