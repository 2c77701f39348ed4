"""Deletes the rows of deleted projects, in small transactions with pauses, so that other projects do not feel it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

from server.process.recurring import SETTLING_SECONDS, Recurring, try_each
from server.sharing.current_project import SERVER, work_for
from server.storage.paced_writes import write_paced
from server.storage.projects.deletion import delete_portion, deleted_projects

if TYPE_CHECKING:
    from collections.abc import Callable

    from server.logs.outages import Outages
    from server.storage.database import Database

LOOK_SECONDS: Final = 2.0
"""The interval at which deleted projects are looked for."""

PORTION_ROWS: Final = 250
"""The most rows of one table that a transaction deletes."""

log = structlog.get_logger()


class ProjectDeletion:
    """The task that deletes the rows of projects which are marked as deleted. After a restart it continues."""

    def __init__(self, database: Database, forget: Callable[[str, int], object], outages: Outages) -> None:
        """`forget` is called with the ID and the key of each project of which nothing is left."""
        self._database = database
        self._forget = forget
        self._task = Recurring("project-deletion", self._delete_all, outages, wait_seconds=SETTLING_SECONDS)

    def start(self) -> None:
        """Start deleting."""
        self._task.start()

    async def close(self) -> None:
        """Stop, even between two transactions of a project."""
        await self._task.close()

    async def _delete_all(self) -> float:
        """Delete all projects that are marked. Return the seconds until the next look."""
        work_for(SERVER)
        await try_each(await self._database.read(deleted_projects, brief=True), self._delete)
        return LOOK_SECONDS

    async def _delete(self, deleted: tuple[int, str]) -> None:
        project_pk, project_id = deleted
        work_for(project_pk)
        more = True
        while more:
            more = await write_paced(
                self._database, lambda connection: delete_portion(connection, project_pk, project_id, PORTION_ROWS)
            )
        self._forget(project_id, project_pk)
        log.info("project_deleted", project=project_id)
