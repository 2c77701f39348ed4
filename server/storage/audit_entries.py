"""SQL of the audit log."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec
import sqlalchemy as sa

from registry.sql.bounded_pages import EXAMINED_ROWS, last_examined_key
from registry.sql.text_columns import after_damaged, as_text
from registry.sql.unreadable_rows import UNREADABLE, UNREADABLE_ROWS
from server.model import AuditEntry
from server.storage.address_search import AddressSearch
from server.storage.damaged_text import bound_text, to_text
from server.storage.tables import audit_entry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection, Row
    from sqlalchemy.sql import ColumnElement

_entry = audit_entry.c
_names = msgspec.json.Decoder(tuple[str, ...])

_SLACK_MILLISECONDS: Final = 60_000
"""How much the time in an ID and that of its entry may differ, for servers whose clocks were set meanwhile."""


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Which entries are meant; empty fields match all. Times are microseconds: from `since` on, before `until`."""

    project_id: str = ""
    since: int | None = None
    until: int | None = None
    key_id: str = ""
    action: str = ""
    resource_type: str = ""
    resource_id: str = ""


def insert_entry(connection: Connection, entry: AuditEntry) -> None:
    """Store an entry."""
    values = {name: getattr(entry, name) for name in _SAME}
    connection.execute(
        audit_entry.insert().values(
            **values, before_json=entry.before, after_json=entry.after, omitted=json.dumps(entry.omitted)
        )
    )


_SAME: Final = (
    "id",
    "occurred_at",
    "project_id",
    "key_id",
    "api",
    "request_id",
    "action",
    "resource_type",
    "resource_id",
)


def content_after(connection: Connection, entry_id: str) -> str | None:
    """Return the resource of an entry, as it was after the change; None if there is no such entry."""
    return connection.scalar(sa.select(_entry.after_json).where(_entry.id == entry_id))


def replace_content_after(connection: Connection, entry_id: str, content: str) -> None:
    """Replace the resource of an entry, as it was after the change."""
    connection.execute(audit_entry.update().where(_entry.id == entry_id).values(after_json=content))


def entry_page(
    connection: Connection, wanted: AuditFilter, limit: int, after_id: str = "", *, oldest_first: bool = False
) -> tuple[Sequence[AuditEntry], str]:
    """Return up to `limit` entries after an id in the order of the list, newest first by default.

    Also return the id after which the next page begins, empty at the end. A page may be short
    (`registry.sql.bounded_pages`).
    """
    ordered = _entry.id.asc() if oldest_first else _entry.id.desc()
    examined = _examined(wanted)
    if after_id:
        examined &= _entry.id > after_id if oldest_first else _entry.id < after_id
    last_examined = last_examined_key(connection, sa.select(_entry.id).where(examined).order_by(ordered), EXAMINED_ROWS)
    if last_examined is not None:
        examined &= _entry.id <= last_examined if oldest_first else _entry.id >= last_examined
    query = sa.select(*as_text(audit_entry)).where(examined, _matching(wanted)).order_by(ordered).limit(limit + 1)
    found = [_to_entry(row) for row in connection.execute(query)]
    last = found[limit - 1].id if len(found) > limit else last_examined or ""
    return found[:limit], after_damaged(last) if oldest_first else last


def newest_id(connection: Connection) -> str:
    """Return the id of the newest entry, empty if there is none."""
    return connection.scalar(sa.select(sa.func.max(_entry.id))) or ""


