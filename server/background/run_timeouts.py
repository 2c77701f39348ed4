"""Times out runs whose wait for an event has lasted too long.

The waits are rows, so they outlive a restart, and any server of a shared database may time them out: which runs are
due is read again under the lock of their project's head, so no wait ends twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from automation.match_log import match_values
from automation.matching import timed_out
from automation.run_store import due_projects, due_runs, next_timeout
from automation.run_transitions import resume_runs
from server.background.each_project import try_each_project
from server.process.recurring import Recurring
from server.storage.clock import database_now, transaction_time
from server.storage.events.appending import matches
from server.storage.events.reading import event_names
from server.storage.projects.heads import lock_heads, move_heads

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from server.delivery.match_notifier import MatchNotifier
    from server.logs.outages import Outages
    from server.metrics import Metrics
    from server.storage.database import Database

POLL_SECONDS = 1.0
"""The interval at which the next timeout is looked up. No wait is shorter, so none is noticed late."""

BATCH_RUNS = 500
"""The most runs timed out in one transaction, for which the project's senders wait."""


class RunTimeouts:
    """The task that times out waiting runs."""

    def __init__(self, database: Database, notifier: MatchNotifier, metrics: Metrics, outages: Outages) -> None:
        self._database = database
        self._notifier = notifier
        self._metrics = metrics
        self._task = Recurring("timeouts", self._time_out_due, outages)

    def start(self) -> None:
        """Start, first with waits that ended while no server ran."""
        self._task.start()

    async def close(self) -> None:
        """Stop."""
        await self._task.close()

    async def _time_out_due(self) -> float:
        """Time out a batch of each project. Return the seconds after which to look again."""
        projects, due_at = await self._database.read(
            lambda connection: (due_projects(connection, transaction_time(connection)), next_timeout(connection)),
            brief=True,
        )
        await try_each_project(self._database, projects, int, self._time_out)
        return POLL_SECONDS if due_at is None else min(max(due_at - database_now(), 0) / 1_000_000, POLL_SECONDS)

    async def _time_out(self, project_pk: int) -> None:
        position, count = await self._database.write(lambda connection: time_out(connection, project_pk))
        self._metrics.commits.count_matches(count)
        self._metrics.count_runs("queued", count)
        self._notifier.advance(project_pk, position)


def time_out(connection: Connection, project_pk: int) -> tuple[int, int]:
    """Time out up to BATCH_RUNS waits of a project whose time is over, and queue their runs again.

    Return the position of the project's newest match, and the number of timeouts.
    """
    head = lock_heads(connection, [project_pk])[project_pk]
    now = transaction_time(connection)
    due = due_runs(connection, project_pk, now, BATCH_RUNS)
    if not due:
        return head.match_position, 0
    matched_at = max(now, head.received_at)
    names = event_names(connection, project_pk, {run.event_position for run in due})
    found = timed_out(due, names, head.match_position, matched_at)
    matches.append(connection, [match_values(project_pk, match) for match in found])
    resume_runs(connection, project_pk, {match.run_number: match.position for match in found}, matched_at)
    end = found[-1].position
    move_heads(connection, {project_pk: head._replace(received_at=matched_at, match_position=end)})
    return end, len(found)
