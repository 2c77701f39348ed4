"""Whether an event can be stored now, by how the latest commit ended or, without commits, by a probe that writes.

    commit or probe                          problem                     sends
    succeeded                                none                        are queued
    failed before LATE_SECONDS               its error                   are queued: each commit tries again
    has not ended for LATE_SECONDS           StorageLate                 are refused at once, queued ones included
    has not ended for DOUBT_SECONDS          StorageLate                 those of the commit are answered: they may have
                                                                         been stored
    failed after LATE_SECONDS                its error                   are refused at once, until a probe succeeds

A server with a problem is not ready. If no commit has succeeded for a second and none is in progress, a probe writes.

Time is counted in ticks of a task on the event loop, so that no commit counts as late because the loop was held up or
the process was stopped.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Protocol

from server.errors import StorageError, StorageFailed, StorageFull, StorageLate, StorageUnavailable
from server.logs.outages import Outages, is_outage

if TYPE_CHECKING:
    from collections.abc import Callable

    from server.storage.database import Database

TICK_SECONDS: Final = 0.2
"""The interval at which the age of the running commit is checked."""

LATE_SECONDS: Final = 1.4
"""A commit that takes longer is late. It usually takes milliseconds, and on a busy disk half a second now and then.
Callers that are refused can try another server, or wait."""

DOUBT_SECONDS: Final = 3.0
"""When the senders of a late commit are answered. PostgreSQL lets a frozen server hold a lock for less than this, and
SQLite waits less for one, so commits that only wait for a lock end before."""

PROBE_SECONDS: Final = 1.0
"""The age of the latest success at which a probe writes: a page of SQLite, or a record in PostgreSQL's log."""

REPAIR_SECONDS: Final = 5.0
"""For this long after StorageFull or StorageFailed a successful probe does not count: it is smaller than an event, and
touches fewer tables."""

_TO_REPAIR: Final = (StorageFull, StorageFailed)

_LARGE_COMMIT: Final = 4.0
"""A large commit is late only after this many times its expected duration."""


class ReportReady(Protocol):
    """Is called when the readiness of the server has changed."""

    async def __call__(self, *, ready: bool) -> None:
        """Report whether the server is ready."""
        ...


class _Write:
    """A commit or probe that has begun."""

    def __init__(self, expected_seconds: float = 0.0) -> None:
        self.seconds = 0.0
        self._late_after = max(LATE_SECONDS, _LARGE_COMMIT * expected_seconds)

    def late(self) -> bool:
        return self.seconds >= self._late_after

    def doubtful(self) -> bool:
        return self.seconds >= self._late_after + DOUBT_SECONDS - LATE_SECONDS


class StorageHealth:
    """Tracks whether an event can be stored; if not, `problem` is the error. While `blocked`, sends are refused."""

    def __init__(self, database: Database, outages: Outages | None = None) -> None:
        self._database = database
        self.outages = outages or Outages()
        self.problem: StorageError | None = None
        self.blocked = False
        self._commit: _Write | None = None
        self._probe: _Write | None = None
        self._probing: asyncio.Task[None] | None = None
        self._succeeded_at = self._probed_at = _now()
        self._failed_at = 0.0
        self._task: asyncio.Task[None] | None = None
        self._on_late: Callable[[], None] = lambda: None
        self._on_doubt: Callable[[], None] = lambda: None
        self._report: ReportReady | None = None
        self._reported = True

    def on_late(self, refuse_queued: Callable[[], None], answer_running: Callable[[], None]) -> None:
        """Set the functions that each tick calls: one while sends are refused, one while a commit is in doubt."""
        self._on_late, self._on_doubt = refuse_queued, answer_running

    def on_change(self, report: ReportReady) -> None:
        """Set the function that is called when the readiness changes."""
        self._report = report

    def start(self) -> None:
        """Start watching."""
        self._task = asyncio.create_task(self._run(), name="storage-health")

    async def close(self) -> None:
        """Stop watching."""
        for task in (self._task, self._probing):
            if task is not None:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

    async def check(self) -> None:
        """Raise the StorageError that keeps events from being stored, if there is one. Does not wait."""
        if self.problem is not None:
            raise self.problem

    def check_open(self) -> None:
        """Raise StorageLate while sends are refused."""
        if self.blocked:
            raise StorageLate

    def commit_age(self) -> float:
        """Return how many seconds the commit in progress has taken, 0 if there is none."""
        commit = self._commit
        return 0.0 if commit is None else commit.seconds

    def commit_began(self, expected_seconds: float) -> None:
        """Note that a commit has begun, and how long it is expected to take."""
        self._commit = _Write(expected_seconds)

    def commit_ended(self, error: Exception | None = None) -> None:
        """Note the end of the commit. An error that is no outage, such as bad data, shows that the database works."""
        commit, self._commit = self._commit, None
        if error is not None and is_outage(error):
            self._failed("commit", error, late=commit is not None and commit.late())
        else:
            self._succeeded("commit")

    def _succeeded(self, work: str) -> None:
        self._succeeded_at = _now()
        if self.problem is not None:
            self.outages.succeeded("commit")
            self.outages.succeeded("probe")
            self.problem = None
        else:
            self.outages.succeeded(work)
        self.blocked = False

    def _failed(self, work: str, error: Exception, *, late: bool) -> None:
        self.outages.failed(work, error)
        self._failed_at = _now()
        self.problem = error if isinstance(error, StorageError) else StorageUnavailable()
        # While commits fail quickly, each send gets the error of its own commit.
        self.blocked = late

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            self._tick()
            if self._report is not None and self._reported is not (self.problem is None):
                self._reported = self.problem is None
                await self._report(ready=self._reported)

    def _tick(self) -> None:
        for write in (self._commit, self._probe):
            if write is not None:
                write.seconds += TICK_SECONDS
                if write.late():
                    self._block()
        if self._commit is not None and self._commit.doubtful():
            self._on_doubt()
        self.outages.tick()
        now = _now()
        if (
            self._commit is None
            and self._probe is None
            and now - max(self._succeeded_at, self._probed_at) >= (PROBE_SECONDS - TICK_SECONDS / 2)
        ):
            self._probed_at = now
            self._probe = _Write()
            self._probing = asyncio.create_task(self._write_probe(self._probe), name="storage-probe")

    def _block(self) -> None:
        if not isinstance(self.problem, StorageLate):
            self.problem = StorageLate()
            self.outages.failed("commit", self.problem)
        self.blocked = True
        self._on_late()

    async def _write_probe(self, probe: _Write) -> None:
        try:
            await self._database.check()
        except Exception as error:
            self._failed("probe", error, late=probe.late())
        else:
            if not isinstance(self.problem, _TO_REPAIR) or _now() - self._failed_at >= REPAIR_SECONDS:
                self._succeeded("probe")
        finally:
            self._probe = None


def _now() -> float:
    return asyncio.get_running_loop().time()
