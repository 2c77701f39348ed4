"""Large work gives way to the small work of other projects, and is held up no longer than it works."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.ingest.group_commit import GroupCommit
from server.sharing import loop_time as loop_time_module
from server.sharing import small_work
from server.sharing.current_project import SERVER, current_project
from server.sharing.loop_time import MANY_ARRIVING, MANY_WAITING, LoopTime
from server.sharing.small_work import CREDIT_SECONDS, SmallWork, WaitCredit, others_expected, others_in_progress
from server.sharing.work_thread import WorkThread
from server.storage.postgresql.database import PostgresDatabase
from server.storage.sqlite.database import SqliteDatabase
from tests.support.automations import automate
from tests.support.consumers import Engine, subscribe

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection

    from server.ingest.draft import Batch
    from server.storage.database import Database
    from tests.support.service import Client

pytestmark = pytest.mark.lasting

LARGE, SMALL = "large", "small"


class Time:
    """A clock that goes on only while somebody sleeps."""

    def __init__(self, patch: pytest.MonkeyPatch, overslept: list[float]) -> None:
        self.now = 0.0
        self.last = 0.0
        self._overslept = iter(overslept)
        patch.setattr(small_work, "perf_counter", lambda: self.now)
        patch.setattr(small_work, "sleep", self.sleep)

    def sleep(self, seconds: float) -> None:
        self.last = seconds + next(self._overslept, 0.0)
        self.now += self.last


@given(st.lists(st.floats(0.000_1, 0.1), min_size=1, max_size=30), st.lists(st.floats(0, 0.1), max_size=30))
def test_large_work_waits_no_longer_than_it_works(slices: list[float], overslept: list[float]) -> None:
    with pytest.MonkeyPatch.context() as patch, SmallWork(SMALL):
        time, wait_credit = Time(patch, overslept), WaitCredit()
        for worked in slices:
            began = time.now
            while wait_credit.must_wait(LARGE):
                wait_credit.wait_in_thread()
            assert time.now - began <= CREDIT_SECONDS + time.last
            wait_credit.add(worked)
        # A sleep may last longer than it should; that is made up for by the next slices.
        assert time.now <= sum(slices) + time.last


def test_only_the_work_of_others_counts_and_only_while_it_lasts() -> None:
    with SmallWork(SMALL), SmallWork(SERVER):
        assert others_in_progress(LARGE)
        assert not others_in_progress(SMALL)
        with SmallWork(SMALL), SmallWork(LARGE):
            assert others_in_progress(LARGE)
            assert others_in_progress(SMALL)
        assert others_in_progress(LARGE)
    with SmallWork(SERVER):
        assert not others_in_progress(LARGE)


async def test_no_slice_begins_while_small_work_of_another_project_is_in_progress(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(small_work, "CREDIT_SECONDS", 1e9)
    loop_time = LoopTime()
    loop_time.wait_credit.add(1e9)
    slices: list[int] = []

    async def work() -> None:
        for number in range(3):
            async with loop_time.slices(LARGE):
                slices.append(number)

    with SmallWork(SMALL):
        working = asyncio.create_task(work())
        for _ in range(10):
            await asyncio.sleep(small_work.LOOK_SECONDS)
        assert not slices
    await working
    assert slices == [0, 1, 2]


async def test_while_many_large_requests_wait_and_calls_arrive_they_wait_for_nobody_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(small_work, "CREDIT_SECONDS", 1e9)
    loop_time = LoopTime()
    loop_time.wait_credit.add(1e9)
    monkeypatch.setattr(loop_time_module, "RATE_SECONDS", 1e9)
    done: list[int] = []

    async def work(number: int) -> None:
        async with loop_time.slices(LARGE):
            done.append(number)

    with SmallWork(SMALL):
        working = [asyncio.create_task(work(number)) for number in range(MANY_WAITING + 5)]
        for _ in range(10):
            await asyncio.sleep(small_work.LOOK_SECONDS)
        assert not done
        loop_time._rate = 2.0 * MANY_ARRIVING
        for _ in range(10):
            await asyncio.sleep(small_work.LOOK_SECONDS)
        # One has the turn, and no more than MANY_WAITING wait after it.
        assert len(done) == 4
    await asyncio.gather(*working)


async def test_a_request_that_is_cancelled_while_it_gives_way_gives_its_turn_back() -> None:
    loop_time = LoopTime()
    loop_time.wait_credit.add(1e9)

    async def work() -> None:
        async with loop_time.slices(LARGE):
            pass

    with SmallWork(SMALL):
        working = asyncio.create_task(work())
        await asyncio.sleep(0)
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
    async with loop_time.slices(SMALL):
        pass


async def test_the_thread_gives_way_before_a_slice_and_within_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small_work, "CREDIT_SECONDS", 1e9)
    thread = WorkThread()
    loop = asyncio.get_running_loop()
    steps: list[str] = []
    begun, other = asyncio.Event(), SmallWork(SMALL)

    def work() -> None:
        steps.append("first half")
        other.__enter__()
        loop.call_soon_threadsafe(begun.set)
        thread.give_way(LARGE)
        steps.append("second half")

    thread._wait_credit.add(1e9)
    working = asyncio.create_task(thread.run(LARGE, work))
    await begun.wait()
    for _ in range(10):
        await asyncio.sleep(small_work.LOOK_SECONDS)
    assert steps == ["first half"]
    other.__exit__()
    await working
    with SmallWork(SMALL):
        working = asyncio.create_task(thread.run(LARGE, lambda: steps.append("next")))
        for _ in range(10):
            await asyncio.sleep(small_work.LOOK_SECONDS)
        assert len(steps) == 2
    await working


async def test_a_send_is_small_work_until_it_is_stored(shop: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    submit = GroupCommit.submit

    def submit_and_note(self: GroupCommit, batch: Batch) -> None:
        submit(self, batch)
        seen.append(others_in_progress(LARGE))

    monkeypatch.setattr(GroupCommit, "submit", submit_and_note)
    await shop.send()
    assert seen == [True]
    assert not others_in_progress(LARGE)


async def test_transactions_of_deliveries_are_small_work(shop: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    for database in (SqliteDatabase, PostgresDatabase):
        monkeypatch.setattr(database, "write", watched(database.write, seen))
        monkeypatch.setattr(database, "read", watched(database.read, seen))
    await automate(shop)
    await subscribe(shop)
    del seen[:]
    await shop.send()
    engine = await Engine.open(shop)
    await engine.ack(await engine.deliveries())
    await engine.close()
    assert seen
    assert all(seen)
    assert not others_in_progress(LARGE)


def watched(run: Any, seen: list[bool]) -> Any:
    """Note for each transaction of a project whether large work would give way to it."""

    async def run_and_note(self: Database, work: Callable[[Connection], object], **options: bool) -> object:
        def noting(connection: Connection) -> object:
            if current is not SERVER:
                seen.append(others_in_progress(LARGE))
            return work(connection)

        current = current_project()
        return await run(self, noting, **options)

    return run_and_note


def test_small_work_is_expected_of_whoever_began_some_a_short_time_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    time = Time(monkeypatch, [])
    monkeypatch.setattr(small_work, "_latest", small_work._Latest())

    def work(*keys: str) -> None:
        for key in keys:
            with SmallWork(key):
                pass

    time.now = 100.0
    work(LARGE)
    assert (others_expected(LARGE), others_expected(SMALL)) == (False, True)
    work(SMALL, LARGE, LARGE)
    time.now += small_work.RECENT_SECONDS / 2
    work(LARGE)
    assert others_expected(LARGE)
    time.now += small_work.RECENT_SECONDS / 2
    assert (others_expected(LARGE), others_expected(SMALL)) == (False, True)
