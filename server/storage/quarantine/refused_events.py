r"""Rows of the quarantine: insert, read by id, and delete refused events. `search` has the lists.

The rows of a project are changed only under the lock of its head, so that each is sent again, discarded or deleted
once, and `quarantine` always has their number and size. An id contains the time of the refusal, so ids sort by time,
and a range of times is a range of ids.

`faults` has a line for each reason and path, by which lists filter and counts group:

    \nPAYLOAD_REJECTED\t\nREQUIRED_PROPERTY_MISSING\tproperties.order_total\n
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import msgspec
import sqlalchemy as sa

from registry.errors import (
    RowUnreadable,
    Violation,
)
from registry.log_ids import LogIds
from registry.sql.unreadable_rows import UNREADABLE, UNREADABLE_ROWS, load_object
from registry.times.timestamps import check_instant
from server.errors import RefusedEventNotFound
from server.storage.damaged_text import bound_text, is_damaged, reading_damaged_text, to_valid_text
from server.storage.events.appending import Appender
from server.storage.sqlite.writer import sqlite_driver
from server.storage.tables import quarantine, refused_event

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from sqlalchemy import Connection

    from server.storage.events.appending import LogRow

T = TypeVar("T")

_COUNTER: Final = count(1)
_COUNTER_BITS: Final = (1 << 40) - 1

rows: Final = Appender(refused_event)

_USE = "SELECT event_count, byte_count FROM quarantine WHERE project_key"
_ADD = """
INSERT INTO quarantine (project_key, event_count, byte_count) VALUES ({0}, {1}, {2})
ON CONFLICT (project_key) DO UPDATE
SET event_count = quarantine.event_count + excluded.event_count,
    byte_count = quarantine.byte_count + excluded.byte_count
"""
_ADD_SQLITE, _ADD_POSTGRESQL = _ADD.format("?", "?", "?"), _ADD.format("$1", "$2", "$3")


class QuarantineUse(NamedTuple):
    """How many events a project has in quarantine, and how many bytes."""

    events: int
    bytes: int


class RefusalCause(msgspec.Struct, frozen=True):
    """Why an event was refused. It is stored as JSON."""

    reason: str
    message: str
    violations: tuple[Violation, ...] = ()


class RefusedContent(msgspec.Struct, frozen=True, omit_defaults=True):
    """An event as it was sent. It is stored as JSON.

    Without `properties` the request could not be read: then it is stored itself, and `params` are those of its path.
    """

    name: str = ""
    contact_id: str = ""
    email: str = ""
    occurred_at: int | None = None
    properties: dict[str, Any] | None = None
    params: dict[str, str] = {}


@dataclass(frozen=True, slots=True)
class RefusedEvent:
    """An event in quarantine. `request` is empty unless the request could not be read."""

    id: str
    received_at: int
    byte_count: int
    name: str
    door: str
    key_id: str
    request_id: str
    idempotency_key: str
    contact_id: str
    email: str
    error: RefusalCause
    content: RefusedContent
    request: bytes = b""
    unreadable: str = ""
    """Why the error or the content cannot be read, of which only the readable parts are present."""


@dataclass(frozen=True, slots=True)
class RefusedFilter:
    """Which refused events to read. Times are in microseconds; `from` is inclusive, `until` exclusive."""

    name: str = ""
    reason: str = ""
    path: str = ""
    door: str = ""
    received_from: int | None = None
    received_until: int | None = None


class RefusalCounts(NamedTuple):
    """How many events have a name, a reason and a path, how many were counted, and the id to continue after, if any."""

    groups: Counter[tuple[str, str, str]]
    events: int
    last: str


request_bytes: Final = sa.cast(refused_event.c.request, sa.LargeBinary).label("request")
"""The request, also where SQLite has it as a text."""

_MAX_STORED: Final = 1 << 20
_measured = (refused_event.c.error, refused_event.c.content, refused_event.c.request)

stored_size: Final = sa.case(
    (refused_event.c.byte_count.between(0, _MAX_STORED), sa.cast(refused_event.c.byte_count, sa.BigInteger)),
    else_=sum(map(sa.func.length, _measured), sa.func.length(refused_event.c.name))
    + sa.func.length(refused_event.c.email),
)
"""The size of an event, counted again where the column has something else than a size."""

_error = msgspec.json.Decoder(RefusalCause)
_content = msgspec.json.Decoder(RefusedContent)
_encode = msgspec.json.Encoder().encode
_TEXTS: Final = ("name", "faults", "door", "key_id", "request_id", "idempotency_key", "contact_id", "email")


def new_ids(received_at: int) -> LogIds:
    """Return what makes the ids of events that are refused at a time, with `next_number`."""
    return LogIds(received_at)


def next_number() -> int:
    """Return the next number of this process, for an id."""
    return next(_COUNTER) & _COUNTER_BITS


def use_of(connection: Connection, project_pk: int) -> QuarantineUse:
    """Return how much a project has in quarantine."""
    query = sa.select(quarantine.c.event_count, quarantine.c.byte_count).where(quarantine.c.project_key == project_pk)
    row = connection.execute(query).one_or_none()
    return QuarantineUse(*row) if row is not None else QuarantineUse(0, 0)


def locked_use_of(connection: Connection, project_pk: int) -> QuarantineUse:
    """Return the same in a transaction that writes, without the time that SQLAlchemy takes."""
    if connection.dialect.name == "postgresql":
        row: Any = connection.exec_driver_sql(f"{_USE} = $1", (project_pk,)).one_or_none()
    else:
        row = sqlite_driver(connection).execute(f"{_USE} = ?", (project_pk,)).fetchone()
    return QuarantineUse(*row) if row is not None else QuarantineUse(0, 0)


def add_refused(connection: Connection, project_pk: int, values: Sequence[LogRow], size: int) -> None:
    """Store refused events, which together have `size` bytes, under the lock of the project's head."""
    rows.append(connection, values)
    _add_use(connection, project_pk, len(values), size)


