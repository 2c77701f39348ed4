"""Queries of the quarantine: list, count and find refused events, a bounded number of rows at a time.

`refused_events` has the statements that write.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import sqlalchemy as sa

from registry.sql.bounded_pages import EXAMINED_ROWS, last_examined_key
from registry.sql.page_sizes import read_page
from server.storage.address_search import AddressSearch
from server.storage.damaged_text import bound_text, is_damaged, reading_damaged_text, to_text, to_valid_text
from server.storage.quarantine.refused_events import (
    RefusalCounts,
    RefusedEvent,
    RefusedFilter,
    request_bytes,
    stored_size,
    to_content,
    to_refused_event,
)
from server.storage.tables import refused_event

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from sqlalchemy import Connection

_MICROS_OF_MILLIS: Final = 1_000
_ROWS_AT_ONCE: Final = 20
_SEARCHED_CHARACTERS: Final = 1_000_000
"""The most characters that one read searches for an address: texts made to be slow take about 1 us for each."""

_listed = [
    *(column for column in refused_event.columns if column.name not in ("request", "byte_count")),
    stored_size.label("byte_count"),
]
_searched = [refused_event.c[name] for name in ("contact_id", "email", "error", "content")]


def list_refused(
    connection: Connection, project_pk: int, refused: RefusedFilter, limit: int, before: str = ""
) -> tuple[list[RefusedEvent], bool, str]:
    """Return a page of refused events before an id, newest first, whether there may be more, and where to continue."""
    within = _Range(project_pk, refused, before=before)
    last_examined = _last_examined_key(connection, within, refused, newest_first=True)
    if last_examined is not None:
        within.begin_with(last_examined)
    query = (
        sa.select(*_listed)
        .where(*within.conditions(), *_passing(connection, refused))
        .order_by(refused_event.c.id.desc())
    )
    with reading_damaged_text(connection):
        page, more = read_page(connection, query, limit, lambda row: row.byte_count)
    found = [to_refused_event(row) for row in page]
    if more or last_examined is None:
        return found, more, found[-1].id if found else ""
    return found, True, last_examined


def select_refused(
    connection: Connection, project_pk: int, refused: RefusedFilter, after: str, limit: int
) -> tuple[list[tuple[str, int]], str]:
    """Return ids and sizes of refused events after an id, oldest first, and the id to continue after, if any."""
    within = _Range(project_pk, refused, after=after)
    last_examined = _last_examined_key(connection, within, refused, newest_first=False)
    if last_examined is not None:
        within.end_with(last_examined)
    query = sa.select(refused_event.c.id, stored_size.label("byte_count"))
    query = (
        query.where(*within.conditions(), *_passing(connection, refused)).order_by(refused_event.c.id).limit(limit + 1)
    )
    with reading_damaged_text(connection):
        found = [(row.id, row.byte_count) for row in connection.execute(query)]
    if len(found) > limit:
        return found[:limit], found[limit - 1][0]
    return found, last_examined or ""


def first_of_keys(
    connection: Connection,
    project_pk: int,
    refused: RefusedFilter,
    ids: Collection[str],
    until: str,
    among: Collection[str] = (),
) -> list[tuple[str, int]]:
    """Return ids and sizes of refused events up to an id that have an idempotency key of one of the events `ids`.

    Of those with the same key and content it is the first one, and there are no more than `ids`. Without `among`, all
    that pass the filter are examined.
    """
    event, own = refused_event.c, refused_event.c.project_key == project_pk
    # The condition on empty keys is that of the index.
    keyed = sa.select(event.idempotency_key).where(own, event.id.in_(ids), event.idempotency_key != "").distinct()
    keys = list(connection.scalars(keyed))
    if not keys:
        return []
    query = sa.select(sa.func.min(event.id).label("id"), sa.func.max(stored_size).label("byte_count"))
    query = query.where(own, event.idempotency_key != "", event.idempotency_key.in_(keys), event.id <= until)
    query = query.where(*_passing(connection, refused), *([event.id.in_(among)] if among else []))
    query = query.group_by(event.idempotency_key, event.content, event.request).order_by("id").limit(len(ids))
    with reading_damaged_text(connection):
        return [(row.id, row.byte_count) for row in connection.execute(query)]


def count_refused(
    connection: Connection, project_pk: int, refused: RefusedFilter, after: str, examined: int
) -> RefusalCounts:
    """Count the refused events among the next `examined` ones after an id, oldest first."""
    within = _Range(project_pk, refused, after=after)
    candidates = sa.select(refused_event.c.id).where(*within.conditions()).order_by(refused_event.c.id)
    last_examined = _examined(connection, candidates, examined)
    if last_examined is not None:
        within.end_with(last_examined)
    query = sa.select(refused_event.c.name, refused_event.c.faults, sa.func.count().label("events"))
    query = query.where(*within.conditions(), *_passing(connection, refused))
    groups: Counter[tuple[str, str, str]] = Counter()
    total = 0
    with reading_damaged_text(connection):
        rows = connection.execute(query.group_by(refused_event.c.name, refused_event.c.faults)).all()
    for row in rows:
        total += row.events
        for reason, path in _grouped(to_valid_text(row.faults)):
            groups[to_valid_text(row.name), reason, path] += row.events
    return RefusalCounts(groups, total, last_examined or "")


def refused_payloads(
    connection: Connection, project_pk: int, name: str, before: str, limit: int
) -> tuple[list[dict[str, Any]], int, str]:
    """Return properties of refused events of a name, newest first, and their size.

    The third value is the id to continue before, if there are more.
    """
    query = sa.select(refused_event.c.id, refused_event.c.content)
    query = query.where(*_Range(project_pk, RefusedFilter(), before=before).conditions(), refused_event.c.name == name)
    query = query.order_by(refused_event.c.id.desc())
    with reading_damaged_text(connection):
        page, more = read_page(connection, query, limit, lambda row: len(to_text(row.content)))
    contents = [to_content(row) for row in page]
    found = [content.properties for content in contents if content.properties is not None]
    return found, sum(len(to_text(row.content)) for row in page), page[-1].id if more else ""


def refused_before(connection: Connection, project_pk: int, time: int, limit: int) -> Sequence[str]:
    """Return ids of events that were refused before a time, oldest first."""
    old = (refused_event.c.project_key == project_pk) & (refused_event.c.id < _first_id(time))
    query = sa.select(refused_event.c.id).where(old).order_by(refused_event.c.id).limit(limit)
    with reading_damaged_text(connection):
        return connection.scalars(query).all()


class RefusedOfPerson(NamedTuple):
    """Ids of refused events that name a person, and of damaged ones that may be about the person."""

    ids: list[str]
    damaged: list[str]


def refused_naming(
    connection: Connection, project_pk: int, contact_id: str, email: str, after: str, examined: int
) -> tuple[RefusedOfPerson, str]:
    """Return refused events about a contact among the next `examined` ones after an id, and where to continue.

    Fewer are examined if they are large. An event is about a contact if it names the id or the address, or has the
    address anywhere in what was sent. A damaged one may be about the contact unless a column names another one.
    """
    within = _Range(project_pk, RefusedFilter(), after=after)
    candidates = sa.select(refused_event.c.id).where(*within.conditions()).order_by(refused_event.c.id)
    last_examined = _examined(connection, candidates, examined)
    if last_examined is not None:
        within.end_with(last_examined)
    query = sa.select(refused_event.c.id, *_searched, request_bytes)
    query = query.where(*within.conditions()).order_by(refused_event.c.id)
    found, search = RefusedOfPerson([], []), AddressSearch(email)
    options, room = {"yield_per": _ROWS_AT_ONCE}, _SEARCHED_CHARACTERS
    with reading_damaged_text(connection), connection.execute(query, execution_options=options) as rows:
        for row in rows:
            if _names(row, contact_id, search):
                found.ids.append(row.id)
            elif _may_name(row):
                found.damaged.append(row.id)
            room -= sum(len(to_text(value)) for value in (row.error, row.content)) + len(row.request)
            if room < 0:
                return found, row.id
    return found, last_examined or ""


def _names(row: Any, contact_id: str, search: AddressSearch) -> bool:
    if contact_id and (row.contact_id == contact_id or contact_id in to_text(row.content)):
        return True
    return any(search.found_in(to_text(value)) for value in (row.email, row.error, row.content, row.request))


def _may_name(row: Any) -> bool:
    if not is_damaged(row.error) and not is_damaged(row.content):
        return False  # What was sent has been searched.
    return all(is_damaged(value) or not value for value in (row.contact_id, row.email))


class _Range:
    """The events of a project between two ids.

    There is one bound at each end: of two, SQLite might look up the wider one.
    """

    def __init__(self, project_pk: int, refused: RefusedFilter, *, after: str = "", before: str = "") -> None:
        self._own = refused_event.c.project_key == project_pk
        first = "" if refused.received_from is None else _first_id(refused.received_from)
        self._low = refused_event.c.id > bound_text(max(after, first))
        ends = [before] if before else []
        if refused.received_until is not None:
            ends.append(_first_id(refused.received_until + _MICROS_OF_MILLIS - 1))
        self._high = refused_event.c.id < bound_text(min(ends)) if ends else None

    def begin_with(self, first: str) -> None:
        """Begin with the event of an id, which is in the range."""
        self._low = refused_event.c.id >= bound_text(first)

    def end_with(self, last: str) -> None:
        """End with the event of an id, which is in the range."""
        self._high = refused_event.c.id <= bound_text(last)

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


def _last_examined_key(
    connection: Connection, within: _Range, refused: RefusedFilter, *, newest_first: bool
) -> str | None:
    """Return the last event that a page examines, None if it need not examine any or there are not that many."""
    if not (refused.name or refused.door or refused.reason or refused.path):
        return None
    order = refused_event.c.id.desc() if newest_first else refused_event.c.id
    return _examined(
        connection, sa.select(refused_event.c.id).where(*within.conditions()).order_by(order), EXAMINED_ROWS
    )


def _examined(connection: Connection, candidates: sa.Select[tuple[str]], most: int) -> str | None:
    with reading_damaged_text(connection):
        return last_examined_key(connection, candidates, most)


def _grouped(faults: str) -> Iterable[tuple[str, str]]:
    """Return reasons and paths: those of the violations or, if there are none, the reason of the error."""
    lines = [line.partition("\t") for line in faults.split("\n") if line]
    return [(reason, path) for reason, _, path in lines[1:] or lines]
