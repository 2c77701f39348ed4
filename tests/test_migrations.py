"""Changing the schema of a database that holds data and that servers are working on."""

from __future__ import annotations

import asyncio
import re
import subprocess
from contextlib import asynccontextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import MetaData, inspect
from sqlalchemy.dialects.postgresql import dialect as postgresql_dialect
from sqlalchemy.dialects.sqlite import dialect as sqlite_dialect
from sqlalchemy.schema import CreateIndex
from structlog.testing import capture_logs

from automation.subscriptions import tables as subscription_tables
from registry.storage import tables as registry_tables
from server.storage import migrations
from server.storage import tables as server_tables
from server.storage.migrations import current, head, migrate, names
from server.storage.opening import open_database
from server.storage.postgresql import database as postgresql
from server.storage.postgresql import maintenance, sequences
from server.storage.schema_changes import SchemaChangeFailed
from signalbox.v1 import match_stream_pb2
from signalbox.v1.contacts_pb2 import UpsertContactRequest
from tests.support import automations
from tests.support.command_line import command
from tests.support.consumers import subscribe
from tests.support.process import server_process
from tests.support.service import serving
from tests.support.stores import PostgresStore, migrate_until, migrated

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from sqlalchemy import Connection

    from server.storage.database import Database, OpenDatabase
    from server.storage.schema_changes import Maintenance, NewIndex
    from tests.support.service import Client
    from tests.support.stores import Backend, Store

T = TypeVar("T")

PREVIOUS_RELEASE = "bb345619f428"
"""The commit whose code must run on today's schema; moved at each release."""

ROOT = Path(__file__).parent.parent
EVENTS = 600
BATCH = 100

on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
on_postgresql = pytest.mark.parametrize("backend", ["postgresql"], indirect=True)

PROJECTS = """
    INSERT INTO project VALUES (1, 'a', 'a', 'reject', 'create', 'sensitive', 1, 0, 0),
    (2, 'b', 'b', 'reject', 'create', 'insensitive', 1, 0, 0), (3, 'c', 'c', 'reject', 'create', 'insensitive', 1, 0, 0)
"""
HEADS = f"INSERT INTO project_head SELECT key, 1, {EVENTS} - key, 0, 0, 0 FROM project"  # noqa: S608 - ours
LOG = f"""
    WITH RECURSIVE number(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < {EVENTS})
    INSERT INTO event
    SELECT key, n, '', 'order', '', 1, 0, 'ada@example.com', '', '', 0, 0, 0, '', ''
    FROM project, number WHERE n <= {EVENTS} - key
"""  # noqa: S608 - ours


@pytest.fixture
async def old(backend: Backend, tmp_path: Path) -> AsyncIterator[OldDatabase]:
    """A database before events recorded whether case counts: three projects with their logs."""
    async with backend.empty(tmp_path) as store:
        database = await open_database(store.url)
        await migrate_until(database, "0004_retention")
        for statement in (PROJECTS, HEADS, LOG):
            await store.execute(statement)
        yield OldDatabase(store, database)
        await database.close()


class OldDatabase:
    def __init__(self, store: Store, database: OpenDatabase) -> None:
        self.store, self.database = store, database

    async def value(self, query: str) -> Any:
        return await self.database.read(lambda connection: connection.exec_driver_sql(query).scalar())

    async def check(self) -> None:
        """Check that all is migrated."""
        assert await self.database.read(current) == head()
        wrong = "(SELECT count(*) FROM event WHERE ignore_case <> (project_key > 1)::int)"
        if self.database.shared:
            assert await self.value(f"SELECT indisvalid FROM pg_index WHERE indexrelid = '{INDEX}'::regclass") is True  # noqa: S608
        else:
            wrong = wrong.replace("::int", "")
        assert await self.value(f"SELECT {wrong}") == 0
        assert await self.value("SELECT count(*) FROM event") == 3 * EVENTS - 6


INDEX = "event_without_contact"
ONLY_ON_POSTGRESQL = "event_by_contact"
ONLY_ON_SQLITE = "event_by_segment_and_contact"


# The files


