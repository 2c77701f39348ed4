from __future__ import annotations

import asyncio
import os
import pwd
import sqlite3
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import grpc
import pytest
from grpc import StatusCode
from sqlalchemy import select
from sqlalchemy.exc import DBAPIError

from server.errors import (
    InternalError,
    ServiceError,
    StorageBusy,
    StorageFailed,
    StorageFull,
    StorageReadOnly,
    StorageUnavailable,
    UnstorableText,
)
from server.storage.opening import open_database
from server.storage.postgresql import database as postgresql
from server.storage.sqlite import database as sqlite
from tests.support.ingest_pipeline import GatedDatabase, drafts, ingest_pipeline_over
from tests.support.messages import BOB, event, orders
from tests.support.refusals import read_refusal, refusal, verdict
from tests.support.service import serving
from tests.support.stores import migrated

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import Connection

    from server.storage.database import Database
    from tests.support.service import Client
    from tests.support.stores import Backend, Store

on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
on_postgresql = pytest.mark.parametrize("backend", ["postgresql"], indirect=True)


def pragma(text: str) -> Callable[[Connection], Any]:
    def work(connection: Connection) -> Any:
        result = connection.exec_driver_sql(f"PRAGMA {text}")
        return result.fetchall() if result.returns_rows else []

    return work


# One contract over both


async def test_what_work_raises_rolls_its_transaction_back(database: Database) -> None:
    def work(connection: Connection) -> None:
        connection.exec_driver_sql("INSERT INTO project_head VALUES (1, 1, 1, 1, 0, 0)")
        raise LookupError("changed my mind")

    with pytest.raises(LookupError, match="changed my mind"):
        await database.write(work)
    count = await database.read(lambda connection: connection.exec_driver_sql("SELECT * FROM project_head").fetchall())
    assert count == []


@on_sqlite
async def test_a_reader_sees_one_state_whatever_is_written_meanwhile(database: Database) -> None:
    loop = asyncio.get_running_loop()
    begun, changed = asyncio.Event(), asyncio.Event()

    def count(connection: Connection) -> int:
        return len(connection.exec_driver_sql("SELECT * FROM project_head").fetchall())

    def twice(connection: Connection) -> tuple[int, int]:
        before = count(connection)
        loop.call_soon_threadsafe(begun.set)
        asyncio.run_coroutine_threadsafe(changed.wait(), loop).result(5)
        return before, count(connection)

    reading = asyncio.create_task(database.read(twice))
    await begun.wait()
    await database.write(
        lambda connection: connection.exec_driver_sql("INSERT INTO project_head VALUES (1, 1, 1, 1, 0, 0)")
    )
    changed.set()
    assert await reading == (0, 0)
    assert await database.read(count) == 1


@on_postgresql
async def test_a_reader_asks_for_one_snapshot_and_a_writer_for_durability(database: Database) -> None:
    def show(connection: Connection) -> tuple[str | None, ...]:
        return tuple(
            connection.exec_driver_sql(f"SHOW {name}").scalar()
            for name in ("transaction_isolation", "synchronous_commit")
        )

    assert await database.read(show) == ("repeatable read", "on")
    assert await database.write(show) == ("read committed", "on")


async def test_a_reader_cannot_write(database: Database) -> None:
    with pytest.raises(StorageReadOnly):
        await database.read(lambda connection: connection.exec_driver_sql("DELETE FROM project"))


async def test_a_refused_statement_says_nothing_of_itself(database: Database) -> None:
    with pytest.raises(InternalError) as refused:
        await database.write(lambda connection: connection.exec_driver_sql("SELECT secret_function()"))
    assert refused.value.message == "Internal error"
    assert "secret_function" in str(refused.value.__cause__)


@pytest.mark.parametrize(
    "url", ["", "signalbox.db", "mysql://localhost/x", "sqlite://", "sqlite:///", "sqlite:///:memory:"]
)
async def test_what_is_no_database_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - each has a sentence of its own
        await open_database(url)


# Faults, over the wire


async def test_an_event_the_database_refuses_is_an_internal_error_and_leaves_no_gap(shop: Client, store: Store) -> None:
    await shop.define("poison")
    await shop.send()
    await store.refuse_events_named("poison")
    refused = await refusal(shop.send(event(name="poison")))
    assert (refused.code, refused.reason, refused.message) == (StatusCode.INTERNAL, "INTERNAL", "Internal error")
    assert await verdict(shop.send_all([*orders(3), event(name="poison")])) == (StatusCode.INTERNAL, "INTERNAL")
    assert (await shop.send()).event.position == 2
    assert await shop.positions() == [1, 2]


