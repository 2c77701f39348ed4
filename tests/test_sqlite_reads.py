"""The reading connections of SQLite: crossings between threads, limits, and cleanup after a read."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import threading
from contextlib import closing
from typing import TYPE_CHECKING, Any

import aiosqlite
import pytest
import pytest_asyncio
from sqlalchemy import text

from automation.prepared_statements import Prepared
from server.errors import InternalError, StorageBusy, StorageUnavailable
from server.storage.sqlite import readers as sqlite_readers
from server.storage.sqlite.database import READERS, SqliteDatabase

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from sqlalchemy import Connection

WAIT = 20
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"


def numbers(count: int) -> str:
    """Return a query for the numbers from 1 to `count`."""
    return f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n LIMIT {count}"  # noqa: S608 - a number


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "signalbox.db"


@pytest_asyncio.fixture
async def database(path: Path) -> AsyncIterator[SqliteDatabase]:
    opened = await SqliteDatabase.open(str(path))
    await opened.write(lambda connection: connection.exec_driver_sql("CREATE TABLE number (i INTEGER)"))
    yield opened
    await opened.close()
    await threads_ended()
    # Connections that were not closed warn here. Those of this test are young; a look at all objects takes 0.4 s.
    gc.collect(1)


def reading_threads() -> int:
    return sum(thread.name == "sqlite-reader" for thread in threading.enumerate())


async def threads_ended() -> None:
    """Wait for the last moments of threads whose connections are closed."""
    async with asyncio.timeout(WAIT):
        while reading_threads():  # noqa: ASYNC110 - a thread does not tell
            await asyncio.sleep(0.001)


def run(statement: str, **options: Any) -> Callable[[Connection], list[Any]]:
    def work(connection: Connection) -> list[Any]:
        return [row[0] for row in connection.execute(text(statement), execution_options=options)]

    return work


async def add(database: SqliteDatabase) -> None:
    await database.write(lambda connection: connection.exec_driver_sql("INSERT INTO number VALUES (1)"))


async def count(database: SqliteDatabase) -> int:
    async with asyncio.timeout(WAIT):
        (found,) = await database.read(run("SELECT count(*) FROM number"))
    return int(found)


def assert_no_snapshot_is_held(path: Path) -> None:
    """A checkpoint that empties the WAL is busy while any connection still reads from it."""
    with closing(sqlite3.connect(path, timeout=0)) as connection:
        assert connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone() == (0, 0, 0)


@pytest.mark.parametrize("statements", [1, 2, 5])
async def test_a_read_crosses_between_threads_once(
    database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch, statements: int
) -> None:
    await count(database)
    crossed: list[Any] = []
    execute = aiosqlite.Connection._execute

    async def counted(self: aiosqlite.Connection, function: Any, *arguments: Any) -> Any:
        crossed.append(function)
        return await execute(self, function, *arguments)  # type: ignore[no-untyped-call]

    monkeypatch.setattr(aiosqlite.Connection, "_execute", counted)
    await database.read(lambda connection: [run(numbers(1_000))(connection) for _ in range(statements)])
    assert len(crossed) == 1


@pytest.mark.parametrize(
    ("statement", "error"), [(ENDLESS, StorageBusy), ("SELECT abs(-9223372036854775807 - 1)", InternalError)]
)
async def test_a_prepared_statement_has_the_limits_and_the_errors_of_every_read(
    database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch, statement: str, error: type[Exception]
) -> None:
    monkeypatch.setattr(sqlite_readers, "READ_SECONDS", 0.1)
    with pytest.raises(error):
        await database.read(lambda connection: Prepared(text(statement)).rows(connection))
    assert await count(database) == 0


async def test_a_read_may_wait_for_nothing_but_its_connection(database: SqliteDatabase) -> None:
    def wait(connection: Connection) -> None:
        driver: Any = connection.connection.dbapi_connection
        driver.run_async(lambda _driver: asyncio.sleep(0))

    with pytest.raises(RuntimeError, match="waited for something other than its connection"):
        await database.read(wait)
    assert await count(database) == 0


@pytest.mark.parametrize("rows", [0, 1, 99, 100, 101, 357])
@pytest.mark.parametrize("options", [{}, {"yield_per": 1}, {"yield_per": 100}])
async def test_every_row_is_read_once_in_order(database: SqliteDatabase, rows: int, options: dict[str, int]) -> None:
    assert await database.read(run(numbers(rows), **options)) == list(range(1, rows + 1))


async def test_a_result_that_is_not_read_to_its_end_holds_nothing(database: SqliteDatabase, path: Path) -> None:
    def some(connection: Connection) -> int:
        with connection.execute(text(numbers(1_000)), execution_options={"yield_per": 10}) as rows:
            return int(next(iter(rows))[0])

    assert await database.read(some) == 1
    await add(database)
    assert_no_snapshot_is_held(path)
    assert await count(database) == 1


@pytest.mark.parametrize("brief", [False, True])
async def test_a_snapshot_ends_with_its_read(database: SqliteDatabase, path: Path, brief: bool) -> None:
    def fail(connection: Connection) -> None:
        run("SELECT * FROM number")(connection)
        raise LookupError("not found")

    for work, error in ((fail, LookupError), (run("SELECT * FROM missing"), InternalError)):
        with pytest.raises(error):
            await database.read(work, brief=brief)
        await add(database)
        assert_no_snapshot_is_held(path)
    await database.read(run("SELECT * FROM number"), brief=brief)
    await add(database)
    assert_no_snapshot_is_held(path)
    assert await database.read(run("SELECT count(*) FROM number"), brief=brief) == [3]


async def test_a_read_that_takes_too_long_is_interrupted_and_the_next_one_has_its_own_time(
    database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sqlite_readers.READ_SECONDS == 10
    monkeypatch.setattr(sqlite_readers, "READ_SECONDS", 0.2)
    for _ in range(READERS):
        with pytest.raises(StorageBusy):
            await database.read(run(ENDLESS))
    monkeypatch.setattr(sqlite_readers, "READ_SECONDS", WAIT)
    assert await count(database) == 0


@pytest.mark.parametrize("statement", [ENDLESS, numbers(1_000_000_000)])
@pytest.mark.parametrize("begun", [False, True])
async def test_a_read_of_a_cancelled_caller_is_interrupted(
    database: SqliteDatabase, path: Path, statement: str, begun: bool
) -> None:
    loop = asyncio.get_running_loop()
    for turn in range(2 * READERS):
        running = asyncio.Event()

        def work(connection: Connection, running: asyncio.Event = running) -> None:
            loop.call_soon_threadsafe(running.set)
            run(statement, yield_per=1_000)(connection)

        reading = asyncio.create_task(database.read(work))
        await (running.wait() if begun else asyncio.sleep(0))
        reading.cancel()
        async with asyncio.timeout(WAIT):
            with pytest.raises(asyncio.CancelledError):
                await reading
        await add(database)
        # Two reads, so that both connections have left the interrupted one.
        assert set(await asyncio.gather(count(database), count(database))) == {turn + 1}
        assert_no_snapshot_is_held(path)
    assert reading_threads() <= READERS + 1


@pytest.mark.parametrize("steps", range(4))
async def test_a_connection_that_opens_for_a_cancelled_caller_serves_the_next_one(
    database: SqliteDatabase, steps: int
) -> None:
    reading = asyncio.create_task(database.read(run("SELECT 1")))
    for _ in range(steps):
        await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert await count(database) == 0
    assert reading_threads() == 1


async def test_closing_interrupts_long_reads_and_answers_waiting_ones(path: Path) -> None:
    database = await SqliteDatabase.open(str(path))
    long = [asyncio.create_task(database.read(run(ENDLESS))) for _ in range(READERS)]
    await asyncio.sleep(0)
    waiting = asyncio.create_task(database.read(run("SELECT 1")))
    await asyncio.sleep(0)
    async with asyncio.timeout(WAIT):
        await database.close()
    outcomes = await asyncio.gather(*long, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [StorageBusy] * READERS
    assert await waiting == [1]
    with pytest.raises(StorageUnavailable):
        await database.read(run("SELECT 1"))
    await database.close()
    await threads_ended()


async def test_reads_take_turns_in_the_order_of_their_arrival(database: SqliteDatabase) -> None:
    ended: list[int] = []

    async def read(number: int) -> None:
        await database.read(run("SELECT 1"), brief=True)
        ended.append(number)

    await asyncio.gather(*map(read, range(20)))
    assert ended == list(range(20))
