"""Times out the runs that wait in vain.

The waits are rows, so they outlive a restart, and any server of a shared database may time them out: which runs are
due is read again under the lock of their project's head, so no wait ends twice.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

import structlog

from automation.matching import timed_out
from automation.run_store import due_projects, due_runs, match_values, matches_at, next_timeout, resume_runs
from registry.timestamps import now_micros
from server.errors import StorageError, StorageRefused
from server.storage.log import lock_heads, matches, move_heads

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from server.match_hub import MatchHub
    from server.storage.database import Database

log = structlog.get_logger()

POLL_SECONDS = 1.0
"""The next timeout is looked up so often. No wait is shorter, so a new one is known before its time is up."""

BATCH_RUNS = 500
"""So many runs are timed out in one transaction, which events of the project wait for."""


class RunTimer:
    """The task that looks for waits whose time ran out."""

    def __init__(self, database: Database, hub: MatchHub) -> None:
        self._database = database
        self._hub = hub
        self._away = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin with what ran out while no server was there."""
        self._task = asyncio.create_task(self._run(), name="run-timer")

    async def close(self) -> None:
        """Stop."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        while True:
            try:
                seconds = await self._time_out_due()
                self._away = False
            except Exception as error:
                self._report(error)
                seconds = POLL_SECONDS
            await asyncio.sleep(seconds)

    async def _time_out_due(self) -> float:
        """Time out a batch of each project. Returns the seconds after which to look again."""
        now = now_micros()
        projects, due_at = await self._database.read(
            lambda connection: (due_projects(connection, now), next_timeout(connection)), brief=True
        )
        failure: Exception | None = None
        for key in projects:
            try:
                await self._time_out(key)
            except Exception as error:
                failure = error
        if failure is not None:
            raise failure
        return POLL_SECONDS if due_at is None else min(max(due_at - now_micros(), 0) / 1_000_000, POLL_SECONDS)

    async def _time_out(self, project_key: int) -> None:
        position = await self._database.write(lambda connection: time_out(connection, project_key))
        self._hub.advance(project_key, position)

    def _report(self, error: Exception) -> None:
        """Log an outage once, in a line; a defect each time, with its traceback."""
        if not isinstance(error, StorageError) or isinstance(error, StorageRefused):
            log.error("timeouts_failed", exc_info=error)
        elif not self._away:
            self._away = True
            log.error("timeouts_delayed", reason=type(error).__name__, cause=str(error.__cause__))


def time_out(connection: Connection, project_key: int) -> int:
    """Queue again up to BATCH_RUNS runs of a project that waited in vain. Returns where its match log ends."""
    head = lock_heads(connection, [project_key])[project_key]
    now = now_micros()
    due = due_runs(connection, project_key, now, BATCH_RUNS)
    if not due:
        return head.match_position
    started = matches_at(connection, project_key, [run.number for run in due])
    matched_at = max(now, head.received_at)
    names = {number: match.event_name for number, match in started.items()}
    found = timed_out(due, names, head.match_position, matched_at)
    matches.append(connection, [match_values(project_key, match) for match in found])
    resume_runs(connection, project_key, {match.run_number: match.position for match in found}, matched_at)
    end = found[-1].position
    move_heads(connection, {project_key: head._replace(received_at=matched_at, match_position=end)})
    return end
