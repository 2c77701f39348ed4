"""One line of the log for a call: who made it, how it ended, how long it took. Never what it carried.

    failed or slow     always
    a change           of definitions, contacts, keys, projects, automations or subscriptions: always
    any other          each of them with --log-calls all, each n-th with 1/n, none by default

Of the first two, LINES_A_SECOND are written, and the number of the others, unless all calls are logged. Of calls that
fail because the database does, it is one in OUTAGE_SECONDS: the outage itself is logged (`server.logs.outages`). A line
takes 15 us, a fifteenth of the processor's time for a single send, so by default there is none for each.
"""

from __future__ import annotations

from time import monotonic
from typing import Any, Final

import structlog

from server.current_call.context import current
from server.errors import InternalError, StorageError

SLOW_SECONDS: Final = 1.0
"""A call that takes longer is logged, unless it is a stream, or waits for matches as long as its caller asked it to."""

LINES_A_SECOND: Final = 50
"""The most lines of a kind in a period, so that a flood of failing calls does not fill the disk."""

OUTAGE_SECONDS: Final = 60
"""One call in this time is logged of those that fail because the database does."""

OUTAGE_REASONS: Final = frozenset(error.reason for error in StorageError.__subclasses__() if error is not InternalError)

NONE: Final = 0

log = structlog.get_logger()


class _Lines:
    """The lines of one kind, of which `most` are written in each period of some seconds."""

    def __init__(self, most: int = LINES_A_SECOND, seconds: int = 1) -> None:
        self._most, self._seconds = most, seconds
        self._period = 0
        self._lines = 0
        self._left_out = 0

    def take(self) -> bool:
        """Return whether this period has room for another line."""
        self.end_period()
        self._lines += 1
        if self._lines > self._most:
            self._left_out += 1
        return self._lines <= self._most

    def end_period(self) -> None:
        """If a new period has begun, log what was left out in earlier ones."""
        period = int(monotonic()) // self._seconds
        if period == self._period:
            return
        if self._left_out:
            log.warning("calls_not_logged", calls=self._left_out)
        self._period, self._lines, self._left_out = period, 0, 0


class CallLog:
    """Logs calls. `every` is NONE, or n to log each n-th call that neither fails nor is slow nor changes anything."""

    def __init__(self, every: int = NONE) -> None:
        self.every = every
        self._skipped = 0
        self._problems, self._changes, self._outages = _Lines(), _Lines(), _Lines(1, OUTAGE_SECONDS)

    def samples(self) -> bool:
        """Return whether the next call is logged as one of many."""
        self._skipped += 1
        if not self.every or self._skipped < self.every:
            return False
        self._skipped = 0
        return True

    def write(self, call: str, reason: str, seconds: float, *, change: bool = False, **facts: Any) -> None:
        """Write the line of a call of an RPC or route, with the reason why it failed, if it did."""
        problem = bool(reason) or seconds > SLOW_SECONDS
        self._outages.end_period()
        if self.every != 1 and (change or problem) and not self._lines_of(reason, change=change).take():
            return
        context = current()
        facts |= {"request_id": context.request_id, "door": context.api, "ms": round(seconds * 1_000, 2)}
        if context.project_id:
            facts["project"] = context.project_id
        if context.key_id:
            facts["key"] = context.key_id
        if reason:
            facts["reason"] = reason
        (log.warning if problem else log.info)("call", call=call, **facts)

    def _lines_of(self, reason: str, *, change: bool) -> _Lines:
        if reason in OUTAGE_REASONS:
            return self._outages
        return self._changes if change else self._problems