def test_the_migrations_are_one_chain_of_known_steps() -> None:
    previous = None
    for name in names():
        migration = import_module(f"{migrations.__name__}.versions.{name}")
        assert (migration.revision, migration.down_revision) == (name, previous)
        assert {"upgrade", "move", "INDEXES"} & set(vars(migration)), name
        previous = name


@on_sqlite
async def test_a_migration_keeps_the_tables_and_columns_that_the_release_before_works_with(
    backend: Backend, tmp_path: Path
) -> None:
    def columns(connection: Connection) -> set[tuple[str, str]]:
        tables = inspect(connection)
        return {(table, column["name"]) for table in tables.get_table_names() for column in tables.get_columns(table)}

    async with backend.empty(tmp_path) as store:
        database = await open_database(store.url)
        before: set[tuple[str, str]] = set()
        for name in names():
            await migrate_until(database, name)
            after = await database.read(columns)
            if not getattr(import_module(f"{migrations.__name__}.versions.{name}"), "CONTRACTS", False):
                assert before <= after, name
            before = after
        await database.close()


def tables_of_the_code() -> MetaData:
    tables = MetaData()
    for metadata in (
        registry_tables.metadata,
        subscription_tables.subscription.metadata,
        server_tables.metadata,
        migrations.metadata,
    ):
        for table in metadata.tables.values():
            table.to_metadata(tables)
    return tables


@pytest.mark.filterwarnings("ignore:Skipped unsupported reflection of expression-based index")  # the next test has it
@pytest.mark.filterwarnings("ignore:autogenerate skipping metadata-specified expression-based index")
async def test_the_migrations_make_the_tables_of_the_code(database: Database) -> None:
    def differences(connection: Connection) -> list[Any]:
        def wanted(_object: object, name: str | None, *_rest: object) -> bool:
            return name != (ONLY_ON_SQLITE if connection.dialect.name == "postgresql" else ONLY_ON_POSTGRESQL)

        context = MigrationContext.configure(connection, opts={"include_object": wanted})
        return list(compare_metadata(context, tables_of_the_code()))

    assert await database.read(differences) == []


@on_sqlite
async def test_tables_and_partial_indexes_are_stored_as_in_the_code(database: Database) -> None:
    def statements(connection: Connection) -> dict[str, str]:
        rows = connection.exec_driver_sql("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL")
        return {row.name: row.sql.replace("<>", "!=") for row in rows}

    made = await database.read(statements)
    for table in tables_of_the_code().tables.values():
        with_rowid = table.dialect_options["sqlite"]["with_rowid"]
        assert ("WITHOUT ROWID" in made[table.name]) is not with_rowid, table.name
        for index in table.indexes:
            if index.name == ONLY_ON_POSTGRESQL:
                assert index.name not in made
                continue
            if index.name == ONLY_ON_SQLITE:
                assert made[index.name] == str(CreateIndex(index).compile(dialect=sqlite_dialect()))
            for dialect in (sqlite_dialect(), postgresql_dialect()):  # type: ignore[no-untyped-call]
                condition = str(CreateIndex(index).compile(dialect=dialect)).partition(" WHERE ")[2]
                assert made[str(index.name)].partition(" WHERE ")[2] == condition


# Running them


async def test_an_empty_database_is_migrated_once(backend: Backend, tmp_path: Path) -> None:
    async with backend.empty(tmp_path) as store:
        database = await open_database(store.url)
        try:
            assert await database.read(current) is None
            assert await migrate(database) is True
            assert await database.read(current) == head()
            assert await migrate(database) is False
        finally:
            await database.close()


async def test_rows_are_moved_in_batches(old: OldDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrations, "PROGRESS_SECONDS", 0)
    monkeypatch.setattr(migrations, "BATCH_ROWS", BATCH)
    assert await migrate(old.database) is True
    await old.check()


async def test_a_migration_killed_after_any_step_continues_where_it_stopped(
    old: OldDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrations, "BATCH_ROWS", BATCH)
    killed = KilledDatabase(old.database)
    while True:
        with suppress(KilledError):
            await migrate(killed)
            break
    # Two projects of six batches each, and two steps at least of each migration; none is taken twice.
    assert len(killed.states) >= 2 * EVENTS // BATCH + 4
    assert len(set(killed.states)) == len(killed.states)
    await old.check()


