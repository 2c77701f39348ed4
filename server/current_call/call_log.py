"""One line of the log for a call: who made it, how it ended, how long it took. Never what it carried.

    failed or slow     always
    a change           of definitions, contacts, keys, projects, automations or subscriptions: always
    any other          each of them with --log-calls all, each n-th with 1/n, none by default

Of the first two, LINES_A_SECOND are written, and the number of the others, unless all calls are logged. A line takes 15
us, a fifteenth of the processor's time for a single send, so by default there is none for each.
"""

from __future__ import annotations

from time import monotonic
from typing import Any, Final

import structlog

from server.current_call.context import current

SLOW_SECONDS: Final = 1.0
"""A call that takes longer is logged, unless it is a stream, or waits for matches as long as its caller asked it to."""

LINES_A_SECOND: Final = 50
"""The most lines of a kind: whoever floods the server with calls that fail does not flood the disk, too."""

NONE: Final = 0

log = structlog.get_logger()


class _Lines:
    """The lines of one kind, of which LINES_A_SECOND are written."""

    def __init__(self) -> None:
        self._second = 0
        self._lines = 0
        self._left_out = 0

    def take(self) -> bool:
        """Return whether this second has room for another line; log what was left out in earlier ones."""
        second = int(monotonic())
        if second != self._second:
            if self._left_out:
                log.warning("calls_not_logged", calls=self._left_out)
            self._second, self._lines, self._left_out = second, 0, 0
        self._lines += 1
        if self._lines > LINES_A_SECOND:
            self._left_out += 1
        return self._lines <= LINES_A_SECOND


class CallLog:
    """Logs calls. `every` is NONE, or n to log each n-th call that neither fails nor is slow nor changes anything."""

    def __init__(self, every: int = NONE) -> None:
        self.every = every
        self._skipped = 0
        self._problems, self._changes = _Lines(), _Lines()

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
        if self.every != 1 and (change or problem) and not (self._changes if change else self._problems).take():
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
