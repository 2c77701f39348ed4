"""PostgreSQL through asyncpg. The stores' functions run in the loop, switching at each statement."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from server.errors import (
    ServiceError,
    StorageBusy,
    StorageFull,
    StorageReadOnly,
    StorageRefused,
    StorageUnavailable,
    UnstorableText,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection

T = TypeVar("T")

READERS, WRITERS = 8, 4
POOL_TIMEOUT_S = 10
CONNECT_TIMEOUT_S = 10
COMMAND_TIMEOUT_S = 30

_SERVER_SETTINGS = {
    "application_name": "signalbox",
    "synchronous_commit": "on",
    "jit": "off",
    # A server that froze in the middle of a commit must not hold up the others for good.
    "lock_timeout": "5s",
    "idle_in_transaction_session_timeout": "15s",
}


class PostgresDatabase:
    """A PostgreSQL database; any number of servers may share it."""

    shared = True

    def __init__(self, url: str) -> None:
        # Long reads and commits do not wait for each other's connections; brief reads share those of the commits.
        self._engine = _engine(url, WRITERS)
        self._reading = _engine(url, READERS)
        options = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        self._read_engine = self._reading.execution_options(**options)
        self._brief_engine = self._engine.execution_options(**options)

    @classmethod
    async def open(cls, url: str) -> PostgresDatabase:
        """Connect. Raises StorageUnavailable if no server answers there, ValueError for what is no URL."""
        database = cls(url)
        try:
            await database.write(lambda connection: connection.exec_driver_sql("SELECT 1"))
        except BaseException:
            await database.close()
            raise
        return database

    async def read(self, work: Callable[[Connection], T], *, brief: bool = False) -> T:
        """Run work in one snapshot."""
        return await self._run(self._brief_engine if brief else self._read_engine, work)

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Run work in one transaction."""
        return await self._run(self._engine, work)

    async def close(self) -> None:
        """Close every connection."""
        await self._engine.dispose()
        await self._reading.dispose()

    async def _run(self, engine: AsyncEngine, work: Callable[[Connection], T]) -> T:
        try:
            async with engine.begin() as connection:
                return await connection.run_sync(work)
        except DBAPIError as error:
            raise storage_error(error) from error
        except (OSError, PoolTimeoutError) as error:
            raise StorageUnavailable from error


def _engine(url: str, connections: int) -> AsyncEngine:
    try:
        return create_async_engine(
            make_url(url).set(drivername="postgresql+asyncpg"),
            pool_size=connections,
            max_overflow=0,
            pool_timeout=POOL_TIMEOUT_S,
            hide_parameters=True,
            connect_args={
                "timeout": CONNECT_TIMEOUT_S,
                "command_timeout": COMMAND_TIMEOUT_S,
                "server_settings": _SERVER_SETTINGS,
            },
        )
    except ModuleNotFoundError as error:
        raise ValueError("PostgreSQL needs the extra: pip install 'signalbox[postgres]'") from error
    except (ValueError, ArgumentError) as error:
        raise ValueError(f"It is no URL of the form postgresql://USER@HOST:PORT/NAME ({error})") from error


def storage_error(error: DBAPIError) -> ServiceError:
    """Say what an error of the driver means for the service. Codes: PostgreSQL, appendix A."""
    code = str(getattr(error.orig, "sqlstate", None) or "")
    if code in ("22021", "22P05"):
        return UnstorableText()
    if code == "53100":
        return StorageFull()
    if code == "25006":
        return StorageReadOnly()
    if code in ("40001", "40P01", "55P03", "57014"):
        return StorageBusy()
    if error.connection_invalidated or not code or code.startswith(("08", "53", "57")):
        return StorageUnavailable()
    return StorageRefused()
