"""Where in a project's match log to begin reading, and the cursors that name such a place."""

from __future__ import annotations

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from typing import TYPE_CHECKING, Final, NamedTuple

from automation.match_log import first_since, log_start, match_id_at
from server.errors import CursorExpired, CursorInvalid, CursorRewound, KeyInvalid, PositionBeyondHead
from server.storage.projects.heads import match_positions
from server.storage.projects.projects import project_by_pk

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from automation.match_log import LogStart

_POSITION_BYTES: Final = 8
_MARK_BYTES: Final = 5
_DIGEST_BYTES: Final = 8
# 21 bytes are 28 characters of base64, without padding.
_CURSOR_CHARACTERS: Final = 28

# Earlier versions made cursors without the mark of a match, with a digest of 7 bytes; they are still accepted.
_UNMARKED_DIGEST_BYTES: Final = 7
_UNMARKED_CHARACTERS: Final = 20

_NO_MARK: Final = bytes(_MARK_BYTES)


class LogEnd(StrEnum):
    """An end of the match log."""

    EARLIEST = "earliest"
    """Before the earliest available match."""
    LATEST = "latest"
    """After the newest match."""


@dataclass(frozen=True, slots=True)
class AfterPosition:
    """After the match at a position; 0 for the whole log."""

    position: int


@dataclass(frozen=True, slots=True)
class Since:
    """From the first match recorded at or after a time on, in microseconds UTC."""

    time: int


@dataclass(frozen=True, slots=True)
class Cursor:
    """After the matches that were returned with a cursor."""

    text: str


StartPoint = LogEnd | AfterPosition | Since | Cursor
"""A place in the match log from which to read."""


class Place(NamedTuple):
    """A place in a match log: after the match at `position`, which has `match_id`; that is empty if it is not kept."""

    position: int
    match_id: str


def make_cursor(project_id: str, place: Place) -> str:
    """Write the cursor of a place in the match log of a project.

    It carries the random bits of the match's id: a log that was cut by a failover or a restore, and has grown again
    since, has another match there.
    """
    content = place.position.to_bytes(_POSITION_BYTES, "big") + _mark(place.match_id)
    return urlsafe_b64encode(content + _digest(project_id, content, _DIGEST_BYTES)).decode()


def resolve_start(connection: Connection, project_pk: int, start: StartPoint) -> int:
    """Return the position after which to read.

    Raise CursorInvalid, PositionBeyondHead, CursorRewound, and CursorExpired where matches after the place are gone.
    """
    first, head = log_start(connection, project_pk), match_head(connection, project_pk)
    match start:
        case LogEnd.EARLIEST:
            return first.position - 1
        case LogEnd.LATEST:
            return head
        case Since(time):
            return _position_since(connection, project_pk, time, first, head)
        case AfterPosition(position):
            if position > head:
                raise PositionBeyondHead(position, head)
        case Cursor(text):
            position, mark = _read_cursor(project_by_pk(connection, project_pk).id, text)
            check_history(connection, project_pk, position, mark, head)
    check_kept(position, first.position)
    return position


def check_place(connection: Connection, project_pk: int, place: Place, head: int) -> None:
    """Raise CursorRewound if the log has lost the history before a cursor, as in a failover or a restore."""
    check_history(connection, project_pk, place.position, _mark(place.match_id), head)


def check_history(connection: Connection, project_pk: int, position: int, mark: bytes, head: int) -> None:
    """Raise CursorRewound if the log ends before a position that it once reached, or has another match there."""
    if position > head:
        raise CursorRewound(position, head)
    if mark != _NO_MARK:
        # The mark of a match that retention has deleted cannot be compared.
        kept = _mark(match_id_at(connection, project_pk, position))
        if kept not in (mark, _NO_MARK):
            raise CursorRewound(position, head)


def match_head(connection: Connection, project_pk: int) -> int:
    """Return the position of the newest match of a project. Raise KeyInvalid if the project was lost in a failover."""
    position = match_positions(connection, [project_pk]).get(project_pk)
    if position is None:
        raise KeyInvalid
    return position


def check_kept(position: int, earliest: int) -> None:
    """Raise CursorExpired unless every match after a position is available."""
    if position < earliest - 1:
        raise CursorExpired(earliest)


def _position_since(connection: Connection, project_pk: int, time: int, start: LogStart, head: int) -> int:
    if start.gone_before and time < start.gone_before:
        raise CursorExpired(start.position)
    return first_since(connection, project_pk, time, start.position, head) - 1


def _read_cursor(project_id: str, text: str) -> tuple[int, bytes]:
    """Return the position of a cursor and the mark of the match there."""
    if len(text) not in (_CURSOR_CHARACTERS, _UNMARKED_CHARACTERS):
        raise CursorInvalid
    marked = len(text) == _CURSOR_CHARACTERS
    digest_bytes = _DIGEST_BYTES if marked else _UNMARKED_DIGEST_BYTES
    try:
        cursor = urlsafe_b64decode(text)
    except (ValueError, binascii.Error) as error:
        raise CursorInvalid from error
    content, digest = cursor[:-digest_bytes], cursor[-digest_bytes:]
    if digest != _digest(project_id, content, digest_bytes):
        raise CursorInvalid
    mark = content[_POSITION_BYTES:] if marked else _NO_MARK
    return int.from_bytes(content[:_POSITION_BYTES], "big"), mark


def _mark(match_id: str) -> bytes:
    """Return the last 40 bits of an id, 34 of which are random."""
    return bytes.fromhex(match_id[-2 * _MARK_BYTES :]) if match_id else _NO_MARK


def _digest(project_id: str, content: bytes, size: int) -> bytes:
    return sha256(b"match cursor " + project_id.encode() + content).digest()[:size]
