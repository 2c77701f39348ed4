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
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, TypeVar

import sqlalchemy as sa
from sqlalchemy import event

from server.sharing.current_project import SERVER, current_project
from server.sharing.fair_queue import FairQueue

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sqlalchemy import Connection, Engine

    from server.storage.sqlite_file import DatabaseFile

T = TypeVar("T")

_BUSY_TIMEOUT_MS: Final = 2_000
"""Less than DOUBT_SECONDS of `server.storage.health`, so that a send reports that another process holds the lock."""

PAGE_BYTES: Final = 8_192
"""The size of a page in a new file. A row longer than a quarter of a page takes a page of its own."""

CHECKPOINT_PAGES = 8_192
"""The number of pages in the WAL at which a commit checkpoints: writes them to the main file and syncs it.

64 MiB make checkpoints rare, and a start after a crash reads them in a fraction of a second.
"""

_SERVER_COST: Final = 0
"""The server's own work costs nothing, so it never waits for a turn, only for the running transaction."""


class SqliteWriter:
    """A thread that runs writing transactions one after the other.

    Projects take turns: one that writes without a pause delays another one by one transaction. Commits of events serve
    all projects and go first; one of them is queued at a time, so other transactions run between them.
    """

    def __init__(self, file: DatabaseFile) -> None:
        self._file = file
        self._engine = _engine(file.path)
        self._thread = ThreadPoolExecutor(1, "sqlite-writer")
        self._connection: Connection | None = None
        self._lock = threading.Lock()
        self._queue: FairQueue[tuple[Callable[[Connection], Any], Future[Any]]] = FairQueue()

    async def run(self, work: Callable[[Connection], T]) -> T:
        """Run work in one transaction, which is durable when this returns. A project's work runs in the order of calls.

        Work that has not begun when its caller is cancelled is not run.
        """
        self._file.check()
        project, done = current_project(), Future[T]()
        with self._lock:
            # Each task of the thread runs whatever is next in the queue by then.
            self._thread.submit(self._run_next)
            self._queue.push(project, (work, done), _SERVER_COST if project is SERVER else 1)
        result = await asyncio.wrap_future(done)
        # Nothing is reported as stored that was written to a deleted file. The event loop checks, because each check
        # releases the interpreter, and the thread would wait for the busy event loop to get it back.
        self._file.check()
        return result

    async def close(self) -> None:
        """Finish queued work and close the connection."""
        await asyncio.get_running_loop().run_in_executor(None, self._close)

    def _run_next(self) -> None:
        with self._lock:
            work, done = self._queue.pop()
        if not done.set_running_or_notify_cancel():
            return
        try:
            done.set_result(self._run(work))
        except BaseException as error:
            done.set_exception(error)

    def _run(self, work: Callable[[Connection], T]) -> T:
        if self._connection is None:
            self._connection = self._engine.connect()
        try:
            with self._connection.begin():
                return work(self._connection)
        finally:
            _end_transaction(self._connection)

    def _close(self) -> None:
        self._thread.shutdown()
        if self._connection is not None:
            self._connection.close()


def sqlite_driver(connection: Connection) -> sqlite3.Connection:
    """Return the driver's connection of a writing transaction, for statements that SQLAlchemy makes too slow."""
    driver: Any = connection.connection.driver_connection
    return driver  # type: ignore[no-any-return]


def _end_transaction(connection: Connection) -> None:
    """Roll back a transaction that is still open: SQLAlchemy does not do so if its COMMIT failed."""
    driver = sqlite_driver(connection)
    if driver.in_transaction:
        driver.rollback()


def _engine(path: Path) -> Engine:
    url = sa.URL.create("sqlite", database=str(path))
    engine = sa.create_engine(url, poolclass=sa.NullPool, hide_parameters=True)

    @event.listens_for(engine, "connect")
    def on_connect(driver: sqlite3.Connection, _record: Any) -> None:
        try:
            _prepare(driver)
        except BaseException:
            driver.close()  # SQLAlchemy drops it without closing it
            raise

    @event.listens_for(engine, "begin")
    def on_begin(connection: Connection) -> None:
        # The driver would begin a transaction only at the first change, after what was read to decide on it.
        sqlite_driver(connection).execute("BEGIN IMMEDIATE")

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
