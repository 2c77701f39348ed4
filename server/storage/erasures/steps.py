"""SQL of erasures: what is stored about a person, from the first transaction of an erasure to the last.

    begin_erasure    the contact has no address and no properties; the erasure is stored, so that it survives a crash
    erase_runs_to    some runs; the erasure continues after them
    erase_events_to  some events, with the deliveries of their matches; the erasure continues after them
    end_erasure      the row of the erasure, which holds the address, is deleted

From the first transaction on, readers see all events of the contact as erased
(`server.storage.events.reading.to_event`).
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec
import sqlalchemy as sa

from automation.bulk import among, execute_many, packed
from automation.deletion.erasing import ErasedRuns, drop_deliveries, erase_runs
from automation.unused_keys import unused_key
from registry.personal.masking import keep_not_personal
from registry.sql.unreadable_rows import UNREADABLE, UNREADABLE_ROWS, load_object
from registry.storage.definition_store import get_definition
from server.errors import ContactNotFound
from server.model import Erasure
from server.storage.damaged_text import is_damaged, reading_damaged_text, to_valid_text
from server.storage.erasures.sealing import seal_fingerprint, seal_key
from server.storage.events.by_contact import PositionRange, positions_of_contact
from server.storage.events.reading import read_coercions
from server.storage.projects.heads import advance_catalog, lock_heads
from server.storage.projects.projects import project_by_pk
from server.storage.sqlite.writer import sqlite_driver
from server.storage.tables import contact, contact_erasure, event, project

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sqlalchemy import Connection

    from registry.definitions.schema import Property

_pending = contact_erasure.c

READ_EVENTS: Final = 2_000
"""The most positions of events that one transaction reads."""


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody about whom something may be stored: a contact by its key, an address, or both.

    `contact_key` is 0 if no contact has the address, and `email` is empty if the contact was deleted.
    """

    contact_key: int
    contact_id: str
    email: str


@dataclass(frozen=True, slots=True)
class PendingErasure:
    """An erasure in progress, as it is stored."""

    key: int
    project_pk: int
    contact_key: int
    email: str
    keeps: bool
    run_number: int
    position: int
    until_position: int
    erased_at: int
    updated_at: int


def find_person(connection: Connection, project_pk: int, *, contact_id: str = "", email: str = "") -> Person:
    """Find a person by the id of a contact, deleted or not, or by address. Raise ContactNotFound for an unknown id."""
    named = contact.c.id == contact_id if contact_id else contact.c.email == email
    columns = sa.select(contact.c.key, contact.c.id, contact.c.email)
    with reading_damaged_text(connection):
        row = connection.execute(columns.where(contact.c.project_key == project_pk, named)).one_or_none()
    if row is not None:
        # A damaged address is nowhere else.
        return Person(row.key, to_valid_text(row.id), "" if is_damaged(row.email) else row.email)
    if contact_id:
        raise ContactNotFound(contact_id)
    return Person(0, "", email)


def events_of(
    connection: Connection, project_pk: int, person: Person | PendingErasure, after: int, until: int, limit: int
) -> list[int]:
    """Return the positions of a person's events after a position, up to and including another."""
    return positions_of_contact(
        connection,
        project_pk,
        [],
        PositionRange(after + 1, until + 1, newest_first=False),
        limit,
        contact_key=person.contact_key or None,
        email=person.email,
    )


