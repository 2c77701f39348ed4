"""Connections to PostgreSQL that outlive the server that made them, for the next server on the same database.

A new connection takes PostgreSQL a process and the catalog of its database: more than most tests do with it.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final
from unittest.mock import patch

import asyncpg

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Hashable

MOST: Final = 40
"""The most connections that are kept at a time; the oldest is closed for one more."""


class WarmConnections:
    """Keeps connections that were closed, each for the next one with the same arguments."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._kept: list[_Connection] = []

    @asynccontextmanager
    async def keeping(self) -> AsyncIterator[None]:
        """Keep connections to the address of the server, its folder of sockets, while the context is open.

        Those of other event loops are not kept: they end with their loop.
        """
        connect, loop = asyncpg.connect, asyncio.get_running_loop()

        async def connected(dsn: str | None = None, **arguments: Any) -> asyncpg.Connection:
            here = self._address in f"{dsn} {arguments.get('host')}"
            if not here or asyncio.get_running_loop() is not loop:
                return await connect(dsn, **arguments)
            key = (dsn, repr(sorted(arguments.items())))
            if (connection := self._take(key)) is None:
                connection = await connect(dsn, **arguments, connection_class=_Connection)
                connection.keeper, connection.key = self, key
            return connection

        with patch.object(asyncpg, "connect", connected):
            yield
        await self.disconnect()

    async def disconnect(self, database: str | None = None) -> None:
        """Close the connections to a database, by default all of them."""
        closed = [each for each in self._kept if database in {None, each.database}]
        self._kept = [each for each in self._kept if each not in closed]
        for connection in closed:
            await connection.end()

    async def keep(self, connection: _Connection) -> None:
        """Keep a connection that is closed, as new."""
        if connection in self._kept:
            return
        await connection.reset()
        self._kept.append(connection)
        if len(self._kept) > MOST:
            await self._kept.pop(0).end()

    def _take(self, key: Hashable) -> _Connection | None:
        self._kept = [each for each in self._kept if not each.is_closed()]
        found = next((each for each in reversed(self._kept) if each.key == key), None)
        if found is not None:
            self._kept.remove(found)
        return found


class _Connection(asyncpg.Connection):
    """A connection that is kept when it is closed, unless it is in a transaction."""

    __slots__ = ("keeper", "key")

    keeper: WarmConnections
    key: Hashable
    """What the connection was made with."""

    @property
    def database(self) -> str:
        parameters: Any = getattr(self, "_params")  # noqa: B009 - the stubs do not have it
        return str(parameters.database)

    async def close(self, **options: Any) -> None:
        if self.is_closed() or self.is_in_transaction():
            await self.end(**options)
            return
        try:
            await self.keeper.keep(self)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            await self.end(**options)

    async def end(self, **options: Any) -> None:
        """Close it."""
        await super().close(**options)
