"""google.protobuf.Timestamp to and from microseconds since the epoch, and Duration to microseconds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from server.errors import InvalidArgument

if TYPE_CHECKING:
    from google.protobuf.message import Message

# 0001-01-01 and 9999-12-31, the bounds of a Timestamp.
_FIRST, _LAST = -62_135_596_800, 253_402_300_799


def write_timestamp(micros: int, into: Timestamp) -> None:
    """Write an instant into a message."""
    into.seconds, rest = divmod(micros, 1_000_000)
    into.nanos = rest * 1_000


def timestamp(micros: int) -> Timestamp:
    """Return the message of an instant."""
    message = Timestamp()
    write_timestamp(micros, message)
    return message


def read_timestamp(message: Message, field: str, path: str = "") -> int | None:
    """Read a Timestamp field, None where it is unset; `path` is where the field is, if not in the request itself.

    Raise InvalidArgument outside the years 1 to 9999.
    """
    if not message.HasField(field):
        return None
    value: Timestamp = getattr(message, field)
    if not _FIRST <= value.seconds <= _LAST or not 0 <= value.nanos <= 999_999_999:
        path = path or field
        text = f"{path} is not a time in the years 1 to 9999: {value.seconds} s and {value.nanos} ns"
        raise InvalidArgument.at(path, "INVALID_TIMESTAMP", text)
    return value.seconds * 1_000_000 + value.nanos // 1_000


def duration(micros: int) -> Duration:
    """Return the message of a duration."""
    message = Duration()
    message.FromMicroseconds(micros)
    return message


def read_duration(message: Message, field: str, path: str = "") -> int | None:
    """Read a Duration field in microseconds, None where it is unset; `path` as for `read_timestamp`.

    Raise InvalidArgument for a duration that is none.
    """
    if not message.HasField(field):
        return None
    value: Duration = getattr(message, field)
    if abs(value.nanos) > 999_999_999 or value.seconds * value.nanos < 0:
        path = path or field
        text = (
            f"{path} is {value.seconds} s and {value.nanos} ns: they must not have different signs,"
            " and nanoseconds must be from -999,999,999 to 999,999,999"
        )
        raise InvalidArgument.at(path, "INVALID_DURATION", text)
    return value.seconds * 1_000_000 + int(value.nanos / 1_000)
