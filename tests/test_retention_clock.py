"""A clock that is far ahead when a server starts, or is stepped while it runs, deletes nothing by its age."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from google.protobuf.duration_pb2 import Duration
from structlog.testing import capture_logs

from registry.times import timestamps
from registry.times.steady_clock import SteadyClock
from server.background import retention_clock
from server.background.retention_clock import CONFIRM_SECONDS, GAP_SECONDS, RetentionClock
from server.storage.opening import open_database
from signalbox.v1 import projects_pb2
from tests.support.automations import automate
from tests.support.consumers import WAIT
from tests.support.service import ADMIN_KEY, Client, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from server.storage.database import Database
    from tests.support.stores import Store

pytestmark = pytest.mark.lasting

SECOND = 1_000_000
HOUR = 3_600
DAY = 24 * HOUR
YEAR = 365 * DAY


class Clocks:
    """The clock of the database and the time since boot, which a test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead = 0
        self.running = 10 * HOUR
        monkeypatch.setattr(retention_clock, "transaction_time", lambda _: (self.now + self.running) * SECOND)
        monkeypatch.setattr(retention_clock, "nanos_since_boot", lambda: self.running * 1_000 * SECOND)

    @property
    def now(self) -> int:
        """The present instant, at the time of boot."""
        return int(time.time()) - 10 * HOUR + self.ahead


@asynccontextmanager
async def opened(store: Store) -> AsyncIterator[Database]:
    """Open a database that no server uses."""
    database = await open_database(store.url)
    yield database
    await database.close()


async def trusted(clock: RetentionClock) -> bool:
    return await clock.now() is not None


async def record(store: Store) -> None:
    """Record an event; the server has stopped then."""
    async with serving(store.url) as service:
        await (await service.shop()).send()


async def record_ago(store: Store, seconds: int) -> None:
    """Let all that is recorded be an event that was received a time ago."""
    await record(store)
    micros = (int(time.time()) - seconds) * SECOND
    for table in ("event", "project_head"):
        await store.execute(f"UPDATE {table} SET received_at = {micros}")  # noqa: S608
    await store.execute("DELETE FROM audit_entry")


@pytest.mark.parametrize(
    ("age", "expected"),
    [
        (0, True),
        (HOUR - 60, True),
        (HOUR + 60, True),
        (CONFIRM_SECONDS + GAP_SECONDS - 60, True),
        (CONFIRM_SECONDS + GAP_SECONDS + 60, False),
        (YEAR, False),
    ],
)
async def test_a_clock_is_trusted_if_something_was_recorded_within_a_day(
    store: Store, age: int, *, expected: bool
) -> None:
    await record_ago(store, age)
    async with opened(store) as database:
        assert await trusted(RetentionClock(database)) is expected


async def test_records_that_the_wrong_clock_dated_do_not_confirm_it(store: Store) -> None:
    await record_ago(store, YEAR)
    await record(store)
    async with opened(store) as database:
        assert not await trusted(RetentionClock(database))


async def test_a_clock_is_trusted_once_it_has_advanced_steadily_for_an_hour(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    await record_ago(store, YEAR)
    clocks = Clocks(monkeypatch)
    async with opened(store) as database:
        clock = RetentionClock(database)
        with capture_logs() as logs:
            for _ in range(60):
                assert not await trusted(clock)
                clocks.running += 60
            assert await trusted(clock)
            for step in (YEAR, -YEAR):
                clocks.ahead += step
                assert not await trusted(clock)
    assert [entry["event"] for entry in logs] == ["retention_waits", "retention_continues", "retention_waits"]


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
async def test_a_server_that_starts_with_a_clock_a_year_ahead_deletes_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(store.url) as service:
        shop = await service.shop()
        await automate(shop)
        for _ in range(3):
            await shop.send()
        request = projects_pb2.UpdateProjectRequest(project=shop.project, event_retention=Duration(seconds=30 * DAY))
        await Client(shop.channel, ADMIN_KEY).projects.UpdateProject(request)
    tables = ("event", "automation_match", "audit_entry")
    before = [await store.rows(table) for table in tables]
    ahead = SteadyClock(lambda: time.time_ns() // 1_000 + YEAR * SECOND)
    monkeypatch.setattr(timestamps, "_CLOCK", ahead)
    for _ in range(2):
        with capture_logs() as logs:
            async with serving(store.url, match_retention_seconds=30 * DAY, audit_retention_seconds=30 * DAY):
                async with asyncio.timeout(WAIT):
                    while not any(entry["event"] == "retention_waits" for entry in logs):  # noqa: ASYNC110 - a log
                        await asyncio.sleep(0.05)
        assert [entry["event"] for entry in logs].count("retention_waits") == 1
    for rows, table in zip(before, tables, strict=True):
        assert set(rows) <= set(await store.rows(table))
