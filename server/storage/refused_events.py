r"""SQL of the quarantine: events that were refused, apart from the log.

The rows of a project are changed only under the lock of its head, so that each is sent again, discarded or deleted
once, and `quarantine` always has their number and size. An id contains the time of the refusal, so ids sort by time,
and a range of times is a range of ids.

`faults` has a line for each reason and path, by which lists filter and counts group:

    \nPAYLOAD_REJECTED\t\nREQUIRED_PROPERTY_MISSING\tproperties.order_total\n
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec
import sqlalchemy as sa

from registry.bounded_pages import EXAMINED_ROWS, edge_of
from registry.errors import Violation  # noqa: TC001 - a field of a struct
from registry.log_ids import LogIds
from registry.page_sizes import read_page
from server.errors import RefusedEventNotFound
from server.storage.log import Appender
from server.storage.sqlite_writer import sqlite_driver
from server.storage.tables import contact, quarantine, refused_event

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from sqlalchemy import Connection

    from server.storage.log import LogRow

_MICROS_OF_MILLIS: Final = 1_000
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


class RefusalError(msgspec.Struct, frozen=True):
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
    error: RefusalError
    content: RefusedContent
    request: bytes = b""


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


_error = msgspec.json.Decoder(RefusalError)
_content = msgspec.json.Decoder(RefusedContent)
_listed = [column for column in refused_event.columns if column.name != "request"]


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
    return set(connection.scalars(query))


def delete_refused(connection: Connection, project_pk: int, ids: Collection[str]) -> int:
    """Delete refused events under the lock of the project's head. Return how many there were."""
    if not ids:
        return 0
    own = refused_event.c.project_key == project_pk
    deleted = connection.execute(
        sa.delete(refused_event).where(own, _among(ids)).returning(refused_event.c.byte_count)
    ).scalars()
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
    query = sa.select(refused_event).where(refused_event.c.project_key == project_pk, _among(ids))
    return [_refused(row, bytes(row.request)) for row in connection.execute(query.order_by(refused_event.c.id))]


def sizes_of(connection: Connection, project_pk: int, ids: Sequence[str]) -> list[tuple[str, int]]:
    """Return ids with the sizes of their events, oldest first. Raise RefusedEventNotFound."""
    query = sa.select(refused_event.c.id, refused_event.c.byte_count)
    query = query.where(refused_event.c.project_key == project_pk, _among(ids)).order_by(refused_event.c.id)
    found = [(row.id, row.byte_count) for row in connection.execute(query)]
    if len(found) < len(ids):
        known = {refused_id for refused_id, _ in found}
        raise RefusedEventNotFound(next(refused_id for refused_id in ids if refused_id not in known))
    return found


def list_refused(
    connection: Connection, project_pk: int, refused: RefusedFilter, limit: int, before: str = ""
) -> tuple[list[RefusedEvent], bool, str]:
    """Return a page of refused events before an id, newest first, whether there may be more, and where to continue."""
    within = _Range(project_pk, refused, before=before)
    edge = _edge(connection, within, refused, newest_first=True)
    if edge is not None:
        within.begin_with(edge)
    query = (
        sa.select(*_listed)
        .where(*within.conditions(), *_passing(connection, refused))
        .order_by(refused_event.c.id.desc())
    )
    page, more = read_page(connection, query, limit, lambda row: row.byte_count)
    found = [_refused(row) for row in page]
    if more or edge is None:
        return found, more, found[-1].id if found else ""
    return found, True, edge


def select_refused(
    connection: Connection, project_pk: int, refused: RefusedFilter, after: str, limit: int
) -> tuple[list[tuple[str, int]], str]:
    """Return ids and sizes of refused events after an id, oldest first, and the id to continue after, if any."""
    within = _Range(project_pk, refused, after=after)
    edge = _edge(connection, within, refused, newest_first=False)
    if edge is not None:
        within.end_with(edge)
    query = sa.select(refused_event.c.id, refused_event.c.byte_count)
    query = (
        query.where(*within.conditions(), *_passing(connection, refused)).order_by(refused_event.c.id).limit(limit + 1)
    )
    found = [(row.id, row.byte_count) for row in connection.execute(query)]
    if len(found) > limit:
        return found[:limit], found[limit - 1][0]
    return found, edge or ""