def begin_erasure(
    connection: Connection, project_pk: int, contact_id: str, email: str, now: int, *, has_refused_events: bool = False
) -> tuple[Person, PendingErasure | None]:
    """Begin to erase a person, or find the erasure in progress; None if nothing is left to erase.

    With `has_refused_events`, there are refused events about the person. Raise ContactNotFound for an unknown id.
    """
    head = lock_heads(connection, [project_pk])[project_pk]
    person = find_person(connection, project_pk, contact_id=contact_id, email=email)
    own = (_pending.contact_key == person.contact_key) if person.contact_key else (_pending.email == email)
    row = connection.execute(sa.select(contact_erasure).where(_pending.project_key == project_pk, own)).first()
    if row is not None:
        return person, PendingErasure(*row)
    if person.contact_key:
        is_recorded = _erase_contact(connection, person, now)
    else:
        is_recorded = bool(events_of(connection, project_pk, person, 0, head.position, 1))
    if not is_recorded and not has_refused_events:
        return person, None
    # Drops the cached contacts and automations' contacts of all servers, and has keys looked up by their digests.
    advance_catalog(connection, project_pk)
    connection.execute(project.update().where(project.c.key == project_pk).values(sealed=True))
    values = {
        **unused_key(connection, contact_erasure),
        "project_key": project_pk,
        "contact_key": person.contact_key,
        "email": person.email,
        "keeps": project_by_pk(connection, project_pk).rules.erasure is Erasure.KEEP_NOT_PERSONAL,
        # What was erased before is not erased again.
        "run_number": 0 if is_recorded else head.match_position,
        "position": 0 if is_recorded else head.position,
        "until_position": head.position,
        "erased_at": now,
        "updated_at": now,
    }
    row = connection.execute(contact_erasure.insert().values(values).returning(*contact_erasure.columns)).one()
    return person, PendingErasure(*row)


def _erase_contact(connection: Connection, person: Person, now: int) -> bool:
    """Erase a contact; return whether it was not erased before."""
    own = (contact.c.key == person.contact_key) & contact.c.erased_at.is_(None)
    erased = (
        contact.update()
        .where(own)
        .values(
            email=None,
            properties="{}",
            version=contact.c.version + 1,
            updated_at=now,
            deleted_at=sa.func.coalesce(contact.c.deleted_at, now),
            erased_at=now,
        )
    )
    with overwriting(connection):
        return connection.execute(erased).rowcount > 0


def pending_erasures(connection: Connection) -> list[PendingErasure]:
    """Return the erasures in progress, of all projects that are not deleted."""
    query = sa.select(contact_erasure).join(project, project.c.key == _pending.project_key)
    return [PendingErasure(*row) for row in connection.execute(query.where(project.c.deleted_at.is_(None)))]


def lock_erasure(connection: Connection, key: int) -> PendingErasure | None:
    """Read and lock an erasure, so that another server does not take its next step; None if it has ended."""
    query = sa.select(contact_erasure).where(_pending.key == key).with_for_update()
    row = connection.execute(query).one_or_none()
    return None if row is None else PendingErasure(*row)


def erase_runs_to(connection: Connection, erasure: PendingErasure, numbers: Sequence[int], now: int) -> ErasedRuns:
    """Erase the runs with these numbers, which come next."""
    head = lock_heads(connection, [erasure.project_pk])[erasure.project_pk].position
    current = lock_erasure(connection, erasure.key)
    if current is None or not (left := [number for number in numbers if number > current.run_number]):
        return ErasedRuns()
    with overwriting(connection), reading_damaged_text(connection):
        erased = erase_runs(connection, erasure.project_pk, left, head, now)
    _move(connection, erasure.key, now, run_number=left[-1])
    return erased


def erase_events_to(
    connection: Connection, erasure: PendingErasure, positions: Sequence[int], now: int
) -> tuple[int, int]:
    """Erase the events at these positions, which come next. Return their number, and that of dropped deliveries.

    The head of the project is not locked: nobody else changes these rows, and on PostgreSQL senders do not wait.
    """
    current = lock_erasure(connection, erasure.key)
    if current is None or not (left := [position for position in positions if position > current.position]):
        return 0, 0
    with overwriting(connection):
        dropped = drop_deliveries(connection, erasure.project_pk, left)
        _erase_events(connection, current, left)
    _move(connection, erasure.key, now, position=left[-1])
    return len(left), dropped


def end_erasure(connection: Connection, erasure: PendingErasure) -> None:
    """Forget an erasure, and with it the address."""
    with overwriting(connection):
        connection.execute(contact_erasure.delete().where(_pending.key == erasure.key))


def _move(connection: Connection, key: int, now: int, **places: int) -> None:
    connection.execute(contact_erasure.update().where(_pending.key == key).values(updated_at=now, **places))


