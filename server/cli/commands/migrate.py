"""The command `migrate`."""

from __future__ import annotations

import asyncio

import click

from server.cli.arguments.options import database_option, debug_option, json_option
from server.cli.output.tables import print_json
from server.cli.startup_errors import clear_start_failures
from server.cli.urls import without_password
from server.logs.output import configure_logs
from server.storage.migrations import head
from server.storage.migrations import migrate as run_migrations
from server.storage.opening import open_database


@click.command()
@database_option
@json_option
@debug_option
@click.pass_obj
def migrate(options: dict[str, str]) -> None:
    """Bring a database to the schema of this version, as `serve` does at every start.

    Servers of the previous version can keep using a PostgreSQL database meanwhile. A migration that was interrupted
    continues where it stopped.
    """
    database = options["database"]
    configure_logs("info")
    with clear_start_failures(database):
        changed = asyncio.run(_migrate(database))
    if options["json"]:
        print_json({"database": without_password(database), "migration": head(), "changed": changed})
    else:
        click.echo(f"{without_password(database)} is {'now' if changed else 'already'} at {head()}")


async def _migrate(url: str) -> bool:
    database = await open_database(url)
    try:
        return await run_migrations(database)
    finally:
        await database.close()
