"""The writing side of SQLite: one thread with the only connection that writes or checkpoints.

There is one connection, because SQLite before 3.51.3 can corrupt a WAL if two of them write or checkpoint at once. It
uses a plain engine in a thread of its own, because aiosqlite crosses between threads for every statement: a transaction
of three statements takes 0.4 ms here and 0.9 ms through the async engine. Commits also need the driver's connection
itself (`sqlite_driver`).
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from contextlib import suppress
from queue import SimpleQueue
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError

from server.sharing.current_project import SERVER, current_project
from server.sharing.fair_queue import FairQueue
from server.sharing.interpreter_lock import LoopPauses, database_thread
from server.storage.damaged_text import replacing_damaged_text, report_damaged_text
from server.storage.statements import OPTIONS
from server.storage.usage import ConnectionUse

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sqlalchemy import Connection, Engine

    from server.storage.sqlite.file import DatabaseFile

T = TypeVar("T")

_BUSY_TIMEOUT_MS: Final = 2_000
"""Less than DOUBT_SECONDS of `server.storage.health`, so that a send reports that another process holds the lock."""

PAGE_BYTES: Final = 8_192
"""The size of a page in a new file. A row longer than a quarter of a page takes a page of its own."""

CHECKPOINT_PAGES = 8_192
"""The number of pages in the WAL at which a commit checkpoints: writes them to the main file and syncs it.

64 MiB make checkpoints rare, and a start after a crash reads them in a fraction of a second.
"""

_CHECKPOINT_SECONDS: Final = 0.005
"""A commit that takes less has made no checkpoint: it writes and syncs CHECKPOINT_PAGES pages."""

_Task: TypeAlias = "tuple[Callable[[Connection], Any], asyncio.Future[Any]]"
"""Work, and the future of its result."""

_SERVER_COST: Final = 0
"""The server's own work costs nothing, so it never waits for a turn, only for the running transaction."""


class SqliteWriter:
    """A thread that runs writing transactions one after the other.

    Projects take turns: one that writes without a pause delays another one by one transaction. Commits of events serve
    all projects and go first; one of them is queued at a time, so other transactions run between them.
    """

    def __init__(self, file: DatabaseFile) -> None:
        self.report_checkpoint: Callable[[float], None] | None = None
        self._file = file
        self._written_at = file.path.stat().st_mtime_ns
        self._running = False
        self._engine = _engine(file.path)
        self._connection: Connection | None = None
        self._lock = threading.Lock()
        self._queue: FairQueue[_Task] = FairQueue()
        # A token for each task of the queue, and None at the end. A pool of one thread does the same with futures of
        # its own: an empty transaction took 130 us by it, and takes 100.
        self._tokens: SimpleQueue[bool | None] = SimpleQueue()
        self._closed = False
        self._pauses = LoopPauses()
        self._thread = threading.Thread(target=self._run_tasks, name="sqlite-writer", daemon=True)
        self._thread.start()

    async def run(self, work: Callable[[Connection], T]) -> T:
        """Run work in one transaction, which is durable when this returns. A project's work runs in the order of calls.

        Work that has not begun when its caller is cancelled is not run.
        """
        self._file.check()
        if self._closed:
            raise RuntimeError("The database is closed")
        project, done = current_project(), asyncio.get_running_loop().create_future()
        with self._lock:
            self._queue.push(project, (work, done), _SERVER_COST if project is SERVER else 1)
        # The thread runs whatever is next by the time it takes a token.
        self._tokens.put(True)
        with self._pauses.awaiting():
            result: T = await done
        # Nothing is reported as stored that was written to a deleted file. The event loop checks, because each check
        # releases the interpreter, and the thread would wait for the busy event loop to get it back.
        self._file.check()
        return result

    def use(self) -> ConnectionUse:
        """Return the use of the connection."""
        return ConnectionUse(1, int(self._running), len(self._queue))

    def _note_slow(self, seconds: float) -> None:
        """Report a slow commit that has made a checkpoint: nothing else writes the main file."""
        with suppress(OSError):
            before, self._written_at = self._written_at, self._file.path.stat().st_mtime_ns
            if before != self._written_at and self.report_checkpoint is not None:
                self.report_checkpoint(seconds)

    async def close(self) -> None:
        """Finish queued work and close the connection."""
        self._closed = True
        self._tokens.put(None)
        await asyncio.get_running_loop().run_in_executor(None, self._close)

    def _close(self) -> None:
        self._thread.join()
        if self._connection is not None:
            self._connection.close()

    def _run_tasks(self) -> None:
        while self._tokens.get() is not None:
            with self._lock:
                task = self._queue.pop()
            self._running = True
            self._run_task(*task)
            self._running = False
            # The thread may wait for long, and the work holds the events of a commit.
            del task

    def _run_task(self, work: Callable[[Connection], Any], done: asyncio.Future[Any]) -> None:
        """Run work, and hand its result or error over to the loop that waits for it."""
        if done.cancelled():
            return
        result = error = None
        try:
            result = self._run(work)
        except BaseException as caught:
            error = caught
        # The loop closes without waiting for work whose caller has gone.
        with suppress(RuntimeError):
            done.get_loop().call_soon_threadsafe(_hand_out, done, result, error)
        # Its traceback refers to this frame.
        error = None

    def _run(self, work: Callable[[Connection], T]) -> T:
        try:
            return self._transact(work)
        except (DBAPIError, sqlite3.Error) as error:
            column = report_damaged_text(driver_error(error))
            if column is None:
                raise
        return self._transact(replacing_damaged_text(work, column))

    def _transact(self, work: Callable[[Connection], T]) -> T:
        if self._connection is None:
            self._connection = self._engine.connect()
        connection, driver = self._connection, sqlite_driver(self._connection)
        try:
            # The driver would begin a transaction only at the first change, after what was read to decide on it.
            driver.execute("BEGIN IMMEDIATE")
            database_thread.take()
            result = work(connection)
            database_thread.let_go()
            # SQLAlchemy takes part from its first statement on, and most commits of events have none: if it began and
            # ended the transaction, that would take 35 us of 100.
            began = perf_counter()
            connection.commit() if connection.in_transaction() else driver.commit()
            if (seconds := perf_counter() - began) > _CHECKPOINT_SECONDS:
                self._note_slow(seconds)
            return result
        finally:
            _end_transaction(self._connection)
            # Until the loop has handed the result out: the next commit waits for that.
            database_thread.has_result()


