"""The present time by which stored things are too old, unless the clock may be wrong.

What retention deletes cannot be restored, and a clock that is a year ahead makes everything a year older. So a clock is
trusted once it has been in use for a while:

    the latest record of more than CONFIRM_SECONDS ago     retention
    is at most GAP_SECONDS older than that                 begins at once
    does not exist: all records are newer                  begins at once
    is older                                               begins once the clock has advanced steadily for
                                                           CONFIRM_SECONDS while this server was running

The latest records do not count: they may have been dated by the same wrong clock, also before a restart. After days
without any event or change, deletion begins an hour after the start, which harms nobody.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

from registry.times.steady_clock import nanos_since_boot
from registry.times.timestamps import format_seconds
from server.storage.audit_entries import latest_entry_before
from server.storage.clock import transaction_time
from server.storage.events.reading import latest_event_before

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from server.storage.database import Database

log = structlog.get_logger()

CONFIRM_SECONDS: Final = 3_600
"""How long a clock has to advance steadily."""

GAP_SECONDS: Final = 86_400
"""The longest time without a record after which a clock is trusted at once."""

_SECOND: Final = 1_000_000
_STEP_MICROS: Final = 60 * _SECOND
"""A clock that differs by more from the time since boot than at the last look was stepped."""


class RetentionClock:
    """The time by which the retentions of a server count ages."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._ahead: int | None = None
        self._steady_since = 0
        self._waits = False

    async def now(self) -> int | None:
        """Return the present instant, or None while nothing may be deleted because of its age."""
        now, running = await self._database.read(transaction_time, brief=True), nanos_since_boot() // 1_000
        ahead, self._ahead = self._ahead, now - running
        if ahead is None or abs(self._ahead - ahead) > _STEP_MICROS:
            self._steady_since = running
        latest = 0
        if running - self._steady_since < CONFIRM_SECONDS * _SECOND:
            before = now - CONFIRM_SECONDS * _SECOND
            since = before - GAP_SECONDS * _SECOND
            latest = await self._database.read(lambda connection: _latest_record(connection, since, before), brief=True)
            if not 0 < latest < since:
                latest = 0
        self._report(now, latest)
        return None if latest else now

    def _report(self, now: int, latest: int) -> None:
        """Log that the retention waits because of the latest record, and that it continues."""
        if latest and not self._waits:
            log.warning(
                "retention_waits",
                now=format_seconds(now),
                latest_record=format_seconds(latest),
                seconds=CONFIRM_SECONDS,
                advice="if the clock is wrong, correct it and restart the server; otherwise this ends by itself",
            )
        elif self._waits and not latest:
            log.warning("retention_continues", now=format_seconds(now))
        self._waits = bool(latest)


def _latest_record(connection: Connection, since: int, before: int) -> int:
    """Return the time of the latest record before a time, or of any one from `since` on; 0 if there is none."""
    entry = latest_entry_before(connection, before)
    return entry if entry >= since else max(entry, latest_event_before(connection, since, before))
