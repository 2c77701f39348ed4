"""Brings a database to the schema of this version, at every start."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

if TYPE_CHECKING:
    from sqlalchemy import Connection

_HERE = Path(__file__).parent


def head() -> str:
    """Name the newest migration; the files are numbered in the order they run."""
    return max(path.stem for path in (_HERE / "versions").glob("[0-9]*.py"))


def current(connection: Connection) -> str | None:
    """Name the migration that the database is at; None for an empty database."""
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    revision = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    return None if revision is None else str(revision)


def migrate(connection: Connection) -> bool:
    """Run the migrations that are missing, in the caller's transaction; True if there were any.

    Raises ValueError if a newer version of Signalbox made the database.
    """
    if connection.dialect.name == "postgresql":
        # Servers that start together take turns, however long one of them needs.
        connection.exec_driver_sql("SET LOCAL lock_timeout = 0")
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7446254)")
    at, newest = current(connection), head()
    if at == newest:
        return False
    if at is not None and at > newest:
        raise ValueError(f"The database is at migration {at}, this version of Signalbox knows none after {newest}")
    # Importing alembic takes longer than the rest of a start; most starts need none of it.
    from alembic import command
    from alembic.config import Config

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(_HERE))
    config.set_main_option("path_separator", "os")
    command.upgrade(config, "head")
    return True
