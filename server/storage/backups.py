"""Backups of whole databases, their restoration, and returning free space to the file system.

                SQLite                                          PostgreSQL
    back_up     a copy of one snapshot, beside a running        pg_dump
                server; the log grows meanwhile
    restore     a copy, where no database is                    pg_restore, into a database without tables
    compact     VACUUM, while no server runs                    VACUUM FULL of each table, which locks it meanwhile

A backup is readable by its owner alone, because it holds people's addresses and the digests of keys. It is complete or
not there: it has another name until it is durable.
"""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import subprocess
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Final, NamedTuple

from server.storage.sqlite_file import DatabaseFile, locked_beside

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from server.storage.postgres_url import PostgresUrl

_SQLITE: Final = b"SQLite format 3\0"
_POSTGRESQL: Final = b"PGDMP"


class BackupError(ValueError):
    """A backup could not be made or restored; the message says why. Nothing was left half done."""


class Sizes(NamedTuple):
    """The size of a database in bytes, before and after it was compacted."""

    before: int
    after: int


def back_up_sqlite(database: Path, file: Path, known: Collection[str]) -> None:
    """Copy a database file as it is now into a new file, also while a server writes it. Raise BackupError.

    `known` has the names of the migrations that this version knows, as it has for `restore_sqlite`.
    """
    if not database.is_file():
        raise BackupError(f"{database} does not exist")
    with _new_file(file) as partial, closing(_open(database, "mode=ro")) as source:
        with _failing_as(f"{database} could not be copied to {file}"), closing(sqlite3.connect(partial)) as copy:
            # In one step, which is one snapshot: after each smaller step, a write by the server would begin it anew.
            source.backup(copy)
            # With the write-ahead log, the header need not have the size of the file, and a cut copy would seem sound.
            copy.execute("PRAGMA journal_mode = DELETE")
        _check_sqlite(partial, database, known)


def restore_sqlite(file: Path, database: Path, known: Collection[str]) -> None:
    """Copy a backup to where no database is. Raise BackupError, and StorageBusy if a server is starting there."""
    _expect(file, _SQLITE, "an SQLite database")
    _check_whole(file)
    _check_sqlite(file, file, known)
    for path in (database, *_beside(database, "-wal", "-shm", "-journal")):
        if path.exists():
            raise BackupError(f"{path} exists: stop the server and move it away first, or name another database")
    if not database.parent.is_dir():
        raise BackupError(f"{database.parent} is not a folder")
    with locked_beside(database), _new_file(database) as partial:
        shutil.copyfile(file, partial)


def compact_sqlite(database: Path) -> Sizes:
    """Rewrite a database file without its free space. Needs as much space again. Raise BackupError and StorageBusy."""
    if not database.is_file():
        raise BackupError(f"{database} does not exist")
    locked = DatabaseFile.open(str(database))
    try:
        before = _size(database)
        with _failing_as(f"{database} could not be compacted"), closing(_open(database, "mode=rw")) as connection:
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return Sizes(before, _size(database))
    finally:
        locked.close()


def back_up_postgresql(url: PostgresUrl, file: Path) -> None:
    """Let pg_dump write a new file, in its custom format. Raise BackupError."""
    with _new_file(file) as partial:
        options = ("--format=custom", "--no-owner", "--no-privileges", f"--file={partial}")
        _run("pg_dump", url, *options)


def restore_postgresql(file: Path, url: PostgresUrl) -> None:
    """Let pg_restore fill a database without tables, in one transaction. Raise BackupError."""
    _expect(file, _POSTGRESQL, "a PostgreSQL database")
    if not re.search(r" TABLE \S+ alembic_version ", _run("pg_restore", None, "--list", str(file))):
        raise BackupError(f"{file} is not a backup of Signalbox: it has no table alembic_version")
    _run("pg_restore", url, "--single-transaction", "--exit-on-error", "--no-owner", "--no-privileges", str(file))


def compact_postgresql(url: PostgresUrl) -> None:
    """Let vacuumdb rewrite each table without its free space; meanwhile nothing can use it. Raise BackupError."""
    _run("vacuumdb", url, "--full", "--analyze", "--quiet")


@contextmanager
def _new_file(file: Path) -> Iterator[Path]:
    """Create a file of another name, readable by its owner alone; at the end it is durable and has its name."""
    if file.exists():
        raise BackupError(f"{file} exists: name another file, or remove it first")
    partial = file.with_name(f"{file.name}.partial")
    try:
        os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        raise BackupError(f"{partial} exists: another command writes it, or left it; remove it then") from None
    try:
        yield partial
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        # A link, because a rename would replace a file that was made meanwhile.
        file.hardlink_to(partial)
    finally:
        partial.unlink(missing_ok=True)
    folder = os.open(file.absolute().parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def _failing_as(what: str) -> Iterator[None]:
    """Turn what SQLite raises, such as for a full disk or a damaged file, into BackupError."""
    try:
        yield
    except sqlite3.Error as error:
        raise BackupError(f"{what}: {error}") from error


def _expect(file: Path, start: bytes, kind: str) -> None:
    """Raise BackupError unless a file begins like a backup of one kind of database."""
    with file.open("rb") as opened:
        found = opened.read(len(_SQLITE))
    if found.startswith(start):
        return
    other = {_SQLITE: "SQLite", _POSTGRESQL: "PostgreSQL"}
    made = next((f"it is one of {name}" for word, name in other.items() if found.startswith(word)), "it is none")
    raise BackupError(f"{file} is not a backup of {kind}: {made}")


def _beside(database: Path, *suffixes: str) -> list[Path]:
    """Return the paths of files that belong to a database file."""
    return [database.with_name(database.name + suffix) for suffix in suffixes]


def _check_whole(file: Path) -> None:
    """Raise BackupError if a file is the database of a server, whose newest changes are in a file beside it."""
    for path in _beside(file, "-wal", "-journal"):
        if path.exists() and path.stat().st_size:
            raise BackupError(f"{path} has changes that {file} lacks: make a backup of it with `signalbox backup`")


def _check_sqlite(path: Path, shown: Path, known: Collection[str]) -> None:
    """Raise BackupError unless a file is an undamaged database of a version that this one knows."""
    try:
        with closing(_open(path, "mode=ro&immutable=1")) as connection:
            damage = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            pages = connection.execute("PRAGMA page_count").fetchone()[0]
            page_size = connection.execute("PRAGMA page_size").fetchone()[0]
            versions = {row[0] for row in connection.execute("SELECT version_num FROM alembic_version")}
    except sqlite3.DatabaseError as error:
        raise BackupError(f"{shown} is not a database of Signalbox: {error}") from error
    if path.stat().st_size != pages * page_size:
        damage = f"it should have {pages:,} pages of {page_size:,} bytes"
    if damage != "ok":
        raise BackupError(f"{shown} is damaged: {damage}")
    if newer := versions.difference(known):
        raise BackupError(f"{shown} is of a newer version of Signalbox: it has the migration {min(newer)}")


def _open(path: Path, mode: str) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?{mode}", uri=True, isolation_level=None)


def _size(database: Path) -> int:
    wal = database.with_name(database.name + "-wal")
    return database.stat().st_size + (wal.stat().st_size if wal.exists() else 0)


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