def _hand_out(done: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    """Resolve the future of a task on its loop, unless its caller has gone."""
    database_thread.let_go()
    if done.done():
        return
    if error is None:
        done.set_result(result)
    else:
        done.set_exception(error)


def sqlite_driver(connection: Connection) -> sqlite3.Connection:
    """Return the driver's connection of a writing transaction, for statements that SQLAlchemy makes too slow."""
    driver: Any = connection.connection.driver_connection
    return driver  # type: ignore[no-any-return]


def driver_error(error: DBAPIError | sqlite3.Error) -> BaseException | None:
    """Return the error of the driver: prepared statements raise it as it is, SQLAlchemy wraps it."""
    return error.orig if isinstance(error, DBAPIError) else error


def _end_transaction(connection: Connection) -> None:
    """Roll back a transaction that is still open: SQLAlchemy does not if it had no part in it, or its COMMIT failed."""
    connection.rollback()
    driver = sqlite_driver(connection)
    if driver.in_transaction:
        driver.rollback()


def _engine(path: Path) -> Engine:
    url = sa.URL.create("sqlite", database=str(path))
    engine = sa.create_engine(url, poolclass=sa.NullPool, hide_parameters=True, execution_options=OPTIONS)

    @event.listens_for(engine, "connect")
    def on_connect(driver: sqlite3.Connection, _record: Any) -> None:
        try:
            _prepare(driver)
        except BaseException:
            driver.close()  # SQLAlchemy drops it without closing it
            raise

    return engine


def _prepare(driver: sqlite3.Connection) -> None:
    driver.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_MS}")
    driver.execute(f"PRAGMA page_size = {PAGE_BYTES}")
    (mode,) = driver.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise sqlite3.OperationalError(f"the journal mode is {mode}; reading while the writer commits needs wal")
    driver.execute("PRAGMA synchronous = FULL")
    driver.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
    driver.execute("PRAGMA foreign_keys = ON")
