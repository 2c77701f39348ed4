"""Reading and writing contacts, beside another project with the same addresses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import pytest
import pytest_asyncio
from uuid_utils import uuid7

from registry.errors import EtagMismatch, RowUnreadable
from server.errors import ContactNotFound
from server.model import Contact, Rules, UndefinedEvents, UnknownContacts
from server.storage import contacts as store
from server.storage.projects.projects import insert_project

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import Connection

    from server.storage.database import Database

T = TypeVar("T")

RULES = Rules(UndefinedEvents.ACCEPT, UnknownContacts.CREATE)
NAMES = ("ada", "bob", "cem", "dee")
EMAILS = [f"{name}@example.com" for name in NAMES]


class Contacts:
    """Two projects with a contact for each of EMAILS, oldest first; the deleted one is the last."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.project = self.other = 0
        self.own: list[Contact] = []
        self.others: list[Contact] = []

    async def do(self, work: Callable[..., T], *arguments: Any, **named: Any) -> T:
        return await self._database.write(lambda connection: work(connection, *arguments, **named))

    async def fill(self) -> Contacts:
        projects = [await self.do(insert_project, name, name, RULES, 1) for name in ("own", "other")]
        self.project, self.other = (project.pk for project in projects)
        for project, made in ((self.project, self.own), (self.other, self.others)):
            for email in EMAILS:
                made.append(await self.do(store.insert_contact, project, str(uuid7()), email, {"of": email}, 10))
        return self

    async def erase(self, contact: Contact, etag: str = "") -> None:
        await self.do(store.erase_contact, self.project, contact, etag, 20)


@pytest_asyncio.fixture
async def contacts(database: Database) -> Contacts:
    return await Contacts(database).fill()


def emails(found: Sequence[Contact]) -> list[str]:
    return [contact.email for contact in found]


async def test_a_contact_is_found_by_id_or_address_in_its_own_project(contacts: Contacts) -> None:
    ada, stranger = contacts.own[0], contacts.others[0]
    assert await contacts.do(store.find_contact, contacts.project, contact_id=ada.id) == ada
    assert await contacts.do(store.find_contact, contacts.project, email=ada.email) == ada
    assert await contacts.do(store.contact_key, contacts.project, contact_id=ada.id) == ada.key
    assert await contacts.do(store.contact_key, contacts.project, email=ada.email) == ada.key
    for unknown in ({"contact_id": stranger.id}, {"email": "x@example.com"}):
        assert await contacts.do(store.contact_key, contacts.project, **unknown) is None
        with pytest.raises(ContactNotFound):
            await contacts.do(store.find_contact, contacts.project, **unknown)


async def test_keys_are_found_by_ids_and_addresses_asked_for(contacts: Contacts) -> None:
    ada, bob = contacts.own[:2]
    asked = {"ids": [ada.id, contacts.others[2].id, ada.id.upper(), "x"], "emails": [bob.email, "x@example.com"]}
    found = await contacts.do(store.contact_keys, contacts.project, **asked)
    assert found == {
        ada.id: (ada.key, ada.id, ada.email),
        bob.email: (bob.key, bob.id, bob.email),
    }
    assert await contacts.do(store.contact_keys, contacts.project) == {}


async def test_ids_and_properties_are_read_by_key(contacts: Contacts) -> None:
    ada, bob = contacts.own[:2]
    assert await contacts.do(store.contact_ids, [ada.key]) == {ada.key: ada.id}
    assert await contacts.do(store.contact_properties, [bob.key]) == {bob.key: {"of": bob.email}}


