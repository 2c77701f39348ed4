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
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


SQLITE: Final = b"SQLite format 3\0"
POSTGRESQL: Final = b"PGDMP"


class BackupError(ValueError):
    """A backup could not be made or restored; the message says why. Nothing was left half done."""


class Sizes(NamedTuple):
    """The size of a database in bytes, before and after it was compacted."""

    before: int
    after: int


@contextmanager
def new_file(file: Path) -> Iterator[Path]:
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


def expect(file: Path, start: bytes, kind: str) -> None:
    """Raise BackupError unless a file begins like a backup of one kind of database."""
    with file.open("rb") as opened:
        found = opened.read(len(SQLITE))
    if found.startswith(start):
        return
    other = {SQLITE: "SQLite", POSTGRESQL: "PostgreSQL"}
    made = next((f"it is one of {name}" for word, name in other.items() if found.startswith(word)), "it is none")
    raise BackupError(f"{file} is not a backup of {kind}: {made}")
