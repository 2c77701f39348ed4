"""SQL of contacts."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import sqlalchemy as sa

from automation.bulk import chunks
from automation.unused_keys import first_unused_key
from registry.errors import RowUnreadable
from registry.etags import check_etag
from registry.sql.bounded_pages import EXAMINED_LOG_ROWS, last_examined_key
from registry.sql.name_search import name_contains
from registry.sql.page_sizes import read_page
from registry.sql.text_columns import as_text
from registry.sql.unreadable_rows import load_reported
from server.errors import ContactNotFound
from server.model import Contact
from server.storage.tables import contact, event

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sqlalchemy import Connection, Row
    from sqlalchemy.sql import ColumnElement

_COLUMNS = as_text(contact)
_TEXT_ID, _EMAIL = (sa.cast(column, sa.Text).label(column.name) for column in (contact.c.id, contact.c.email))
_ID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class ContactKey(NamedTuple):
    """The identifiers of a contact: its integer key in the database, its public id, and its address."""

    key: int
    id: str
    email: str


def find_contact(connection: Connection, project_pk: int, *, contact_id: str = "", email: str = "") -> Contact:
    """Read a live contact by id or, where that is empty, by address. Raise ContactNotFound."""
    wanted = contact.c.id == contact_id if contact_id else contact.c.email == email
    row = connection.execute(sa.select(*_COLUMNS).where(_live(project_pk), wanted)).one_or_none()
    if row is None:
        raise ContactNotFound(contact_id or email)
    return _contact(row)


def insert_contact(
    connection: Connection, project_pk: int, contact_id: str, email: str, properties: Mapping[str, Any], now: int
) -> Contact:
    """Create a contact; the address must be free."""
    (row,) = _rows(connection, project_pk, [(contact_id, email)], now, properties)
    connection.execute(contact.insert(), row)
    return find_contact(connection, project_pk, contact_id=contact_id)


def insert_contacts(
    connection: Connection, project_pk: int, ids_and_emails: Sequence[tuple[str, str]], now: int
) -> dict[str, ContactKey]:
    """Create contacts without properties; the addresses must be free. Return their keys by address."""
    made: dict[str, ContactKey] = {}
    for chunk in chunks(ids_and_emails, 1_000):
        # Not as `values(rows)`, which SQLAlchemy compiles again each time: 500 rows would take 0.1 s.
        insert = contact.insert().returning(contact.c.key, contact.c.id, contact.c.email)
        inserted = connection.execute(insert, _rows(connection, project_pk, chunk, now, {}))
        made.update((row.email, ContactKey(row.key, row.id, row.email)) for row in inserted)
    return made


def contact_keys(
    connection: Connection, project_pk: int, *, ids: Iterable[str] = (), emails: Iterable[str] = ()
) -> dict[str, ContactKey]:
    """Find live contacts by ids and addresses. Return their keys by the id or address with which each was found."""
    found: dict[str, ContactKey] = {}
    well_formed = [contact_id for contact_id in ids if _ID.fullmatch(contact_id)]
    for column, wanted in ((contact.c.id, well_formed), (contact.c.email, list(emails))):
        for chunk in chunks(wanted):
            query = sa.select(contact.c.key, _TEXT_ID, _EMAIL, column.label("asked"))
            rows = connection.execute(query.where(_live(project_pk), column.in_(chunk)))
            found.update((row.asked, ContactKey(row.key, row.id, row.email)) for row in rows)
    return found


def contact_key(connection: Connection, project_pk: int, *, contact_id: str = "", email: str = "") -> int | None:
    """Return the key of a contact, found by id, deleted or not, or by address; None if it does not exist."""
    wanted = contact.c.id == contact_id if contact_id else contact.c.email == email
    return connection.scalar(sa.select(contact.c.key).where(contact.c.project_key == project_pk, wanted))


def contact_id(connection: Connection, key: int) -> str:
    """Return the id of a contact, deleted or not, by key; empty if there is none."""
    return connection.scalar(sa.select(contact.c.id).where(contact.c.key == key)) or ""


def contact_ids(connection: Connection, keys: Iterable[int]) -> dict[int, str]:
    """Return the ids of contacts, deleted ones included, by key."""
    rows = connection.execute(sa.select(contact.c.key, _TEXT_ID).where(contact.c.key.in_(list(keys))))
    return {row.key: row.id for row in rows}


def contact_properties(connection: Connection, keys: Iterable[int]) -> dict[int, dict[str, Any]]:
    """Return the properties of contacts, by key; those of a contact that cannot be read are empty."""
    found: dict[int, dict[str, Any]] = {}
    for chunk in chunks(list(keys)):
        query = sa.select(contact.c.key, contact.c.id, contact.c.properties).where(contact.c.key.in_(chunk))
        rows = connection.execute(query)
        found.update((row.key, load_reported("contact", row.id, row.properties)[0]) for row in rows)
    return found


def list_contacts(
    connection: Connection, project_pk: int, limit: int, before_id: str = "", search: str = "", skip: int = 0
) -> list[Contact]:
    """List live contacts older than `before_id`, newest first; `search` is a part of the address."""
    query = sa.select(*_COLUMNS).where(_found(project_pk, search)).order_by(contact.c.id.desc())
    if before_id:
        query = query.where(contact.c.id < before_id)
    return [_contact(row) for row in connection.execute(query.limit(limit).offset(skip))]


def contact_page(
    connection: Connection, project_pk: int, limit: int, before_id: str = "", search: str = ""
) -> tuple[list[Contact], str]:
    """Return a page of the live contacts older than `before_id`, newest first.

    Also return the id of the contact after which the next page begins, empty if none. With a search, a page may be
    short (`registry.sql.bounded_pages`).
    """
    query = sa.select(*_COLUMNS).where(_found(project_pk, search)).order_by(contact.c.id.desc())
    older = [contact.c.id < before_id] if before_id else []
    last_examined = _last_searched_id(connection, project_pk, older) if search else None
    if last_examined is not None:
        older.append(contact.c.id >= last_examined)
    rows, more = read_page(connection, query.where(*older), limit, lambda row: len(row.properties))
    found = [_contact(row) for row in rows]
    return found, found[-1].id if more else last_examined or ""


def _last_searched_id(connection: Connection, project_pk: int, older: Sequence[ColumnElement[bool]]) -> str | None:
    """Return the id of the last contact that a search examines for a page, None if it may examine all."""
    query = sa.select(contact.c.id).where(contact.c.project_key == project_pk, *older)
    return last_examined_key(connection, query.order_by(contact.c.id.desc()), EXAMINED_LOG_ROWS)


def newer_contacts(
    connection: Connection, project_pk: int, limit: int, after_id: str, search: str = ""
) -> list[Contact]:
    """List live contacts newer than `after_id`, oldest first."""
    query = sa.select(*_COLUMNS).where(_found(project_pk, search), contact.c.id > after_id).order_by(contact.c.id)
    return [_contact(row) for row in connection.execute(query.limit(limit))]


def count_contacts(connection: Connection, project_pk: int) -> int:
    """Return the number of live contacts."""
    return connection.scalar(sa.select(sa.func.count()).where(_live(project_pk))) or 0


def update_contact(
    connection: Connection, current: Contact, properties: Mapping[str, Any], etag: str, now: int
) -> Contact:
    """Replace the properties; an equal state changes nothing. Raise EtagMismatch and RowUnreadable."""
    check_etag(etag, current.etag)
    if current.unreadable:
        raise RowUnreadable("contact", current.id, current.unreadable)
    if properties == current.properties:
        return current
    connection.execute(
        contact.update()
        .where(contact.c.key == current.key)
        .values(properties=_json(properties), version=current.version + 1, updated_at=now)
    )
    return replace(current, properties=dict(properties), version=current.version + 1, updated_at=now)


def erase_contact(connection: Connection, project_pk: int, current: Contact, etag: str, now: int) -> None:
    """Erase address and properties, here and in the log; the id stays. Raise EtagMismatch."""
    check_etag(etag, current.etag)
    connection.execute(
        contact.update()
        .where(contact.c.key == current.key)
        .values(email=None, properties="{}", version=current.version + 1, updated_at=now, deleted_at=now)
    )
    named = (event.c.project_key == project_pk) & (event.c.contact_key == 0) & (event.c.email == current.email)
    connection.execute(event.update().where(named).values(email=""))


def _rows(
    connection: Connection,
    project_pk: int,
    ids_and_emails: Sequence[tuple[str, str]],
    now: int,
    properties: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Return the rows of new contacts, with keys where the database must not choose them."""
    common = {
        "project_key": project_pk,
        "properties": _json(properties),
        "version": 1,
        "created_at": now,
        "updated_at": now,
    }
    rows: list[dict[str, Any]] = [{"id": new_id, "email": email, **common} for new_id, email in ids_and_emails]
    if (first := first_unused_key(connection, contact)) is not None:
        for key, row in enumerate(rows, first):
            row["key"] = key
    return rows


def _live(project_pk: int) -> ColumnElement[bool]:
    return (contact.c.project_key == project_pk) & contact.c.deleted_at.is_(None)


def _found(project_pk: int, search: str) -> ColumnElement[bool]:
    live = _live(project_pk)
    return live & name_contains(contact.c.email, search) if search else live


def _json(properties: Mapping[str, Any]) -> str:
    return msgspec.json.encode(properties).decode()


def _contact(row: Row[Any]) -> Contact:
    properties, unreadable = load_reported("contact", row.id, row.properties)
    return Contact(
        key=row.key,
        id=row.id,
        email=row.email,
        properties=properties,
        version=row.version,
        created_at=row.created_at,
        updated_at=row.updated_at,
        unreadable=unreadable,
    )
