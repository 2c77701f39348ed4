"""Logs outages and defects in few lines, whatever fails and however often.

All work that may fail repeatedly reports here under its name: commits, probes, and the server's recurring work.

    storage_outage         the first failure, with the database's own words
    storage_outage_lasts   once a minute, with the failures of each work
    storage_outage_over    with the duration and all failures, once everything that failed works again
    commit_failed, ...     a defect, with its traceback; the same one is written once a minute (`server.logs.defects`)
"""

from __future__ import annotations

from collections import Counter
from time import monotonic
from typing import Any

import structlog

from server.errors import InternalError, StorageError

log = structlog.get_logger()

LASTS_SECONDS = 60.0
"""How often a lasting outage is logged."""

SETTLE_SECONDS = 5.0
"""An outage is over once nothing has failed for this long: a full disk accepts small writes and refuses large ones."""


def is_outage(error: Exception) -> bool:
    """Return whether the database itself failed, rather than a statement because of its data."""
    return isinstance(error, StorageError) and not isinstance(error, InternalError)


class Outages:
    """The outage of a server's database, if there is one, and the defects of its recurring work."""

    def __init__(self) -> None:
        self._failing: set[str] = set()
        self._failures: Counter[str] = Counter()
        self._began = self._latest = self._logged = 0.0

    def report(
        self, work: str, error: Exception, defect: str = "work_failed", *, awaited: bool = True, **facts: Any
    ) -> None:
        """Report that work failed, because of an outage or of a defect, which is logged as the event `defect`.

        An outage is not over before `awaited` work has succeeded. Other work is repeated only while somebody needs it.
        """
        if is_outage(error):
            self.failed(work, error, awaited=awaited)
        else:
            log.error(defect, work=work, exc_info=error, **facts)

    def failed(self, work: str, error: Exception, *, awaited: bool = True) -> None:
        """Report that work failed because of an outage."""
        self._latest = monotonic()
        if not self._failures:
            self._began = self._logged = self._latest
            cause = str(error.__cause__ or error)
            log.error("storage_outage", work=work, reason=type(error).__name__, cause=cause)
        if awaited:
            self._failing.add(work)
        self._failures[work] += 1
        self.tick()

    def count(self, what: str, number: int) -> None:
        """Count a consequence of the outage, such as refused events."""
        if self._failures:
            self._failures[what] += number

    def succeeded(self, work: str) -> None:
        """Report that work succeeded."""
        if self._failures:
            self._failing.discard(work)
            self.tick()

    def tick(self) -> None:
        """Log that an outage lasts or is over, if it is time to."""
        if not self._failures:
            return
        now = monotonic()
        if not self._failing and now - self._latest >= SETTLE_SECONDS:
            log.warning("storage_outage_over", seconds=round(self._latest - self._began, 1), failures=self._counts())
            self._failures.clear()
        elif now - self._logged >= LASTS_SECONDS:
            self._logged = now
            log.error("storage_outage_lasts", seconds=round(now - self._began), failures=self._counts())

    def _counts(self) -> dict[str, int]:
        return dict(sorted(self._failures.items()))
