"""The reading side of SQLite: read-only connections of SQLAlchemy's async engine, on aiosqlite.

An aiosqlite connection has a thread of its own, and every call crosses to that thread and back, which costs more than
most queries do. Out of the box a read of one statement takes eight crossings: BEGIN takes two, then the cursor is
opened, executed, fetched from and closed, the transaction ends, and the pool ends it once more. Here it takes one:

    the first statement of a read   BEGIN, execute, fetch the first rows    one crossing
    every other statement           execute, fetch the first rows           one crossing
    further rows                    fetch                                   one crossing for each fetch
    the end of the read             ROLLBACK, which does no I/O             none: it runs in the event loop

The connections stay checked out, because SQLAlchemy's pool costs as much for each read as a query by key.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self, TypeVar

import aiosqlite
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from server.errors import StorageUnavailable
from server.storage.transactions import finished, run_transaction

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncConnection

T = TypeVar("T")
R = TypeVar("R")

READ_SECONDS: Final = 10.0
"""The time limit of one read: it keeps its connection from other reads no longer than that."""

_BUSY_TIMEOUT_MS: Final = 5_000
_STEPS_PER_CHECK: Final = 200_000
"""Steps of SQLite's virtual machine, a few milliseconds, after which a statement checks whether to stop."""
_ROWS_AHEAD: Final = 128
"""Rows fetched together with the statement, so that a page of the default size takes one crossing."""


class Readers:
    """A fixed number of reading connections. Reads take turns in the order in which they arrive."""

    def __init__(self, path: Path, count: int) -> None:
        self._path = path
        self._count = count
        self._engine = create_async_engine(
            sa.URL.create("sqlite+aiosqlite", database=str(path)),
            async_creator=self._connect,
            poolclass=sa.NullPool,
            hide_parameters=True,
        )
        self._turns = asyncio.Semaphore(count)
        self._idle: list[AsyncConnection] = []
        self._closing = threading.Event()

    async def run(self, work: Callable[[Connection], T]) -> T:
        """Run work in one read-only transaction, which sees one state of the database.

        It is interrupted, with an error of the driver, after READ_SECONDS, and when the caller is cancelled. Raise
        StorageUnavailable after `close`.
        """
        if self._closing.is_set():
            raise StorageUnavailable
        async with self._turns:
            if not self._idle:
                # Not cancelled half-way: nobody would close a connection that opens for a caller who has left.
                await finished(self._open())
            connection = self._idle.pop()
            try:
                result = await run_transaction(connection, work)
            except Exception:
                self._idle.append(connection)
                raise
            except BaseException:
                # The caller was cancelled, and the thread of the connection may still be in a statement.
                await finished(_discard(connection))
                raise
            self._idle.append(connection)
            return result

    async def close(self) -> None:
        """Interrupt long reads, wait until the others have ended, and close the connections."""
        if self._closing.is_set():
            return
        self._closing.set()
        for _ in range(self._count):
            await self._turns.acquire()
        for connection in self._idle:
            await connection.close()

    async def _open(self) -> None:
        self._idle.append(await self._engine.connect())

    async def _connect(self) -> ReadingConnection:
        connection = ReadingConnection(self._path, self._closing)
        await connection
        return connection


async def _discard(connection: AsyncConnection) -> None:
    await connection.invalidate()
    await connection.close()


@dataclass(slots=True)
class _Limits:
    """What ends a statement early. Set in the event loop, checked in the thread of the connection."""

    closing: threading.Event
    cancelled: bool = False
    deadline: float = field(default=0.0)

    def exceeded(self) -> bool:
        return self.cancelled or self.closing.is_set() or monotonic() > self.deadline


