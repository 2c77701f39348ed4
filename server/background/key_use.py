"""Stores when API keys were last used: at most once a minute for each, and never while a call waits for it."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

from registry.times.timestamps import now_micros
from server.errors import StorageError
from server.process.recurring import Recurring
from server.storage.projects.keys import note_use

if TYPE_CHECKING:
    from server.auth.access import Access
    from server.storage.database import Database

STORE_SECONDS: Final = 60.0
"""The interval at which the keys that were used are stored."""


class KeyUse:
    """The task that stores which keys were used."""

    def __init__(self, database: Database, access: Access) -> None:
        self._database = database
        self._access = access
        self._task = Recurring("key-use", self._store)

    def start(self) -> None:
        """Start storing."""
        self._task.start()

    async def close(self) -> None:
        """Stop, and store what was used last if the database can take it."""
        await self._task.close()
        with suppress(StorageError):
            await self._store()

    async def _store(self) -> float:
        """Store what was used since the last time. Return the seconds until the next time."""
        if used := self._access.take_used():
            await self._database.write(lambda connection: note_use(connection, used, now_micros()))
        return STORE_SECONDS