_EVENTS_AT = {
    dialect: sa.select(
        event.c.position, event.c.definition_id, event.c.properties, event.c.coercions, event.c.idempotency_key,
        event.c.fingerprint,
    ).where(event.c.project_key == sa.bindparam("project"), among(event.c.position, "positions", dialect))
    for dialect in ("sqlite", "postgresql")
}  # fmt: skip
_ERASE_ALL = {
    dialect: event.update()
    .where(event.c.project_key == sa.bindparam("project"), among(event.c.position, "positions", dialect))
    .values(email="", properties="{}", coercions="", traceparent="", erased_at=sa.bindparam("now"))
    for dialect in ("sqlite", "postgresql")
}
_ERASE = (
    event.update()
    .where(event.c.project_key == sa.bindparam("project"), event.c.position == sa.bindparam("at"))
    .values(
        properties=sa.bindparam("kept"),
        coercions=sa.bindparam("omitted"),
        idempotency_key=sa.bindparam("key"),
        fingerprint=sa.bindparam("digest"),
    )
)


def _erase_events(connection: Connection, erasure: PendingErasure, positions: Sequence[int]) -> None:
    project_pk, dialect = erasure.project_pk, connection.dialect.name
    project_id = project_by_pk(connection, project_pk).id
    parameters = {"project": project_pk, "positions": packed(connection, positions)}
    declared: dict[str, tuple[Property, ...]] = {}
    exceptions = []
    with reading_damaged_text(connection):
        rows = connection.execute(_EVENTS_AT[dialect], parameters).all()
    for row in rows:
        kept, omitted = {}, _count_of(row.coercions)
        idempotency_key, fingerprint = to_valid_text(row.idempotency_key), to_valid_text(row.fingerprint)
        if erasure.keeps and row.definition_id and not is_damaged(row.definition_id):
            if row.definition_id not in declared:
                declared[row.definition_id] = _declared(connection, project_id, row.definition_id)
            kept = _kept(row.properties, declared[row.definition_id], erasure.email)
        if kept or omitted or idempotency_key:
            exceptions.append(
                {
                    "project": project_pk,
                    "at": row.position,
                    "kept": msgspec.json.encode(kept).decode(),
                    "omitted": omitted,
                    "key": seal_key(project_id, idempotency_key) if idempotency_key else "",
                    "digest": seal_fingerprint(idempotency_key, fingerprint) if idempotency_key else "",
                }
            )
    connection.execute(_ERASE_ALL[dialect], {**parameters, "now": erasure.erased_at})
    execute_many(connection, _ERASE, exceptions)


def _declared(connection: Connection, project_id: str, definition_id: str) -> tuple[Property, ...]:
    """Return the properties of a definition; none if it is unreadable: then no value is kept because of it."""
    try:
        return get_definition(connection, project_id, definition_id, deleted=True).schema.properties
    except UNREADABLE as error:
        UNREADABLE_ROWS.report("event_definition", definition_id, error)
        return ()


def _kept(stored: str, declared: tuple[Property, ...], email: str) -> dict[str, Any]:
    try:
        return keep_not_personal(load_object(stored), declared, email)
    except UNREADABLE:
        return {}


def _count_of(stored: str) -> str:
    """Return the stored form of coercions of which only the number is recorded."""
    if not stored:
        return ""
    try:
        coercions, omitted = read_coercions(stored)
    except UNREADABLE:
        return ""
    return f"[{len(coercions) + omitted}]"


@contextmanager
def overwriting(connection: Connection) -> Iterator[None]:
    """Have SQLite overwrite with zeros what is deleted meanwhile, where it would leave the bytes in free space.

    Other transactions do without it: a commit that deletes deliveries would write free pages, too.
    """
    if connection.dialect.name != "sqlite":
        yield
        return
    execute = sqlite_driver(connection).execute
    execute("PRAGMA secure_delete = ON").fetchall()
    try:
        yield
    finally:
        execute("PRAGMA secure_delete = OFF").fetchall()
