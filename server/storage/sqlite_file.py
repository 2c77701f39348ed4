"""The file of an SQLite database and the lock that keeps other servers away from it."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import IO

from server.errors import StorageBusy, StorageReadOnly, StorageUnavailable


def real_path(path: str) -> Path:
    """Resolve links: a file has one lock, whatever name it is opened by."""
    return Path(path).resolve()


def create_file(path: Path) -> None:
    """Create the file unless it exists, readable by its owner alone: it holds people's addresses."""
    os.close(_open(path))


def lock_file(database: Path) -> IO[str]:
    """Lock `<database>.lock` until the returned file is closed. Raise StorageBusy if another process holds the lock.

    The kernel releases the lock when the process ends, even after kill -9.
    """
    lock = os.fdopen(_open(database.with_name(database.name + ".lock")), "r+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise StorageBusy from error
    return lock


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except PermissionError as error:
        raise StorageReadOnly from error
    except OSError as error:
        raise StorageUnavailable from error