def count_refused(
    connection: Connection, project_pk: int, refused: RefusedFilter, after: str, examined: int
) -> RefusalCounts:
    """Count the refused events among the next `examined` ones after an id, oldest first."""
    within = _Range(project_pk, refused, after=after)
    candidates = sa.select(refused_event.c.id).where(*within.conditions()).order_by(refused_event.c.id)
    edge = edge_of(connection, candidates, examined)
    if edge is not None:
        within.end_with(edge)
    query = sa.select(refused_event.c.name, refused_event.c.faults, sa.func.count().label("events"))
    query = query.where(*within.conditions(), *_passing(connection, refused))
    groups: Counter[tuple[str, str, str]] = Counter()
    total = 0
    for row in connection.execute(query.group_by(refused_event.c.name, refused_event.c.faults)):
        total += row.events
        for reason, path in _grouped(row.faults):
            groups[row.name, reason, path] += row.events
    return RefusalCounts(groups, total, edge or "")


def refused_payloads(
    connection: Connection, project_pk: int, name: str, before: str, limit: int
) -> tuple[list[dict[str, Any]], int, str]:
    """Return properties of refused events of a name, newest first, and their size.

    The third value is the id to continue before, if there are more.
    """
    query = sa.select(refused_event.c.id, refused_event.c.content)
    query = query.where(*_Range(project_pk, RefusedFilter(), before=before).conditions(), refused_event.c.name == name)
    query = query.order_by(refused_event.c.id.desc())
    page, more = read_page(connection, query, limit, lambda row: len(row.content))
    contents = [_content.decode(row.content) for row in page]
    found = [content.properties for content in contents if content.properties is not None]
    return found, sum(len(row.content) for row in page), page[-1].id if more else ""


def refused_before(connection: Connection, project_pk: int, time: int, limit: int) -> Sequence[str]:
    """Return ids of events that were refused before a time, oldest first."""
    old = (refused_event.c.project_key == project_pk) & (refused_event.c.id < _first_id(time))
    return connection.scalars(sa.select(refused_event.c.id).where(old).order_by(refused_event.c.id).limit(limit)).all()


def quarantined_projects(connection: Connection) -> Sequence[int]:
    """Return the projects that have events in quarantine."""
    return connection.scalars(sa.select(quarantine.c.project_key).where(quarantine.c.event_count > 0)).all()


def refused_naming(
    connection: Connection, project_pk: int, contact_id: str, email: str, after: str, examined: int
) -> tuple[list[str], str]:
    """Return ids of refused events about a contact among the next `examined` ones after an id, and where to continue.

    An event is about a contact if it names the id or the address, or has the address anywhere in what was sent.
    """
    within = _Range(project_pk, RefusedFilter(), after=after)
    candidates = sa.select(refused_event.c.id).where(*within.conditions()).order_by(refused_event.c.id)
    edge = edge_of(connection, candidates, examined)
    if edge is not None:
        within.end_with(edge)
    query = sa.select(
        refused_event.c.id,
        refused_event.c.contact_id,
        refused_event.c.email,
        refused_event.c.error,
        refused_event.c.content,
        refused_event.c.request,
    )
    options = {"yield_per": _ROWS_AT_ONCE}
    with connection.execute(
        query.where(*within.conditions()).order_by(refused_event.c.id), execution_options=options
    ) as found:
        return [row.id for row in found if _names(row, contact_id, email)], edge or ""


def contact_id_of(connection: Connection, contact_key: int) -> str:
    """Return the id of a contact, empty if there is none."""
    return connection.scalar(sa.select(contact.c.id).where(contact.c.key == contact_key)) or ""


_ROWS_AT_ONCE: Final = 50


def _names(row: Any, contact_id: str, email: str) -> bool:
    if contact_id and row.contact_id == contact_id:
        return True
    if not email:
        return False
    texts = (row.email, row.error, row.content)
    return any(email in text.lower() for text in texts) or email.encode() in bytes(row.request).lower()