def existing(connection: Connection, project_pk: int, ids: Collection[str]) -> set[str]:
    """Return which of these events are in quarantine. Under the lock of the project's head they stay there."""
    query = sa.select(refused_event.c.id).where(refused_event.c.project_key == project_pk, _among(ids))
    with reading_damaged_text(connection):
        return set(connection.scalars(query))


def delete_refused(connection: Connection, project_pk: int, ids: Collection[str]) -> int:
    """Delete refused events under the lock of the project's head. Return how many there were."""
    if not ids:
        return 0
    own = refused_event.c.project_key == project_pk
    deleted = connection.execute(sa.delete(refused_event).where(own, _among(ids)).returning(stored_size)).scalars()
    sizes = deleted.all()
    if sizes:
        _add_use(connection, project_pk, -len(sizes), -sum(sizes))
    return len(sizes)


def get_refused(connection: Connection, project_pk: int, refused_id: str) -> RefusedEvent:
    """Read one refused event with its request. Raise RefusedEventNotFound."""
    for found in read_refused(connection, project_pk, [refused_id]):
        return found
    raise RefusedEventNotFound(refused_id)


def read_refused(connection: Connection, project_pk: int, ids: Sequence[str]) -> list[RefusedEvent]:
    """Read refused events with their requests, oldest first; those that are not there are left out."""
    columns = [column for column in refused_event.columns if column.name not in ("request", "byte_count")]
    query = sa.select(*columns, stored_size.label("byte_count"), request_bytes)
    query = query.where(refused_event.c.project_key == project_pk, _among(ids)).order_by(refused_event.c.id)
    with reading_damaged_text(connection):
        rows = connection.execute(query).all()
    return [to_refused_event(row, bytes(row.request)) for row in rows]


