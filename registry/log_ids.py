"""Ids of log entries: UUIDv7 (RFC 9562) that carry the entry's position, so that the log finds it without an index.

Of the bits that are free to choose, 40 hold the position and 34 are random; the time is that of recording. Ids of one
log are unique by their positions, and sort as the entries do.
"""

from __future__ import annotations

import re
from random import getrandbits

_LOW_BITS, _RANDOM_BITS = 28, 34
_LOW = (1 << _LOW_BITS) - 1
_TAIL_BITS = 14
_TAIL = (1 << _TAIL_BITS) - 1
_VARIANT = 0b10 << 14

_LOG_ID = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


class LogIds:
    """Makes the ids of entries that are recorded at one time."""

    def __init__(self, recorded_at: int) -> None:
        millis = f"{recorded_at // 1_000:012x}"
        self._time = f"{millis[:8]}-{millis[8:]}-7"
        self._block = -1
        self._head = ""

    def make(self, position: int) -> str:
        """Make the id of the entry at a position."""
        block = position >> _TAIL_BITS
        if block != self._block:
            self._block, self._head = block, self._head_of(position)
        return f"{self._head}{(position & _TAIL) << _RANDOM_BITS | getrandbits(_RANDOM_BITS):012x}"

    def _head_of(self, position: int) -> str:
        """Write what ids have in common whose positions differ in the last bits only."""
        return f"{self._time}{position >> _LOW_BITS & 0xFFF:03x}-{_VARIANT | (position & _LOW) >> _TAIL_BITS:04x}-"


def position_of(entry_id: str) -> int | None:
    """Read the position that an id carries; None for what is no id of an entry."""
    if not _LOG_ID.fullmatch(entry_id):
        return None
    bits = int(entry_id.replace("-", ""), 16)
    return (bits >> 64 & 0xFFF) << _LOW_BITS | bits >> _RANDOM_BITS & _LOW
