"""PostgreSQL, through SQLAlchemy's async engine on asyncpg."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from time import monotonic
from typing import TYPE_CHECKING, Final, TypeVar

import sqlalchemy as sa
import structlog
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from server.errors import (
    InternalError,
    ServiceError,
    StorageBusy,
    StorageFailed,
    StorageFull,
    StorageReadOnly,
    StorageUnavailable,
    UnstorableText,
)
from server.sharing.current_project import SERVER, current_project
from server.sharing.fair_queue import FairTurns
from server.sharing.small_work import SmallWork
from server.storage.connection_turns import turn_for_project, use_of
from server.storage.postgresql.connections import ENGINE_URL, Connector, is_unsent
from server.storage.postgresql.head_turns import HeadTurn, HeadTurns
from server.storage.postgresql.maintenance import postgres_maintenance
from server.storage.statements import OPTIONS
from server.storage.transactions import run_transaction
from server.storage.usage import DatabaseSize
from server.version import POSTGRES_EXTRA

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from sqlalchemy import Connection

    from server.storage.postgresql.url import PostgresUrl
    from server.storage.schema_changes import Maintenance
    from server.storage.usage import ConnectionUse

log = structlog.get_logger()

T = TypeVar("T")

READERS, WRITERS = 7, 5
"""The connections of the two pools, which the turns below divide: reads and deliveries, writes and brief reads."""

READ_TURNS, READ_SHARE = 5, 3
DELIVERY_TURNS, DELIVERY_SHARE = 2, 1
WRITE_TURNS, WRITE_SHARE = 3, 2
BRIEF_TURNS, BRIEF_SHARE = 2, 1
"""The number of transactions of each kind that run at once, and of these for one project, so that others find a
free connection."""

MAINTAINERS = 3
"""The connections of a migration: one holds the lock, one works, one watches its progress."""

RENEW_SECONDS: Final = 1.0
"""How often at most all sessions are replaced because the database failed in one."""

POOL_TIMEOUT_SECONDS = 10
COMMAND_TIMEOUT_SECONDS = 30

_SETTINGS = {
    "application_name": "signalbox",
    "synchronous_commit": "on",
    "jit": "off",
    "lock_timeout": "5s",
}

# A server that freezes in the middle of a transaction keeps its locks, such as that of a project's head, and other
# servers wait for them. PostgreSQL ends its session after this time; when it resumes, it repeats the transaction.
_WRITER_SETTINGS = _SETTINGS | {"idle_in_transaction_session_timeout": "2s", "tcp_user_timeout": "3s"}
# No other session waits for the locks of a reader.
_READER_SETTINGS = _SETTINGS | {"idle_in_transaction_session_timeout": "15s", "tcp_user_timeout": "15s"}
_MAINTAINER_SETTINGS = _SETTINGS | {
    "lock_timeout": "0",
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "15s",
}

OLDEST_VERSION = 130_000

_POOLER = "A pooler in front of PostgreSQL does not pass settings on: add pgbouncer=true to the URL (?pgbouncer=true)"


class PostgresDatabase:
    """A PostgreSQL database; any number of servers may share it."""

    kind = "postgresql"
    shared = True

    def __init__(self, url: PostgresUrl) -> None:
        self._url = url
        self._connector = Connector()
        # Two pools, because readers may be idle in a transaction for longer; brief reads use the pool of the commits.
        self._writers = _Pool(self._url, self._connector, WRITERS, _WRITER_SETTINGS)
        self._readers = _Pool(self._url, self._connector, READERS, _READER_SETTINGS)
        self._head_turns = HeadTurns()
        self._read_turns = FairTurns(READ_TURNS, READ_SHARE)
        self._delivery_turns = FairTurns(DELIVERY_TURNS, DELIVERY_SHARE)
        self._write_turns = FairTurns(WRITE_TURNS, WRITE_SHARE)
        self._brief_turns = FairTurns(BRIEF_TURNS, BRIEF_SHARE)
        self._renewed_at = monotonic()
        self._leaving = asyncio.Lock()
        self.epoch = 0

    @classmethod
    async def open(cls, url: PostgresUrl) -> PostgresDatabase:
        """Connect. Raise StorageUnavailable if no server answers, ValueError if the server cannot be used."""
        database = cls(url)
        try:
            await database.write(_check_server)
        except BaseException as error:
            await database.close()
            if "unsupported startup parameter" in str(error.__cause__):
                raise ValueError(_POOLER) from error
            raise
        return database

    async def read(self, work: Callable[[Connection], T], *, brief: bool = False, delivery: bool = False) -> T:
        """Run work in one snapshot. Raise ProjectBusy if it gets no turn in time."""
        pool = self._writers if brief else self._readers
        turns = self._brief_turns if brief else self._delivery_turns if delivery else self._read_turns
        async with turn_for_project(turns):
            with SmallWork(current_project() if brief or delivery else SERVER):
                return await self._run(pool, pool.snapshots, work)

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Run work in one transaction. Raise ProjectBusy if it gets no turn in time."""
        async with turn_for_project(self._write_turns, server_first=True):
            with SmallWork(current_project()):
                return await self._run(self._writers, self._writers.transactions, work)

    async def check(self) -> None:
        """Raise StorageError unless a write can be committed now."""
        if await self._run(self._writers, self._writers.transactions, _write_a_record):
            await self._leave()
            raise StorageReadOnly

    async def version(self) -> str:
        """Return the version of the server."""
        return await self.read(_server_version, brief=True)

    def connections(self) -> Mapping[str, ConnectionUse]:
        """Return the use of the connections."""
        return {
            "read": use_of(self._read_turns),
            "delivery": use_of(self._delivery_turns),
            "brief": use_of(self._brief_turns),
            "write": use_of(self._write_turns),
        }

    async def size(self) -> DatabaseSize:
        """Return the size of the database. Its log and disk may belong to others as well."""
        return DatabaseSize(await self.read(_size, brief=True))

    def on_checkpoint(self, report: Callable[[float], None]) -> None:
        """Do nothing: PostgreSQL makes checkpoints by itself."""

    @asynccontextmanager
    async def maintenance(self) -> AsyncIterator[Maintenance]:
        """Change the schema, on connections of its own whose statements may take as long as they need."""
        # A time limit that the URL sets for statements is about calls.
        settings = {name: value for name, value in self._url.settings.items() if name not in _MAINTAINER_SETTINGS}
        url = replace(self._url, settings=settings)
        engine = _engine(url, self._connector, MAINTAINERS, _MAINTAINER_SETTINGS, None)
        try:
            async with postgres_maintenance(engine, url.transaction_settings(_MAINTAINER_SETTINGS)) as maintenance:
                yield maintenance
        except OSError as error:
            raise StorageUnavailable from error
        finally:
            await engine.dispose()

    async def close(self) -> None:
        """Close every connection."""
        await self._writers.engine.dispose()
        await self._readers.engine.dispose()

    async def _run(self, pool: _Pool, engine: AsyncEngine, work: Callable[[Connection], T]) -> T:
        """Run work in a transaction, and once more if the connection was lost before the commit was sent.

        In that case nothing was changed, nor by work that reads. So no call fails because a failover closed idle
        connections or a pause ended a transaction. If a commit got no answer, only the caller can decide whether to
        repeat it.
        """
        try:
            return await self._run_once(pool, engine, work)
        except _ConnectionLost:
            try:
                return await self._run_once(pool, engine, work)
            except _ConnectionLost as lost:
                raise StorageUnavailable(began=False) from lost.__cause__

    async def _run_once(self, pool: _Pool, engine: AsyncEngine, work: Callable[[Connection], T]) -> T:
        committing = False
        turn = HeadTurn(self._head_turns)

        def begun(connection: Connection) -> T:
            nonlocal committing
            turn.belongs_to(connection.info)
            if pool.begin:
                connection.exec_driver_sql(pool.begin)
            result = work(connection)
            committing = engine is pool.transactions
            return result

        try:
            with turn:
                return await self._run_in_session(engine, begun)
        except DBAPIError as error:
            raise await self._failure(error, committing=committing) from error
        except StorageUnavailable:
            self.epoch += 1
            raise
        except (OSError, PoolTimeoutError) as error:
            self.epoch += 1
            raise StorageUnavailable(began=committing) from error
        except _driver_errors() as error:
            # SQLAlchemy does not wrap an error that ends a connection while it prepares it for its first transaction.
            self.epoch += 1
            raise (StorageUnavailable() if committing else _ConnectionLost()) from error

    async def _run_in_session(self, engine: AsyncEngine, work: Callable[[Connection], T]) -> T:
        """Run work in one transaction of a session, and close the session if it must not be used again."""
        pool = engine.pool
        async with engine.connect() as connection:
            try:
                return await run_transaction(connection, work)
            except DBAPIError as error:
                if _code(error) in _LIMITS_OF_SESSIONS:
                    await connection.invalidate(error)
                raise
            finally:
                # Nobody else would close it once its pool has been replaced.
                if engine.pool is not pool:
                    await connection.invalidate()

    async def _failure(self, error: DBAPIError, *, committing: bool) -> Exception:
        """Close the sessions that an error of the driver makes useless. Return the error to raise."""
        failure = storage_error(error)
        match failure:
            case StorageUnavailable():
                self.epoch += 1
                return failure if committing and not is_unsent(error.orig) else _ConnectionLost()
            case StorageFailed():
                if _code(error) in _SETTINGS_OF_SESSIONS:
                    await self._renew()
                return StorageUnavailable() if committing else failure
            case StorageReadOnly():
                await self._leave()
        return failure

    async def _renew(self) -> None:
        """Replace all sessions, which keep settings of their role and database that may have been corrected since.

        One of them is the search path: without it no table is found.
        """
        if monotonic() - self._renewed_at >= RENEW_SECONDS:
            self._renewed_at = monotonic()
            await self._leave()

    async def _leave(self) -> None:
        """Close all sessions, as of a server that has become a standby; the next ones look for the primary.

        Those in use are closed after their transactions.
        """
        self.epoch += 1
        # A pool that replaces another one while that is closed would be replaced itself, and its sessions stay open.
        async with self._leaving:
            await self.close()


