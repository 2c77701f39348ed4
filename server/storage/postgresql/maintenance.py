"""Changing the schema of a PostgreSQL database while other servers work on it.

Only one server changes the schema at a time, and its statements have no client-side time limit. A statement that needs
a strong lock waits for it only `LOCK_SECONDS`: all other statements on the table have to queue meanwhile. Then it gives
up and tries again later.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, TypeVar

import structlog
from sqlalchemy.exc import DBAPIError

from server.errors import StorageUnavailable
from server.storage.schema_changes import PROGRESS_SECONDS, NewIndex, SchemaChangeFailed
from server.storage.transactions import run_transaction

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

log = structlog.get_logger()

T = TypeVar("T")

LOCK_SECONDS: Final = 1.0
"""The longest time for which one attempt to change a table may block the writes of others."""
PATIENCE_SECONDS: Final = 600.0
"""The time after which a change fails if it could not get its lock."""
FIRST_PAUSE_SECONDS: Final = 0.5
LONGEST_PAUSE_SECONDS: Final = 10.0
TURN_POLL_SECONDS: Final = 0.5

_TURN: Final = 7446256
_OLDER_TURN: Final = 7446254
"""Taken by the migrations of releases up to 0.1."""
_LOCK_NOT_AVAILABLE, _DEADLOCK = "55P03", "40P01"


class PostgresMaintenance:
    """Changes a database that other servers use. `settings` is a statement that begins each transaction, if any."""

    def __init__(self, engine: AsyncEngine, settings: str) -> None:
        self._engine = engine
        self._settings = settings

    async def alter(self, work: Callable[[Connection], T]) -> T:
        """Run work in one transaction that waits LOCK_SECONDS at most for each lock; try again until it gets them."""

        def locking(connection: Connection) -> T:
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = {round(LOCK_SECONDS * 1_000)}")
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_OLDER_TURN})")
            return work(connection)

        return await self._patiently(lambda: self.write(locking))

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Run work in one transaction without a time limit."""

        def begun(connection: Connection) -> T:
            if self._settings:
                connection.exec_driver_sql(self._settings)
            return work(connection)

        try:
            async with self._engine.connect() as connection:
                return await run_transaction(connection, begun)
        except OSError as error:
            raise StorageUnavailable from error

    async def build_index(self, index: NewIndex) -> None:
        """Build an index while writes continue; one that an earlier attempt left invalid is rebuilt."""
        watching = asyncio.create_task(self._log_progress(index), name="log-index-progress")
        try:
            await self._patiently(lambda: self._build(index))
        finally:
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching

    async def _build(self, index: NewIndex) -> None:
        async with self._engine.connect() as plain:
            connection = await plain.execution_options(isolation_level="AUTOCOMMIT")
            # A backend keeps building after its client was killed.
            while await _scalar(connection, _BUILDING.format(index.name)):  # noqa: ASYNC110 - only the database knows
                await asyncio.sleep(TURN_POLL_SECONDS)
            if await _scalar(connection, _IS_VALID.format(index.name)) is False:
                log.info("dropping_invalid_index", index=index.name)
                await connection.exec_driver_sql(f"DROP INDEX CONCURRENTLY IF EXISTS {index.name}")
            await connection.exec_driver_sql(index.statement("CONCURRENTLY"))

    async def _patiently(self, attempt: Callable[[], Awaitable[T]]) -> T:
        until, pause = monotonic() + PATIENCE_SECONDS, FIRST_PAUSE_SECONDS
        while True:
            try:
                return await attempt()
            except DBAPIError as error:
                if getattr(error.orig, "sqlstate", None) not in (_LOCK_NOT_AVAILABLE, _DEADLOCK):
                    raise
                holder = await self._oldest_holder()
                if monotonic() > until:
                    raise SchemaChangeFailed(f"A table stays locked by {holder}: end it, then migrate again") from error
            log.warning("schema_change_waits_for_lock", held_by=holder, retry_seconds=pause)
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)

    async def _oldest_holder(self) -> str:
        """Describe the transaction that has held locks on tables for the longest time."""
        async with self._engine.connect() as connection:
            row = (await connection.exec_driver_sql(_OLDEST_HOLDER)).one_or_none()
        if row is None:
            return "a transaction that has ended meanwhile"
        return f'the transaction of process {row.pid} ("{row.application_name}"), open for {row.seconds} s'

    async def _log_progress(self, index: NewIndex) -> None:
        """Log the progress of the index, and the transaction for which it waits."""
        while True:
            await asyncio.sleep(PROGRESS_SECONDS)
            async with self._engine.connect() as connection:
                row = (await connection.exec_driver_sql(f"{_PROGRESS} '{index.table}'::regclass")).one_or_none()
            if row is not None:
                log.info("building_index", index=index.name, **row._asdict())


@asynccontextmanager
async def postgres_maintenance(engine: AsyncEngine, settings: str) -> AsyncIterator[PostgresMaintenance]:
    """Wait until no other server changes the schema, and keep others from changing it until the context is left.

    The lock belongs to a transaction, which holds no snapshot: it works through a pooler, and CREATE INDEX
    CONCURRENTLY, which waits for every older snapshot, does not wait for it. For the same reason the lock is polled.
    """
    waiting = False
    while True:
        async with engine.connect() as plain:
            connection = await plain.execution_options(isolation_level="READ COMMITTED")
            if await _scalar(connection, f"SELECT pg_try_advisory_xact_lock({_TURN})"):
                # A statement that takes no snapshot also ends that of the statement before.
                await connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")
                yield PostgresMaintenance(engine, settings)
                return
        if not waiting:
            waiting = True
            log.info("waiting_for_migration", of="another server")
        await asyncio.sleep(TURN_POLL_SECONDS)


async def _scalar(connection: AsyncConnection, statement: str) -> Any:
    return (await connection.exec_driver_sql(statement)).scalar()


_BUILDING = "SELECT 1 FROM pg_stat_progress_create_index WHERE index_relid = to_regclass('{}')"
_IS_VALID = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('{}')"
_PROGRESS = (
    "SELECT phase, blocks_done, blocks_total, tuples_done, tuples_total, current_locker_pid AS waits_for_process"
    " FROM pg_stat_progress_create_index WHERE relid ="
)
_FIRST_USER_TABLE = 16_384
_OLDEST_HOLDER = f"""
    SELECT pid, application_name, round(extract(epoch FROM clock_timestamp() - xact_start))::bigint AS seconds
    FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND xact_start IS NOT NULL AND pid IN (
        SELECT pid FROM pg_locks WHERE locktype = 'relation' AND granted AND relation >= {_FIRST_USER_TABLE}
    )
    ORDER BY xact_start LIMIT 1
"""  # noqa: S608 - our own words
