"""Follows the changes of definitions, automations, rules and keys that other servers on the same database make."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from server.process.recurring import Recurring

if TYPE_CHECKING:
    from server.auth.access import Access
    from server.ingest.catalog import Catalog
    from server.logs.outages import Outages
    from server.storage.database import Database

REFRESH_SECONDS: Final = 0.5
"""The interval at which changes by other servers are looked up: a key that one of them revoked may work for this long,
and its streams end within a second. Changed schemas do not wait for it: every commit compares the catalog version
(`server.ingest.catalog`)."""


class CatalogRefresh:
    """The task that drops the snapshots and keys that are out of date, where a database may have several servers."""

    def __init__(self, database: Database, catalog: Catalog, access: Access, outages: Outages) -> None:
        self._shared = database.shared
        self._catalog = catalog
        self._access = access
        self._task = Recurring("catalog", self._refresh, outages)

    def start(self) -> None:
        """Start refreshing, unless this is the only server."""
        if self._shared:
            self._task.start()

    async def close(self) -> None:
        """Stop."""
        await self._task.close()

    async def _refresh(self) -> float:
        """Drop what is out of date. Return the seconds until the next time."""
        self._access.invalidate_outdated(await self._catalog.refresh())
        return REFRESH_SECONDS
