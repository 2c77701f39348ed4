"""Deletes entries of the audit log that are older than their retention period, in small transactions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

from server.process.recurring import SETTLING_SECONDS, Recurring
from server.storage.audit_entries import delete_entries
from server.storage.paced_writes import write_paced

if TYPE_CHECKING:
    from server.background.retention_clock import RetentionClock
    from server.logs.outages import Outages
    from server.storage.database import Database

LOOK_SECONDS: Final = 60.0
"""The interval at which old entries are looked for."""

PORTION_ENTRIES: Final = 200
"""The entries deleted in one transaction, of up to 64 KiB each."""

log = structlog.get_logger()


class AuditRetention:
    """The task that deletes entries which were written longer ago than `retention_seconds`."""

    def __init__(self, database: Database, retention_seconds: float, clock: RetentionClock, outages: Outages) -> None:
        self._database = database
        self._clock = clock
        self._retention = round(retention_seconds * 1_000_000)
        self._task = Recurring("audit-retention", self._delete_old, outages, wait_seconds=SETTLING_SECONDS)

    def start(self) -> None:
        """Start deleting."""
        self._task.start()

    async def close(self) -> None:
        """Stop, even between two transactions: the next start continues there."""
        await self._task.close()

    async def _delete_old(self) -> float:
        """Delete all that is old enough. Return the seconds until the next look."""
        if (now := await self._clock.now()) is None:
            return LOOK_SECONDS
        before, deleted, portion = now - self._retention, 0, PORTION_ENTRIES
        while portion == PORTION_ENTRIES:
            portion = await write_paced(
                self._database, lambda connection: delete_entries(connection, before, PORTION_ENTRIES)
            )
            deleted += portion
        if deleted:
            log.info("audit_entries_deleted", count=deleted)
        return LOOK_SECONDS
