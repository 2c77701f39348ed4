"""Where and what to read of the match log, from its messages, and the answers of WatchMatches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from automation.matches import MatchFilter
from automation.subscriptions.store import MAX_FILTER_LABELS, MAX_FILTER_NAMES
from registry.sql.unreadable_rows import UNREADABLE, describe_error
from server.delivery.match_reader import SharedUpdate, WatchQuery, log_unreadable
from server.delivery.recent_matches import RecentMatch
from server.delivery.start_points import AfterPosition, Cursor, LogEnd, Since, make_cursor
from server.errors import InvalidArgument
from server.rpc.messages.encoding import VARINTS, tags, to_bytes
from server.rpc.messages.enums import LOG_END
from server.rpc.messages.matches import encoded_match
from server.rpc.messages.times import read_duration, read_timestamp
from signalbox.v1 import match_stream_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Sized

    from server.delivery.match_reader import WatchUpdate
    from server.delivery.recent_matches import LoadedMatch
    from server.delivery.start_points import StartPoint

MAX_MATCHES: Final = 1_000
DEFAULT_MATCHES: Final = 100
MAX_SHARED_BYTES: Final = 32 * 1024
"""Larger messages are assembled for each watcher, from matches that are encoded once."""

_SECOND: Final = 1_000_000
_DEFAULT_HEARTBEAT: Final = 10 * _SECOND


def read_watch(request: pb.WatchMatchesRequest) -> WatchQuery:
    """Read the query of a watch. Raise InvalidArgument."""
    return WatchQuery(
        read_start(request.start),
        read_filter(request.filter),
        read_heartbeat_seconds(request),
        read_max_matches(request.max_matches),
    )


def read_start(message: pb.StartPoint) -> StartPoint:
    """Read a place in the match log; LATEST where none is set. Raise InvalidArgument."""
    match message.WhichOneof("place"):
        case "after_position":
            if message.after_position < 0:
                raise _refused("start.after_position", f"{message.after_position}; it must not be negative")
            return AfterPosition(message.after_position)
        case "time":
            return Since(read_timestamp(message, "time", "start.time") or 0)
        case "cursor":
            return Cursor(message.cursor)
        case "log_end":
            return LOG_END.read(message.log_end, "start.log_end")
        case _:
            return LogEnd.LATEST


def read_filter(message: pb.MatchFilter, path: str = "filter") -> MatchFilter:
    """Read which matches are wanted. Raise InvalidArgument where it names too many."""
    _check_size(f"{path}.automation_ids", message.automation_ids, MAX_FILTER_NAMES)
    _check_size(f"{path}.labels", message.labels, MAX_FILTER_LABELS)
    _check_size(f"{path}.event_names", message.event_names, MAX_FILTER_NAMES)
    return MatchFilter(tuple(message.automation_ids), dict(message.labels), tuple(message.event_names))


def read_heartbeat_seconds(message: pb.WatchMatchesRequest | pb.OpenConsumer) -> float:
    """Read the longest time between two answers. Raise InvalidArgument."""
    interval = read_duration(message, "heartbeat_interval")
    if interval is None:
        interval = _DEFAULT_HEARTBEAT
    if not _SECOND <= interval <= 60 * _SECOND:
        raise _refused("heartbeat_interval", f"{interval / _SECOND:g} s; it must be 1 to 60 seconds")
    return interval / _SECOND


def read_max_matches(number: int) -> int:
    """Read how many matches an answer holds at most. Raise InvalidArgument."""
    if not 0 <= number <= MAX_MATCHES:
        raise _refused("max_matches", f"{number:,}; it must be 1 to {MAX_MATCHES:,}, or unset")
    return number or DEFAULT_MATCHES


def write_update(update: WatchUpdate, project_id: str) -> bytes:
    """Write one message of a watch, encoded. A match that cannot be written is skipped and logged.

    A match in memory is encoded once for all watchers, which get it as it is: an encoded message is the concatenation
    of its encoded fields.
    """
    if isinstance(update, SharedUpdate) and update.message is not None:
        return update.message
    response = pb.WatchMatchesResponse(
        cursor=make_cursor(project_id, update.place),
        position=update.place.position,
        head_position=update.head_position,
    )
    encoded = b"".join([response.SerializeToString(), *map(_encoded_field, update.matches)])
    if isinstance(update, SharedUpdate) and len(encoded) <= MAX_SHARED_BYTES:
        update.message = encoded
    return encoded


(_MATCHES,) = tags(pb.WatchMatchesResponse, "matches")


def _encoded_field(loaded: LoadedMatch) -> bytes:
    """Return the field `matches` of a response with one match; empty if it cannot be written."""
    if isinstance(loaded, RecentMatch) and loaded.message is not None:
        return loaded.message
    try:
        content = encoded_match(*loaded)
        encoded = to_bytes(f"{_MATCHES}{VARINTS[len(content)]}{content}")
    except UNREADABLE as error:
        log_unreadable(loaded.match, f"It cannot be written: {describe_error(error)}")
        encoded = b""
    if isinstance(loaded, RecentMatch):
        loaded.message = encoded
    return encoded


def _check_size(path: str, items: Sized, most: int) -> None:
    if len(items) > most:
        message = f"{path} has {len(items):,} entries; at most {most} are allowed"
        raise InvalidArgument.at(path, "TOO_LARGE", message)


def _refused(path: str, fault: str) -> InvalidArgument:
    message = f"{path} is {fault}"
    return InvalidArgument.at(path, "OUT_OF_RANGE", message)
