"""The database of a server."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from server.app.lifecycle import close_in_time
from server.logs.outages import Outages
from server.storage.migrations import check_migrated, migrate
from server.storage.opening import open_database

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from server.settings import Settings
    from server.storage.database import MeasuredDatabase


@dataclass(frozen=True, slots=True)
class Storage:
    """The database, and the log of its outages, to which all work that uses it reports."""

    database: MeasuredDatabase
    outages: Outages


@asynccontextmanager
async def storing(settings: Settings) -> AsyncIterator[Storage]:
    """Open the database and migrate it. Raise StorageError, ValueError, and OSError if it must exist and does not."""
    database = await open_database(settings.database, create=settings.migrate)
    try:
        await (migrate(database) if settings.migrate else check_migrated(database))
        yield Storage(database, Outages())
    finally:
        await close_in_time(database.close, settings.grace_seconds)