class KilledError(Exception):
    """The process was killed."""


class KilledDatabase:
    """Dies whenever a step has been recorded."""

    def __init__(self, database: OpenDatabase) -> None:
        self._database = database
        self.shared, self.epoch = database.shared, database.epoch
        self.read, self.write, self.check, self.close = database.read, database.write, database.check, database.close
        self.states: list[str] = []

    @asynccontextmanager
    async def maintenance(self) -> AsyncIterator[KilledMaintenance]:
        async with self._database.maintenance() as inner:
            yield KilledMaintenance(self, inner)

    async def die_if_changed(self) -> None:
        def recorded(connection: Connection) -> str:
            return str(connection.exec_driver_sql("SELECT * FROM schema_migration ORDER BY name").fetchall())

        state = await self.read(recorded)
        if state not in self.states[-1:]:
            self.states.append(state)
            raise KilledError


class KilledMaintenance:
    def __init__(self, database: KilledDatabase, inner: Maintenance) -> None:
        self._database, self._inner = database, inner

    async def alter(self, work: Callable[[Connection], T]) -> T:
        result = await self._inner.alter(work)
        await self._database.die_if_changed()
        return result

    async def write(self, work: Callable[[Connection], T]) -> T:
        result = await self._inner.write(work)
        await self._database.die_if_changed()
        return result

    async def build_index(self, index: NewIndex) -> None:
        await self._inner.build_index(index)


async def test_a_failed_migration_reports_the_reason_and_continues_once_it_is_fixed(old: OldDatabase) -> None:
    await old.store.execute("ALTER TABLE event ADD COLUMN ignore_case SMALLINT")
    with pytest.raises(SchemaChangeFailed, match=r"Migration 0005_bridge failed: .*ignore_case"):
        await migrate(old.database)
    await old.store.execute("ALTER TABLE event DROP COLUMN ignore_case")
    assert await migrate(old.database) is True
    await old.check()


async def test_the_database_of_a_newer_version_is_refused(store: Store) -> None:
    newer = "UPDATE alembic_version SET version_num = '9999_future'"
    at = (await store.rows("alembic_version"))[0][0]
    await store.execute(newer)
    with pytest.raises(ValueError, match="9999_future"):
        async with serving(store.url):
            pass
    await store.execute(newer.replace("9999_future", at))


async def test_a_newer_schema_that_this_version_can_work_with_is_not_refused(store: Store) -> None:
    await store.execute("INSERT INTO schema_migration VALUES ('9999_future', '', 1)")
    async with serving(store.url) as service:
        await (await service.shop()).send()
    await store.execute("DELETE FROM schema_migration WHERE name = '9999_future'")


async def test_a_server_that_does_not_migrate_names_the_missing_migrations(old: OldDatabase) -> None:
    await old.database.close()
    message = r"lacks 0005_bridge, .*: run `signalbox migrate` before this version"
    with pytest.raises(ValueError, match=message):
        async with serving(old.store.url, migrate=False):
            pass
    await migrated(old.store.url)
    async with serving(old.store.url, migrate=False):
        pass


@on_sqlite
async def test_the_command_line_migrates_apart_from_serving(old: OldDatabase) -> None:
    await old.database.close()
    database = ("--database", old.store.url)
    refused = await asyncio.to_thread(command, "serve", "--no-migrate", *database)
    assert (refused.code, refused.out) == (1, "")
    assert re.search("error: .* lacks 0005_bridge", refused.err)
    done = await asyncio.to_thread(command, "migrate", *database)
    assert (done.code, done.out) == (0, f"{old.store.url} is now at {head()}\n")
    assert "migration_finished" in done.err


def test_a_server_that_does_not_migrate_leaves_nothing_where_no_database_is(tmp_path: Path) -> None:
    refused = command("serve", "--no-migrate", "--database", f"sqlite:///{tmp_path}/mistyped.db")
    assert (refused.code, refused.out) == (1, "")
    assert f"{tmp_path}/mistyped.db: there is no database to serve" in refused.err
    assert not [*tmp_path.iterdir()]