def _add_use(connection: Connection, project_pk: int, events: int, size: int) -> None:
    values = (project_pk, events, size)
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(_ADD_POSTGRESQL, values)
    else:
        sqlite_driver(connection).execute(_ADD_SQLITE, values)


def _among(ids: Iterable[str]) -> sa.ColumnElement[bool]:
    return refused_event.c.id.in_(list(ids))


class _Range:
    """The events of a project between two ids.

    There is one bound at each end: of two, SQLite might look up the wider one.
    """

    def __init__(self, project_pk: int, refused: RefusedFilter, *, after: str = "", before: str = "") -> None:
        self._own = refused_event.c.project_key == project_pk
        first = "" if refused.received_from is None else _first_id(refused.received_from)
        self._low = refused_event.c.id > max(after, first)
        ends = [before] if before else []
        if refused.received_until is not None:
            ends.append(_first_id(refused.received_until + _MICROS_OF_MILLIS - 1))
        self._high = refused_event.c.id < min(ends) if ends else None

    def begin_with(self, first: str) -> None:
        """Begin with the event of an id, which is in the range."""
        self._low = refused_event.c.id >= first

    def end_with(self, last: str) -> None:
        """End with the event of an id, which is in the range."""
        self._high = refused_event.c.id <= last

    def conditions(self) -> list[sa.ColumnElement[bool]]:
        """Return the conditions for events in the range."""
        return [self._own, self._low, *([] if self._high is None else [self._high])]


def _first_id(time: int) -> str:
    """Return a text that sorts before the ids of a time, in milliseconds, and after earlier ones."""
    millis = f"{max(0, time) // _MICROS_OF_MILLIS:012x}"
    return f"{millis[:8]}-{millis[8:]}-"


def _passing(connection: Connection, refused: RefusedFilter) -> list[sa.ColumnElement[bool]]:
    passing: list[sa.ColumnElement[bool]] = []
    if refused.name:
        passing.append(refused_event.c.name == refused.name)
    if refused.door:
        passing.append(refused_event.c.door == refused.door)
    if refused.reason:
        passing.append(_has(connection, f"\n{refused.reason}\t"))
    if refused.path:
        passing.append(_has(connection, f"\t{refused.path}\n"))
    if refused.received_from is not None:
        passing.append(refused_event.c.received_at >= refused.received_from)
    if refused.received_until is not None:
        passing.append(refused_event.c.received_at < refused.received_until)
    return passing


def _has(connection: Connection, text: str) -> sa.ColumnElement[bool]:
    find = sa.func.strpos if connection.dialect.name == "postgresql" else sa.func.instr
    found: sa.ColumnElement[bool] = find(refused_event.c.faults, text) > 0
    return found


def _edge(connection: Connection, within: _Range, refused: RefusedFilter, *, newest_first: bool) -> str | None:
    """Return the last event that a page examines, None if it need not examine any or there are not that many."""
    if not (refused.name or refused.door or refused.reason or refused.path):
        return None
    order = refused_event.c.id.desc() if newest_first else refused_event.c.id
    return edge_of(connection, sa.select(refused_event.c.id).where(*within.conditions()).order_by(order), EXAMINED_ROWS)


def _grouped(faults: str) -> Iterable[tuple[str, str]]:
    """Return reasons and paths: those of the violations or, if there are none, the reason of the error."""
    lines = [line.partition("\t") for line in faults.split("\n") if line]
    return [(reason, path) for reason, _, path in lines[1:] or lines]


def _refused(row: Any, request: bytes = b"") -> RefusedEvent:
    return RefusedEvent(
        row.id,
        row.received_at,
        row.byte_count,
        row.name,
        row.door,
        row.key_id,
        row.request_id,
        row.idempotency_key,
        row.contact_id,
        row.email,
        _error.decode(row.error),
        _content.decode(row.content),
        request,
    )


def faults_of(reason: str, places: Mapping[tuple[str, str], None]) -> str:
    """Return the column `faults` of an error and the reasons and paths of its violations."""
    lines = [f"{reason}\t", *(f"{reason}\t{path}" for reason, path in places)]
    return "\n" + "\n".join(lines) + "\n"
