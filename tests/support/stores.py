"""Fresh databases of both kinds, and the faults that the tests put into them."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import asynccontextmanager, closing
from io import BytesIO
from itertools import count
from typing import TYPE_CHECKING, Protocol

import asyncpg

from server.storage.database import open_database
from server.storage.migrations import migrate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from tests.support.postgres import Cluster


class Store(Protocol):
    """One database, seen from outside the server."""

    url: str

    async def execute(self, statement: str) -> None:
        """Run one statement."""
        ...

    def held(self) -> AbstractAsyncContextManager[None]:
        """Keep every commit from ending while the context is open; those begun wait."""
        ...

    async def refuse_events_named(self, name: str) -> None:
        """Have the database refuse every statement that stores an event of this name."""
        ...

    async def contents(self) -> bytes:
        """Give everything that is stored."""
        ...


class Backend(Protocol):
    """One kind of database."""

    name: str

    def fresh(self, folder: Path) -> AbstractAsyncContextManager[Store]:
        """Make a migrated database that nobody used before."""
        ...


async def migrated(url: str) -> None:
    database = await open_database(url)
    try:
        await database.write(migrate)
    finally:
        await database.close()


class SqliteStore:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.url = f"sqlite:///{path}"

    async def execute(self, statement: str) -> None:
        with closing(sqlite3.connect(self.path)) as connection, connection:
            connection.execute(statement)

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        with closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield
            connection.execute("ROLLBACK")

    async def refuse_events_named(self, name: str) -> None:
        when = f"BEFORE INSERT ON event WHEN NEW.name = '{name}'"
        await self.execute(f"CREATE TRIGGER refuse {when} BEGIN SELECT RAISE(ABORT, 'not this one'); END")

    async def contents(self) -> bytes:
        return b"".join(file.read_bytes() for file in self.path.parent.glob(f"{self.path.name}*"))


class SqliteBackend:
    name = "sqlite"

    def __init__(self, template: Path) -> None:
        self._template = template

    @asynccontextmanager
    async def fresh(self, folder: Path) -> AsyncIterator[SqliteStore]:
        path = folder / "signalbox.db"
        shutil.copy(self._template, path)
        yield SqliteStore(path)


class PostgresStore:
    def __init__(self, url: str) -> None:
        self.url = url

    async def execute(self, statement: str) -> None:
        async with _connected(self.url) as connection:
            await connection.execute(statement)

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        async with _connected(self.url) as connection, connection.transaction():
            await connection.execute("LOCK TABLE project_head IN EXCLUSIVE MODE")
            yield

    async def refuse_events_named(self, name: str) -> None:
        await self.execute(f"ALTER TABLE event ADD CHECK (name <> '{name}')")

    async def contents(self) -> bytes:
        stored = BytesIO()
        async with _connected(self.url) as connection:
            for row in await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'"):
                await connection.copy_from_table(row["tablename"], output=stored, format="binary")
        return stored.getvalue()


class PostgresBackend:
    name = "postgresql"
    template = "signalbox_template"

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._numbers = count(1)

    async def prepare(self) -> None:
        async with _connected(self._cluster.url("postgres")) as connection:
            await connection.execute(f"CREATE DATABASE {self.template}")
        await migrated(self._cluster.url(self.template))

    @asynccontextmanager
    async def fresh(self, folder: Path) -> AsyncIterator[PostgresStore]:  # noqa: ARG002
        database = f"signalbox_{next(self._numbers)}"
        async with _connected(self._cluster.url("postgres")) as connection:
            await connection.execute(f"CREATE DATABASE {database} TEMPLATE {self.template}")
            yield PostgresStore(self._cluster.url(database))
            await connection.execute(f"DROP DATABASE {database} WITH (FORCE)")


@asynccontextmanager
async def _connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()
