"""Backups of a PostgreSQL database, by its client programs: `backup_files` has what both kinds share."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from typing import TYPE_CHECKING

from server.storage.backup_files import POSTGRESQL, BackupError, expect, new_file

if TYPE_CHECKING:
    from pathlib import Path

    from server.storage.postgresql.url import PostgresUrl


def back_up_postgresql(url: PostgresUrl, file: Path) -> None:
    """Let pg_dump write a new file, in its custom format. Raise BackupError."""
    with new_file(file) as partial:
        options = ("--format=custom", "--no-owner", "--no-privileges", f"--file={partial}")
        _run("pg_dump", url, *options)


def restore_postgresql(file: Path, url: PostgresUrl) -> None:
    """Let pg_restore fill a database without tables, in one transaction. Raise BackupError."""
    expect(file, POSTGRESQL, "a PostgreSQL database")
    if not re.search(r" TABLE \S+ alembic_version ", _run("pg_restore", None, "--list", str(file))):
        raise BackupError(f"{file} is not a backup of Signalbox: it has no table alembic_version")
    _run("pg_restore", url, "--single-transaction", "--exit-on-error", "--no-owner", "--no-privileges", str(file))


def compact_postgresql(url: PostgresUrl) -> None:
    """Let vacuumdb rewrite each table without its free space; meanwhile nothing can use it. Raise BackupError."""
    _run("vacuumdb", url, "--full", "--analyze", "--quiet")


def _run(program: str, url: PostgresUrl | None, *options: str) -> str:
    """Run a program of PostgreSQL, on a database if there is a URL, and return its output.

    Other users could read a password among its arguments.
    """
    path = shutil.which(program)
    if path is None:
        raise BackupError(f"{program} is not installed: it is part of the client programs of PostgreSQL")
    environment = {**os.environ, **({"PGPASSWORD": url.password} if url and url.password else {})}
    connection = ["--no-password", f"--dbname={url.connection_string()}"] if url else []
    command = [path, *connection, *options]
    done = subprocess.run(command, env=environment, capture_output=True, check=False)  # noqa: S603 - no shell
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or [f"it ended with {done.returncode}"]
        raise BackupError(f"{program} failed: {lines[0]}")
    return done.stdout.decode(errors="replace")
