"""Fresh databases of both kinds, and the faults that the tests put into them."""

from __future__ import annotations

import shutil
import sqlite3
from collections import Counter
from contextlib import asynccontextmanager, closing
from io import BytesIO
from itertools import count
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias
from unittest.mock import patch

import asyncpg
import sqlalchemy as sa

from automation.subscriptions import tables as subscription_tables
from registry.storage import tables as registry_tables
from server.storage import migrations
from server.storage import tables as server_tables
from server.storage.migrations import migrate
from server.storage.opening import open_database
from tests.support.postgres import USER, Cluster

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from server.storage.database import OpenDatabase
    from tests.support.warm_connections import WarmConnections

TABLES = [
    table.name
    for metadata in (registry_tables.metadata, subscription_tables.subscription.metadata, server_tables.metadata)
    for table in reversed(metadata.sorted_tables)
]
"""Every table, those that refer to others first."""


Row: TypeAlias = tuple[str, tuple[Any, ...]]


class Store(Protocol):
    """One database, seen from outside the server."""

    url: str
    neighbour: int | None
    """The key of the project beside the test's own, if there is one."""

    async def execute(self, statement: str) -> None:
        """Run one statement."""
        ...

    async def rows(self, table: str) -> list[tuple[Any, ...]]:
        """Read every row of a table."""
        ...

    def held(self, table: str = "project_head") -> AbstractAsyncContextManager[None]:
        """Block all writes while the context is open, on PostgreSQL only those that lock rows of the table."""
        ...

    async def all_rows(self) -> Counter[Row]:
        """Read every row of every table, each with the name of its table."""
        ...

    async def refuse_events_named(self, name: str) -> None:
        """Make the database refuse every statement that stores an event of this name."""
        ...

    async def refuse_commits_of(self, name: str) -> None:
        """Make the database accept an event of this name, and then refuse the COMMIT."""
        ...

    def refusing_entries(self, action: str) -> AbstractAsyncContextManager[None]:
        """Make the database refuse entries of the audit log about an action, while the context is open."""
        ...

    async def contents(self) -> bytes:
        """Return the stored bytes."""
        ...


class Backend(Protocol):
    """One kind of database."""

    name: str

    def empty(self, folder: Path) -> AbstractAsyncContextManager[Store]:
        """Create a database without tables."""
        ...

    def fresh(self, folder: Path) -> AbstractAsyncContextManager[Store]:
        """Create a migrated database, empty but for what the template holds."""
        ...

    async def like(self, store: Store) -> Backend:
        """Return a backend whose fresh databases hold the rows of a store, to which nothing is connected any more."""
        ...


async def migrated(url: str) -> None:
    database = await open_database(url)
    try:
        await migrate(database)
    finally:
        await database.close()


async def migrate_until(database: OpenDatabase, name: str) -> None:
    """Run the migrations up to and including one."""
    older = [known for known in migrations.names() if known <= name]
    with patch.object(migrations, "names", lambda: older):
        await migrate(database)


