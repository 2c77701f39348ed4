"""Database URLs: which database one names."""

from __future__ import annotations

from server.storage.postgres_url import PostgresUrl, parse_postgres_url


def parse_database_url(url: str) -> str | PostgresUrl:
    """Return the path of an SQLite file, or a parsed URL of PostgreSQL. Raise ValueError for any other URL."""
    if url.startswith("sqlite:///"):
        return url.removeprefix("sqlite:///")
    if url.startswith(("postgresql://", "postgres://")):
        return parse_postgres_url(url)
    raise ValueError(f'"{url}" is not a database URL: use sqlite:///FILE or postgresql://USER@HOST/NAME')
