"""Which contact an event is about: the rule, and what a commit knows of contacts.

    the request has    the contact exists    otherwise
    contact_id         that contact          refused, or recorded without a contact (rule `unknown_ids`)
    email              that contact          refused, or a contact is created: for every event, or for the first
                                             event that then matches an automation (rule `unknown_contacts`)

A commit applies the rule, and so does an explanation of an event that is not recorded.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING

from msgspec.structs import replace
from uuid_utils import uuid7

from server.ingest.subjects import subject_of
from server.model import UnknownContacts, UnknownIds
from server.storage.contacts import ContactKey, contact_keys, insert_contacts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from sqlalchemy import Connection

    from automation.conditions.subject import Subject
    from automation.matcher import Decision, Matcher
    from automation.matching import LiveAutomations
    from server.ingest.draft import Draft
    from server.model import Event, Rules
    from server.storage.projects.heads import Head

NOBODY = ContactKey(0, "", "")
"""Stands for the contact of an event that has none."""


class UnknownContactAction(Enum):
    """What becomes of an event about a contact that does not exist."""

    REFUSE = auto()
    CREATE = auto()
    CREATE_ON_MATCH = auto()
    RECORD_WITHOUT = auto()


_BY_EMAIL = {
    UnknownContacts.REJECT: UnknownContactAction.REFUSE,
    UnknownContacts.CREATE: UnknownContactAction.CREATE,
    UnknownContacts.CREATE_ON_MATCH: UnknownContactAction.CREATE_ON_MATCH,
}
_BY_ID = {UnknownIds.REJECT: UnknownContactAction.REFUSE, UnknownIds.ACCEPT: UnknownContactAction.RECORD_WITHOUT}


def unknown_contact_action(draft: Draft, rules: Rules) -> UnknownContactAction:
    """Return what becomes of the event if the contact that it names does not exist."""
    return _BY_ID[rules.unknown_ids] if draft.contact_id else _BY_EMAIL[rules.unknown_contacts]


def with_new_contact(
    event: Event, automations: LiveAutomations, decide: Callable[[Matcher, Event, Subject], Decision]
) -> Event | None:
    """Return the event with the id of a contact to create if it then matches an automation, else None.

    A contact without properties and without runs may enter every automation, so only the conditions decide.
    """
    matcher = automations.matcher(event.name, ignore_case=event.ignore_case)
    if matcher is None:
        return None
    event = replace(event, contact_id=str(uuid7()))
    return event if decide(matcher, event, subject_of(event, {})).matching else None


class ContactCache:
    """Contacts of one project that earlier commits read or created, by id and by address.

    They are valid while the catalog has the version under which they were read (a deletion of a contact advances it),
    and while the log has the event that was stored in the transaction that read them last. If that event was lost in a
    failover or a restore, contacts created with it are lost too, and their keys may belong to other contacts by now.
    """

    LIMIT = 50_000

    def __init__(self, version: int) -> None:
        self.version = version
        self.position = 0
        self.keys: dict[str, ContactKey] = {}
        self._event_id = ""

    def valid(self, head: Head, *, witnessed: bool) -> bool:
        """Return whether the contacts may be trusted under a locked head."""
        return self.version == head.catalog_version and (not witnessed or head.witness_id == self._event_id)

    def add(self, keys: dict[str, ContactKey], position: int, event_id: str) -> None:
        """Cache contacts, and the event stored with them; beyond the limit all earlier ones are dropped."""
        if len(self.keys) + len(keys) > self.LIMIT:
            self.keys.clear()
        self.keys.update(keys)
        self.position, self._event_id = position, event_id


class CommitContacts:
    """The contacts that the valid drafts of one commit name.

    Those that are not cached are read in at most two queries, one for ids and one for addresses.
    """

    def __init__(
        self, connection: Connection, project_pk: int, cached: dict[str, ContactKey], drafts: Sequence[Draft]
    ) -> None:
        self._connection = connection
        self._project_pk = project_pk
        self._cached = cached
        self.read: dict[str, ContactKey] = {}
        """The contacts that were read or created, to be cached once the transaction is committed."""
        valid = [draft for draft in drafts if draft.error is None]
        self._ids = {draft.contact_id for draft in valid if draft.contact_id}
        self._emails = {draft.email for draft in valid if not draft.contact_id}
        self._emails.discard("")
        ids, emails = self._ids.difference(cached), self._emails.difference(cached)
        if ids or emails:
            self.read = contact_keys(connection, project_pk, ids=ids, emails=emails)

    def find(self, draft: Draft) -> ContactKey | None:
        """Return the contact that a draft names, None if it does not exist."""
        name = draft.contact_id or draft.email
        contact = self._cached.get(name) or self.read.get(name)
        # An address in the place of an id is not an id.
        if contact is not None and (draft.email or contact.id == draft.contact_id):
            return contact
        return None

    def keys(self) -> set[int]:
        """Return the keys of the existing contacts that the valid drafts name."""
        found = (self._cached.get(name) or self.read.get(name) for names in (self._ids, self._emails) for name in names)
        return {contact.key for contact in found if contact}

    def create(self, emails: Iterable[str], now: int) -> None:
        """Create the contacts of addresses, except for those that this commit has created."""
        self.insert([(str(uuid7()), email) for email in emails if email not in self.read], now)

    def insert(self, new: Sequence[tuple[str, str]], now: int) -> None:
        """Create contacts of ids and addresses."""
        if new:
            self.read |= insert_contacts(self._connection, self._project_pk, new, now)