async def test_events_after_a_failed_commit_are_stored_without_a_gap(shop: Client, store: Store) -> None:
    await shop.define("poison")
    await shop.send()
    await store.refuse_commits_of("poison")
    for _ in range(2):
        refused = await refusal(shop.send(event(name="poison")))
        assert (refused.code, refused.reason, refused.message) == (StatusCode.INTERNAL, "INTERNAL", "Internal error")
    assert (await shop.send()).event.position == 2
    assert await verdict(shop.send_all([*orders(3), event(name="poison")])) == (StatusCode.INTERNAL, "INTERNAL")
    await shop.upsert(BOB)
    assert (await shop.send(event(email=BOB))).event.position == 3
    assert await shop.positions() == [1, 2, 3]


async def test_a_transaction_whose_commit_fails_leaves_none_open(database: Database, store: Store) -> None:
    head = "INSERT INTO project_head (project_key, position, received_at, catalog_version) VALUES (%d, 0, 0, 1)"
    rows = "SELECT project_key FROM project_head ORDER BY project_key"
    await store.execute("CREATE TABLE parent (key INTEGER PRIMARY KEY)")
    await store.execute("CREATE TABLE child (key INTEGER REFERENCES parent DEFERRABLE INITIALLY DEFERRED)")

    def orphan(connection: Connection) -> None:
        connection.exec_driver_sql(head % 1)
        connection.exec_driver_sql("INSERT INTO child VALUES (1)")

    try:
        for key in (2, 3):
            with pytest.raises(InternalError):
                await database.write(orphan)
            await database.write(lambda connection, key=key: connection.exec_driver_sql(head % key))  # type: ignore[misc]
        kept = await database.read(lambda connection: connection.exec_driver_sql(rows).fetchall())
        assert [key for (key,) in kept] == [2, 3]
    finally:
        await store.execute("DROP TABLE child")
        await store.execute("DROP TABLE parent")


@on_postgresql
async def test_a_transaction_whose_commit_is_cut_off_is_not_repeated(database: Database, store: Store) -> None:
    body = "BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END"
    await store.execute("CREATE TABLE cut (key INTEGER)")
    await store.execute(f"CREATE FUNCTION cut_off() RETURNS trigger LANGUAGE plpgsql AS $$ {body} $$")
    when = "AFTER INSERT ON cut DEFERRABLE INITIALLY DEFERRED FOR EACH ROW"
    await store.execute(f"CREATE CONSTRAINT TRIGGER cut_off {when} EXECUTE FUNCTION cut_off()")
    runs = 0

    def work(connection: Connection) -> None:
        nonlocal runs
        runs += 1
        connection.exec_driver_sql("INSERT INTO cut VALUES (1)")

    try:
        with pytest.raises(StorageUnavailable):
            await database.write(work)
        assert runs == 1
    finally:
        await store.execute("DROP TABLE cut")
        await store.execute("DROP FUNCTION cut_off")


@on_postgresql
async def test_broken_connections_are_reported_and_replaced(shop: Client, store: Store) -> None:
    await shop.send()
    others = "datname = current_database() AND pid <> pg_backend_pid()"
    await store.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}")  # noqa: S608 - ours
    outcomes = [await outcome(shop) for _ in range(5)]
    assert set(outcomes) <= {"stored", "STORAGE_UNAVAILABLE"}
    assert outcomes[-1] == "stored"
    assert await shop.positions() == list(range(1, 2 + outcomes.count("stored")))


async def outcome(shop: Client) -> str:
    try:
        await shop.send()
    except grpc.aio.AioRpcError as error:
        return read_refusal(error).reason
    return "stored"


async def test_a_database_server_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(StorageUnavailable):
        await open_database(f"postgresql://nobody@/nothing?host={tmp_path}")


@on_sqlite
async def test_a_database_held_by_another_process_is_busy(shop: Client, store: Store) -> None:
    await shop.send()
    async with store.held():
        assert await verdict(shop.send()) == (StatusCode.UNAVAILABLE, "STORAGE_BUSY")
    # It was late: sends are refused at once until a probe has found that the database is free.
    async with asyncio.timeout(5):
        while (found := await outcome(shop)) == "STORAGE_LATE":  # noqa: ASYNC110 - a refusal has no event
            await asyncio.sleep(0.05)
    assert found == "stored"
    assert await shop.positions() == [1, 2]


