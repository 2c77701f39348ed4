"""Instants: integers that count the microseconds since 1970-01-01T00:00:00Z.

Every instant lies in the years 0001 to 9999 of UTC, so each has a text and a `datetime`.
"""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NAIVE_EPOCH = _EPOCH.replace(tzinfo=None)
_MICROSECOND = timedelta(microseconds=1)

MIN_MICROS = (datetime.min.replace(tzinfo=UTC) - _EPOCH) // _MICROSECOND
MAX_MICROS = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // _MICROSECOND

# fromisoformat also reads week dates, commas, bare hours and, in newer Pythons, hour 24; RFC 3339 does not.
_DATE_TIME = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt](?:[01][0-9]|2[0-3]):[0-9]{2}:[0-9]{2}(?:\.[0-9]+)?"
    r"(?:[Zz]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
)
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


def now_micros() -> int:
    """Return the present instant by the system clock."""
    return time.time_ns() // 1000


def parse_rfc3339(text: str) -> int:
    """Return the instant of an RFC 3339 date-time; digits beyond the microsecond are cut off.

    Raises ValueError for anything else: no offset, a space for the T, a leap second, or an instant
    outside the years 0001 to 9999 of UTC.
    """
    if not _DATE_TIME.fullmatch(text):
        raise ValueError("not an RFC 3339 date-time")
    micros = (datetime.fromisoformat(text.upper()) - _EPOCH) // _MICROSECOND
    if not MIN_MICROS <= micros <= MAX_MICROS:
        raise ValueError("outside the years 0001 to 9999")
    return micros


def parse_date(text: str) -> int:
    """Return the instant of an RFC 3339 date-time, or of midnight UTC for `YYYY-MM-DD`.

    Raises ValueError for anything else.
    """
    return parse_rfc3339(f"{text}T00:00:00Z" if _DATE.fullmatch(text) else text)


def format_millis(micros: int) -> str:
    """Write the instant as `2026-06-01T12:00:00.000Z`, truncated towards the past."""
    return (_NAIVE_EPOCH + micros * _MICROSECOND).isoformat("T", "milliseconds") + "Z"


def format_seconds(micros: int) -> str:
    """Write the instant as `2026-06-01T12:00:00Z`, truncated towards the past."""
    return (_NAIVE_EPOCH + micros * _MICROSECOND).isoformat("T", "seconds") + "Z"
