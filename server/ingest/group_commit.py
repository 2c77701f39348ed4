"""One commit for all that waits.

While a commit is under way, units queue; the next commit takes them all. So a lone event is stored at once, and under
load the price of a durable write is shared.
"""

from __future__ import annotations

import asyncio
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING

import structlog

from server.errors import QueueFull, Stopping, StorageError, StorageRefused
from server.ingest.commit import KnownContacts, commit
from server.ingest.judge import judge

if TYPE_CHECKING:
    from collections.abc import Sequence

    from server.catalog import Catalog
    from server.ingest.commit import ProjectCommit
    from server.ingest.draft import Unit
    from server.storage.database import Database

log = structlog.get_logger()

QUEUE_EVENTS = 50_000
"""So many events wait at most; what comes then is refused."""

GROUP_EVENTS = 5_000
"""A commit takes no further unit once it holds so many events."""

GATHER_SECONDS = 0.005
"""So long at most does a busy loop put a commit off."""


class GroupCommit:
    """The queue before the log, and the task that empties it. One commit is under way at a time."""

    def __init__(self, database: Database, catalog: Catalog, queue_events: int = QUEUE_EVENTS) -> None:
        self._database = database
        self._catalog = catalog
        self._limit = queue_events
        self._queue: deque[Unit] = deque()
        self._queued = 0
        self._known: dict[int, KnownContacts] = {}
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._stopping = False
        self._task: asyncio.Task[None] | None = None

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
        self._wake.set()

    async def room(self) -> None:
        """Wait until the queue is no longer full."""
        await self._room.wait()

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._queue:
                await self._gather()
                if units := self._take():
                    await self._commit(units)
            if self._stopping:
                return

    async def _gather(self) -> None:
        """Let the loop go round for as long as each round brings more units, so that a busy server commits less often.

        A lone event waits one round of an idle loop.
        """
        latest = monotonic() + GATHER_SECONDS
        queued = -1
        while self._queued != queued and self._queued < GROUP_EVENTS and monotonic() < latest:
            queued = self._queued
            await asyncio.sleep(0)

    def _take(self) -> list[Unit]:
        """Take the next group, leaving out what its sender has given up."""
        units: list[Unit] = []
        count = 0
        while self._queue and count < GROUP_EVENTS:
            unit = self._queue.popleft()
            self._queued -= len(unit.drafts)
            if not unit.done.done():
                units.append(unit)
                count += len(unit.drafts)
        if self._queued < self._limit // 2:
            self._room.set()
        return units

    async def _commit(self, units: Sequence[Unit]) -> None:
        try:
            commits = await self._database.write(lambda connection: commit(connection, units, self._known))
        except Exception as error:
            if len(units) > 1 and not _concerns_all(error):
                await self._commit_apart(units)
                return
            log.exception("commit_failed", events=sum(len(unit.drafts) for unit in units))
            _resolve(units, error if isinstance(error, StorageError) else StorageRefused())
        else:
            self._learn(commits)
            _resolve(units)

    async def _commit_apart(self, units: Sequence[Unit]) -> None:
        """Store units one by one, so that one which the database refuses does not take the others with it."""
        for unit in units:
            for draft in unit.drafts:
                judge(unit.state, draft)
            await self._commit([unit])

    def _learn(self, commits: Sequence[ProjectCommit]) -> None:
        for project in commits:
            key, version = project.state.key, project.state.version
            known = self._known.get(key)
            if known is None or known.version != version:
                known = self._known[key] = KnownContacts(version)
            known.learn(project.contacts)
            self._catalog.learn(project.state)


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
