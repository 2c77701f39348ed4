"""SQLite: one process, one writing thread, six reading connections.

    write            one connection in a thread of its own (`writer`)
    read             two connections, for lists and other long reads (`readers`)
    delivery read    two connections, for matches to deliver, which never wait for a long read
    brief read       two connections, for keys, definitions and versions, which wait for neither

The reads of one project use at most one connection of each kind, and projects take turns to write.

Locks keep a second server away, and a file that was deleted or replaced is noticed (`file`).
"""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final, TypeVar

from sqlalchemy.exc import DBAPIError

from server.errors import (
    InternalError,
    StorageBusy,
    StorageError,
    StorageFull,
    StorageReadOnly,
    StorageReplaced,
    StorageUnavailable,
)
from server.process.recurring import Recurring
from server.sharing.current_project import SERVER, current_project
from server.sharing.small_work import SmallWork
from server.storage.connection_turns import use_of
from server.storage.damaged_text import replacing_damaged_text, report_damaged_text
from server.storage.sqlite.file import DatabaseFile, size_of_files
from server.storage.sqlite.readers import Readers
from server.storage.sqlite.writer import SqliteWriter, driver_error
from server.storage.transactions import finished

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from sqlalchemy import Connection

    from server.storage.schema_changes import Maintenance, NewIndex
    from server.storage.usage import ConnectionUse, DatabaseSize

T = TypeVar("T")

CHECK_SECONDS: Final = 0.5
"""The interval at which a deleted or replaced file is noticed while nothing is written."""

READERS: Final = 2
"""The number of reading connections of each kind."""

READER_SHARE: Final = 1
"""The connections of each kind that one project uses at the same time, so that another one finds a free connection."""


class SqliteDatabase:
    """A database file that this process alone writes."""

    kind = "sqlite"
    shared = False
    epoch = 0

    def __init__(self, file: DatabaseFile) -> None:
        self._file = file
        self._writer = SqliteWriter(file)
        self._readers = Readers(file.path, READERS, READER_SHARE)
        self._delivery_readers = Readers(file.path, READERS, READER_SHARE)
        self._brief_readers = Readers(file.path, READERS, READER_SHARE)
        self._watch = Recurring("database file", self._check_file)

    @classmethod
    async def open(cls, path: str, *, create: bool = True) -> SqliteDatabase:
        """Open or create the file. Raise StorageBusy if another server holds it, and FileNotFoundError."""
        if not path or path.startswith(":memory:"):
            raise ValueError("An in-memory database cannot be shared by readers and the writer: name a file")
        database = cls(DatabaseFile.open(path, create=create))
        try:
            # SQLite takes BEGIN IMMEDIATE on a file that it cannot write for a read; this is a write.
            await database.write(_write_a_page)
            database._file.watch_log()
            database._watch.start()
        except BaseException:
            await database.close()
            raise
        return database

    async def read(self, work: Callable[[Connection], T], *, brief: bool = False, delivery: bool = False) -> T:
        """Run work in one snapshot; it is interrupted when the caller is cancelled, and after READ_SECONDS.

        `brief` and `delivery` choose the connections. Raise StorageError, and ProjectBusy if it gets no turn in time.
        """
        readers = self._brief_readers if brief else self._delivery_readers if delivery else self._readers
        try:
            with SmallWork(current_project() if brief or delivery else SERVER):
                try:
                    return await readers.run(work)
                except (DBAPIError, sqlite3.Error) as error:
                    column = report_damaged_text(driver_error(error))
                    if column is None:
                        raise
                return await readers.run(replacing_damaged_text(work, column))
        except (DBAPIError, sqlite3.Error) as error:
            raise storage_error(driver_error(error)) from error

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Run work in one transaction. Projects take turns; work for one project runs in the order of the calls."""
        try:
            with SmallWork(current_project()):
                return await self._writer.run(work)
        except (DBAPIError, sqlite3.Error) as error:
            raise storage_error(driver_error(error)) from error

    async def check(self) -> None:
        """Raise StorageError unless the file is in place and can be written."""
        await self.write(_write_a_page)

    async def version(self) -> str:
        """Return the version of the SQLite library."""
        return sqlite3.sqlite_version

    def connections(self) -> Mapping[str, ConnectionUse]:
        """Return the use of the connections."""
        return {
            "read": use_of(self._readers.turns),
            "delivery": use_of(self._delivery_readers.turns),
            "brief": use_of(self._brief_readers.turns),
            "write": self._writer.use(),
        }

    async def size(self) -> DatabaseSize:
        """Return the size of the files, and when the main file was last written."""
        return await asyncio.to_thread(size_of_files, self._file.path)

    def on_checkpoint(self, report: Callable[[float], None]) -> None:
        """Set the function that the writing thread calls with the duration of each commit that made a checkpoint."""
        self._writer.report_checkpoint = report

    @asynccontextmanager
    async def maintenance(self) -> AsyncIterator[Maintenance]:
        """Change the schema; the lock file keeps other servers away."""
        yield SqliteMaintenance(self)

    async def close(self) -> None:
        """Finish running work, close every connection and release the file."""
        await finished(self._close())

    async def _check_file(self) -> float:
        """Notice a deleted or replaced file even if nothing is written. Return the seconds until the next check."""
        with suppress(StorageReplaced):
            self._file.check()
            self._file.check_lock()
        return CHECK_SECONDS

    async def _close(self) -> None:
        await self._watch.close()
        for readers in (self._readers, self._delivery_readers, self._brief_readers):
            await readers.close()
        # Last, because the last connection to close checkpoints.
        await self._writer.close()
        self._file.close()


def _write_a_page(connection: Connection) -> None:
    """Write the first page as it is."""
    connection.exec_driver_sql("PRAGMA user_version = 0")


class SqliteMaintenance:
    """Changes the schema of a file, which this process alone writes."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database

    async def alter(self, work: Callable[[Connection], T]) -> T:
        """Run work in one transaction."""
        return await self._database.write(work)

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Run work in one transaction."""
        return await self._database.write(work)

    async def build_index(self, index: NewIndex) -> None:
        """Build an index unless it exists."""
        await self._database.write(lambda connection: connection.exec_driver_sql(index.statement()))


def storage_error(error: BaseException | None) -> StorageError:
    """Return the service's error for an error of the driver."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return StorageFull()
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
        return StorageReadOnly()
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_INTERRUPT):
        return StorageBusy()
    if code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return StorageUnavailable()
    return InternalError()
