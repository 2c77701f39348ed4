"""Stored rows that cannot be read: what each lacks is left empty, so that its page does not fail, and it is reported.

Only damage from outside, or a value that an earlier release took, makes such a row. Reads show the row with its reason;
writes that would lose what it still holds are refused.
"""

from __future__ import annotations

import logging
from collections import Counter
from threading import Lock
from typing import TYPE_CHECKING, Any, Final

import msgspec

from registry.json_values import load_stored

if TYPE_CHECKING:
    from collections.abc import Mapping

UNREADABLE: Final = (
    msgspec.MsgspecError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError
)  # fmt: skip
"""What reading or writing a stored value raises where it is not of the form that the code expects. Errors of the
database are none of these: they fail the whole read."""

_MAX_REASON: Final = 300
_MAX_LOGGED: Final = 1_000

_log = logging.getLogger("signalbox.values")


class UnreadableRows:
    """Counts reads of unreadable rows by table, and logs each row once, up to a number of rows."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._counts: Counter[str] = Counter()
        self._logged: set[tuple[str, str]] = set()

    def counts(self) -> Mapping[str, int]:
        """Return how often rows of each table could not be read since the process began."""
        with self._lock:
            return dict(self._counts)

    def report(self, table: str, row_id: str, error: Exception) -> str:
        """Count and log a row of which something cannot be read. Return the reason, not empty and of bounded length."""
        reason = describe_error(error)
        row = table, row_id
        with self._lock:
            self._counts[table] += 1
            fresh = row not in self._logged and len(self._logged) < _MAX_LOGGED
            if fresh:
                self._logged.add(row)
        if fresh:
            _log.error("the %s %s cannot be read as it is stored: %s", table, row_id, reason)
        return reason


UNREADABLE_ROWS: Final = UnreadableRows()
"""Those of this process: what reads rows is many functions, which know of no server."""


def load_object(text: str) -> dict[str, Any]:
    """Read a stored object. Raise one of UNREADABLE for anything else."""
    value = load_stored(text)
    if type(value) is not dict:
        raise TypeError("it is not a JSON object")
    return value


def load_reported(table: str, row_id: str, text: str) -> tuple[dict[str, Any], str]:
    """Read a stored object; return an empty one and the reason where it cannot be read, which is reported."""
    try:
        return load_object(text), ""
    except UNREADABLE as error:
        return {}, UNREADABLE_ROWS.report(table, row_id, error)


def describe_error(error: Exception) -> str:
    """Return the kind and the text of an error, cut: the text may quote what is stored."""
    text = f"{type(error).__name__}: {error}".replace("\0", "").encode(errors="replace").decode()
    return text if len(text) <= _MAX_REASON else text[: _MAX_REASON - 1] + "…"