class SqliteStore:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.url = f"sqlite:///{path}"
        self.neighbour: int | None = None

    async def execute(self, statement: str) -> None:
        with closing(sqlite3.connect(self.path)) as connection, connection:
            connection.execute(statement)

    async def rows(self, table: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.path)) as connection:
            return connection.execute(f"SELECT * FROM {table}").fetchall()  # noqa: S608 - a table of our own

    async def all_rows(self) -> Counter[Row]:
        with closing(sqlite3.connect(self.path)) as connection:
            tables = {table: connection.execute(f"SELECT * FROM {table}").fetchall() for table in TABLES}  # noqa: S608 - as above
        return Counter((table, row) for table, rows in tables.items() for row in rows)

    @asynccontextmanager
    async def held(self, table: str = "project_head") -> AsyncIterator[None]:
        with closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield
            connection.execute("ROLLBACK")

    async def refuse_events_named(self, name: str) -> None:
        when = f"BEFORE INSERT ON event WHEN NEW.name = '{name}'"
        await self.execute(f"CREATE TRIGGER refuse {when} BEGIN SELECT RAISE(ABORT, 'not this one'); END")

    async def refuse_commits_of(self, name: str) -> None:
        await self.execute("CREATE TABLE allowed (position INTEGER PRIMARY KEY)")
        await self.execute("CREATE TABLE late (position INTEGER REFERENCES allowed DEFERRABLE INITIALLY DEFERRED)")
        when = f"AFTER INSERT ON event WHEN NEW.name = '{name}'"
        await self.execute(f"CREATE TRIGGER refuse {when} BEGIN INSERT INTO late VALUES (NEW.position); END")  # noqa: S608 - our own

    @asynccontextmanager
    async def refusing_entries(self, action: str) -> AsyncIterator[None]:
        when = f"BEFORE INSERT ON audit_entry WHEN NEW.action = '{action}'"
        await self.execute(f"CREATE TRIGGER refuse_entry {when} BEGIN SELECT RAISE(ABORT, 'not this one'); END")
        yield
        await self.execute("DROP TRIGGER refuse_entry")

    async def contents(self) -> bytes:
        return b"".join(file.read_bytes() for file in self.path.parent.glob(f"{self.path.name}*"))


class SqliteBackend:
    name = "sqlite"

    def __init__(self, template: Path) -> None:
        self._template = template

    @asynccontextmanager
    async def empty(self, folder: Path) -> AsyncIterator[SqliteStore]:
        yield SqliteStore(folder / "signalbox.db")

    @asynccontextmanager
    async def fresh(self, folder: Path) -> AsyncIterator[SqliteStore]:
        path = folder / "signalbox.db"
        shutil.copy(self._template, path)
        yield SqliteStore(path)

    async def like(self, store: Store) -> SqliteBackend:
        assert isinstance(store, SqliteStore)
        return SqliteBackend(store.path)


