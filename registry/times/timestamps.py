"""Instants: integers that count the microseconds since 1970-01-01T00:00:00Z.

Every instant lies in the years 0001 to 9999 of UTC, so each has a text and a `datetime`.
"""

from __future__ import annotations

import re
import time
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache

from registry.times.steady_clock import SteadyClock

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

# ISO 8601 writes date and time both with separators or both without; offsets occur in either form with both.
_FRACTION = r"(?:[.,](?P<fraction>[0-9]+))?"
_OFFSET = r"(?:[Zz]|(?P<sign>[+-])(?P<offset_hours>[01][0-9]|2[0-3])(?::?(?P<offset_minutes>[0-5][0-9]))?)"
_ISO_8601 = tuple(
    re.compile(
        rf"(?P<year>[0-9]{{4}}){dash}(?P<month>[0-9]{{2}}){dash}(?P<day>[0-9]{{2}})"
        rf"(?:[Tt](?P<hours>[0-9]{{2}})(?:{colon}(?P<minutes>[0-9]{{2}})(?:{colon}(?P<seconds>[0-9]{{2}}))?)?"
        rf"{_FRACTION}{_OFFSET})?"
    )
    for dash, colon in (("-", ":"), ("", ""))
)
_HOUR_MICROS, _MINUTE_MICROS, _SECOND_MICROS = 3_600_000_000, 60_000_000, 1_000_000
_DAY_MICROS = 24 * _HOUR_MICROS
_FRACTION_DIGITS = 15


def now_micros() -> int:
    """Return the present instant: the system clock, whose steps are not followed (`registry.times.steady_clock`)."""
    return _CLOCK.now()


def clock_skew() -> int:
    """Return the system clock minus `now_micros`, in microseconds: 0 unless the system clock was stepped."""
    return _CLOCK.skew_micros


_CLOCK = SteadyClock(lambda: time.time_ns() // 1000)


def check_instant(micros: int) -> int:
    """Return an instant. Raise ValueError outside the years 0001 to 9999."""
    if not MIN_MICROS <= micros <= MAX_MICROS:
        raise ValueError(f"{micros} microseconds since 1970 are not in the years 1 to 9999")
    return micros


def parse_rfc3339(text: str) -> int:
    """Return the instant of an RFC 3339 date-time; digits beyond the microsecond are cut off.

    Raise ValueError for anything else: no offset, a space for the T, a leap second, or an instant
    outside the years 0001 to 9999 of UTC. Its message follows "is".
    """
    if not _DATE_TIME.fullmatch(text):
        raise ValueError("not an RFC 3339 date-time")
    if text.startswith("0000"):
        raise ValueError("outside the years 0001 to 9999")
    try:
        moment = datetime.fromisoformat(text.upper())
    except ValueError:
        raise ValueError("not a day and time of the calendar, without leap seconds") from None
    micros = (moment - _EPOCH) // _MICROSECOND
    if not MIN_MICROS <= micros <= MAX_MICROS:
        raise ValueError("outside the years 0001 to 9999")
    return micros


def parse_date(text: str) -> int:
    """Return the instant of an RFC 3339 date-time, or of midnight UTC for `YYYY-MM-DD`.

    Raise ValueError for anything else.
    """
    return parse_rfc3339(f"{text}T00:00:00Z" if _DATE.fullmatch(text) else text)


def parse_iso8601(text: str) -> int:
    """Return the instant of an ISO 8601 calendar date, alone or with a time and its offset.

    Date and time are in the extended form or both in the basic one; minutes and seconds may be left out, and the last
    part of the time may have a fraction after a point or a comma. A date alone is its midnight in UTC.

    Raise ValueError for anything else, such as a time without an offset, a week date or a leap second.
    """
    match = next((match for form in _ISO_8601 if (match := form.fullmatch(text))), None)
    if match is None:
        raise ValueError("not an ISO 8601 date, or date-time with an offset")
    day = date(int(match["year"]), int(match["month"]), int(match["day"])) - _EPOCH.date()
    micros = day.days * _DAY_MICROS + _time_of_day(match) - _offset(match)
    if not MIN_MICROS <= micros <= MAX_MICROS:
        raise ValueError("outside the years 0001 to 9999")
    return micros


def _time_of_day(match: re.Match[str]) -> int:
    """Return the microseconds since midnight; digits beyond the microsecond are cut off."""
    hours, minutes, seconds = (int(match[part] or 0) for part in ("hours", "minutes", "seconds"))
    last = _SECOND_MICROS if match["seconds"] else _MINUTE_MICROS if match["minutes"] else _HOUR_MICROS
    digits: str = (match["fraction"] or "0")[:_FRACTION_DIGITS]
    micros = hours * _HOUR_MICROS + minutes * _MINUTE_MICROS + seconds * _SECOND_MICROS
    micros += last * int(digits) // int(10 ** len(digits))
    # 24:00 is the end of the day.
    if minutes > 59 or seconds > 59 or micros > _DAY_MICROS or (micros == _DAY_MICROS and hours != 24):
        raise ValueError("not a time of day")
    return micros


def _offset(match: re.Match[str]) -> int:
    offset = int(match["offset_hours"] or 0) * _HOUR_MICROS + int(match["offset_minutes"] or 0) * _MINUTE_MICROS
    return -offset if match["sign"] == "-" else offset


# All events of a commit were received at the same time.
@lru_cache(100)
def format_millis(micros: int) -> str:
    """Return the instant as `2026-06-01T12:00:00.000Z`, truncated towards the past."""
    return (_NAIVE_EPOCH + micros * _MICROSECOND).isoformat("T", "milliseconds") + "Z"


def format_seconds(micros: int) -> str:
    """Return the instant as `2026-06-01T12:00:00Z`, truncated towards the past."""
    return (_NAIVE_EPOCH + micros * _MICROSECOND).isoformat("T", "seconds") + "Z"
