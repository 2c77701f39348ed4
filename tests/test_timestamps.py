from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta, timezone

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from registry.times.timestamps import (
    MAX_MICROS,
    MIN_MICROS,
    format_millis,
    now_micros,
    parse_date,
    parse_iso8601,
    parse_rfc3339,
)
from server.errors import InvalidArgument
from server.rpc.messages.times import read_duration, read_timestamp, timestamp
from signalbox.v1 import match_stream_pb2 as pb

NOON = 1_780_315_200_000_000


@pytest.mark.parametrize(
    ("text", "micros"),
    [
        ("2026-06-01T12:00:00Z", NOON),
        ("2026-06-01t12:00:00z", NOON),
        ("2026-06-01T14:00:00+02:00", NOON),
        ("2026-06-01T06:30:00-05:30", NOON),
        ("2026-06-01T12:00:00-00:00", NOON),
        ("2026-06-01T12:00:00.5Z", NOON + 500_000),
        ("2026-06-01T12:00:00.123456Z", NOON + 123_456),
        ("2026-06-01T12:00:00.123456999Z", NOON + 123_456),
        ("1970-01-01T00:00:00Z", 0),
        ("1969-12-31T23:59:59.999999Z", -1),
        ("0001-01-01T00:00:00Z", MIN_MICROS),
        ("9999-12-31T23:59:59.999999Z", MAX_MICROS),
    ],
)
def test_an_rfc3339_date_time_is_an_instant(text: str, micros: int) -> None:
    assert parse_rfc3339(text) == micros
    assert parse_date(text) == micros


NO_DATE = [
    "",
    "tomorrow",
    "2026-06-01T12:00:00",
    "2026-06-01 12:00:00Z",
    "2026-06-01T12:00Z",
    "2026-06-01T12:00:00,5Z",
    "2026-06-01T12:00:00.Z",
    "2026-06-01T12:00:00+0200",
    "2026-06-01T12:00:00+24:00",
    "2026-06-01T24:00:00Z",
    "2026-06-01T23:59:60Z",
    "2026-02-30T12:00:00Z",
    "2026-W23-1T12:00:00Z",
    "20260601T120000Z",
    "0000-01-01T00:00:00Z",
    "0001-01-01T00:00:00+00:01",
    "9999-12-31T23:59:59-00:01",
    "\uff12\uff10\uff12\uff16-06-01T12:00:00Z",
    "2026-06-01T12:00:00Z\n",
    " 2026-06-01T12:00:00Z",
]