def sizes_of(connection: Connection, project_pk: int, ids: Collection[str]) -> list[tuple[str, int]]:
    """Return ids with the sizes of their events, oldest first. Raise RefusedEventNotFound."""
    query = sa.select(refused_event.c.id, stored_size.label("byte_count"))
    query = query.where(refused_event.c.project_key == project_pk, _among(ids)).order_by(refused_event.c.id)
    with reading_damaged_text(connection):
        found = [(row.id, row.byte_count) for row in connection.execute(query)]
    if len(found) < len(ids):
        known = {refused_id for refused_id, _ in found}
        raise RefusedEventNotFound(next(refused_id for refused_id in ids if refused_id not in known))
    return found


def quarantined_projects(connection: Connection) -> Sequence[int]:
    """Return the projects that have events in quarantine."""
    return connection.scalars(sa.select(quarantine.c.project_key).where(quarantine.c.event_count > 0)).all()


def _add_use(connection: Connection, project_pk: int, events: int, size: int) -> None:
    values = (project_pk, events, size)
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(_ADD_POSTGRESQL, values)
    else:
        sqlite_driver(connection).execute(_ADD_SQLITE, values)


def _among(ids: Iterable[str]) -> sa.ColumnElement[bool]:
    return refused_event.c.id.in_([bound_text(each) for each in ids])


def to_refused_event(row: Any, request: bytes = b"") -> RefusedEvent:
    """Return the refused event of a row. An unreadable part is reported, and replaced by what other columns have."""
    texts = {name: to_valid_text(getattr(row, name)) for name in _TEXTS}
    name, contact_id, email = texts["name"], texts["contact_id"], texts["email"]
    reason = next((line.partition("\t")[0] for line in texts["faults"].split("\n") if line), RowUnreadable.reason)
    error, wrong = _reported(row.id, _error.decode, row.error, RefusalCause(reason, ""))
    content, unreadable = _reported(row.id, _read_content, row.content, RefusedContent(name, contact_id, email))
    received_at, no_time = _reported(row.id, _read_time, row.received_at, _time_of(row.id))
    _, no_text = _reported(row.id, _check_texts, row, None)
    return RefusedEvent(
        id=to_valid_text(row.id),
        received_at=received_at,
        byte_count=row.byte_count,
        name=name,
        door=texts["door"],
        key_id=texts["key_id"],
        request_id=texts["request_id"],
        idempotency_key=texts["idempotency_key"],
        contact_id=contact_id,
        email=email,
        error=error,
        content=content,
        request=request,
        unreadable=unreadable or wrong or no_time or no_text,
    )


def _read_time(value: object) -> int:
    if type(value) is not int:
        raise TypeError("received_at is not a time")
    return check_instant(value)


def _time_of(refused_id: str) -> int:
    """Return the time in the id of an event, to the millisecond."""
    try:
        return check_instant(int(refused_id.replace("-", "")[:12], 16) * 1_000)
    except ValueError:
        return 0


def _check_texts(row: Any) -> None:
    for name in ("id", *_TEXTS):
        if is_damaged(getattr(row, name)):
            raise ValueError(f"{name} is not text in UTF-8")


def to_content(row: Any) -> RefusedContent:
    """Return the content of a row, an empty one if it is unreadable, which is reported."""
    return _reported(row.id, _read_content, row.content, RefusedContent())[0]


def _read_content(text: str) -> RefusedContent:
    """Return stored content. Raise one of UNREADABLE, also for properties that could not be written into a message."""
    content = _content.decode(text)
    if content.occurred_at is not None:
        check_instant(content.occurred_at)
    if content.properties is None:
        return content
    return msgspec.structs.replace(content, properties=load_object(_encode(content.properties).decode()))


def _reported(refused_id: str, read: Callable[[Any], T], stored: Any, instead: T) -> tuple[T, str]:
    """Return the value that is stored, or if it is unreadable, a substitute and the reason."""
    try:
        return read(stored), ""
    except UNREADABLE as error:
        return instead, UNREADABLE_ROWS.report("refused_event", refused_id, error)


def faults_of(reason: str, places: Mapping[tuple[str, str], None]) -> str:
    """Return the column `faults` of an error and the reasons and paths of its violations."""
    lines = [f"{reason}\t", *(f"{reason}\t{path}" for reason, path in places)]
    return "\n" + "\n".join(lines) + "\n"