# Beside servers at work


@on_postgresql
async def test_servers_that_start_together_on_an_empty_database_take_turns(backend: Backend, tmp_path: Path) -> None:
    async with backend.empty(tmp_path) as store:
        databases = [await open_database(store.url) for _ in range(3)]
        try:
            assert sorted(await asyncio.gather(*(migrate(each) for each in databases))) == [False, False, True]
        finally:
            await asyncio.gather(*(each.close() for each in databases))


@on_postgresql
async def test_a_long_read_delays_a_migration_and_nobody_else(
    old: OldDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance, "LOCK_SECONDS", 0.2)
    monkeypatch.setattr(maintenance, "PROGRESS_SECONDS", 0.1)
    async with reading(old):
        migrating = asyncio.create_task(migrate(old.database))
        await waiting_for(old, "ALTER TABLE event%")
        # Behind the queued change of the table, and with time for several attempts.
        for number in range(20):
            await old.store.execute(insert(number))
        assert not migrating.done()
    assert await migrating is True
    assert await old.database.read(current) == head()


@on_postgresql
async def test_a_table_that_stays_locked_fails_the_migration_and_names_the_holder(
    old: OldDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance, "LOCK_SECONDS", 0.05)
    monkeypatch.setattr(maintenance, "PATIENCE_SECONDS", 0.1)
    async with reading(old) as process:
        with pytest.raises(SchemaChangeFailed, match=rf"0005_bridge failed: A table stays locked by .* {process} \("):
            await migrate(old.database)


@on_postgresql
async def test_events_are_stored_while_an_index_is_built(old: OldDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maintenance, "PROGRESS_SECONDS", 0.05)
    await migrate_until(old.database, "0005_bridge")
    async with reading(old):
        migrating = asyncio.create_task(migrate(old.database))
        await waiting_for(old, "CREATE INDEX CONCURRENTLY%")
        for number in range(20):
            await old.store.execute(insert(number))
        assert not migrating.done()
    assert await migrating is True


@on_postgresql
async def test_an_index_that_was_left_invalid_is_built_anew(old: OldDatabase) -> None:
    await migrate_until(old.database, "0005_bridge")
    async with reading(old):
        migrating = asyncio.create_task(migrate(old.database))
        await waiting_for(old, "CREATE INDEX CONCURRENTLY%")
        await old.store.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'CREATE INDEX CONCURRENTLY%'"
        )
        with pytest.raises(SchemaChangeFailed, match="0006_event_without_contact failed"):
            await migrating
    assert await old.value(f"SELECT indisvalid FROM pg_index WHERE indexrelid = '{INDEX}'::regclass") is False  # noqa: S608
    assert await migrate(old.database) is True
    await old.check()


@on_postgresql
async def test_statements_of_a_migration_have_no_limit_of_time(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgresql, "COMMAND_TIMEOUT_SECONDS", 0.2)
    database = await open_database(store.url)
    try:
        async with database.maintenance() as held:
            await held.write(lambda connection: connection.exec_driver_sql("SELECT pg_sleep(0.5)"))
    finally:
        await database.close()


def insert(number: int) -> str:
    return f"""
        SET statement_timeout = '20s';
        INSERT INTO event VALUES (1, {EVENTS + 10 + number}, '', 'order', '', 1, 0, 'b@x', '', '', 0, 0, 0, '', '')
    """  # noqa: S608 - ours


@asynccontextmanager
async def reading(old: OldDatabase) -> AsyncIterator[int]:
    """Hold a snapshot and what a read locks; yield the id of the server process."""
    assert isinstance(old.store, PostgresStore)
    async with old.store.connected() as connection, connection.transaction(isolation="repeatable_read"):
        await connection.fetch("SELECT count(*) FROM event")
        yield connection.get_server_pid()


async def waiting_for(old: OldDatabase, statement: str) -> None:
    """Wait until a statement waits for a lock."""
    waiting = f"SELECT 1 FROM pg_stat_activity WHERE query LIKE '{statement}' AND wait_event_type = 'Lock'"  # noqa: S608
    while not await old.value(waiting.replace("%", "%%")):  # noqa: ASYNC110 - only the database knows
        await asyncio.sleep(0.01)


