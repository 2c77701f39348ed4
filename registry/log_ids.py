"""Ids of log entries: UUIDv7 (RFC 9562) that contain the entry's position, so that a log needs no index on ids.

The 128 bits, from the highest:

    48  milliseconds since 1970, when the entry was recorded
     4  version: 7
    12  position, bits 39 to 28
     2  variant: 10
    14  position, bits 27 to 14
    14  position, bits 13 to 0
    34  random

The position makes an id unique within its log and sort as the entries do. The random bits distinguish histories that
gave the same position to different entries, such as before and after a restore.
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
    """Makes the ids of entries that are recorded at one time.

    Positions that differ only in their lowest 14 bits have the first 20 digits in common, which are formatted once:
    ids are made for every event of a commit.
    """

    def __init__(self, recorded_at: int) -> None:
        millis = f"{recorded_at // 1_000:012x}"
        self._time = f"{millis[:8]}-{millis[8:]}-7"
        self._block = -1
        self._head = ""

    def make(self, position: int) -> str:
        """Return the id of the entry at a position."""
        block = position >> _TAIL_BITS
        if block != self._block:
            self._block, self._head = block, self._head_of(position)
        tail = (position & _TAIL) << _RANDOM_BITS | getrandbits(_RANDOM_BITS)
        # Half the time of a format with 12 digits.
        return self._head + tail.to_bytes(6, "big").hex()

    def _head_of(self, position: int) -> str:
        """Return the common beginning of the ids of a block of positions."""
        return f"{self._time}{position >> _LOW_BITS & 0xFFF:03x}-{_VARIANT | (position & _LOW) >> _TAIL_BITS:04x}-"


def position_of(entry_id: str) -> int | None:
    """Return the position in the id of an entry; None for other text."""
    if not _LOG_ID.fullmatch(entry_id):
        return None
    bits = int(entry_id.replace("-", ""), 16)
    return (bits >> 64 & 0xFFF) << _LOW_BITS | bits >> _RANDOM_BITS & _LOW