@pytest.mark.parametrize(
    ("code", "meaning"),
    [
        *(("22021", UnstorableText), ("22P05", UnstorableText), ("53100", StorageFull), ("25006", StorageReadOnly)),
        *((code, StorageBusy) for code in ("40001", "40P01", "55P03", "57014")),
        *((code, StorageUnavailable) for code in ("", "08006", "25P03", "25P04", "53300", "57P01", "57P03")),
        *((code, StorageFailed) for code in ("42501", "42703", "42P01", "58030", "XX000", "XX001")),
        *((code, InternalError) for code in ("22003", "23505", "25001", "42601")),
    ],
)
def test_a_code_of_postgresql_has_one_meaning(code: str, meaning: type[ServiceError]) -> None:
    error = DriverError(code)
    assert type(postgresql.storage_error(DBAPIError("SELECT 1", {}, error))) is meaning
    lost = DBAPIError("SELECT 1", {}, DriverError("XX000"), connection_invalidated=True)
    assert type(postgresql.storage_error(lost)) is StorageUnavailable


class DriverError(Exception):
    """An error as a driver raises it, with its code."""

    def __init__(self, code: str | int) -> None:
        super().__init__("not this one")
        self.sqlstate = self.sqlite_errorcode = code


@pytest.mark.parametrize(
    ("name", "meaning"),
    [
        *(("FULL", StorageFull), ("READONLY_DBMOVED", StorageReadOnly), ("PERM", StorageReadOnly)),
        *((name, StorageBusy) for name in ("BUSY", "BUSY_SNAPSHOT", "LOCKED", "INTERRUPT")),
        *((name, StorageUnavailable) for name in ("IOERR_FSYNC", "CANTOPEN", "CORRUPT", "NOTADB")),
        *((name, InternalError) for name in ("ERROR", "CONSTRAINT_UNIQUE", "TOOBIG")),
    ],
)
def test_a_code_of_sqlite_has_one_meaning(name: str, meaning: type[ServiceError]) -> None:
    assert type(sqlite.storage_error(DriverError(getattr(sqlite3, f"SQLITE_{name}")))) is meaning


# Faults of an SQLite file. They are put into the writing connection, where a full disk or a read-only file would show.


@on_sqlite
async def test_a_full_disk_is_reported_and_later_events_leave_no_gap(database: Database) -> None:
    async with ingest_pipeline_over(GatedDatabase(database)) as pipeline:
        await pipeline.send(drafts(1, "before"))
        await database.write(pragma("max_page_count = 1"))
        for _ in range(2):
            with pytest.raises(StorageFull):
                await pipeline.send(drafts(20, "lost", "x" * 5_000))
        assert await pipeline.stored() == ["before"]
        await database.write(pragma("max_page_count = 1000000"))
        await pipeline.send(drafts(20, "after", "x" * 5_000))
        assert await pipeline.stored() == ["before", *["after"] * 20]


@on_sqlite
async def test_a_file_that_becomes_read_only_is_reported_and_can_still_be_read(database: Database) -> None:
    async with ingest_pipeline_over(GatedDatabase(database)) as pipeline:
        await pipeline.send(drafts(1, "before"))
        await database.write(pragma("query_only = ON"))
        for _ in range(2):
            with pytest.raises(StorageReadOnly):
                await pipeline.send(drafts(2, "lost"))
        assert await pipeline.stored() == ["before"]


@on_sqlite
async def test_a_full_disk_fails_the_whole_group_and_not_one_after_the_other(database: Database) -> None:
    gated = GatedDatabase(database)
    async with ingest_pipeline_over(gated) as pipeline:
        await pipeline.send(drafts(1, "before"))
        await database.write(pragma("max_page_count = 1"))
        gated.writes = 0
        outcomes = await asyncio.gather(
            *(pipeline.send(drafts(5, "lost", "x" * 5_000)) for _ in range(10)), return_exceptions=True
        )
        assert {type(outcome) for outcome in outcomes} == {StorageFull}
        assert gated.writes <= 2