class _ConnectionLost(Exception):
    """The connection was lost before the commit of its transaction was sent, so nothing was changed."""


class _Pool:
    """Connections of one kind, as engines for transactions that write and for snapshots.

    `begin` is the statement with which each transaction begins, empty where there is none.
    """

    def __init__(self, url: PostgresUrl, connector: Connector, connections: int, settings: Mapping[str, str]) -> None:
        self.engine = _engine(url, connector, connections, settings)
        self.begin = url.transaction_settings(settings)
        # Whatever the default of the database is.
        self.transactions = self.engine.execution_options(isolation_level="READ COMMITTED")
        self.snapshots = self.engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)


def _engine(
    url: PostgresUrl,
    connector: Connector,
    connections: int,
    settings: Mapping[str, str],
    command_timeout: float | None = COMMAND_TIMEOUT_SECONDS,
) -> AsyncEngine:
    arguments = url.connect_args(settings)
    try:
        return create_async_engine(
            ENGINE_URL,
            pool_size=connections,
            max_overflow=0,
            pool_timeout=POOL_TIMEOUT_SECONDS,
            hide_parameters=True,
            execution_options=OPTIONS,
            connect_args={**arguments, "command_timeout": command_timeout, "async_creator_fn": connector},
        )
    except ModuleNotFoundError as error:
        raise ValueError(f"PostgreSQL needs the extra: pip install '{POSTGRES_EXTRA}'") from error


