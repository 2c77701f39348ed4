"""Backups of an SQLite database: `backup_files` has what both kinds share."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from server.storage.backup_files import SQLITE, BackupError, Sizes, expect, new_file
from server.storage.sqlite.file import DatabaseFile, locked_beside

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path


def back_up_sqlite(database: Path, file: Path, known: Collection[str]) -> None:
    """Copy a database file as it is now into a new file, also while a server writes it. Raise BackupError.

    `known` has the names of the migrations that this version knows, as it has for `restore_sqlite`.
    """
    if not database.is_file():
        raise BackupError(f"{database} does not exist")
    with new_file(file) as partial, closing(_open(database, "mode=ro")) as source:
        with _failing_as(f"{database} could not be copied to {file}"), closing(sqlite3.connect(partial)) as copy:
            # In one step, which is one snapshot: after each smaller step, a write by the server would begin it anew.
            source.backup(copy)
            # With the write-ahead log, the header need not have the size of the file, and a cut copy would seem sound.
            copy.execute("PRAGMA journal_mode = DELETE")
        _check_sqlite(partial, database, known)


def restore_sqlite(file: Path, database: Path, known: Collection[str]) -> None:
    """Copy a backup to where no database is. Raise BackupError, and StorageBusy if a server is starting there."""
    expect(file, SQLITE, "an SQLite database")
    _check_whole(file)
    _check_sqlite(file, file, known)
    for path in (database, *_beside(database, "-wal", "-shm", "-journal")):
        if path.exists():
            raise BackupError(f"{path} exists: stop the server and move it away first, or name another database")
    if not database.parent.is_dir():
        raise BackupError(f"{database.parent} is not a folder")
    with locked_beside(database), new_file(database) as partial:
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


@contextmanager
def _failing_as(what: str) -> Iterator[None]:
    """Turn errors of SQLite, such as a full disk or a damaged file, into BackupError."""
    try:
        yield
    except sqlite3.Error as error:
        raise BackupError(f"{what}: {error}") from error


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
