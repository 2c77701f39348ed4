"""Quotas of projects: how many events a project may send per second, and record per day.

    per second    a bucket of tokens for each project, on each server. A batch that is larger than the bucket is taken
                  when that is full, and leaves a debt, so that the average holds. Re-ingested events wait until
                  half of the tokens that are added pay for them; the other half, and the bucket, are left to senders
    per day       positions are gapless, so the events of a day are the difference of two of them. It holds for all
                  servers and over restarts, but for events that other servers record within HEAD_SECONDS. A log whose
                  clock was once set forward is dated later than today for as long: until then a server counts the
                  events since its first look at the day

A project without a quota costs one look at its snapshot.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Final

from server.errors import ProjectQuotaExceeded, ProjectRateExceeded
from server.storage.clock import database_now
from server.storage.events.reading import log_end, position_at

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

    from server.ingest.catalog import CatalogSnapshot
    from server.ingest.draft import Draft
    from server.metrics import Metrics
    from server.model import Quota
    from server.storage.database import Database

DAY: Final = 24 * 60 * 60 * 1_000_000
HEAD_SECONDS: Final = 1.0
"""How long the end of a log is trusted if other servers record events, too."""

REFUSAL_SECONDS: Final = 0.25
"""How long a send waits for the rate before it is refused. To refuse costs nearly as much as to accept, and a client
without patience sends again at once: 64 such callers made 1,100 calls per second, and as much work as accepted ones."""

_SECOND: Final = 1_000_000


class Bucket:
    """Tokens of one project: `rate` more each second, at most `burst`; below none it is in debt.

    Half of what is added goes to `reserved` tokens, as long as there are any.
    """

    __slots__ = ("_at", "burst", "rate", "reserved", "tokens")

    def __init__(self, rate: int, burst: int, now: float) -> None:
        self.rate = rate
        self.burst = burst
        self.tokens = float(burst)
        self.reserved = 0.0
        self._at = now

    def wait(self, count: int, now: float) -> float:
        """Return the seconds until this many tokens may be taken."""
        self._add(now)
        missing = max(0.0, min(count, self.burst) - self.tokens)
        return (missing + min(missing, self.reserved)) / self.rate

    def take(self, count: int) -> None:
        """Take tokens, even if that leaves a debt."""
        self.tokens -= count

    def reserved_wait(self, count: int, now: float) -> float:
        """Return the seconds until this many tokens are added, if they are reserved now."""
        self._add(now)
        return 2 * (self.reserved + count) / self.rate

    def reserve(self, count: int) -> None:
        """Reserve tokens from half of those that are added from now on."""
        self.reserved += count

    def release(self, count: int, now: float) -> None:
        """Cancel a reservation. Tokens that were added for it go to the senders."""
        self._add(now)
        left = min(self.reserved, count)
        self.reserved -= left
        self.tokens = min(float(self.burst), self.tokens + count - left)

    def _add(self, now: float) -> None:
        added = (now - self._at) * self.rate
        self._at = now
        if self.reserved:
            half = min(self.reserved, added / 2)
            self.reserved -= half
            added -= half
        self.tokens = min(float(self.burst), self.tokens + added)


@dataclass(slots=True)
class _Day:
    """The events that a project has recorded on a day: the first position of the day, and the newest one."""

    number: int
    first: int
    head: int
    read_at: float
    in_flight: int = 0

    @property
    def used(self) -> int:
        return self.head + 1 - self.first + self.in_flight


class Quotas:
    """The quotas of all projects, as this server counts them."""

    def __init__(self, database: Database, metrics: Metrics) -> None:
        self._database = database
        self._metrics = metrics
        self._buckets: dict[int, Bucket] = {}
        self._days: dict[int, _Day] = {}
        self._reading: dict[int, asyncio.Lock] = defaultdict(asyncio.Lock)

    def forget(self, project_pk: int) -> None:
        """Forget a project that is deleted for good."""
        for by_project in (self._buckets, self._days, self._reading):
            by_project.pop(project_pk, None)

    async def check(self, snapshot: CatalogSnapshot, count: int) -> None:
        """Raise ProjectRateExceeded for events that `enter` would refuse now, before work is spent on them."""
        if snapshot.quota.events_per_second:
            await self._check_rate(snapshot, count)

    async def enter(
        self, snapshot: CatalogSnapshot, count: int, *, patiently: bool = False, again_within: float | None = None
    ) -> Admitted:
        """Count events that are about to be sent; with `patiently`, wait for the rate.

        With `again_within`, they are re-ingested: they wait up to that many seconds, for half of the rate.
        The result must be left once they are recorded or refused. Raise ProjectRateExceeded and ProjectQuotaExceeded.
        """
        day = await self._enter_day(snapshot, count) if snapshot.quota.events_per_day else None
        try:
            if snapshot.quota.events_per_second:
                if again_within is not None:
                    await self._wait_for_half(snapshot, count, again_within)
                elif patiently:
                    await self._wait_for_rate(snapshot, count)
                else:
                    (await self._check_rate(snapshot, count)).take(count)
        except BaseException:
            if day is not None:
                day.in_flight -= count
            raise
        return Admitted(day, count)

    async def _check_rate(self, snapshot: CatalogSnapshot, count: int) -> Bucket:
        """Return the bucket if it has the tokens, or has them within REFUSAL_SECONDS. Raise ProjectRateExceeded."""
        bucket = self._bucket(snapshot.project_pk, snapshot.quota)
        if seconds := bucket.wait(count, monotonic()):
            await asyncio.sleep(min(seconds, REFUSAL_SECONDS))
            if seconds := bucket.wait(count, monotonic()):
                self._metrics.refusals.count(ProjectRateExceeded.reason)
                raise ProjectRateExceeded(bucket.rate, bucket.burst, max(seconds, 0.01))
        return bucket

    async def _wait_for_half(self, snapshot: CatalogSnapshot, count: int, within: float) -> None:
        bucket = self._bucket(snapshot.project_pk, snapshot.quota)
        seconds = bucket.reserved_wait(count, monotonic())
        if seconds > within:
            raise ProjectRateExceeded(bucket.rate, bucket.burst, seconds)
        bucket.reserve(count)
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            bucket.release(count, monotonic())
            raise

    async def _wait_for_rate(self, snapshot: CatalogSnapshot, count: int) -> None:
        bucket = self._bucket(snapshot.project_pk, snapshot.quota)
        seconds = bucket.wait(count, monotonic())
        # Taken at once, so that those who wait come one after another.
        bucket.take(count)
        if seconds:
            try:
                await asyncio.sleep(seconds)
            except asyncio.CancelledError:
                # Callers that gave up send nothing: repeated calls would otherwise add up to a debt of others.
                bucket.take(-count)
                raise

    def _bucket(self, project_pk: int, quota: Quota) -> Bucket:
        rate, burst = quota.events_per_second, quota.event_burst or quota.events_per_second
        bucket = self._buckets.get(project_pk)
        if bucket is None or (bucket.rate, bucket.burst) != (rate, burst):
            bucket = self._buckets[project_pk] = Bucket(rate, burst, monotonic())
        return bucket

    async def _enter_day(self, snapshot: CatalogSnapshot, count: int) -> _Day:
        day = await self._day(snapshot.project_pk)
        limit = snapshot.quota.events_per_day
        if day.used + count > limit:
            self._metrics.refusals.count(ProjectQuotaExceeded.reason)
            seconds = ((day.number + 1) * DAY - database_now()) / _SECOND
            raise ProjectQuotaExceeded(limit, max(0, limit - day.used), max(seconds, 1.0))
        day.in_flight += count
        return day

    async def _day(self, project_pk: int) -> _Day:
        if (day := self._current(project_pk)) is not None:
            return day
        async with self._reading[project_pk]:
            if (day := self._current(project_pk)) is not None:
                return day
            number, now = database_now() // DAY, monotonic()
            known = self._days.get(project_pk)
            first, head, ends = await self._database.read(
                lambda connection: _bounds(connection, project_pk, number), brief=True
            )
            if known is None or known.number != number:
                self._days[project_pk] = _Day(number, first if ends else head + 1, head, now)
            else:
                # Also after a failover, which may have lost the newest events.
                known.first = first if ends else min(known.first, head + 1)
                known.head, known.read_at = head, now
            return self._days[project_pk]

    def _current(self, project_pk: int) -> _Day | None:
        day = self._days.get(project_pk)
        if day is None or day.number != database_now() // DAY:
            return None
        late = self._database.shared and monotonic() - day.read_at > HEAD_SECONDS
        return None if late else day


class Admitted:
    """Events that a quota has admitted, until they are recorded or refused."""

    __slots__ = ("_count", "_day")

    def __init__(self, day: _Day | None, count: int) -> None:
        self._day = day
        self._count = count

    def leave(self, drafts: Sequence[Draft]) -> None:
        """Count what was recorded, in place of what was admitted."""
        if self._day is None:
            return
        self._day.in_flight -= self._count
        newest = next((each.event for each in reversed(drafts) if each.event is not None and not each.duplicate), None)
        if newest is not None:
            self._day.head = max(self._day.head, newest.position)


def _bounds(connection: Connection, project_pk: int, day: int) -> tuple[int, int, bool]:
    """Return the first position of a day, the newest one, and whether that one was received by the end of the day."""
    head, received_at = log_end(connection, project_pk)
    return position_at(connection, project_pk, day * DAY), head, received_at < (day + 1) * DAY