# The previous release


@pytest.fixture(scope="session")
def previous_release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Check out the code of the previous release."""
    archive = subprocess.run(
        ["git", "archive", PREVIOUS_RELEASE, "server", "registry", "automation", "generated"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if archive.returncode:
        pytest.skip(f"this checkout does not hold the previous release, commit {PREVIOUS_RELEASE}")
    folder = tmp_path_factory.mktemp("previous")
    subprocess.run(["tar", "-x"], cwd=folder, input=archive.stdout, check=True)
    return folder


@pytest.mark.checkout
async def test_the_previous_release_starts_and_works_on_the_new_schema(
    backend: Backend, tmp_path: Path, previous_release: Path
) -> None:
    async with backend.empty(tmp_path) as store:
        async with server_process(store.url, tmp_path, source=previous_release) as server:
            shop = await server.service.shop()
            await automations.automate(shop)
            subscription = match_stream_pb2.Subscription(name="engine")
            request = match_stream_pb2.CreateSubscriptionRequest(subscription=subscription)
            await shop.matches.CreateSubscription(request)
            await send_and_receive(shop, 1)
            assert INDEX not in str(await store.rows(SCHEMA[backend.name]))
        async with serving(store.url) as service:
            await send_and_receive(service.client(shop.secret), 2)
            assert INDEX in str(await store.rows(SCHEMA[backend.name]))
        async with server_process(store.url, tmp_path, source=previous_release) as server:
            await send_and_receive(server.service.client(shop.secret), 3)
        async with serving(store.url) as service:
            await send_and_receive(service.client(shop.secret), 4)


async def send_and_receive(shop: Client, position: int) -> None:
    """Send the event that gets this position, and pull and acknowledge its match."""
    assert (await shop.send()).event.position == position
    assert await shop.positions() == list(range(1, position + 1))
    pull = match_stream_pb2.PullMatchesRequest(subscription="engine", max_matches=10)
    deliveries = (await shop.matches.PullMatches(pull)).deliveries
    assert [each.match.position for each in deliveries] == [position]
    ack = match_stream_pb2.AckDeliveries(delivery_ids=[each.delivery_id for each in deliveries])
    settle = match_stream_pb2.AcknowledgeMatchesRequest(subscription="engine", ack=ack)
    await shop.matches.AcknowledgeMatches(settle)


SCHEMA = {"sqlite": "sqlite_master", "postgresql": "pg_indexes"}


@on_postgresql
async def test_a_start_repairs_sequences_that_are_behind_the_keys_of_their_tables(store: Store) -> None:
    async with serving(store.url) as service:
        shop = await service.shop()
        await automations.automate(shop)
        await subscribe(shop)
        for number in range(3):
            await shop.contacts.UpsertContact(UpsertContactRequest(email=f"a{number}@example.com"))
    for table in sequences.NUMBERED:
        await store.execute(f"SELECT setval(pg_get_serial_sequence('{table.name}', 'key'), 1, false)")
    with capture_logs() as logs:
        async with serving(store.url) as service:
            other = await service.shop()
            await subscribe(other)
            await automations.automate(other)
            await other.contacts.UpsertContact(UpsertContactRequest(email="b@example.com"))
    repaired = [entry["table"] for entry in logs if entry["event"] == "sequence_repaired"]
    assert repaired == ["project", "contact", "automation", "subscription"]
    await store.execute("SELECT setval(pg_get_serial_sequence('contact', 'key'), 1000, false)")
    with capture_logs() as logs:
        async with serving(store.url):
            pass
    assert [entry for entry in logs if entry["event"] == "sequence_repaired"] == []
    assert await store.rows("contact_key_seq") == [(1000, 0, False)]


def test_every_table_whose_keys_the_database_counts_has_its_sequence_repaired() -> None:
    tables = tables_of_the_code().tables.values()
    counted = {table.name for table in tables for column in table.primary_key if column.autoincrement is True}
    assert counted == {table.name for table in sequences.NUMBERED}
