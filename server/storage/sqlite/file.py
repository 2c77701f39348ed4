"""The file of an SQLite database: the locks that keep other servers away, and whether it is still there.

SQLite keeps writing to the open file after it was deleted or replaced, although nobody can open that file again. So the
device and inode of each file are compared with those of the opened files: after each commit, before anything is
reported as stored, and by `SqliteDatabase` in between.

    database    deleted or replaced            nothing is written any more
    -wal, -shm  deleted or replaced            nothing is written any more: a crash would lose what only they hold, and
                                               another program would not see the locks of this one
    lock file   deleted or replaced            locked again; if another process has locked it, as above

There are two locks, because the lock file may be deleted. The other one is on the database file itself: on Linux locks
of flock are independent of those of fcntl, which SQLite uses. Elsewhere there is only the lock file.
"""

from __future__ import annotations

import fcntl
import os
import sys
from contextlib import contextmanager
from errno import ENOENT
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import structlog

from server.errors import StorageBusy, StorageReadOnly, StorageReplaced, StorageUnavailable
from server.storage.usage import DatabaseSize

if TYPE_CHECKING:
    from collections.abc import Iterator

log = structlog.get_logger()

_ATTEMPTS: Final = 10
"""The most attempts to lock a file that is deleted again and again."""

_TAKEN_CHECKS: Final = 4
"""After this many checks, another process that has the lock file is one that keeps it."""

_Identity = tuple[int, int]
"""The device and inode of a file."""


class DatabaseFile:
    """An open and locked database file, until it is closed.

    Its own descriptor stays open as long as SQLite uses the file: closing any descriptor of it would release the locks
    that SQLite has on it.
    """

    def __init__(self, name: Path, path: Path, lock: int, file: int) -> None:
        self.path = path
        self._lock = lock
        self._file = file
        # Both the given name and the resolved path, because a link may be changed to point to another file.
        self._opened: dict[Path, _Identity] = dict.fromkeys((name, path), _identity(os.fstat(file)))
        self._replaced: StorageReplaced | None = None
        self._lock_taken = 0  # checks in succession that found the lock file in another process
        self._closed = False

    @classmethod
    def open(cls, name: str, *, create: bool = True) -> Self:
        """Open or create a file, readable by its owner alone because it holds people's addresses.

        Without `create`, raise FileNotFoundError if there is none, and leave none.

        Links are resolved, so that a file has one lock, whatever name it is opened by. The kernel releases the locks
        when the process ends. Raise StorageBusy if another process holds them, StorageReadOnly or StorageUnavailable.
        """
        path = Path(name).resolve()
        if not create and _find(path) is None:
            raise FileNotFoundError(ENOENT, "there is no database to serve: it must be migrated first", str(path))
        lock = _lock(_lock_path(path))
        try:
            file = _open(path)
            try:
                if sys.platform == "linux":
                    _flock(file)
                return cls(Path(name).absolute(), path, lock, file)
            except BaseException:
                os.close(file)
                raise
        except BaseException:
            os.close(lock)
            raise

    def watch_log(self) -> None:
        """Watch the files of the write-ahead log as well, which SQLite keeps while the database is open."""
        for suffix in ("-wal", "-shm"):
            path = self.path.with_name(self.path.name + suffix)
            self._opened[path] = _identity(path.stat())

    def check(self) -> None:
        """Raise StorageReplaced if a file was deleted or replaced, now or before. Takes a few microseconds."""
        if self._replaced is not None:
            raise self._replaced
        for path, opened in self._opened.items():
            if (found := _find(path)) != opened:
                self._refuse(path, "deleted" if found is None else "replaced by another file")

    def check_lock(self) -> None:
        """Lock the lock file again if it was deleted or replaced. Raise StorageReplaced if another process keeps it.

        A server that starts has it for a moment, until it finds the database file locked.
        """
        path = _lock_path(self.path)
        if self._replaced is not None or _find(path) == _identity(os.fstat(self._lock)):
            return
        try:
            lock = _lock(path)
        except StorageBusy:
            self._lock_taken += 1
            if self._lock_taken >= _TAKEN_CHECKS:
                self._refuse(path, "deleted and locked by another process")
        else:
            self._lock_taken = 0
            os.close(self._lock)
            self._lock = lock
            log.warning("lock_file_restored", path=str(path), cause="it was deleted while the server ran")

    def close(self) -> None:
        """Release the locks, after all connections are closed."""
        if not self._closed:
            self._closed = True
            os.close(self._file)
            os.close(self._lock)

    def _refuse(self, path: Path, happened: str) -> None:
        if self._replaced is None:
            self._replaced = StorageReplaced(path.name, happened)
            advice = "stop the server, put the right files in place, and start it again"
            log.error("database_file_lost", path=str(path), happened=happened, advice=advice)
        raise self._replaced


@contextmanager
def locked_beside(database: Path) -> Iterator[None]:
    """Hold the lock file of a database that need not exist. Raise StorageBusy if another process holds it."""
    lock = _lock(_lock_path(database))
    try:
        yield
    finally:
        os.close(lock)


def size_of_files(path: Path) -> DatabaseSize:
    """Return the size of a database's files and the free space beside them. Raise OSError."""
    main, wal, disk = path.stat(), _size_or_none(path.with_name(path.name + "-wal")), os.statvfs(path)
    return DatabaseSize(main.st_size, wal, disk.f_bavail * disk.f_frsize, main.st_mtime)


def _size_or_none(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


def _lock_path(database: Path) -> Path:
    return database.with_name(database.name + ".lock")


def _lock(path: Path) -> int:
    """Create and lock a lock file. Raise StorageBusy if another process holds it."""
    for _ in range(_ATTEMPTS):
        lock = _open(path)
        try:
            _flock(lock)
            if _find(path) == _identity(os.fstat(lock)):
                return lock
        except BaseException:
            os.close(lock)
            raise
        # It was deleted between being opened and being locked.
        os.close(lock)
    raise StorageBusy


def _flock(file: int) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise StorageBusy from error


def _find(path: Path) -> _Identity | None:
    """Return the identity of the file at a path, None if there is none. Raise StorageUnavailable."""
    try:
        return _identity(path.stat())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageUnavailable from error


def _identity(state: os.stat_result) -> _Identity:
    return state.st_dev, state.st_ino


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except PermissionError as error:
        raise StorageReadOnly from error
    except OSError as error:
        raise StorageUnavailable from error
