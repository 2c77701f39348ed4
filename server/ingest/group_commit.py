"""One commit for all that waits.

While a commit is under way, units queue; the next commit takes them all. So a lone event is stored at once, and under
load the price of a durable write is shared.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from time import perf_counter
from typing import TYPE_CHECKING

import structlog

from server.errors import AccessError, QueueFull, RequestError, ServiceError, Stopping, StorageError, StorageRefused
from server.ingest.commit import KnownContacts, commit
from server.ingest.validate import judge_all

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

    from server.delivery.match_notifier import MatchHub
    from server.ingest.catalog import Catalog
    from server.ingest.commit import ProjectCommit
    from server.ingest.draft import Unit
    from server.metrics import Metrics
    from server.storage.database import Database

log = structlog.get_logger()

GROUP_EVENTS = 1_000
"""A commit takes no further unit once it holds so many events: while it is stored, the loop reads the next ones."""

GATHER_UNITS = 4
GATHER_SECONDS = 0.020
"""When a group held several units, the next one waits for one less, though so long at most: a commit costs as much as
several events do. Where fewer send than GATHER_UNITS, nobody waits but right after a burst: where senders are not
replaced, the number falls with every group."""

BATCH_EVENTS = 8
BATCH_SWITCH_SECONDS = 0.000_2
SWITCH_SECONDS = 0.005
"""How long a database thread waits for the interpreter while the loop is busy. At a batch the loop is so for
milliseconds, and the thread needs the interpreter a dozen times a commit: batches of 500 gain a seventh by the shorter
time. Single sends, between which the loop lets go anyway, lose a sixth by it."""


class GroupCommit:
    """The queue before the log, and the task that empties it. One commit is under way at a time."""

    def __init__(
        self, database: Database, catalog: Catalog, hub: MatchHub, metrics: Metrics, queue_events: int
    ) -> None:
        self._database = database
        self._catalog = catalog
        self._hub = hub
        self._metrics = metrics
        self._limit = queue_events
        self._queue: deque[Unit] = deque()
        self._queued = 0
        self._known: dict[int, KnownContacts] = {}
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._expected = 1
        self._timer: asyncio.TimerHandle | None = None
        self._stopping = False
        self._task: asyncio.Task[None] | None = None
        metrics.watch_queue(lambda: self._queued)

    def start(self) -> None:
        """Begin to commit."""
        self._task = asyncio.create_task(self._run(), name="group-commit")

    async def close(self) -> None:
        """Refuse what comes, store what waits, and stop."""
        self._stopping = True
        self._wake.set()
        if self._task is not None:
            await self._task

    def submit(self, unit: Unit) -> None:
        """Queue a unit; its `done` is resolved when it is decided and durable.

        Raises QueueFull and Stopping. A unit larger than the whole queue is taken when the queue is empty.
        """
        if self._stopping:
            raise Stopping
        if self._queued and self._queued + len(unit.drafts) > self._limit:
            self._room.clear()
            raise QueueFull
        self._queued += len(unit.drafts)
        self._queue.append(unit)
        self._schedule()

    async def room(self) -> None:
        """Wait until the queue is no longer full."""
        await self._room.wait()

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            if units := self._take():
                await self._commit_whatever_comes(units)
            if self._queue:
                self._schedule()
            elif self._stopping:
                return

    def _schedule(self) -> None:
        """Have the queue committed: at once, or a little later where that is likely to bring more together."""
        if len(self._queue) >= self._expected or self._stopping:
            self._wake.set()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(GATHER_SECONDS, self._wake.set)

    def _take(self) -> list[Unit]:
        """Take the next group, leaving out what its sender has given up."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        units: list[Unit] = []
        count = 0
        while self._queue and count < GROUP_EVENTS:
            unit = self._queue.popleft()
            self._queued -= len(unit.drafts)
            if not unit.done.done():
                units.append(unit)
                count += len(unit.drafts)
        if self._queued <= self._limit // 2:
            self._room.set()
        self._expected = len(units) - 1 if len(units) > GATHER_UNITS else 1
        sys.setswitchinterval(BATCH_SWITCH_SECONDS if count > BATCH_EVENTS * len(units) else SWITCH_SECONDS)
        return units

    async def _commit(self, units: Sequence[Unit]) -> None:
        forgotten = self._catalog.forgotten
        began = perf_counter()
        try:
            commits = await self._database.write(_Attempts(units, self._known))
        except Exception as error:
            if len(units) > 1 and not _concerns_all(error):
                await self._commit_apart(units)
                return
            _log_failure(error, sum(len(unit.drafts) for unit in units))
            _resolve(units, error if isinstance(error, ServiceError) else StorageRefused())
        else:
            self._learn(commits, forgotten)
            _resolve(units)
            self._count(commits, perf_counter() - began)

    def _count(self, commits: Sequence[ProjectCommit], seconds: float) -> None:
        matches = sum(len(each.matching.matches) for each in commits if each.matching is not None)
        self._metrics.count_commit(sum(len(each.rows) for each in commits), matches, seconds)

    async def _commit_whatever_comes(self, units: Sequence[Unit]) -> None:
        """Commit a group; a defect is logged and answered, and does not end the task that everyone waits for."""
        try:
            await self._commit(units)
        except Exception:
            log.exception("group_failed")
            _resolve(units, StorageRefused())

    async def _commit_apart(self, units: Sequence[Unit]) -> None:
        """Store units one by one, so that one which the database refuses does not take the others with it."""
        for unit in units:
            judge_all(unit)
            await self._commit([unit])

    def _learn(self, commits: Sequence[ProjectCommit], forgotten: int) -> None:
        for project in commits:
            key = project.state.key
            self._learn_contacts(project)
            self._catalog.learn(project.state, forgotten)
            self._hub.advance(key, project.head.match_position)
            if project.matching is not None:
                self._metrics.count_failures(project.state.id, project.matching.failures)

    def _learn_contacts(self, project: ProjectCommit) -> None:
        """Remember the contacts of a commit; a commit that stored nothing leaves no event to check them by."""
        key = project.state.key
        if not project.knew_contacts:
            self._known[key] = KnownContacts(project.state.version)
        if project.rows:
            self._known[key].learn(project.contacts, project.head.position, project.last_id)


class _Attempts:
    """The work of a group commit. A failed attempt leaves its decisions in the drafts, so the next one judges again."""

    def __init__(self, units: Sequence[Unit], known: dict[int, KnownContacts]) -> None:
        self._units = units
        self._known = known
        self._begun = False

    def __call__(self, connection: Connection) -> list[ProjectCommit]:
        if self._begun:
            for unit in self._units:
                judge_all(unit)
        self._begun = True
        return commit(connection, self._units, self._known)


def _log_failure(error: Exception, events: int) -> None:
    """Log a failed commit: an outage in a line, since it comes back with every commit, a defect with its traceback."""
    if _concerns_all(error):
        log.error("commit_failed", events=events, reason=type(error).__name__, cause=str(error.__cause__))
    elif not isinstance(error, (AccessError, RequestError)):
        log.error("commit_failed", events=events, exc_info=error)


def _concerns_all(error: Exception) -> bool:
    """Say whether the database as a whole failed, and not one statement over one unit's data."""
    return isinstance(error, StorageError) and not isinstance(error, StorageRefused)


def _resolve(units: Sequence[Unit], error: Exception | None = None) -> None:
    for unit in units:
        if unit.done.done():
            continue
        if error is None:
            unit.done.set_result(None)
        else:
            unit.done.set_exception(error)
