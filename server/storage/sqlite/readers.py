"""The reading side of SQLite: read-only connections of SQLAlchemy's async engine, on aiosqlite.

An aiosqlite connection has a thread of its own, and every call to it crosses to that thread and back, which takes more
time than most queries. A read of one statement would cross eight times: twice for BEGIN, then to open, execute, fetch
from and close the cursor, to end the transaction, and once more when the pool ends it. Here a read crosses once,
however many statements it has: `run_transaction`, which PostgreSQL runs in the event loop, runs in the thread of the
connection, where calls of the driver return at once (`ReadingConnection`).

The connections stay checked out, because SQLAlchemy's pool takes as long for each read as a query by key.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections import deque
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, TypeVar

import aiosqlite
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.ext.asyncio import create_async_engine

from server.errors import StorageUnavailable
from server.sharing.fair_queue import FairTurns
from server.storage.connection_turns import turn_for_project
from server.storage.statements import OPTIONS
from server.storage.transactions import finished, run_transaction

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

T = TypeVar("T")

READ_SECONDS: Final = 10.0
"""The time limit of one read, which has its connection for that long at most."""

_BUSY_TIMEOUT_MS: Final = 5_000

_STEPS_PER_CHECK: Final = 200_000
"""A statement checks whether to stop after this many steps of SQLite's virtual machine, every few milliseconds."""

_ROWS_PER_CHUNK: Final = 64
"""The rows that aiosqlite fetches at a time."""


class Readers:
    """A fixed number of reading connections, of which the reads of one project use at most `share` at the same time.

    Projects whose reads wait take turns (`FairTurns`); those of one project run in the order in which they arrive.
    """

    def __init__(self, path: Path, count: int, share: int) -> None:
        self._path = path
        self._engine = _engine(self._connect)
        self.turns = FairTurns(count, share)
        self._idle: deque[tuple[AsyncConnection, ReadingConnection]] = deque()
        self._closing = threading.Event()
        self._reads = 0
        self._done = asyncio.Event()

    async def run(self, work: Callable[[Connection], T]) -> T:
        """Run work in one read-only transaction, which sees one state of the database.

        It is interrupted, with an error of the driver, after READ_SECONDS, and when the caller is cancelled. Raise
        ProjectBusy if it gets no turn in time, and StorageUnavailable after `close`.
        """
        if self._closing.is_set():
            raise StorageUnavailable
        self._reads += 1
        try:
            async with turn_for_project(self.turns):
                return await self._run(work)
        finally:
            self._reads -= 1
            if self._closing.is_set() and not self._reads:
                self._done.set()

    async def close(self) -> None:
        """Interrupt long reads, wait until the others have ended, and close the connections."""
        if self._closing.is_set():
            return
        self._closing.set()
        if self._reads:
            await self._done.wait()
        for connection, driver in self._idle:
            await driver.settle()
            await connection.close()

    async def _run(self, work: Callable[[Connection], T]) -> T:
        if not self._idle:
            # Not cancelled half-way, because nobody would close a connection that opens after its caller has left.
            await finished(self._open())
        connection, driver = self._idle.popleft()
        try:
            return await driver.run(run_transaction(connection, work))
        finally:
            # Last in the queue: the read of a cancelled caller may still be running for a moment.
            self._idle.append((connection, driver))

    async def _open(self) -> None:
        connection = await self._engine.connect()
        driver: Any = (await connection.get_raw_connection()).driver_connection
        self._idle.append((connection, driver))

    async def _connect(self) -> ReadingConnection:
        connection = ReadingConnection(self._path, self._closing)
        await connection
        return connection


@dataclass(slots=True)
class _Limits:
    """The conditions that end a read early. Set in the event loop, checked in the thread of the connection."""

    closing: threading.Event
    cancelled: bool = False
    deadline: float = field(default=0.0)

    def exceeded(self) -> bool:
        return self.cancelled or self.closing.is_set() or monotonic() > self.deadline


class ReadingConnection(aiosqlite.Connection):
    """A read-only connection to a file, whose thread can run whole coroutines."""

    def __init__(self, path: Path, closing: threading.Event) -> None:
        super().__init__(lambda: _connect(path), _ROWS_PER_CHUNK)
        self._closing = closing
        self._thread.name = "sqlite-reader"
        # A connection that nobody closed must not keep the process from ending.
        self._thread.daemon = True

    async def run(self, read: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the thread of this connection. It must await nothing but this connection.

        If the caller is cancelled, the coroutine's statement is interrupted, and `run` does not wait for it.
        """
        limits = _Limits(self._closing)
        try:
            result: T = await self._execute(self._run, read, limits)
        except asyncio.CancelledError:
            limits.cancelled = True
            raise
        return result

    async def settle(self) -> None:
        """Wait until the thread has left the reads of cancelled callers."""
        await self._execute(lambda: None)

    @property
    def plain(self) -> sqlite3.Connection:
        """The connection of the driver, for its own thread: a statement takes a third of the time there."""
        return self._conn

    def begin(self) -> None:
        """Begin a transaction, in the thread of this connection."""
        self._conn.execute("BEGIN")

    def _run(self, read: Coroutine[Any, Any, T], limits: _Limits) -> T:
        limits.deadline = monotonic() + READ_SECONDS
        self._conn.set_progress_handler(limits.exceeded, _STEPS_PER_CHECK)
        try:
            read.send(None)
        except StopIteration as end:
            result: T = end.value
            return result
        read.close()
        raise RuntimeError("A read of SQLite waited for something other than its connection")

    async def _execute(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a function in the thread of this connection; at once, if this is that thread.

        Every call of aiosqlite and its cursors comes through here.
        """
        if threading.current_thread() is self._thread:
            return fn(*args, **kwargs)
        return await super()._execute(fn, *args, **kwargs)  # type: ignore[no-untyped-call]


def _engine(connect: Callable[[], Coroutine[Any, Any, ReadingConnection]]) -> AsyncEngine:
    engine = create_async_engine(
        "sqlite+aiosqlite:///file",
        async_creator=connect,
        poolclass=sa.NullPool,
        hide_parameters=True,
        execution_options=OPTIONS,
    )

    @event.listens_for(engine.sync_engine, "begin")
    def on_begin(connection: Connection) -> None:
        driver: Any = connection.connection.driver_connection
        driver.begin()

    return engine


def _connect(path: Path) -> sqlite3.Connection:
    # The driver begins no transactions of its own.
    driver = sqlite3.connect(path, isolation_level=None)
    try:
        driver.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_MS}")
        driver.execute("PRAGMA query_only = ON")
        driver.execute("PRAGMA wal_autocheckpoint = 0")
    except BaseException:
        driver.close()
        raise
    return driver
