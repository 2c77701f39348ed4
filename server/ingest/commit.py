"""Decides units inside the transaction that stores them.

What only the database knows is settled here, under the lock of the project's head: whether the catalogue that judged a
draft still holds, which contact it is about, whether its idempotency key was seen, its position, and what it sets off.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace
from uuid_utils import uuid7

from automation.automation_store import automations_by_key
from automation.match_log import match_values, matches_of_events
from automation.matching import Matching
from automation.run_store import new_run_values, resume_runs
from automation.runs import MatchKind
from registry.log_ids import LogIds
from registry.timestamps import now_micros
from server.errors import ContactNotFound, IdempotencyKeyReused, KeyInvalid
from server.ingest.catalog import load_state
from server.ingest.draft import Draft
from server.ingest.subjects import subject_of
from server.ingest.validate import judge_all
from server.model import Event, UnknownContacts, UnknownIds
from server.storage.contacts import ContactKey, contact_keys, contact_properties, insert_contacts
from server.storage.events import events_by_idempotency_key
from server.storage.log import Head, events, lock_heads, matches, move_heads, runs

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy import Connection

    from automation.automations import Automation
    from automation.runs import Match
    from server.ingest.catalog import ProjectState
    from server.ingest.draft import Unit
    from server.model import Rules
    from server.storage.log import LogRow

_Placed = tuple[Draft, ContactKey, Event]

_encode = msgspec.json.Encoder().encode

_NOBODY = ContactKey(0, "", "")


class KnownContacts:
    """Contacts of one project, by id and by address.

    They are valid while the catalog has the version under which they were read (a deletion advances it), and while the
    log has the event that was stored in the transaction that read them last. If that event was lost in a failover or a
    restore, contacts created with it are lost too, and their keys may belong to other contacts by now.
    """

    LIMIT = 50_000

    def __init__(self, version: int) -> None:
        self.version = version
        self.position = 0
        self.keys: dict[str, ContactKey] = {}
        self._event_id = ""

    def hold(self, head: Head, *, witnessed: bool) -> bool:
        """Return whether the contacts may be trusted under a locked head."""
        return self.version == head.catalog_version and (not witnessed or head.witness_id == self._event_id)

    def learn(self, keys: dict[str, ContactKey], position: int, event_id: str) -> None:
        """Remember contacts, and the event stored with them; at the limit everything else is forgotten."""
        if len(self.keys) + len(keys) > self.LIMIT:
            self.keys.clear()
        self.keys.update(keys)
        self.position, self._event_id = position, event_id


class ProjectCommit:
    """The part of a group commit that concerns one project."""

    def __init__(
        self, connection: Connection, units: Sequence[Unit], head: Head, known: KnownContacts | None, now: int
    ) -> None:
        self._connection = connection
        self._units = units
        self.state = _current_state(connection, units, head)
        self.head = head
        self.contacts: dict[str, ContactKey] = {}
        self.rows: list[LogRow] = []
        witnessed = connection.dialect.name == "postgresql"
        self.knew_contacts = known is not None and known.hold(head, witnessed=witnessed)
        self._known = known.keys if known is not None and self.knew_contacts else {}
        self._received_at = max(now, head.received_at)
        self._position = head.position
        self._ids = LogIds(self._received_at)
        self._seen: dict[str, tuple[str, Event]] = {}
        self._recorded: dict[int, tuple[tuple[Match, Automation], ...]] = {}
        self._stored: dict[str, Draft] = {}
        self.matching: Matching | None = None
        self.last_id = ""

    def run(self) -> None:
        """Decide every unit and gather the rows to store."""
        drafts = [draft for unit in self._units for draft in unit.drafts]
        self._find_seen(drafts)
        self._find_contacts(drafts)
        if self.state.automations:
            self._prepare_matching(drafts)
        for unit in self._units:
            self._settle(unit)
        match_position = self.matching.position if self.matching else self.head.match_position
        self.head = Head(self._position, self._received_at, self.head.catalog_version, match_position)

    def _find_seen(self, drafts: Iterable[Draft]) -> None:
        keys = {draft.idempotency_key for draft in drafts}
        keys.discard("")
        if keys:
            self._seen = events_by_idempotency_key(self._connection, self.state.key, list(keys))
        if matched := [event.position for _, event in self._seen.values() if event.match_count]:
            self._recorded = _recorded_matches(self._connection, self.state.key, matched)

    def _find_contacts(self, drafts: Iterable[Draft]) -> None:
        ids = self._unknown({draft.contact_id for draft in drafts})
        emails = self._unknown({draft.email for draft in drafts})
        if ids or emails:
            self.contacts = contact_keys(self._connection, self.state.key, ids=ids, emails=emails)

    def _prepare_matching(self, drafts: Iterable[Draft]) -> None:
        connection = self._connection
        self.matching = Matching(
            connection,
            self.state.key,
            self.state.automations,
            self.head.match_position,
            self._received_at,
            lambda keys: contact_properties(connection, keys),
        )
        names = {
            (draft.definition.name if draft.definition else draft.name, self._rules(draft).ignore_case)
            for draft in drafts
        }
        people = {draft.contact_id or draft.email for draft in drafts}
        known = (self._known.get(name) or self.contacts.get(name) for name in people)
        self.matching.prepare(names, {contact.key for contact in known if contact})

    def _unknown(self, names: set[str]) -> set[str]:
        return {name for name in names if name and name not in self._known}

    def _settle(self, unit: Unit) -> None:
        """Decide one unit: all its drafts first, then, if it stands, what is to be stored of it."""
        fresh: list[tuple[Draft, ContactKey | None]] = []
        first: dict[str, Draft] = {}
        for draft in unit.drafts:
            if draft.idempotency_key and self._repeated(draft, first):
                continue
            contact = self._contact(draft)
            if draft.error is None:
                fresh.append((draft, contact))
                if draft.idempotency_key:
                    first[draft.idempotency_key] = draft
        if unit.refused():
            return
        self._store(fresh)
        for draft in unit.drafts:
            if draft.duplicate and draft.event is None:
                original = first[draft.idempotency_key]
                draft.event, draft.matches = original.event, original.matches

    def _repeated(self, draft: Draft, first: dict[str, Draft]) -> bool:
        """Say whether the key was seen before: in the log, in this group, or further up in this unit."""
        key = draft.idempotency_key
        fingerprint, event = self._seen.get(key, ("", None))
        matches = self._recorded.get(event.position, ()) if event is not None else ()
        if original := self._stored.get(key) or first.get(key):
            fingerprint, event, matches = original.fingerprint(), original.event, original.matches
        if not fingerprint:
            return False
        if fingerprint == draft.fingerprint():
            draft.error, draft.duplicate, draft.event, draft.matches = None, True, event, matches
        else:
            draft.error = IdempotencyKeyReused(key)
        return True

    def _contact(self, draft: Draft) -> ContactKey | None:
        """Find whom the draft is about; None for an address that is yet to become a contact."""
        name = draft.contact_id or draft.email
        contact = self._known.get(name) or self.contacts.get(name)
        if contact is not None and (draft.email or contact.id == draft.contact_id):
            return contact
        rules = self._rules(draft)
        if draft.contact_id:
            refused, made = rules.unknown_ids is UnknownIds.REJECT, False
        else:
            refused = rules.unknown_contacts is UnknownContacts.REJECT
            made = rules.unknown_contacts is UnknownContacts.CREATE
        if refused:
            draft.error = draft.error or ContactNotFound(name)
        return None if made else _NOBODY

    def _rules(self, draft: Draft) -> Rules:
        return draft.rules or self.state.rules

    def _store(self, fresh: Sequence[tuple[Draft, ContactKey | None]]) -> None:
        self._create_contacts({draft.email for draft, contact in fresh if contact is None})
        known = [(draft, contact or self.contacts[draft.email]) for draft, contact in fresh]
        placed = [(draft, contact, self._event(draft, contact)) for draft, contact in known]
        if self.matching is not None and any(_may_be_made(draft, contact) for draft, contact, _ in placed):
            placed = self._create_on_match(placed)
        for draft, contact, event in placed:
            self._append(draft, contact, event)

    def _create_contacts(self, emails: Iterable[str]) -> None:
        missing = [(str(uuid7()), email) for email in emails if email not in self.contacts]
        if missing:
            self.contacts |= insert_contacts(self._connection, self.state.key, missing, self._received_at)

    def _event(self, draft: Draft, contact: ContactKey) -> Event:
        """Give the event its place in the log."""
        self._position += 1
        definition = draft.definition
        return Event(
            self._ids.make(self._position),
            self._position,
            definition.name if definition else draft.name,
            definition.id if definition else "",
            definition.revision if definition else 0,
            contact.id,
            contact.email or draft.email,
            draft.properties,
            draft.changes,
            self._received_at if draft.occurred_at is None else draft.occurred_at,
            self._received_at,
            0,
            self._rules(draft).ignore_case,
        )

    def _create_on_match(self, placed: Iterable[_Placed]) -> list[_Placed]:
        """Make the contacts of unknown addresses, each from its first event on that sets something off."""
        new: dict[str, str] = {}
        named = [
            (draft, contact, self._named(event, new) if _may_be_made(draft, contact) else event)
            for draft, contact, event in placed
        ]
        if new:
            ids = [(contact_id, email) for email, contact_id in new.items()]
            self.contacts |= insert_contacts(self._connection, self.state.key, ids, self._received_at)
        return [
            (draft, self.contacts[event.email] if event.contact_id != contact.id else contact, event)
            for draft, contact, event in named
        ]

    def _named(self, event: Event, new: dict[str, str]) -> Event:
        """Give an event of an unknown address the id of its contact-to-be, if it makes one or one was made."""
        if contact_id := new.get(event.email):
            return replace(event, contact_id=contact_id)
        matcher = self.state.automations.matcher(event.name, ignore_case=event.ignore_case)
        if matcher is None:
            return event
        named = replace(event, contact_id=str(uuid7()))
        # A new contact may enter every automation.
        if not matcher.matching(subject_of(named, {})):
            return event
        new[event.email] = named.contact_id
        return named

    def _append(self, draft: Draft, contact: ContactKey, event: Event) -> None:
        if self.matching is not None and self.matching.interested((event.name, event.ignore_case), contact.key):
            event = self._matched(self.matching, draft, contact.key, event)
        draft.event = event
        self.last_id = event.id
        fingerprint = ""
        if draft.idempotency_key:
            fingerprint = draft.fingerprint()
            self._stored[draft.idempotency_key] = draft
        self.rows.append(_row(self.state.key, event, contact, draft, fingerprint))

    def _matched(self, matching: Matching, draft: Draft, contact_key: int, event: Event) -> Event:
        """Find what the event sets off."""
        subject = subject_of(event, matching.contact_properties(contact_key))
        found = matching.match((event.name, event.ignore_case), event.position, contact_key, subject)
        if not found:
            return event
        automations = self.state.automations.by_key
        draft.matches = tuple((match, automations[match.automation_key]) for match in found)
        return replace(event, match_count=len(found))

    def store(self) -> None:
        """Write what was gathered."""
        events.append(self._connection, self.rows)
        if self.matching is None or not self.matching.matches:
            return
        key, found = self.state.key, self.matching.matches
        matches.append(self._connection, [match_values(key, match) for match in found])
        if started := [new_run_values(key, match) for match in found if match.kind is MatchKind.STARTED]:
            runs.append(self._connection, started)
        resume_runs(self._connection, key, self.matching.resumed, self._received_at)


def _may_be_made(draft: Draft, contact: ContactKey) -> bool:
    """Return whether the contact is created if the event matches.

    An address without a contact gets here only under CREATE_ON_MATCH: under the other rules it is refused or created.
    """
    return contact is _NOBODY and draft.email != ""


def commit(connection: Connection, units: Sequence[Unit], known: dict[int, KnownContacts]) -> list[ProjectCommit]:
    """Decide units of any projects and store what stands, in the caller's transaction.

    Each draft gets its event or its error. The result may be cached once the transaction is committed. Raise KeyInvalid
    if a project was lost in a failover or a restore.
    """
    by_project: dict[int, list[Unit]] = {}
    for unit in units:
        by_project.setdefault(unit.state.key, []).append(unit)
    now = now_micros()
    commits = []
    witnesses = {key: known[key].position for key in by_project if key in known}
    # Before the lock: all other sends to these projects wait for the work done under it.
    for unit in units:
        for draft in unit.drafts:
            if draft.error is None:
                _encoded(draft)
    heads = lock_heads(connection, by_project, witnesses)
    if len(heads) < len(by_project):
        raise KeyInvalid
    for key, head in heads.items():
        project = ProjectCommit(connection, by_project[key], head, known.get(key), now)
        project.run()
        commits.append(project)
    if stored := [project for project in commits if project.rows]:
        for project in stored:
            project.store()
        move_heads(connection, {project.state.key: project.head for project in stored})
    return commits


def _current_state(connection: Connection, units: Sequence[Unit], head: Head) -> ProjectState:
    """Return the current catalog snapshot, and judge again the drafts that were judged by another."""
    state = max((unit.state for unit in units), key=lambda state: state.version)
    if state.version != head.catalog_version:
        project_id = state.id
        state = load_state(connection, state.key, state)
        if state.id != project_id:
            # The project was lost, and its integer key belongs to another one by now.
            raise KeyInvalid
    for unit in units:
        if unit.state.version != state.version:
            unit.state = state
            judge_all(unit)
    return state


def _recorded_matches(
    connection: Connection, project_pk: int, positions: Sequence[int]
) -> dict[int, tuple[tuple[Match, Automation], ...]]:
    """Read what recorded events set off, by their positions."""
    found = matches_of_events(connection, project_pk, positions)
    automations = automations_by_key(connection, {match.automation_key for each in found.values() for match in each})
    return {at: tuple((match, automations[match.automation_key]) for match in each) for at, each in found.items()}


def _encoded(draft: Draft) -> tuple[str, str]:
    """Return the texts of the properties and the coercions, encoded once for each judgement."""
    if draft.encoded is None:
        changes = _encode(draft.changes).decode() if draft.changes else ""
        draft.encoded = _encode(draft.properties).decode(), changes
    return draft.encoded


def _row(project_pk: int, event: Event, contact: ContactKey, draft: Draft, fingerprint: str) -> LogRow:
    return (
        project_pk,
        event.position,
        event.id,
        event.name,
        event.definition_id,
        event.revision,
        contact.key,
        "" if contact.key else event.email,
        *_encoded(draft),
        event.occurred_at,
        event.received_at,
        event.match_count,
        draft.idempotency_key,
        fingerprint,
        int(event.ignore_case),
    )
