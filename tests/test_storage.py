from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from grpc import StatusCode
from sqlalchemy import MetaData

from registry import tables as registry_tables
from server.errors import (
    StorageBusy,
    StorageError,
    StorageFull,
    StorageReadOnly,
    StorageRefused,
    StorageUnavailable,
)
from server.storage import tables as server_tables
from server.storage.database import open_database
from server.storage.migrations import current, head, migrate
from tests.support.messages import event, orders
from tests.support.refusals import refusal, verdict
from tests.support.service import serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sqlalchemy import Connection

    from server.storage.database import Database
    from tests.support.service import Client
    from tests.support.stores import Backend, Store

on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
on_postgresql = pytest.mark.parametrize("backend", ["postgresql"], indirect=True)


def pragma(text: str) -> Callable[[Connection], Any]:
    def work(connection: Connection) -> Any:
        return connection.exec_driver_sql(f"PRAGMA {text}").fetchall()

    return work


# Migrations


async def test_the_migrations_make_the_tables_of_the_code(database: Database) -> None:
    tables = MetaData()
    for metadata in (registry_tables.metadata, server_tables.metadata):
        for table in metadata.tables.values():
            table.to_metadata(tables)

    def differences(connection: Connection) -> list[Any]:
        return list(compare_metadata(MigrationContext.configure(connection), tables))

    assert await database.read(differences) == []


async def test_an_empty_database_is_migrated_once(backend: Backend, tmp_path: Path) -> None:
    async with backend.empty(tmp_path) as store:
        database = await open_database(store.url)
        try:
            assert await database.read(current) is None
            assert await database.write(migrate) is True
            assert await database.read(current) == head()
            assert await database.write(migrate) is False
        finally:
            await database.close()


async def test_a_migration_that_breaks_off_leaves_nothing(backend: Backend, tmp_path: Path) -> None:
    def broken(connection: Connection) -> None:
        migrate(connection)
        raise RuntimeError("power cut")

    async with backend.empty(tmp_path) as store:
        database = await open_database(store.url)
        try:
            with pytest.raises(RuntimeError, match="power cut"):
                await database.write(broken)
            assert await database.read(current) is None
            assert await database.write(migrate) is True
        finally:
            await database.close()


async def test_the_database_of_a_newer_version_is_refused(store: Store) -> None:
    newer = "UPDATE alembic_version SET version_num = '9999_future'"
    await store.execute(newer)
    with pytest.raises(ValueError, match="9999_future"):
        async with serving(store.url):
            pass
    await store.execute(newer.replace("9999_future", head()))


@on_postgresql
async def test_servers_that_start_together_on_an_empty_database_take_turns(backend: Backend, tmp_path: Path) -> None:
    async with backend.empty(tmp_path) as store:
        databases = [await open_database(store.url) for _ in range(3)]
        try:
            assert sorted(await asyncio.gather(*(each.write(migrate) for each in databases))) == [False, False, True]
        finally:
            await asyncio.gather(*(each.close() for each in databases))


# One contract over both


async def test_what_work_raises_rolls_its_transaction_back(database: Database) -> None:
    def work(connection: Connection) -> None:
        connection.exec_driver_sql("INSERT INTO project_head VALUES (1, 1, 1, 1)")
        raise LookupError("changed my mind")

    with pytest.raises(LookupError, match="changed my mind"):
        await database.write(work)
    count = await database.read(lambda connection: connection.exec_driver_sql("SELECT * FROM project_head").fetchall())
    assert count == []


async def test_a_reader_sees_one_state_of_the_database(database: Database) -> None:
    await database.write(lambda connection: connection.exec_driver_sql("INSERT INTO project_head VALUES (1, 1, 1, 1)"))
    loop = asyncio.get_running_loop()

    def count(connection: Connection) -> int:
        return len(connection.exec_driver_sql("SELECT * FROM project_head").fetchall())

    def add(connection: Connection) -> None:
        connection.exec_driver_sql("INSERT INTO project_head VALUES (2, 1, 1, 1)")

    begun, changed = asyncio.Event(), asyncio.Event()
    if database.shared:
        pytest.skip("PostgreSQL runs work in the loop: nothing can come between two statements of one reader")

    def twice(connection: Connection) -> tuple[int, int]:
        before = count(connection)
        loop.call_soon_threadsafe(begun.set)
        asyncio.run_coroutine_threadsafe(changed.wait(), loop).result(5)
        return before, count(connection)

    reading = asyncio.create_task(database.read(twice))
    await begun.wait()
    await database.write(add)
    changed.set()
    assert await reading == (1, 1)
    assert await database.read(count) == 2


async def test_a_reader_cannot_write(database: Database) -> None:
    with pytest.raises(StorageReadOnly):
        await database.read(lambda connection: connection.exec_driver_sql("DELETE FROM project"))


async def test_a_refused_statement_says_nothing_of_itself(database: Database) -> None:
    with pytest.raises(StorageRefused) as refused:
        await database.write(lambda connection: connection.exec_driver_sql("SELECT * FROM secret_table"))
    assert refused.value.message == "Internal error"
    assert "secret_table" in str(refused.value.__cause__)


@pytest.mark.parametrize("url", ["", "signalbox.db", "mysql://localhost/x", "sqlite://", "sqlite:///", "sqlite:///:memory:"])
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


@on_postgresql
async def test_broken_connections_are_told_and_replaced(shop: Client, store: Store) -> None:
    await shop.send()
    others = "datname = current_database() AND pid <> pg_backend_pid()"
    await store.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}")  # noqa: S608 - ours
    outcomes = [await told(shop) for _ in range(10)]
    assert set(outcomes) <= {"stored", "STORAGE_UNAVAILABLE"}
    assert outcomes[-1] == "stored"
    assert await shop.positions() == list(range(1, 2 + outcomes.count("stored")))


async def told(shop: Client) -> str:
    outcome = (await asyncio.gather(shop.send(), return_exceptions=True))[0]
    return "stored" if not isinstance(outcome, BaseException) else (await verdict(raised(outcome)))[1]


async def raised(error: BaseException) -> None:
    raise error


@on_postgresql
async def test_a_database_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(StorageUnavailable):
        await open_database(f"postgresql://nobody@/nothing?host={tmp_path}")


@on_sqlite
@pytest.mark.parametrize(
    ("fault", "cure", "code", "reason"),
    [
        ("max_page_count = 1", "max_page_count = 1000000", StatusCode.RESOURCE_EXHAUSTED, "STORAGE_FULL"),
        ("query_only = ON", "query_only = OFF", StatusCode.UNAVAILABLE, "STORAGE_READ_ONLY"),
    ],
)
async def test_a_database_that_cannot_grow_or_be_written_is_told_and_recovers(
    database_url: str, fault: str, cure: str, code: StatusCode, reason: str
) -> None:
    """The faults are put into the writing connection, as a full disk and a read-only file would show there."""
    async with serving(database_url) as service:
        shop = await service.shop()
        await shop.send()
        await service.database.write(pragma(fault))
        big = [event({"currency": "x" * 5_000}) for _ in range(20)]
        assert await verdict(shop.send_all(big)) == (code, reason)
        assert await verdict(shop.send_all(big)) == (code, reason)
        assert await shop.positions() == [1]
        await service.database.write(pragma(cure))
        await shop.send_all(big)
        assert await shop.positions() == list(range(1, 22))