def _check_server(connection: Connection) -> None:
    """Raise ValueError for a server whose version or settings break a promise of Signalbox."""
    names = ("server_version_num", "server_encoding", "lock_timeout", "synchronous_commit", "fsync", "full_page_writes")
    values = connection.execute(sa.select(*(sa.func.current_setting(name) for name in names))).one()
    version, encoding, lock_timeout, synchronous_commit, *crash_safe = values
    # A pooler may be configured to ignore the settings of a session.
    if (lock_timeout, synchronous_commit) != (_SETTINGS["lock_timeout"], _SETTINGS["synchronous_commit"]):
        raise ValueError(_POOLER)
    if int(version) < OLDEST_VERSION:
        raise ValueError(f"PostgreSQL {int(version) // 10_000} is too old: Signalbox needs {OLDEST_VERSION // 10_000}")
    if encoding != "UTF8":
        raise ValueError(f"The database has the encoding {encoding}: Signalbox needs one that was created with UTF8")
    if _read_only(connection):
        raise ValueError("The server is a standby or read-only: name the primary, or all hosts as HOST:PORT,HOST:PORT")
    if "off" in crash_safe:
        log.warning("database_not_crash_safe", fsync=crash_safe[0], full_page_writes=crash_safe[1])


def _server_version(connection: Connection) -> str:
    return str(connection.exec_driver_sql("SELECT current_setting('server_version')").scalar_one())


