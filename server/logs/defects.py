"""Writes the same defect once a minute, however many calls fail because of it.

A defect fails each call, delivery or commit that meets it, and each would write a traceback: a column whose type was
changed from outside, or a table that was restored without its sequence. Errors are the same if they were raised at the
same place, on the same way: their messages may quote different rows.
"""

from __future__ import annotations

import sys
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

import structlog

if TYPE_CHECKING:
    from collections.abc import Hashable, MutableMapping

REPEATED_SECONDS: Final = 60.0
"""How often a defect that recurs is written."""

_KEPT_DEFECTS: Final = 100
"""The most defects that are remembered to count their repetitions."""


class RepeatedDefects:
    """A processor that drops entries with a traceback, unless the last such entry was written a while ago.

    An entry that is written again has the number of those that were dropped, as `repeated`.
    """

    def __init__(self) -> None:
        self._defects: dict[Hashable, _Defect] = {}

    def __call__(self, _logger: Any, _method: str, entry: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """Return the entry, or raise DropEvent."""
        error = _error_of(entry.get("exc_info"))
        if error is None:
            return entry
        now, key = monotonic(), (entry.get("event"), entry.get("work"), type(error), *_places(error))
        before = self._defects.get(key)
        if before is not None and now - before.written < REPEATED_SECONDS:
            before.repeated += 1
            raise structlog.DropEvent
        if len(self._defects) >= _KEPT_DEFECTS:
            self._defects.clear()
        self._defects[key] = _Defect(now)
        if before is not None:
            entry["repeated"] = before.repeated
        return entry


class _Defect:
    """When a defect was written, and how often it recurred since."""

    __slots__ = ("repeated", "written")

    def __init__(self, written: float) -> None:
        self.written = written
        self.repeated = 0


def _error_of(exc_info: object) -> BaseException | None:
    """Return the error of an entry, which names it as `logging` does."""
    if isinstance(exc_info, tuple):
        exc_info = exc_info[1]
    elif exc_info and not isinstance(exc_info, BaseException):
        exc_info = sys.exc_info()[1]
    return exc_info if isinstance(exc_info, BaseException) else None


def _places(error: BaseException) -> list[tuple[str, int]]:
    """Return the places through which an error came, from where it was caught to where it was raised."""
    places, traceback = [], error.__traceback__
    while traceback is not None:
        places.append((traceback.tb_frame.f_code.co_filename, traceback.tb_lineno))
        traceback = traceback.tb_next
    return places