@pytest.mark.parametrize("text", [*NO_DATE, "2026-06-01"])
def test_anything_else_is_no_date_time(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_rfc3339(text)


@pytest.mark.parametrize("text", [*NO_DATE, "2026-02-30", "2026-06-1", "2026-06-01Z", "0000-01-01"])
def test_anything_else_is_no_date(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_date(text)


def test_a_date_is_its_midnight_in_utc() -> None:
    assert parse_date("2026-06-01") == NOON - 12 * 3600 * 1_000_000


@pytest.mark.parametrize(
    ("micros", "text"),
    [
        (NOON, "2026-06-01T12:00:00.000Z"),
        (NOON + 999, "2026-06-01T12:00:00.000Z"),
        (-1, "1969-12-31T23:59:59.999Z"),
        (MIN_MICROS, "0001-01-01T00:00:00.000Z"),
        (MAX_MICROS, "9999-12-31T23:59:59.999Z"),
    ],
)
def test_an_instant_is_written_in_milliseconds_truncated_towards_the_past(micros: int, text: str) -> None:
    assert format_millis(micros) == text


@given(st.integers(MIN_MICROS, MAX_MICROS))
def test_a_written_timestamp_is_read_back_to_the_millisecond(micros: int) -> None:
    assert parse_rfc3339(format_millis(micros)) == micros - micros % 1000


@given(
    st.datetimes(datetime(2, 1, 1), datetime(9998, 1, 1)),  # noqa: DTZ001 - the offset is drawn apart
    st.integers(-1439, 1439),
)
def test_any_offset_names_the_same_instant(local: datetime, minutes: int) -> None:
    moment = local.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    assert parse_rfc3339(moment.isoformat()) == (moment - epoch) // timedelta(microseconds=1)


@pytest.mark.parametrize(
    ("text", "micros"),
    [
        ("2026-06-01T12:00Z", NOON),
        ("2026-06-01T12Z", NOON),
        ("2026-06-01T12:00:00+0000", NOON),
        ("2026-06-01T14:00:00+02", NOON),
        ("2026-06-01T14:00:00+0200", NOON),
        ("2026-06-01T14:00+02:00", NOON),
        ("2026-06-01T12:00:00,5Z", NOON + 500_000),
        ("2026-06-01T12:00,5Z", NOON + 30_000_000),
        ("2026-06-01T11.5Z", NOON - 1_800_000_000),
        ("20260601T120000Z", NOON),
        ("20260601T1200Z", NOON),
        ("20260601T12Z", NOON),
        ("20260601T120000.25+0000", NOON + 250_000),
        ("20260601T063000-05:30", NOON),
        ("20260601t120000z", NOON),
        ("2026-06-01T12:00:00." + "1" * 5_000 + "Z", NOON + 111_111),
        ("2026-05-31T24:00Z", NOON - 43_200_000_000),
        ("2026-06-01", NOON - 43_200_000_000),
        ("20260601", NOON - 43_200_000_000),
        ("0001-01-01T00:00Z", MIN_MICROS),
        ("9999-12-31T23:59:59,999999Z", MAX_MICROS),
    ],
)
def test_iso_8601_names_an_instant(text: str, micros: int) -> None:
    assert parse_iso8601(text) == micros


@pytest.mark.parametrize(
    "text",
    [
        *("", "noon", "2026", "2026-06", "202606", "2026-152", "2026-W23-1", "2026W231T12Z", "+002026-06-01T12:00Z"),
        *("2026-06-01T12:00", "2026-06-01T12:00:00", "20260601T120000", "2026-06-01T", "2026-06-01Z", "2026-06-01TZ"),
        *("2026-06-01 12:00Z", "20260601T12:00Z", "2026-06-01T1200Z", "2026-0601T12:00Z", "2026-06-01T12:0000Z"),
        *("2026-06-01T12:00:00.Z", "2026-06-01T12:00:00,Z", "2026-06-01T12:00:00.5,5Z", "2026-06-01T12.5:00Z"),
        *("2026-06-01T12:00+2", "2026-06-01T12:00+24", "2026-06-01T12:00+02:60", "2026-06-01T12:00+02:00:00"),
        *(
            "2026-06-01T24:01Z",
            "2026-06-01T24:00:00.000001Z",
            "2026-06-01T25Z",
            "2026-06-01T12:60Z",
            "2026-06-01T23:59:60Z",
        ),
        *("2026-02-30T12:00Z", "2026-13-01T12:00Z", "0000-01-01T00:00Z", "0001-01-01T00:00+00:01", "9999-12-31T24:00Z"),
        *("2026-06-01T12:00Z\n", " 2026-06-01T12:00Z", "\uff12026-06-01T12:00Z", "2026-06-01T12:00\u221202"),
    ],
)
def test_other_forms_are_not_iso_8601(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_iso8601(text)


@st.composite
def iso_8601(draw: st.DrawFn) -> tuple[str, int]:
    """Make an instant and one of its texts."""
    dash, colon = draw(st.sampled_from([("-", ":"), ("", "")]))
    minutes = draw(st.integers(-1439, 1439))
    local = draw(st.datetimes(datetime(2, 1, 1), datetime(9998, 1, 1)))  # noqa: DTZ001 - the offset is drawn apart
    form = draw(st.sampled_from(["%H", f"%H{colon}%M", f"%H{colon}%M{colon}%S", f"%H{colon}%M{colon}%S,%f"]))
    clock = local.strftime(form)
    local = local.replace(
        minute=local.minute if "%M" in form else 0,
        second=local.second if "%S" in form else 0,
        microsecond=local.microsecond if "%f" in form else 0,
    )
    hours, rest = divmod(abs(minutes), 60)
    offsets = [f"{hours:02}:{rest:02}", f"{hours:02}{rest:02}", *([f"{hours:02}"] if rest == 0 else [])]
    written = draw(
        st.sampled_from(["Z"] if minutes == 0 else [("-" if minutes < 0 else "+") + each for each in offsets])
    )
    epoch = datetime(1970, 1, 1)  # noqa: DTZ001 - as above
    micros = (local - timedelta(minutes=minutes) - epoch) // timedelta(microseconds=1)
    return f"{local.year:04}{dash}{local.month:02}{dash}{local.day:02}T{clock}{written}", micros


@given(iso_8601())
def test_any_form_of_iso_8601_names_the_same_instant(drawn: tuple[str, int]) -> None:
    text, micros = drawn
    assert parse_iso8601(text) == micros


@given(st.integers(MIN_MICROS, MAX_MICROS))
def test_formatted_timestamps_are_read_as_iso_8601(micros: int) -> None:
    for text in (format_millis(micros), format_millis(micros)[:10]):
        assert parse_iso8601(text) == parse_date(text)


def test_now_is_the_system_clock() -> None:
    before = time.time_ns() // 1000
    assert before <= now_micros() <= time.time_ns() // 1000


SECONDS = (-62_135_596_800, 253_402_300_799)
"""The first and last whole second of a Timestamp."""


@pytest.mark.parametrize("seconds", [*SECONDS, -1, 0, 1, 1_800_000_000])
@pytest.mark.parametrize("nanos", [0, 1, 999, 1_000, 1_999, 999_999_000, 999_999_999])
def test_a_timestamp_is_read_in_whole_microseconds_and_written_back(seconds: int, nanos: int) -> None:
    micros = read_timestamp(pb.StartPoint(time=Timestamp(seconds=seconds, nanos=nanos)), "time")
    assert micros is not None
    assert micros == seconds * 1_000_000 + nanos // 1_000
    assert timestamp(micros) == Timestamp(seconds=seconds, nanos=nanos // 1_000 * 1_000)


@pytest.mark.parametrize(
    ("seconds", "nanos"), [(SECONDS[0] - 1, 0), (SECONDS[1] + 1, 0), (0, -1), (0, 1_000_000_000), (5, -1)]
)
def test_a_timestamp_outside_the_years_1_to_9999_is_refused(seconds: int, nanos: int) -> None:
    message = pb.StartPoint(time=Timestamp(seconds=seconds, nanos=nanos))
    for path in ("", "start.time"):
        with pytest.raises(InvalidArgument) as refused:
            read_timestamp(message, "time", path)
        assert [each.path for each in refused.value.violations] == [path or "time"]


@pytest.mark.parametrize(
    ("seconds", "nanos", "micros"),
    [
        (0, 0, 0),
        (1, 0, 1_000_000),
        (-1, 0, -1_000_000),
        (0, 999_999_999, 999_999),
        (0, -999_999_999, -999_999),
        (2, 1_999, 2_000_001),
        (-2, -1_999, -2_000_001),
        (1, 1, 1_000_000),
    ],
)
def test_a_duration_is_read_in_whole_microseconds_towards_zero(seconds: int, nanos: int, micros: int) -> None:
    assert read_duration(pb.PullMatchesRequest(wait=Duration(seconds=seconds, nanos=nanos)), "wait") == micros


@pytest.mark.parametrize(("seconds", "nanos"), [(0, 1_000_000_000), (0, -1_000_000_000), (1, -1), (-1, 1)])
def test_a_duration_whose_parts_disagree_is_refused(seconds: int, nanos: int) -> None:
    with pytest.raises(InvalidArgument) as refused:
        read_duration(pb.PullMatchesRequest(wait=Duration(seconds=seconds, nanos=nanos)), "wait")
    assert [(each.path, each.reason) for each in refused.value.violations] == [("wait", "INVALID_DURATION")]


def test_an_unset_time_or_duration_is_none() -> None:
    assert read_timestamp(pb.StartPoint(), "time") is None
    assert read_duration(pb.PullMatchesRequest(), "wait") is None
