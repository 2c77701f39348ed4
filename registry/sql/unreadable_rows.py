"""Stored rows that cannot be read: they are returned without the unreadable values, and reported.

Otherwise one such row would make its whole page fail. Only damage from outside, or a value that an earlier release
accepted, makes a row unreadable. Reads return the row with the reason; writes that would overwrite the unreadable
values are refused.
"""

from __future__ import annotations

import logging
from collections import Counter
from enum import StrEnum
from threading import Lock
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from registry.errors import RowUnreadable
from registry.values.stored_json import load_stored

if TYPE_CHECKING:
    from collections.abc import Mapping

Word = TypeVar("Word", bound=StrEnum)

UNREADABLE: Final = (
    msgspec.MsgspecError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError
)  # fmt: skip
"""The errors of reading or writing a stored value of an unexpected form.

Errors of the database are not among them: they make the whole read fail.
"""

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
            # A damaged ID has halves of surrogate pairs, which no log can encode.
            shown = row_id.encode(errors="backslashreplace").decode()
            _log.error("the %s %s cannot be read as it is stored: %s", table, shown, reason)
        return reason


UNREADABLE_ROWS: Final = UnreadableRows()
"""The unreadable rows of this process. Global, because the many functions that read rows are passed no server."""


def load_object(text: str) -> dict[str, Any]:
    """Return a stored object. Raise one of UNREADABLE for other text."""
    value = load_stored(text)
    if type(value) is not dict:
        raise TypeError("it is not a JSON object")
    return value


def load_reported(table: str, row_id: str, text: str) -> tuple[dict[str, Any], str]:
    """Return a stored object and no reason, or an empty one and the reason why it is unreadable, which is reported."""
    try:
        return load_object(text), ""
    except UNREADABLE as error:
        return {}, UNREADABLE_ROWS.report(table, row_id, error)


def load_word(words: type[Word], table: str, row_id: str, text: str) -> Word:
    """Return a stored word of a few. Raise RowUnreadable for any other, which is reported."""
    try:
        return words(text)
    except ValueError as error:
        raise RowUnreadable(table, row_id, UNREADABLE_ROWS.report(table, row_id, error)) from None


def describe_error(error: Exception) -> str:
    """Return the kind and the text of an error, shortened because the text may quote stored values."""
    text = f"{type(error).__name__}: {error}".replace("\0", "").encode(errors="replace").decode()
    return text if len(text) <= _MAX_REASON else text[: _MAX_REASON - 1] + "…"
