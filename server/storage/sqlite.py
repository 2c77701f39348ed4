"""SQLite: one writing thread with one connection, readers apart.

SQLite before 3.51.3 can corrupt a WAL when two connections write or checkpoint at once, so exactly one connection does
either, and a lock file keeps a second server away.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import IO, TYPE_CHECKING, Any, TypeVar

import sqlalchemy
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError

from server.errors import StorageBusy, StorageError, StorageFull, StorageReadOnly, StorageRefused, StorageUnavailable
from server.storage.maintenance import SqliteMaintenance

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from sqlalchemy import Connection, Engine

    from server.storage.maintenance import Maintenance

T = TypeVar("T")

READERS = 2
READ_SECONDS = 10.0
"""A read that takes longer is given up, so that it holds its thread no longer than that."""

_STEPS_BETWEEN_LOOKS = 200_000
BUSY_TIMEOUT_MS = 5_000
# A checkpoint writes and syncs the main file inside a commit; every 64 MiB of WAL makes it rare, and a start after a
# crash reads that much in a fraction of a second.
CHECKPOINT_PAGES = 8_192
PAGE_BYTES = 8_192


class SqliteDatabase:
    """A database file that this process alone writes."""

    shared = False
    epoch = 0

    def __init__(self, path: Path) -> None:
        _create(path)
        self._lock = _lock_file(path)
        self._writer = ThreadPoolExecutor(1, "sqlite-writer")
        self._readers = ThreadPoolExecutor(READERS, "sqlite-reader")
        self._brief_reader = ThreadPoolExecutor(1, "sqlite-brief-reader")
        self._closing = False
        self._write_engine = _engine(path, "BEGIN IMMEDIATE", _prepare_writer)
        self._read_engine = _engine(path, "BEGIN", _prepare_reader)
        self._connections = threading.local()
        self._opened: list[Connection] = []

    @classmethod
    async def open(cls, path: str) -> SqliteDatabase:
        """Open or create the file. Raises StorageBusy if another server holds it."""
        if not path or path.startswith(":memory:"):
            raise ValueError("An in-memory database cannot be shared by readers and the writer: name a file")
        database = cls(_real(path))
        try:
            # SQLite takes BEGIN IMMEDIATE on a file that it cannot write for a read; this is a write.
            await database.write(lambda connection: connection.exec_driver_sql("PRAGMA user_version = 0"))
        except BaseException:
            await database.close()
            raise
        return database

    async def read(self, work: Callable[[Connection], T], *, brief: bool = False) -> T:
        """Run work on a reader thread; given up when the caller is, and after READ_SECONDS."""
        given_up = threading.Event()
        readers = self._brief_reader if brief else self._readers
        try:
            return await asyncio.get_running_loop().run_in_executor(readers, self._read, work, given_up)
        except asyncio.CancelledError:
            given_up.set()
            raise

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Run work on the writer thread, after all that was asked before."""
        return await asyncio.get_running_loop().run_in_executor(self._writer, self._run, self._write_engine, work)

    async def check(self) -> None:
        """Raise StorageError unless the file can be read; that it can be written was seen when it was opened."""
        await self.read(lambda connection: connection.exec_driver_sql("SELECT 1"), brief=True)

    @asynccontextmanager
    async def maintenance(self) -> AsyncIterator[Maintenance]:
        """Change the schema; the lock file keeps others away."""
        yield SqliteMaintenance(self)

    async def close(self) -> None:
        """Finish what runs, close every connection and let go of the file."""
        await asyncio.get_running_loop().run_in_executor(None, self._close)

    def _read(self, work: Callable[[Connection], T], given_up: threading.Event) -> T:
        latest = monotonic() + READ_SECONDS

        def stop() -> bool:
            return given_up.is_set() or self._closing or monotonic() > latest

        def bounded(connection: Connection) -> T:
            sqlite_driver(connection).set_progress_handler(stop, _STEPS_BETWEEN_LOOKS)
            return work(connection)

        return self._run(self._read_engine, bounded)

    def _run(self, engine: Engine, work: Callable[[Connection], T]) -> T:
        try:
            connection = self._connection(engine)
            try:
                with connection.begin():
                    return work(connection)
            finally:
                _end_transaction(connection)
        except DBAPIError as error:
            raise storage_error(error.orig) from error
        except sqlite3.Error as error:
            raise storage_error(error) from error

    def _connection(self, engine: Engine) -> Connection:
        connection: Connection | None = getattr(self._connections, "connection", None)
        if connection is None:
            connection = engine.connect()
            self._connections.connection = connection
            self._opened.append(connection)
        return connection

    def _close(self) -> None:
        self._closing = True
        self._readers.shutdown()
        self._brief_reader.shutdown()
        self._writer.shutdown()
        # The writer opened first and closes last: the last connection to close checkpoints.
        for connection in reversed(self._opened):
            connection.close()
        self._lock.close()


def sqlite_driver(connection: Connection) -> sqlite3.Connection:
    """Give the driver's connection, for what SQLAlchemy cannot do or does too slowly."""
    driver: Any = connection.connection.driver_connection
    return driver  # type: ignore[no-any-return]


def _end_transaction(connection: Connection) -> None:
    """Roll back what is still open: SQLAlchemy does not when it is the COMMIT that failed."""
    driver = sqlite_driver(connection)
    if driver.in_transaction:
        driver.rollback()


def storage_error(error: BaseException | None) -> StorageError:
    """Say what an error of the driver means for the service."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return StorageFull()
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
        return StorageReadOnly()
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_INTERRUPT):
        return StorageBusy()
    if code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return StorageUnavailable()
    return StorageRefused()


def _real(path: str) -> Path:
    """Resolve links: one file has one lock, by whatever name it is reached."""
    return Path(path).resolve()


def _create(path: Path) -> None:
    """Make the file, if there is none, for its owner alone: it holds people's addresses."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except PermissionError as error:
        raise StorageReadOnly from error
    except OSError as error:
        raise StorageUnavailable from error


def _lock_file(database: Path) -> IO[str]:
    """Hold `<database>.lock` for the life of the process; the kernel lets go of it even after kill -9."""
    path = database.with_name(database.name + ".lock")
    try:
        lock = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+")
    except PermissionError as error:
        raise StorageReadOnly from error
    except OSError as error:
        raise StorageUnavailable from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise StorageBusy from error
    return lock


def _engine(path: Path, begin: str, prepare: Callable[[sqlite3.Connection], None]) -> Engine:
    url = sqlalchemy.URL.create("sqlite", database=str(path))
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.pool.NullPool, hide_parameters=True)

    @event.listens_for(engine, "connect")
    def on_connect(connection: sqlite3.Connection, _record: Any) -> None:
        # The driver's own transaction handling is off: BEGIN is said below, once, for every transaction.
        connection.isolation_level = None
        prepare(connection)

    @event.listens_for(engine, "begin")
    def on_begin(connection: Connection) -> None:
        sqlite_driver(connection).execute(begin)

    return engine


def _prepare_writer(connection: sqlite3.Connection) -> None:
    connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    # A row longer than a quarter of a page takes a page of its own; the size counts when the file is made.
    connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise sqlite3.OperationalError(f"the journal mode is {mode}; readers beside the writer need wal")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
    connection.execute("PRAGMA foreign_keys = ON")


def _prepare_reader(connection: sqlite3.Connection) -> None:
    connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    connection.execute("PRAGMA query_only = ON")
    connection.execute("PRAGMA wal_autocheckpoint = 0")
