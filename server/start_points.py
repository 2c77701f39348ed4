"""Where in a project's match log to begin reading, and the cursors that name such a place."""

from __future__ import annotations

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from automation.match_log import first_since, log_start
from server.errors import CursorExpired, CursorInvalid, PositionBeyondHead
from server.storage.projects import match_positions, project_by_key

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from automation.match_log import LogStart

_POSITION_BYTES: Final = 8
_DIGEST_BYTES: Final = 7
# 15 bytes are 20 characters of base64, without padding.
_CURSOR_CHARACTERS: Final = 20


class LogEnd(StrEnum):
    """An end of the match log."""

    EARLIEST = "earliest"
    """Before the earliest match that is kept."""
    LATEST = "latest"
    """Behind the newest match."""


@dataclass(frozen=True, slots=True)
class AfterPosition:
    """Behind the match of a position; 0 for the whole log."""

    position: int


@dataclass(frozen=True, slots=True)
class Since:
    """The first match recorded at a time or later, in microseconds UTC."""

    time: int


@dataclass(frozen=True, slots=True)
class Cursor:
    """Behind what was answered with a cursor."""

    text: str


StartPoint = LogEnd | AfterPosition | Since | Cursor
"""A place in the match log from which to read."""


def make_cursor(project_id: str, position: int) -> str:
    """Write the cursor of a position in the match log of a project."""
    place = position.to_bytes(_POSITION_BYTES, "big")
    return urlsafe_b64encode(place + _digest(project_id, place)).decode()


def resolve_start(connection: Connection, project_key: int, start: StartPoint) -> int:
    """Give the position behind which to read.

    Raises CursorInvalid, PositionBeyondHead, and CursorExpired where matches that belong behind the place are gone.
    """
    first, head = log_start(connection, project_key), match_head(connection, project_key)
    match start:
        case LogEnd.EARLIEST:
            return first.position - 1
        case LogEnd.LATEST:
            return head
        case Since(time):
            return _position_since(connection, project_key, time, first, head)
        case AfterPosition(position):
            pass
        case Cursor(text):
            position = _read_cursor(project_by_key(connection, project_key).id, text)
    if position > head:
        raise PositionBeyondHead(position, head)
    check_kept(position, first.position)
    return position


def match_head(connection: Connection, project_key: int) -> int:
    """Give the position of the newest match of a project."""
    return match_positions(connection, [project_key])[project_key]


def check_kept(position: int, earliest: int) -> None:
    """Raise CursorExpired unless every match behind a position is kept."""
    if position < earliest - 1:
        raise CursorExpired(earliest)


def _position_since(connection: Connection, project_key: int, time: int, start: LogStart, head: int) -> int:
    if time < start.gone_before:
        raise CursorExpired(start.position)
    return first_since(connection, project_key, time, start.position, head) - 1


def _read_cursor(project_id: str, text: str) -> int:
    try:
        cursor = urlsafe_b64decode(text) if len(text) == _CURSOR_CHARACTERS else b""
    except (ValueError, binascii.Error) as error:
        raise CursorInvalid from error
    place, digest = cursor[:_POSITION_BYTES], cursor[_POSITION_BYTES:]
    if digest != _digest(project_id, place):
        raise CursorInvalid
    return int.from_bytes(place, "big")


def _digest(project_id: str, place: bytes) -> bytes:
    return sha256(b"match cursor " + project_id.encode() + place).digest()[:_DIGEST_BYTES]
