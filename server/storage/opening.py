"""Opening the database that a URL names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from server.storage.postgresql.url import PostgresUrl, parse_postgres_url

if TYPE_CHECKING:
    from server.storage.database import MeasuredDatabase


def parse_database_url(url: str) -> str | PostgresUrl:
    """Return the path of an SQLite file, or a parsed URL of PostgreSQL. Raise ValueError for any other URL."""
    if url.startswith("sqlite:///"):
        return url.removeprefix("sqlite:///")
    if url.startswith(("postgresql://", "postgres://")):
        return parse_postgres_url(url)
    raise ValueError(f'"{url}" is not a database URL: use sqlite:///FILE or postgresql://USER@HOST/NAME')


async def open_database(url: str, *, create: bool = True) -> MeasuredDatabase:
    """Open the database at a URL; a file of SQLite is created if it does not exist, unless `create` is false.

    `sqlite:///relative.db`, `sqlite:////absolute.db` or `postgresql://user@host/name`. Raise ValueError for another
    URL, FileNotFoundError, and StorageError if it cannot be opened for writing.
    """
    location = parse_database_url(url)
    if isinstance(location, str):
        from server.storage.sqlite.database import SqliteDatabase

        return await SqliteDatabase.open(location, create=create)
    from server.storage.postgresql.database import PostgresDatabase

    return await PostgresDatabase.open(location)
