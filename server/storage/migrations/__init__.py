"""Brings a database to the schema of this version, while servers of the previous version keep using it.

A migration is a file in `versions`, numbered in the order in which they run. It has up to three steps:

    upgrade()                        changes tables, briefly, in one transaction; touches no rows of large tables
    move(connection, cursor, limit)  moves about `limit` rows; returns the next cursor, None at the end
    INDEXES                          are built while writes continue

Every step is recorded, so that a migration that was killed continues where it stopped. `schema_migration` records which
are finished. `alembic_version` names the newest migration that older releases must know
(`CONTRACTS = True`): a release starts on any schema whose `alembic_version` it knows.
"""

from __future__ import annotations

import logging
import time
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa
import structlog
from sqlalchemy.exc import DBAPIError

from registry.times.timestamps import now_micros
from server.errors import StorageError
from server.storage.postgresql.sequences import repair_sequences, tables_to_repair
from server.storage.schema_changes import PROGRESS_SECONDS, SchemaChangeFailed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

    from server.storage.database import Database, OpenDatabase
    from server.storage.schema_changes import Maintenance

log = structlog.get_logger()

BATCH_ROWS: Final = 10_000
"""The approximate number of rows that one transaction moves."""

_HERE = Path(__file__).parent

metadata = sa.MetaData()

schema_migration = sa.Table(
    "schema_migration",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("cursor", sa.Text, nullable=False),
    sa.Column("finished_at", sa.BigInteger, nullable=False),
)
_record = schema_migration.c

_alembic_version = sa.Table("alembic_version", sa.MetaData(), sa.Column("version_num", sa.String(32), primary_key=True))


def names() -> list[str]:
    """Return the names of all migrations, in the order in which they run."""
    return sorted(path.stem for path in (_HERE / "versions").glob("[0-9]*.py"))


def head() -> str:
    """Return the name of the newest migration."""
    return names()[-1]


def current(connection: Connection) -> str | None:
    """Return the name of the newest finished migration that this version knows; None for an empty database."""
    done = _finished(connection, names())
    return max(done, default=None)


def pending(connection: Connection) -> list[str]:
    """Return the migrations that are missing, in their order.

    Raises ValueError if the database is of a newer version that this one cannot work with.
    """
    known = names()
    done = _finished(connection, known)
    return [name for name in known if name not in done]


async def migrate(database: OpenDatabase) -> bool:
    """Run the migrations that are missing, and return whether there were any. Repair sequences.

    Servers that start together take turns. Raises ValueError if the database is of a newer version, SchemaChangeFailed
    if a migration fails.
    """
    if not await database.read(pending, brief=True):
        await _repair_sequences(database)
        return False
    async with database.maintenance() as maintenance:
        # Another server may have done it while this one waited.
        found = await database.read(pending, brief=True)
        # A new database is complete at once, and nobody waits for it.
        level = logging.DEBUG if await database.read(current, brief=True) is None else logging.INFO
        for name in found:
            await _run(maintenance, name, level)
    return bool(found)


async def _repair_sequences(database: OpenDatabase) -> None:
    if tables := await database.read(tables_to_repair, brief=True):
        async with database.maintenance() as maintenance:
            try:
                await maintenance.alter(partial(repair_sequences, tables))
            except (DBAPIError, StorageError) as error:
                names = ", ".join(table.name for table in tables)
                raise SchemaChangeFailed(f"The sequences of {names} cannot be repaired: {_reason(error)}") from error


async def check_migrated(database: Database) -> None:
    """Raise ValueError if migrations are missing."""
    if missing := await database.read(pending, brief=True):
        raise ValueError(f"The database lacks {', '.join(missing)}: run `signalbox migrate` before this version")


async def _run(maintenance: Maintenance, name: str, level: int) -> None:
    log.log(level, "migration_started", migration=name)
    begun = time.monotonic()
    try:
        migration: Any = import_module(f"{__name__}.versions.{name}")
        cursor = await maintenance.alter(partial(_upgrade, migration, name))
        if hasattr(migration, "move"):
            await _move(maintenance, migration, name, cursor)
        for index in getattr(migration, "INDEXES", ()):
            await maintenance.build_index(index)
        await maintenance.write(partial(_note, name, finished_at=now_micros()))
    except (DBAPIError, StorageError, SchemaChangeFailed) as error:
        raise SchemaChangeFailed(f"Migration {name} failed: {_reason(error)}") from error
    log.log(level, "migration_finished", migration=name, seconds=round(time.monotonic() - begun, 1))


def _upgrade(migration: Any, name: str, connection: Connection) -> str:
    """Change the tables unless that is done, and return the cursor from which to move rows."""
    schema_migration.create(connection, checkfirst=True)
    cursor = connection.scalar(sa.select(_record.cursor).where(_record.name == name))
    if cursor is not None:
        return str(cursor)
    if hasattr(migration, "upgrade"):
        # Importing alembic takes longer than the rest of a start; most starts need none of it.
        from alembic.operations import Operations
        from alembic.runtime.migration import MigrationContext

        with Operations.context(MigrationContext.configure(connection)):
            migration.upgrade()
    connection.execute(sa.insert(schema_migration).values(name=name, cursor="", finished_at=0))
    if getattr(migration, "CONTRACTS", False):
        _alembic_version.create(connection, checkfirst=True)
        connection.execute(sa.delete(_alembic_version))
        connection.execute(sa.insert(_alembic_version).values(version_num=name))
    return ""


async def _move(maintenance: Maintenance, migration: Any, name: str, cursor: str) -> None:
    logged = time.monotonic()

    def batch(cursor: str, connection: Connection) -> str | None:
        moved: str | None = migration.move(connection, cursor, BATCH_ROWS)
        if moved is not None:
            _note(name, connection, cursor=moved)
        return moved

    while (moved := await maintenance.write(partial(batch, cursor))) is not None:
        cursor = moved
        if time.monotonic() > logged + PROGRESS_SECONDS:
            logged = time.monotonic()
            log.info("migration_moves_rows", migration=name, at=cursor)


def _note(name: str, connection: Connection, **values: Any) -> None:
    connection.execute(sa.update(schema_migration).where(_record.name == name).values(values))


def _finished(connection: Connection, known: Sequence[str]) -> set[str]:
    tables = sa.inspect(connection).get_table_names()
    at = connection.scalar(sa.select(_alembic_version)) if _alembic_version.name in tables else None
    if at is not None and at not in known:
        raise ValueError(f"The database is at migration {at}, this version of Signalbox knows none after {known[-1]}")
    recorded = (
        connection.execute(sa.select(_record.name, _record.finished_at)).all() if "schema_migration" in tables else []
    )
    # Releases up to 0.1 recorded the newest one alone.
    done = {name for name in known if at is not None and name <= at}
    done -= {row.name for row in recorded}
    return done | {row.name for row in recorded if row.finished_at and row.name in known}


def _reason(error: Exception) -> str:
    """Return the database's message, which a storage error only wraps."""
    cause = error.__cause__ if isinstance(error, StorageError) else error
    if isinstance(cause, DBAPIError) and cause.orig is not None:
        cause = cause.orig.__cause__ or cause.orig
    text = str(cause or error).partition("\n")[0]
    return text or type(cause).__name__