def delete_entries(connection: Connection, before: int, limit: int) -> int:
    """Delete up to `limit` of the entries that are older than a time in microseconds. Return their number."""
    oldest = sa.select(_entry.id).where(_entry.id < _id_at(before // 1_000)).order_by(_entry.id).limit(limit)
    return connection.execute(audit_entry.delete().where(_entry.id.in_(oldest))).rowcount


def latest_entry_before(connection: Connection, time: int) -> int:
    """Return when the latest entry before a time was written, in microseconds; 0 if there is none."""
    # The time in an ID is that of the system clock, which the other one does not follow when it is stepped.
    earlier = (_entry.id < _id_at(time // 1_000)) & (_entry.occurred_at < time)
    latest = sa.select(_entry.occurred_at).where(earlier).order_by(_entry.id.desc()).limit(1)
    return int(connection.scalar(latest) or 0)


@dataclass(frozen=True, slots=True)
class EntriesOfPerson:
    """The ids of entries about a contact, and of those whose request ID has its address; `last` was examined last."""

    about: list[str]
    addressed: list[str]
    last: str


def entries_of_person(
    connection: Connection, project_id: str, contact_id: str, email: str, after_id: str = ""
) -> EntriesOfPerson:
    """Return entries of a person, among the next EXAMINED_ROWS of the project after an id; `last` is empty at the end.

    Request IDs have been stored without addresses since they are masked, but for those that the mask does not know.
    """
    own = sa.select(_entry.id, _entry.resource_type, _entry.resource_id, _entry.request_id)
    own = (
        own.where(_entry.project_id == project_id, _entry.id > bound_text(after_id))
        .order_by(_entry.id)
        .limit(EXAMINED_ROWS)
    )
    rows = connection.execute(own).all()
    about = [row.id for row in rows if contact_id and (row.resource_type, row.resource_id) == ("contact", contact_id)]
    search = AddressSearch(email)
    addressed = [row.id for row in rows if search.found_in(to_text(row.request_id))]
    return EntriesOfPerson(about, addressed, rows[-1].id if len(rows) == EXAMINED_ROWS else "")


def erase_contents(connection: Connection, entry_ids: Sequence[str]) -> None:
    """Erase the resources of entries; who changed them, when and how is kept."""
    ids = [bound_text(entry_id) for entry_id in entry_ids]
    connection.execute(
        audit_entry.update().where(_entry.id.in_(ids)).values(before_json="", after_json="", omitted="[]")
    )


def erase_request_ids(connection: Connection, entry_ids: Sequence[str]) -> None:
    """Erase the request IDs of entries."""
    ids = [bound_text(entry_id) for entry_id in entry_ids]
    connection.execute(audit_entry.update().where(_entry.id.in_(ids)).values(request_id=""))


def _examined(wanted: AuditFilter) -> ColumnElement[bool]:
    """Return the condition on the rows that a page examines: those of a project and of about the time."""
    condition: ColumnElement[bool] = _entry.id != sa.literal_column("''")
    if wanted.project_id:
        condition &= _entry.project_id == wanted.project_id
    if wanted.since is not None:
        condition &= _entry.id >= _id_at(wanted.since // 1_000 - _SLACK_MILLISECONDS)
    if wanted.until is not None:
        condition &= _entry.id < _id_at(wanted.until // 1_000 + _SLACK_MILLISECONDS)
    return condition


def _matching(wanted: AuditFilter) -> ColumnElement[bool]:
    conditions: list[ColumnElement[bool]] = [sa.true()]
    if wanted.since is not None:
        conditions.append(_entry.occurred_at >= wanted.since)
    if wanted.until is not None:
        conditions.append(_entry.occurred_at < wanted.until)
    exact = ("key_id", "action", "resource_type", "resource_id")
    conditions += [_entry[name] == value for name in exact if (value := getattr(wanted, name))]
    return sa.and_(*conditions)


def _id_at(milliseconds: int) -> str:
    """Return the start of the UUIDv7s of a time, which sorts before all of them."""
    digits = f"{min(max(milliseconds, 0), (1 << 48) - 1):012x}"
    return f"{digits[:8]}-{digits[8:]}"


def _to_entry(row: Row[Any]) -> AuditEntry:
    same = {name: getattr(row, name) for name in _SAME}
    return AuditEntry(**same, before=row.before_json, after=row.after_json, omitted=_omitted(row))


def _omitted(row: Row[Any]) -> tuple[str, ...]:
    try:
        return _names.decode(row.omitted)
    except UNREADABLE as error:
        UNREADABLE_ROWS.report("audit_entry", row.id, error)
        return ()