@on_sqlite
async def test_a_second_server_is_kept_from_the_file(database_url: str) -> None:
    async with serving(database_url) as service:
        with pytest.raises(StorageBusy):
            async with serving(database_url):
                pass
        await (await service.shop()).send()
    async with serving(database_url):
        pass


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "photo.db").write_bytes(b"\x89PNG" * 1_000)
    with pytest.raises(StorageUnavailable):
        await open_database(f"sqlite:///{tmp_path}/photo.db")
    with pytest.raises(StorageUnavailable):
        await open_database(f"sqlite:///{tmp_path}/no/such/folder.db")


@pytest.mark.parametrize(("folder_mode", "file_mode"), [(0o777, 0o444), (0o555, 0o666), (0o555, 0o444)])
async def test_a_file_that_may_not_be_written_is_refused(folder_mode: int, file_mode: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        url = f"sqlite:///{name}/signalbox.db"
        await migrated(url)
        with modes(Path(name), folder_mode, file_mode), without_privileges(), pytest.raises(StorageReadOnly):
            await migrated(url)


@contextmanager
def modes(folder: Path, folder_mode: int, file_mode: int) -> Iterator[None]:
    """Change the modes of a folder and the database in it, where no lock file of ours is left."""
    (folder / "signalbox.db.lock").unlink()
    (folder / "signalbox.db").chmod(file_mode)
    folder.chmod(folder_mode)
    try:
        yield
    finally:
        folder.chmod(0o700)


@contextmanager
def without_privileges() -> Iterator[None]:
    """Root may write everything: be somebody else for a while."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(pwd.getpwnam("nobody").pw_uid)
    try:
        yield
    finally:
        os.seteuid(user)


@on_sqlite
async def test_a_commit_is_synced_before_it_is_answered(database: Database) -> None:
    assert await database.write(pragma("journal_mode")) == [("wal",)]
    assert await database.write(pragma("synchronous")) == [(2,)]


@pytest.mark.parametrize("alias", ["link.db", "./x.db", "y/../x.db"])
async def test_a_file_has_one_server_by_whatever_name_it_is_reached(tmp_path: Path, alias: str) -> None:
    first = await open_database(f"sqlite:///{tmp_path}/x.db")
    (tmp_path / "link.db").symlink_to(tmp_path / "x.db")
    (tmp_path / "y").mkdir()
    with pytest.raises(StorageBusy):
        await open_database(f"sqlite:///{tmp_path}/{alias}")
    await first.close()


@on_sqlite
async def test_a_brief_read_does_not_wait_for_long_ones(database: Database) -> None:
    release = threading.Event()

    def hold(_connection: Connection) -> None:
        release.wait(10)

    long = [asyncio.create_task(database.read(hold)) for _ in range(4)]
    await asyncio.sleep(0.05)
    async with asyncio.timeout(5):
        assert await database.read(lambda connection: connection.scalar(select(1)), brief=True) == 1
    release.set()
    await asyncio.gather(*long)


@on_sqlite
async def test_a_read_that_is_given_up_lets_go_of_its_thread(database: Database) -> None:
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    reads = [asyncio.create_task(database.read(lambda c: c.exec_driver_sql(endless).scalar())) for _ in range(4)]
    await asyncio.sleep(0.1)
    for each in reads:
        each.cancel()
    async with asyncio.timeout(5):
        assert await database.read(lambda connection: connection.scalar(select(1))) == 1


@on_sqlite
async def test_a_new_database_file_is_its_owners_alone(tmp_path: Path, backend: Backend) -> None:
    database = await open_database(f"sqlite:///{tmp_path}/new.db")
    await database.close()
    assert (tmp_path / "new.db").stat().st_mode & 0o077 == 0


@on_postgresql
@pytest.mark.parametrize("failures", [1, 2])
async def test_a_connection_that_ends_while_it_is_prepared_is_a_lost_one(
    database: Database, monkeypatch: pytest.MonkeyPatch, failures: int
) -> None:
    prepare, left = asyncpg.Connection.prepare, [failures]

    async def fail(connection: asyncpg.Connection, *arguments: Any, **options: Any) -> Any:
        if left[0]:
            left[0] -= 1
            await connection.close()
        return await prepare(connection, *arguments, **options)

    monkeypatch.setattr(asyncpg.Connection, "prepare", fail)
    reads = [database.read(lambda connection: connection.scalar(select(1))) for _ in range(2)]
    if failures == 1:
        assert await reads[0] == 1
    else:
        with pytest.raises(StorageUnavailable):
            await reads[0]
    assert await reads[1] == 1
