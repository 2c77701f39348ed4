"""The commands `backup`, `restore` and `compact`, which work on the database of a server itself."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from server.cli.arguments.options import database_option, debug_option, json_option
from server.cli.arguments.value_parsers import FilePath
from server.cli.output.tables import print_json
from server.cli.startup_errors import clear_start_failures
from server.cli.urls import without_password
from server.storage.backup_files import Sizes
from server.storage.migrations import names
from server.storage.opening import parse_database_url
from server.storage.postgresql.backups import back_up_postgresql, compact_postgresql, restore_postgresql
from server.storage.sqlite.backups import back_up_sqlite, compact_sqlite, restore_sqlite

if TYPE_CHECKING:
    from collections.abc import Callable

    from server.storage.postgresql.url import PostgresUrl

_file = click.argument("file", type=FilePath(folders=False), metavar="FILE")


def _options(command: Callable[..., None]) -> Callable[..., None]:
    return database_option(json_option(debug_option(click.pass_obj(command))))


@click.command()
@_file
@_options
def backup(options: dict[str, Any], file: Path) -> None:
    """Copy the database into a new file, also while servers use it.

    The copy is what the database was at one moment. It is checked, and only its owner can read it. PostgreSQL is
    copied by pg_dump. The admin key of an SQLite database is in a file beside it, which is not copied.
    """
    url = options["database"]
    with clear_start_failures(url):
        location = parse_database_url(url)
        if isinstance(location, str):
            back_up_sqlite(Path(location), file, names())
        else:
            back_up_postgresql(location, file)
        size = file.stat().st_size
    if options["json"]:
        print_json({"database": without_password(url), "file": str(file), "bytes": size})
    else:
        click.echo(f"{without_password(url)} is backed up in {file} ({_megabytes(size)})")


@click.command()
@_file
@_options
def restore(options: dict[str, Any], file: Path) -> None:
    """Make a database of a backup, where none is.

    Stop the servers first, and move an SQLite database away. A PostgreSQL database must be empty; it is filled by
    pg_restore. The next start of a server migrates the database to its version.
    """
    url = options["database"]
    with clear_start_failures(url):
        location = parse_database_url(url)
        if isinstance(location, str):
            restore_sqlite(file, Path(location), names())
        else:
            restore_postgresql(file, location)
    if options["json"]:
        print_json({"database": without_password(url), "file": str(file)})
    else:
        click.echo(f"{without_password(url)} is restored from {file}")


@click.command()
@_options
def compact(options: dict[str, Any]) -> None:
    """Return the free space of a database to the file system.

    No server may use an SQLite database meanwhile. On PostgreSQL each table is locked while it is rewritten, so sends
    fail or wait. Deleted rows leave free space that later ones use, so this is only needed after much was deleted.
    """
    url = options["database"]
    with clear_start_failures(url):
        location = parse_database_url(url)
        sizes = compact_sqlite(Path(location)) if isinstance(location, str) else asyncio.run(_compact(url, location))
    if options["json"]:
        print_json({"database": without_password(url), "bytes_before": sizes.before, "bytes_after": sizes.after})
    else:
        text = f"from {_megabytes(sizes.before)} to {_megabytes(sizes.after)}"
        click.echo(f"{without_password(url)} is compacted {text}")


async def _compact(url: str, location: PostgresUrl) -> Sizes:
    from server.storage.opening import open_database

    database = await open_database(url)
    try:
        before = (await database.size()).bytes
        await asyncio.to_thread(compact_postgresql, location)
        return Sizes(before, (await database.size()).bytes)
    finally:
        await database.close()


def _megabytes(size: int) -> str:
    return f"{size / 1_000_000:,.1f} MB"