class ReadingConnection(aiosqlite.Connection):
    """A read-only connection to a file, which SQLAlchemy uses through its interface for async drivers.

    A transaction begins with its first statement, as it does in SQLite, where BEGIN alone takes no snapshot.
    """

    def __init__(self, path: Path, closing: threading.Event) -> None:
        # Not a bound method: the driver's connection would hold this one, and be held by it.
        self._limits = limits = _Limits(closing)
        super().__init__(lambda: _connect(path, limits), iter_chunk_size=_ROWS_AHEAD)
        self._thread.name = "sqlite-reader"
        # A connection that nobody closed must not keep the process from ending.
        self._thread.daemon = True
        self._in_read = False
        self._busy = False

    def cursor(self) -> Any:
        """Return a cursor that opens with its statement."""
        return _ReadingCursor(self)

    async def begin_statement(self, sql: str, parameters: Sequence[Any]) -> _Fetched:
        """Execute a statement, the first one of a read in a new transaction, and fetch its first rows."""
        begins, self._in_read = not self._in_read, True
        if begins:
            self._limits.deadline = monotonic() + READ_SECONDS
        return await self.cross(_begin_statement, self._conn, sql, parameters, begins)

    async def cross(self, function: Callable[..., R], *arguments: Any) -> R:
        """Run a function in the thread of this connection."""
        self._busy = True
        try:
            result: R = await self._execute(function, *arguments)  # type: ignore[no-untyped-call]
        except asyncio.CancelledError:
            # What still runs is interrupted; the connection is then closed.
            self._limits.cancelled = True
            raise
        except BaseException:
            self._busy = False
            raise
        self._busy = False
        return result

    async def rollback(self) -> None:
        """End the read, in the event loop: after a read, SQLite only releases a lock in shared memory."""
        self._in_read = False
        if not self._busy:
            self._conn.rollback()

    async def commit(self) -> None:
        """End the read: there is nothing to commit."""
        await self.rollback()


class _Fetched(NamedTuple):
    """The first rows of a statement; `rest` is where others may follow."""

    description: Any = None
    rows: Sequence[Any] = ()
    rest: sqlite3.Cursor | None = None


class _ReadingCursor:
    """The result of one statement, in the form in which SQLAlchemy expects the cursors of async drivers."""

    arraysize = 1
    rowcount = -1
    lastrowid: Final = None

    def __init__(self, connection: ReadingConnection) -> None:
        self._connection = connection
        self._fetched = _Fetched()

    async def __aenter__(self) -> Self:
        return self

    @property
    def description(self) -> Any:
        return self._fetched.description

    async def execute(self, sql: str, parameters: Sequence[Any] = ()) -> None:
        self._fetched = await self._connection.begin_statement(sql, parameters)

    async def fetchone(self) -> Any:
        return next(iter(await self.fetchmany(1)), None)

    async def fetchmany(self, size: int = 1) -> Sequence[Any]:
        description, rows, rest = self._fetched
        if rows or rest is None:
            self._fetched = _Fetched(description, rows[size:], rest)
            return rows[:size]
        fetched: Sequence[Any] = await self._connection.cross(rest.fetchmany, size)
        if len(fetched) < size:
            self._fetched = _Fetched(description)
        return fetched

    async def fetchall(self) -> Sequence[Any]:
        description, rows, rest = self._fetched
        self._fetched = _Fetched(description)
        return rows if rest is None else [*rows, *await self._connection.cross(rest.fetchall)]

    async def close(self) -> None:
        description, _, rest = self._fetched
        self._fetched = _Fetched(description)
        if rest is not None:
            await self._connection.cross(rest.close)


def _begin_statement(driver: sqlite3.Connection, sql: str, parameters: Sequence[Any], begins: bool) -> _Fetched:
    if begins:
        driver.execute("BEGIN")
    cursor = driver.execute(sql, parameters)
    rows = cursor.fetchmany(_ROWS_AHEAD)
    return _Fetched(cursor.description, rows, cursor if len(rows) == _ROWS_AHEAD else None)


def _connect(path: Path, limits: _Limits) -> sqlite3.Connection:
    # Used in its thread, but for the end of each read. The driver begins no transactions of its own.
    driver = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        driver.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_MS}")
        driver.execute("PRAGMA query_only = ON")
        driver.execute("PRAGMA wal_autocheckpoint = 0")
        driver.set_progress_handler(limits.exceeded, _STEPS_PER_CHECK)
    except BaseException:
        driver.close()
        raise
    return driver
