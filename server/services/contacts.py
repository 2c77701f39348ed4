"""The contacts of a project."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from uuid_utils import uuid7

from automation.run_transitions import cancel_runs_of_contacts
from registry.times.timestamps import now_micros
from registry.values.json_values import MAX_CONTACT_BYTES, MAX_CONTACT_VALUES
from server.audit.audited_changes import AuditedChanges
from server.errors import ContactAlreadyExists, ContactNotFound, InvalidArgument
from server.storage import contacts as store
from server.storage.projects.heads import advance_catalog, lock_heads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from sqlalchemy import Connection

    from server.audit.audited_changes import AuditRecorder
    from server.model import Contact
    from server.paging import Page, PageRequest
    from server.storage.database import Database

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ContactRef:
    """Refers to a contact by id or, if that is empty, by address."""

    id: str = ""
    email: str = ""


class Contacts:
    """Manages contacts. Addresses are in the form of `server.services.emails.normalize_email`."""

    def __init__(
        self, database: Database, on_erased: Callable[[int], object], changes: AuditedChanges | None = None
    ) -> None:
        """`on_erased` is called with the `project_pk` after contacts of a project were erased."""
        self._database = database
        self._changes = changes or AuditedChanges(database)
        self._on_erased = on_erased

    async def upsert(
        self, project_pk: int, email: str, properties: Mapping[str, Any], etag: str = ""
    ) -> tuple[Contact, bool]:
        """Create a contact, or set properties of the one with this address. Return it, and True if it is new.

        A property that is None is removed. With an etag the contact must exist: raises ContactNotFound, EtagMismatch.
        """

        def work(connection: Connection, record: AuditRecorder) -> tuple[Contact, bool]:
            # The head's lock keeps two servers from creating the same contact.
            lock_heads(connection, [project_pk])
            try:
                current = store.find_contact(connection, project_pk, email=email)
            except ContactNotFound:
                if etag:
                    raise
                return _created(connection, record, project_pk, email, properties), True
            return _updated(connection, record, project_pk, current, properties, etag), False

        return await self._changes.write("UpsertContact", work)

    async def create(self, project_pk: int, email: str, properties: Mapping[str, Any]) -> Contact:
        """Create a contact. Raise ContactAlreadyExists."""

        def work(connection: Connection, record: AuditRecorder) -> Contact:
            lock_heads(connection, [project_pk])
            if store.contact_keys(connection, project_pk, emails=[email]):
                raise ContactAlreadyExists(email)
            return _created(connection, record, project_pk, email, properties)

        return await self._changes.write("UpsertContact", work)

    async def update(self, project_pk: int, name: ContactRef, properties: Mapping[str, Any], etag: str = "") -> Contact:
        """Set properties of a contact; one that is None is removed.

        Raise ContactNotFound, EtagMismatch and InvalidArgument.
        """

        def work(connection: Connection, record: AuditRecorder) -> Contact:
            lock_heads(connection, [project_pk])
            current = store.find_contact(connection, project_pk, contact_id=name.id, email=name.email)
            return _updated(connection, record, project_pk, current, properties, etag)

        return await self._changes.write("UpsertContact", work)

    async def get(self, project_pk: int, name: ContactRef) -> Contact:
        """Read a contact. Raise ContactNotFound."""
        return await self._database.read(
            lambda connection: store.find_contact(connection, project_pk, contact_id=name.id, email=name.email)
        )

    async def list(self, project_pk: int, request: PageRequest, search: str = "") -> Page[Contact]:
        """List contacts, newest first; `search` is a part of the address, in any case. A page may be short."""
        limit, filters = request.limit(), ("contacts", project_pk, search)
        (before,) = request.cursor(filters, str) or ("",)
        found, resume = await self._database.read(
            lambda connection: store.contact_page(connection, project_pk, limit, before, search.lower())
        )
        return request.page(found, filters, lambda contact: (contact.id,), more=bool(resume), resume=(resume,))

    async def list_next_to(
        self, project_pk: int, limit: int, *, after_id: str = "", before_id: str = "", search: str = ""
    ) -> tuple[Sequence[Contact], bool]:
        """List up to `limit` contacts, newest first, directly after or before an id, and whether there are more."""

        def work(connection: Connection) -> list[Contact]:
            if before_id:
                found = store.newer_contacts(connection, project_pk, limit + 1, before_id, search.lower())
                return found[::-1]
            return store.list_contacts(connection, project_pk, limit + 1, after_id, search.lower())

        found = await self._database.read(work)
        return found[-limit:] if before_id else found[:limit], len(found) > limit

    async def list_numbered(self, project_pk: int, page: int, limit: int) -> tuple[Sequence[Contact], int]:
        """List contacts, newest first, by page number from 1, and the total number of contacts."""

        def work(connection: Connection) -> tuple[list[Contact], int]:
            total = store.count_contacts(connection, project_pk)
            skip = (page - 1) * limit
            if skip >= total:
                return [], total
            return store.list_contacts(connection, project_pk, limit, skip=skip), total

        return await self._database.read(work)

    async def delete(self, project_pk: int, name: ContactRef, etag: str = "") -> Contact:
        """Erase a contact and cancel its open runs; its events keep its id. Return it as it was.

        Raise ContactNotFound and EtagMismatch.
        """

        def work(connection: Connection, record: AuditRecorder) -> Contact:
            advance_catalog(connection, project_pk)
            current = store.find_contact(connection, project_pk, contact_id=name.id, email=name.email)
            _erase(connection, record, project_pk, [current], etag)
            return current

        return await self._erase(project_pk, work)

    async def delete_all(self, project_pk: int, contact_ids: Iterable[str]) -> int:
        """Erase the contacts that exist, as `delete` does, in one transaction. Return their number."""
        ids = set(contact_ids)

        def work(connection: Connection, record: AuditRecorder) -> int:
            advance_catalog(connection, project_pk)
            found = [
                store.find_contact(connection, project_pk, contact_id=contact_id)
                for contact_id in store.contact_keys(connection, project_pk, ids=ids)
            ]
            _erase(connection, record, project_pk, found)
            return len(found)

        return await self._erase(project_pk, work)

    async def _erase(self, project_pk: int, work: Callable[[Connection, AuditRecorder], T]) -> T:
        """Erase contacts in a transaction and report it."""
        return await self._changes.write("DeleteContact", work, lambda _: self._on_erased(project_pk))


def _erase(
    connection: Connection, record: AuditRecorder, project_pk: int, contacts: Sequence[Contact], etag: str = ""
) -> None:
    """Erase contacts and cancel their open runs. Raise EtagMismatch."""
    head, now = lock_heads(connection, [project_pk])[project_pk].position, now_micros()
    for contact in contacts:
        store.erase_contact(connection, project_pk, contact, etag, now)
        record(connection, project_pk, contact, None)
    keys = [contact.key for contact in contacts]
    cancel_runs_of_contacts(connection, project_pk, keys, "The contact was deleted", head, now)


def _created(
    connection: Connection, record: AuditRecorder, project_pk: int, email: str, properties: Mapping[str, Any]
) -> Contact:
    kept = _without_nulls(properties)
    created = store.insert_contact(connection, project_pk, str(uuid7()), email, kept, now_micros())
    record(connection, project_pk, None, created)
    return created


def _updated(
    connection: Connection,
    record: AuditRecorder,
    project_pk: int,
    current: Contact,
    properties: Mapping[str, Any],
    etag: str,
) -> Contact:
    merged = _without_nulls({**current.properties, **properties})
    _check_size(merged)
    updated = store.update_contact(connection, current, merged, etag, now_micros())
    record(connection, project_pk, current, updated)
    return updated


def _check_size(properties: Mapping[str, Any]) -> None:
    """Raise InvalidArgument if several upserts add up to more than one may have."""
    size = len(msgspec.json.encode(properties))
    if len(properties) > MAX_CONTACT_VALUES or size > MAX_CONTACT_BYTES:
        message = (
            f"The contact would have {len(properties):,} properties and {size:,} bytes; "
            f"at most {MAX_CONTACT_VALUES:,} properties and {MAX_CONTACT_BYTES:,} bytes are allowed"
        )
        raise InvalidArgument.at("properties", "TOO_LARGE", message)


def _without_nulls(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in properties.items() if value is not None}
