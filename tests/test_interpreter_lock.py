"""Large work on the event loop gives way to the database thread while that computes."""

from __future__ import annotations

import asyncio
import threading
from time import perf_counter
from typing import TYPE_CHECKING

import pytest

from server.sharing import interpreter_lock
from server.sharing.interpreter_lock import DatabaseThread, database_thread
from server.sharing.loop_time import LoopTime
from server.storage.sqlite.database import SqliteDatabase

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from sqlalchemy import Connection

LARGE = "large"


@pytest.fixture(autouse=True)
def _idle() -> Iterator[None]:
    yield
    database_thread.let_go()


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[SqliteDatabase]:
    opened = await SqliteDatabase.open(str(tmp_path / "signalbox.db"))
    yield opened
    await opened.close()


def loop_time_with_credit() -> LoopTime:
    loop_time = LoopTime()
    loop_time.wait_credit.add(1.0)
    return loop_time


async def test_a_slice_begins_once_the_thread_lets_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interpreter_lock, "WAIT_SECONDS", 60.0)
    loop_time = loop_time_with_credit()
    begun = asyncio.Event()

    async def work() -> None:
        async with loop_time.slices(LARGE):
            begun.set()

    database_thread.take()
    working = asyncio.create_task(work())
    for _ in range(10):
        await asyncio.sleep(0)
    assert not begun.is_set()
    threading.Thread(target=database_thread.let_go).start()
    await working


async def test_a_slice_that_has_begun_is_used_up_once_the_thread_computes() -> None:
    async with loop_time_with_credit().slices(LARGE) as slices:
        assert not slices.used_up()
        database_thread.take()
        assert slices.used_up()


async def test_large_work_without_credit_waits_for_nobody() -> None:
    database_thread.take()
    async with LoopTime().slices(LARGE) as slices:
        assert not slices.used_up()


async def test_nobody_waits_for_longer_than_there_is_credit() -> None:
    loop_time = loop_time_with_credit()
    database_thread.take()
    began = perf_counter()
    async with loop_time.slices(LARGE):
        assert not loop_time.wait_credit.available
    assert perf_counter() - began >= interpreter_lock.WAIT_SECONDS


async def test_what_was_let_go_meanwhile_is_not_waited_for() -> None:
    await DatabaseThread().wait()


async def test_a_transaction_computes_until_it_is_committed(database: SqliteDatabase) -> None:
    def work(_: Connection) -> bool:
        return database_thread.computes

    assert await database.write(work)
    assert not database_thread.computes


async def test_after_a_transaction_that_failed_the_thread_does_not_compute(database: SqliteDatabase) -> None:
    def work(_: Connection) -> None:
        raise LookupError

    with pytest.raises(LookupError):
        await database.write(work)
    assert not database_thread.computes


async def test_after_a_caller_has_gone_the_thread_does_not_compute(database: SqliteDatabase) -> None:
    begun, may_end = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def work(_: Connection) -> None:
        loop.call_soon_threadsafe(begun.set)
        may_end.wait(10)

    writing = asyncio.create_task(database.write(work))
    await begun.wait()
    writing.cancel()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await writing
    await database.check()
    assert not database_thread.computes


def computing_for(seconds: float) -> None:
    until = perf_counter() + seconds
    while perf_counter() < until:
        pass


async def test_a_loop_that_never_sleeps_pauses_for_an_awaited_transaction(
    database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    paused = threading.Event()
    monkeypatch.setattr(database_thread, "pause", paused.set)
    writing = asyncio.create_task(database.write(lambda _: paused.wait(10)))
    while not writing.done():
        computing_for(0.000_1)
        await asyncio.sleep(0)
    assert await writing


async def test_a_loop_that_sleeps_is_not_stopped(database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_thread, "pause", lambda: pytest.fail("The loop was stopped"))
    monkeypatch.setattr(interpreter_lock, "thread_time", lambda: 0.0)
    may_end = threading.Event()
    writing = asyncio.create_task(database.write(lambda _: may_end.wait(10)))
    for _ in range(10):
        await asyncio.sleep(interpreter_lock.CALM_LOOK_SECONDS)
    may_end.set()
    assert await writing


@pytest.mark.parametrize("computes", [True, False])
def test_a_pause_is_short_unless_the_thread_computes(monkeypatch: pytest.MonkeyPatch, computes: bool) -> None:
    naps: list[float] = []
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        naps.append(seconds)
        now += seconds

    monkeypatch.setattr(interpreter_lock, "sleep", sleep)
    monkeypatch.setattr(interpreter_lock, "perf_counter", lambda: now)
    thread = DatabaseThread()
    if computes:
        thread.take()
    thread.pause()
    assert now == pytest.approx(interpreter_lock.PAUSE_SECONDS if computes else interpreter_lock.NAP_SECONDS, rel=0.1)


def test_nobody_waits_for_a_thread_whose_result_is_to_be_handed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interpreter_lock, "sleep", lambda _: pytest.fail("The loop was stopped"))
    thread = DatabaseThread()
    thread.take()
    thread.has_result()
    thread.pause()