async def test_contacts_are_listed_from_both_ends(contacts: Contacts) -> None:
    async def found(reading: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        return await contacts.do(reading, contacts.project, *arguments, **named)

    newest_first = EMAILS[::-1]
    ids = [contact.id for contact in contacts.own]
    assert emails(await found(store.list_contacts, 10)) == newest_first
    assert emails(await found(store.list_contacts, 2, skip=1)) == newest_first[1:3]
    assert emails(await found(store.list_contacts, 10, ids[2])) == newest_first[2:]
    assert emails(await found(store.list_contacts, 10, search="a@")) == ["ada@example.com"]
    assert emails(await found(store.list_contacts, 10, search="%")) == []
    for limit, more in ((3, True), (4, False)):
        page = await found(store.contact_page, limit)
        assert (emails(page[0]), page[1]) == (newest_first[:limit], page[0][-1].id if more else "")
    assert (await found(store.contact_page, 10, ids[2], "b@"))[0] == [contacts.own[1]]
    assert emails(await found(store.newer_contacts, 2, ids[0])) == EMAILS[1:3]
    assert emails(await found(store.newer_contacts, 9, ids[0], "d")) == ["dee@example.com"]
    assert await found(store.count_contacts) == 4


async def test_properties_are_replaced_once(contacts: Contacts) -> None:
    ada = contacts.own[0]
    with pytest.raises(EtagMismatch):
        await contacts.do(store.update_contact, ada, {}, "0", 20)
    assert await contacts.do(store.update_contact, ada, ada.properties, ada.etag, 20) is ada
    changed = await contacts.do(store.update_contact, ada, {"new": 1}, ada.etag, 20)
    assert (changed.properties, changed.version, changed.created_at, changed.updated_at) == ({"new": 1}, 2, 10, 20)
    assert await contacts.do(store.find_contact, contacts.project, email=ada.email) == changed
    await assert_others_are_as_they_were(contacts)


async def test_unreadable_properties_are_not_replaced(contacts: Contacts) -> None:
    damage = f"UPDATE contact SET properties = '[' WHERE key = {contacts.own[0].key}"  # noqa: S608 - ours
    await contacts.do(lambda connection: connection.exec_driver_sql(damage))
    ada = await contacts.do(store.find_contact, contacts.project, email=EMAILS[0])
    assert (ada.properties, ada.unreadable != "") == ({}, True)
    with pytest.raises(RowUnreadable):
        await contacts.do(store.update_contact, ada, {}, "", 20)


async def test_an_erased_contact_is_found_by_id_alone_and_its_address_is_free(contacts: Contacts) -> None:
    ada = contacts.own[0]
    with pytest.raises(EtagMismatch):
        await contacts.erase(ada, "0")
    await contacts.erase(ada, ada.etag)
    for asked in ({"contact_id": ada.id}, {"email": ada.email}):
        with pytest.raises(ContactNotFound):
            await contacts.do(store.find_contact, contacts.project, **asked)
    assert await contacts.do(store.contact_keys, contacts.project, ids=[ada.id], emails=[ada.email]) == {}
    assert await contacts.do(store.contact_key, contacts.project, contact_id=ada.id) == ada.key
    assert await contacts.do(store.contact_key, contacts.project, email=ada.email) is None
    assert await contacts.do(store.contact_ids, [ada.key]) == {ada.key: ada.id}
    assert await contacts.do(store.contact_properties, [ada.key]) == {ada.key: {}}
    assert emails(await contacts.do(store.list_contacts, contacts.project, 10)) == EMAILS[:0:-1]
    assert await contacts.do(store.count_contacts, contacts.project) == 3
    again = await contacts.do(store.insert_contacts, contacts.project, [(str(uuid7()), ada.email)], 30)
    assert again[ada.email].key != ada.key
    await assert_others_are_as_they_were(contacts)

    def times(connection: Connection) -> list[Any]:
        query = f"SELECT version, updated_at, deleted_at FROM contact WHERE key = {ada.key}"  # noqa: S608 - ours
        return [tuple(row) for row in connection.exec_driver_sql(query)]

    assert await contacts.do(times) == [(2, 20, 20)]


async def test_new_contacts_have_no_properties(contacts: Contacts) -> None:
    wanted = [(str(uuid7()), f"{number}@example.com") for number in range(3)]
    made = await contacts.do(store.insert_contacts, contacts.project, wanted, 30)
    assert {email: key.id for email, key in made.items()} == {email: contact_id for contact_id, email in wanted}
    new = await contacts.do(store.find_contact, contacts.project, email="1@example.com")
    assert new == Contact(made[new.email].key, wanted[1][0], "1@example.com", {}, 1, 30, 30)


async def assert_others_are_as_they_were(contacts: Contacts) -> None:
    found = await contacts.do(store.list_contacts, contacts.other, 10)
    assert found == contacts.others[::-1]
    kept = await contacts.do(store.list_contacts, contacts.project, 10)
    assert [contact for contact in kept if contact.email in EMAILS[1:]] == contacts.own[:0:-1]