def _size(connection: Connection) -> int:
    return int(connection.exec_driver_sql("SELECT pg_database_size(current_database())").scalar_one())


def _read_only(connection: Connection) -> bool:
    """Return whether writes are refused, by a standby or by the settings of the database."""
    query = "SELECT pg_is_in_recovery() OR current_setting('default_transaction_read_only')::boolean"
    return bool(connection.exec_driver_sql(query).scalar_one())


def _write_a_record(connection: Connection) -> bool:
    """Write a record to the log of PostgreSQL, unless writes are refused. Return whether they are.

    It changes no table, but waits for the locks that keep events out, and is committed as every change is: on disk, and
    by a synchronous standby.
    """
    refused = _read_only(connection)
    if not refused:
        connection.exec_driver_sql("LOCK TABLE project_head, event IN ROW EXCLUSIVE MODE")
        connection.exec_driver_sql("SELECT pg_logical_emit_message(true, 'signalbox', '')")
    return refused


def _driver_errors() -> tuple[type[Exception], ...]:
    """Return the error classes of the driver, which is imported only where PostgreSQL is used."""
    import asyncpg

    return asyncpg.InterfaceError, asyncpg.PostgresError


_MEANINGS: Final[tuple[tuple[tuple[str, ...], type[ServiceError]], ...]] = (
    (("22021", "22P05"), UnstorableText),
    (("53100",), StorageFull),
    (("25006",), StorageReadOnly),
    # A conflict, a deadlock, a lock that is not free, and a statement that took too long or was cancelled.
    (("40001", "40P01", "55P03", "57014"), StorageBusy),
    # 25P03 and 25P04: this process froze for longer than a transaction may be idle, and its session was ended.
    (("08", "25P", "53", "57"), StorageUnavailable),
    # Files that cannot be read or are damaged; a table or column that is missing, or that the user may not use.
    (("58", "XX", "42501", "42703", "42P01"), StorageFailed),
)
"""The service's errors by the codes of PostgreSQL, or how they begin. Appendix A of its manual lists them."""


_SETTINGS_OF_SESSIONS: Final = frozenset({"42501", "42703", "42P01"})
"""A table or column that is missing, or that the user may not use: it may be there with another search path or role.
Damaged data is so in every session."""

_LIMITS_OF_SESSIONS: Final = frozenset({"57014", "53400"})
"""A statement that took too long, or too much: the role or database may have had another limit when its session began.
Such a session is not used again."""


def _code(error: DBAPIError) -> str:
    return str(getattr(error.orig, "sqlstate", None) or "")


def storage_error(error: DBAPIError) -> ServiceError:
    """Return the service's error for an error of the driver."""
    code = _code(error)
    found = next((meaning for codes, meaning in _MEANINGS if code.startswith(codes)), InternalError)
    lost = not code or (error.connection_invalidated and found in (InternalError, StorageFailed))
    return StorageUnavailable() if lost else found()
