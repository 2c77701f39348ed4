"""PostgreSQL through asyncpg. The stores' functions run in the loop, switching at each statement."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

from sqlalchemy.exc import DBAPIError
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
from server.storage.maintenance import postgres_maintenance
from server.storage.postgres_url import PostgresUrl, parse_postgres_url
from server.version import POSTGRES_EXTRA

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from sqlalchemy import Connection

    from server.storage.maintenance import Maintenance

T = TypeVar("T")

READERS, WRITERS = 8, 4
MAINTAINERS = 3
"""One connection holds the turn, one works, one watches its progress."""
POOL_TIMEOUT_S = 10
COMMAND_TIMEOUT_S = 30

_SERVER_SETTINGS = {
    "application_name": "signalbox",
    "synchronous_commit": "on",
    "jit": "off",
    # A server that froze in the middle of a commit must not hold up the others for good.
    "lock_timeout": "5s",
    "idle_in_transaction_session_timeout": "15s",
}

_POOLER = (
    "A pooler stands before PostgreSQL and keeps settings from it: add pgbouncer=true to the URL (?pgbouncer=true)"
)


class PostgresDatabase:
    """A PostgreSQL database; any number of servers may share it."""

    shared = True

    def __init__(self, url: str) -> None:
        parsed = parse_postgres_url(url)
        # Long reads and commits do not wait for each other's connections; brief reads share those of the commits.
        self._url = parsed
        self._engine = _engine(parsed, WRITERS, COMMAND_TIMEOUT_S)
        self._reading = _engine(parsed, READERS, COMMAND_TIMEOUT_S)
        self._transaction_settings = parsed.transaction_settings(_SERVER_SETTINGS)
        options = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        self._read_engine = self._reading.execution_options(**options)
        self._brief_engine = self._engine.execution_options(**options)

    @classmethod
    async def open(cls, url: str) -> PostgresDatabase:
        """Connect. Raises StorageUnavailable if no server answers there, ValueError for a URL that cannot be used."""
        database = cls(url)
        try:
            await database.write(_check_settings)
        except BaseException as error:
            await database.close()
            if "unsupported startup parameter" in str(error.__cause__):
                raise ValueError(_POOLER) from error
            raise
        return database

    async def read(self, work: Callable[[Connection], T], *, brief: bool = False) -> T:
        """Run work in one snapshot."""
        return await self._run(self._brief_engine if brief else self._read_engine, work)

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Run work in one transaction."""
        return await self._run(self._engine, work)

    @asynccontextmanager
    async def maintenance(self) -> AsyncIterator[Maintenance]:
        """Change the schema, on connections of its own whose statements may take as long as they need."""
        settings = _SERVER_SETTINGS | {"lock_timeout": "0"}
        engine = _engine(self._url, MAINTAINERS, None, settings)
        try:
            async with postgres_maintenance(engine, self._url.transaction_settings(settings)) as maintenance:
                yield maintenance
        except OSError as error:
            raise StorageUnavailable from error
        finally:
            await engine.dispose()

    async def close(self) -> None:
        """Close every connection."""
        await self._engine.dispose()
        await self._reading.dispose()

    async def _run(self, engine: AsyncEngine, work: Callable[[Connection], T]) -> T:
        try:
            async with engine.begin() as connection:
                if self._transaction_settings:
                    await connection.exec_driver_sql(self._transaction_settings)
                return await connection.run_sync(work)
        except DBAPIError as error:
            raise storage_error(error) from error
        except (OSError, PoolTimeoutError) as error:
            raise StorageUnavailable from error


def _engine(
    url: PostgresUrl,
    connections: int,
    command_timeout: float | None,
    settings: Mapping[str, str] = _SERVER_SETTINGS,
) -> AsyncEngine:
    arguments = url.connect_args(settings)
    try:
        return create_async_engine(
            "postgresql+asyncpg://",
            pool_size=connections,
            max_overflow=0,
            pool_timeout=POOL_TIMEOUT_S,
            hide_parameters=True,
            connect_args={**arguments, "command_timeout": command_timeout},
        )
    except ModuleNotFoundError as error:
        raise ValueError(f"PostgreSQL needs the extra: pip install '{POSTGRES_EXTRA}'") from error


def _check_settings(connection: Connection) -> None:
    """Raise ValueError if the settings of the session do not reach it: a pooler may be told to ignore them."""
    name, value = "lock_timeout", _SERVER_SETTINGS["lock_timeout"]
    if connection.exec_driver_sql(f"SELECT current_setting('{name}')").scalar_one() != value:
        raise ValueError(_POOLER)


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