class PostgresStore:
    """Keeps its connections from statement to statement: to make one takes PostgreSQL longer than most of them."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.altered = False
        self.neighbour: int | None = None
        self._kept: list[asyncpg.Connection] = []

    @property
    def name(self) -> str:
        return sa.make_url(self.url).database or ""

    def connected(self) -> AbstractAsyncContextManager[asyncpg.Connection]:
        return _connected(self.url)

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[asyncpg.Connection]:
        """Yield a kept connection that nothing uses, or a new one."""
        connection = self._kept.pop() if self._kept else None
        if connection is None or connection.is_closed():
            # Without kept statements, which a change of a table would make invalid.
            connection = await asyncpg.connect(self.url, statement_cache_size=0)
        try:
            yield connection
        finally:
            self._kept.append(connection)

    async def disconnect(self) -> None:
        """Close the kept connections."""
        while self._kept:
            await self._kept.pop().close()

    async def execute(self, statement: str) -> None:
        async with self._connected() as connection:
            await connection.execute(statement)

    async def rows(self, table: str) -> list[tuple[Any, ...]]:
        async with self._connected() as connection:
            return [tuple(row) for row in await connection.fetch(f"SELECT * FROM {table}")]  # noqa: S608 - as above

    async def all_rows(self) -> Counter[Row]:
        # One statement, with each row as text: one for each table takes longer than many tests.
        rows = " UNION ALL ".join(f"SELECT '{table}', ({table}.*)::text FROM {table}" for table in TABLES)  # noqa: S608 - as above
        async with self._connected() as connection:
            return Counter((table, (text,)) for table, text in await connection.fetch(rows))

    @asynccontextmanager
    async def held(self, table: str = "project_head") -> AsyncIterator[None]:
        async with _connected(self.url) as connection, connection.transaction():
            await connection.execute(f"LOCK TABLE {table} IN EXCLUSIVE MODE")
            yield

    async def refuse_events_named(self, name: str) -> None:
        self.altered = True
        await self.execute(f"ALTER TABLE event ADD CHECK (name <> '{name}')")

    async def refuse_commits_of(self, name: str) -> None:
        self.altered = True
        body = "BEGIN RAISE EXCEPTION 'not this one' USING ERRCODE = 'check_violation'; END"
        await self.execute(f"CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ {body} $$")
        when = f"AFTER INSERT ON event DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.name = '{name}')"
        await self.execute(f"CREATE CONSTRAINT TRIGGER refuse {when} EXECUTE FUNCTION refuse()")

    @asynccontextmanager
    async def refusing_entries(self, action: str) -> AsyncIterator[None]:
        check = f"CONSTRAINT refuse_entry CHECK (action <> '{action}') NOT VALID"
        await self.execute(f"ALTER TABLE audit_entry ADD {check}")
        yield
        await self.execute("ALTER TABLE audit_entry DROP CONSTRAINT refuse_entry")

    async def contents(self) -> bytes:
        stored = BytesIO()
        async with self._connected() as connection:
            for table in TABLES:
                await connection.copy_from_table(table, output=stored, format="binary")
        return stored.getvalue()


class PostgresBackend:
    """Hands out its databases again and again, with the rows of the template: to make one takes long."""

    name = "postgresql"
    _numbers = count(1)

    def __init__(
        self, cluster: Cluster, warm: WarmConnections | None = None, template: str = "", restore: str = ""
    ) -> None:
        self._cluster = cluster
        self._warm = warm
        self._template = template
        self._reset = "; ".join((*(f"DELETE FROM {table}" for table in TABLES), restore))  # noqa: S608 - ours
        self._clean: list[PostgresStore] = []
        self._filled: list[PostgresBackend] = []

    async def aclose(self) -> None:
        """Close the connections of this backend and of those that it made."""
        for backend in self._filled:
            await backend.aclose()
        for store in self._clean:
            await store.disconnect()

    @asynccontextmanager
    async def empty(self, folder: Path) -> AsyncIterator[PostgresStore]:
        store = await self._created()
        yield store
        await self._disconnect(store)

    @asynccontextmanager
    async def fresh(self, folder: Path) -> AsyncIterator[PostgresStore]:
        if self._clean:
            store = self._clean.pop()
        else:
            self._template = self._template or await self._migrated()
            store = await self._created(self._template)
        yield store
        if store.altered:
            await self._disconnect(store)
        else:
            store.neighbour = None
            await store.execute(self._reset)
            self._clean.append(store)

    async def like(self, store: Store) -> PostgresBackend:
        """Return a backend with the database of the store as template, which also holds copies of the filled tables."""
        assert isinstance(store, PostgresStore)
        store.altered = True
        filled = [table for table in reversed(TABLES) if await store.rows(table)]
        await store.execute(
            "; ".join(("CREATE SCHEMA copy", *(f"CREATE TABLE copy.{each} AS TABLE {each}" for each in filled)))
        )
        await self._disconnect(store)
        restore = "; ".join(f"INSERT INTO {each} SELECT * FROM copy.{each}" for each in filled)  # noqa: S608 - ours
        self._filled.append(PostgresBackend(self._cluster, self._warm, store.name, restore))
        return self._filled[-1]

    async def _disconnect(self, store: PostgresStore) -> None:
        """Close all connections to a database that is not handed out again: a template must have none."""
        await store.disconnect()
        if self._warm is not None:
            await self._warm.disconnect(store.name)

    async def _migrated(self) -> str:
        """Create a migrated database, and return its name. To copy it takes a quarter of the time of the migrations."""
        store = await self._created()
        # Over TCP, whose connections are not kept warm: a template must have none.
        await migrated(f"postgresql://{USER}@{self._cluster.address}/{store.name}")
        return store.name

    async def _created(self, template: str = "") -> PostgresStore:
        database = f"signalbox_{next(self._numbers)}"
        options = f"TEMPLATE {template}" if template else ""
        async with _connected(self._cluster.url("postgres")) as connection:
            await connection.execute(f"CREATE DATABASE {database} {options}")
        return PostgresStore(self._cluster.url(database))


@asynccontextmanager
async def _connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()
