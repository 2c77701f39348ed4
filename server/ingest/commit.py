"""Decides batches inside the transaction that stores them.

Validation used a snapshot in memory. What only the database knows is decided here, under the lock of each project's
head, which makes all commits and catalog changes of one project come one after the other:

    1. lock the heads           catalog version, positions, and the id of the event that vouches for cached contacts
    2. catalog                  another version than the batch's: load the snapshot, validate again; a large one is
                                loaded outside of the transaction (`Deferral`)
    3. idempotency keys         repeated: duplicate or refused
    4. contacts                 of the cache, else read; created where the rules say so
    5. positions                numbered without gaps: a rejected batch takes none
    6. refused events           kept if the project's rules say so; one that was kept and is sent again must still be
    7. matches                  automations matched, in the order of positions; a batch that has not room enough for
                                it is evaluated outside of the transaction (`Deferral`)
    8. rows, then the heads     a failed statement rolls all of it back, so no position is used twice

Within one project, batches are decided in the order in which they were queued, and what one of them stores (keys,
contacts, entries of contacts into automations) is known to the next.
"""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, TypeVar

from msgspec.structs import replace

from automation.conditions.compiling import OutOfRoom
from automation.match_log import match_values
from automation.matches import MatchKind
from automation.matching import Matching, TooManyMatches
from automation.run_transitions import new_run_values, resume_runs
from automation.subscriptions.log_reading import Recorded
from registry.log_ids import LogIds
from server.delivery.recent_matches import RecentMatch
from server.errors import BatchTooCostly, KeyInvalid
from server.ingest.catalog import TooManyChanged, load_snapshot
from server.ingest.contacts import (
    NOBODY,
    CommitContacts,
    UnknownContactAction,
    unknown_contact_action,
    with_new_contact,
)
from server.ingest.deferred_batches import Deferral
from server.ingest.draft import BatchMode, Draft
from server.ingest.draft_decisions import decide_drafts
from server.ingest.idempotency import EarlierSends
from server.ingest.pre_evaluated import known_outcomes
from server.ingest.pre_evaluation import BATCH_MATCHES, event_name, room_of
from server.ingest.quarantine import Quarantined, QuarantineLimits
from server.ingest.subjects import subject_of
from server.ingest.validate import validate_batch
from server.model import Event
from server.storage.clock import log_time
from server.storage.contacts import ContactKey, contact_properties
from server.storage.events.appending import events, matches, runs, traced_events
from server.storage.projects.heads import Head, lock_heads, move_heads
from server.storage.transactions import let_loop_run

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from sqlalchemy import Connection

    from automation.conditions.subject import Subject
    from automation.matcher import Decision, KnownOutcomes, Matcher
    from server.ingest.catalog import CatalogSnapshot
    from server.ingest.contacts import ContactCache
    from server.ingest.draft import Batch
    from server.model import Rules
    from server.storage.events.appending import LogRow

T = TypeVar("T")

_Placed = tuple[Draft, ContactKey, Event]
"""A draft, its contact, and its event with its position."""

SLICE_EVENTS: Final = 1_000
"""The events that are numbered and matched without a pause, about 5 ms. Each pause is a round of the loop, during which
the transaction is idle: PostgreSQL ends one that is idle for two seconds."""

QUICK_AUTOMATIONS = 20
"""If more automations have changed, the snapshot is not loaded in the transaction: each takes about a millisecond."""


class ProjectCommit:
    """The part of a group commit that concerns one project: its batches are decided, then stored."""

    def __init__(
        self,
        connection: Connection,
        batches: Sequence[Batch],
        head: Head,
        cache: ContactCache | None,
        now: int,
        limits: QuarantineLimits,
    ) -> None:
        self._connection = connection
        self.batches = batches
        self.seconds = 0.0
        drafts = [draft for batch in batches for draft in batch.drafts]
        self.snapshot = _current_snapshot(connection, batches, head)
        self.head = head
        witnessed = connection.dialect.name == "postgresql"
        self.cache_valid = cache is not None and cache.valid(head, witnessed=witnessed)
        cached = cache.keys if cache is not None and self.cache_valid else {}
        sealed_of = self.snapshot.project_id if self.snapshot.sealed else ""
        self._earlier = EarlierSends(connection, self.snapshot.project_pk, drafts, sealed_of)
        self.contacts = CommitContacts(connection, self.snapshot.project_pk, cached, drafts)
        # Times of the log never run backwards, whatever the clocks of servers do.
        self._received_at = max(now, head.received_at)
        self._position = head.position
        self._ids = LogIds(self._received_at)
        self.matching = self._prepare_matching(drafts) if self.snapshot.automations else None
        self._ignore_case = self.snapshot.rules.ignore_case
        self.quarantined = Quarantined(connection, self.snapshot.project_pk, self._received_at, limits)
        self._values: list[Any] = []
        self._traced = any(batch.traceparent for batch in batches)
        self._traceparent = ""
        self.stored = 0
        """The number of events that are stored."""
        self.last_id = ""

    def _prepare_matching(self, drafts: Sequence[Draft]) -> Matching:
        connection = self._connection
        matching = Matching(
            connection,
            self.snapshot.project_pk,
            self.snapshot.automations,
            self.head.match_position,
            self._received_at,
            lambda keys: contact_properties(connection, keys),
        )
        # Of many events few differ in this, so names are looked at once for each kind. To hash rules takes 1 us.
        kinds = {(draft.definition or draft.name, id(draft.rules)): draft for draft in drafts}
        names = {event_name(draft, self.snapshot.rules) for draft in kinds.values()}
        matching.prepare(names, self.contacts.keys())
        return matching

    def run(self) -> None:
        """Decide every batch and gather the rows to store."""
        for batch in self.batches:
            self._decide(batch)
        match_position = self.matching.position if self.matching else self.head.match_position
        self.head = Head(self._position, self._received_at, self.head.catalog_version, match_position)

    def _decide(self, batch: Batch) -> None:
        """Decide all drafts of a batch, and only then, if the batch is not rejected, give them positions."""
        self._traceparent = batch.traceparent
        if batch.reingests:
            self.quarantined.check(batch)
        fresh, first = decide_drafts(batch.drafts, self._earlier, self.contacts, self.snapshot.rules)
        if self.snapshot.rules.quarantines:
            self.quarantined.add(batch)
        if batch.rejected():
            return
        if self.matching is None:
            self._accept(fresh)
        else:
            self._accept_within_limits(batch, fresh, self.matching)
        for draft in batch.drafts:
            if draft.duplicate and draft.event is None:
                original = first[draft.idempotency_key]
                draft.event, draft.matches = original.event, original.matches
        if batch.reingests:
            self.quarantined.release(batch)

    def _rules(self, draft: Draft) -> Rules:
        return draft.rules or self.snapshot.rules

    def _accept_within_limits(
        self, batch: Batch, fresh: Sequence[tuple[Draft, ContactKey | None]], matching: Matching
    ) -> None:
        matching.room, matching.match_limit = room_of(batch), len(matching.matches) + BATCH_MATCHES
        try:
            self._accept(fresh)
        except OutOfRoom:
            raise Deferral(self.snapshot.project_pk, batch) from None
        except TooManyMatches:
            divisible = batch.mode is BatchMode.INDEPENDENT
            error = None if divisible else BatchTooCostly.by_matches(BATCH_MATCHES)
            raise Deferral(self.snapshot.project_pk, batch, error=error, divisible=divisible) from None

    def _accept(self, fresh: Sequence[tuple[Draft, ContactKey | None]]) -> None:
        # Most batches have one event of a contact that exists, and save 1 us.
        if len(fresh) == 1 and (contact := fresh[0][1]) is not None and contact is not NOBODY:
            draft = fresh[0][0]
            self._append(draft, contact, self._event(draft, contact))
        else:
            self._accept_several(fresh)

    def _accept_several(self, fresh: Sequence[tuple[Draft, ContactKey | None]]) -> None:
        """Accept events of which some may have a contact that does not exist."""
        if new := {draft.email for draft, contact in fresh if contact is None}:
            self.contacts.create(new, self._received_at)
        known = [(draft, contact or self.contacts.read[draft.email]) for draft, contact in fresh]
        if self.matching is not None and any(
            contact is NOBODY and self._created_on_match(draft, contact) for draft, contact in known
        ):
            placed = [(draft, contact, self._event(draft, contact)) for draft, contact in known]
            for draft, contact, event in self._in_slices(self._create_matched_contacts(placed)):
                self._append(draft, contact, event)
            return
        for draft, contact in self._in_slices(known):
            self._append(draft, contact, self._event(draft, contact))

    def _in_slices(self, items: Sequence[T]) -> Iterator[T]:
        """Yield items; on PostgreSQL the event loop serves others now and then."""
        for start in range(0, len(items), SLICE_EVENTS):
            if start:
                let_loop_run(self._connection)
            yield from items[start : start + SLICE_EVENTS]

    def _event(self, draft: Draft, contact: ContactKey) -> Event:
        """Return the event of an accepted draft, at the next position of the log."""
        self._position += 1
        definition = draft.definition
        # Python calls with more than 15 names by way of a dict, which takes 1 us.
        return Event(
            id=self._ids.make(self._position),
            position=self._position,
            name=definition.name if definition else draft.name,
            definition_id=definition.id if definition else "",
            revision=definition.revision if definition else 0,
            contact_id=contact.id,
            email=contact.email or draft.email,
            properties=draft.properties,
            coercions=draft.coercions,
            occurred_at=self._occurred_at(draft),
            received_at=self._received_at,
            match_count=0,
            ignore_case=self._ignore_case if draft.rules is None else draft.rules.ignore_case,
            omitted_coercions=draft.omitted_coercions,
            traceparent=self._traceparent,
        )

    def _occurred_at(self, draft: Draft) -> int:
        """Return the time of the event: that of the commit if none is given, unless conditions have read another."""
        return draft.occurred(self._received_at if draft.pre_evaluated_at is None else draft.pre_evaluated_at)

    def _created_on_match(self, draft: Draft, contact: ContactKey) -> bool:
        """Return whether the event's contact is created if the event matches an automation."""
        return (
            contact is NOBODY
            and unknown_contact_action(draft, self._rules(draft)) is UnknownContactAction.CREATE_ON_MATCH
        )

    def _create_matched_contacts(self, placed: Iterable[_Placed]) -> list[_Placed]:
        """Create the contacts of unknown addresses, each from its first event on that matches an automation."""
        new: dict[str, str] = {}
        assigned = [
            (
                draft,
                contact,
                self._assign_new_contact(draft, event, new) if self._created_on_match(draft, contact) else event,
            )
            for draft, contact, event in placed
        ]
        self.contacts.insert([(contact_id, email) for email, contact_id in new.items()], self._received_at)
        return [
            (draft, self.contacts.read[event.email] if event.contact_id != contact.id else contact, event)
            for draft, contact, event in assigned
        ]

    def _assign_new_contact(self, draft: Draft, event: Event, new: dict[str, str]) -> Event:
        """Return the event with the id of its new contact, if it or an earlier event of the address creates one."""
        if contact_id := new.get(event.email):
            return replace(event, contact_id=contact_id)

        def decide(matcher: Matcher, event: Event, subject: Subject) -> Decision:
            assert self.matching is not None
            return self.matching.decide(matcher, subject, _known(draft, event, subject))

        assigned = with_new_contact(event, self.snapshot.automations, decide)
        if assigned is None:
            return event
        new[event.email] = assigned.contact_id
        return assigned

    def _append(self, draft: Draft, contact: ContactKey, event: Event) -> None:
        if self.matching is not None and self.matching.may_match(
            (event.name, event.ignore_case), contact.key, event.properties
        ):
            event = self._matched(self.matching, draft, contact.key, event)
        draft.event = event
        self.last_id = event.id
        fingerprint = ""
        if draft.idempotency_key:
            fingerprint = draft.fingerprint()
            self._earlier.stored[draft.idempotency_key] = draft
        self.stored += 1
        self._values += _row(self.snapshot.project_pk, event, contact, draft, fingerprint)
        if self._traced:
            self._values.append(event.traceparent)

    def _matched(self, matching: Matching, draft: Draft, contact_key: int, event: Event) -> Event:
        """Match the event with the automations and waiting runs. Return it with the number of its matches."""
        subject = subject_of(event, matching.contact_properties(contact_key))
        known = _known(draft, event, subject)
        found = matching.match((event.name, event.ignore_case), event.position, contact_key, subject, known)
        if not found:
            return event
        automations = self.snapshot.automations.by_key
        draft.matches = tuple((match, automations[match.automation_key]) for match in found)
        return replace(event, match_count=len(found))

    @property
    def recorded(self) -> Recorded:
        """The matches of this commit."""
        return Recorded(self.matching.matches if self.matching else (), self.snapshot.automations.by_key)

    def recent(self) -> list[RecentMatch]:
        """Return the matches of this commit with their events, in the order of positions.

        None are returned if some cannot be delivered: whoever reads them back finds out why.
        """
        found = [
            RecentMatch.of(match, automation, draft.event, _characters(draft, draft.event))
            for batch in self.batches
            for draft in batch.drafts
            if draft.event is not None and draft.matches and not draft.duplicate
            for match, automation in draft.matches
        ]
        return [] if any(match.automation.unreadable for match in found) else found

    def store(self) -> None:
        """Write the gathered rows."""
        (traced_events if self._traced else events).append_values(self._connection, self._values)
        if self.matching is None or not self.matching.matches:
            return
        project_pk, found = self.snapshot.project_pk, self.matching.matches
        matches.append(self._connection, [match_values(project_pk, match) for match in found])
        if started := [new_run_values(project_pk, match) for match in found if match.kind is MatchKind.STARTED]:
            runs.append(self._connection, started)
        resume_runs(self._connection, project_pk, self.matching.resumed, self._received_at)


def commit(
    connection: Connection,
    batches: Sequence[Batch],
    caches: dict[int, ContactCache],
    limits: QuarantineLimits,
) -> list[ProjectCommit]:
    """Decide batches of any projects and store what they accept, in the caller's transaction.

    Each draft gets its event or its error. The result may be cached once the transaction is committed. Raise KeyInvalid
    if a project was lost in a failover or a restore.
    """
    by_project: dict[int, list[Batch]] = {}
    for batch in batches:
        by_project.setdefault(batch.snapshot.project_pk, []).append(batch)
    commits = []
    witnesses = {project_pk: caches[project_pk].position for project_pk in by_project if project_pk in caches}
    heads = lock_heads(connection, by_project, witnesses)
    if len(heads) < len(by_project):
        raise KeyInvalid
    for project_pk, head in heads.items():
        began = perf_counter()
        cache, now = caches.get(project_pk), log_time(head.now)
        project = ProjectCommit(connection, by_project[project_pk], head, cache, now, limits)
        project.run()
        project.seconds = perf_counter() - began
        commits.append(project)
    for project in commits:
        if project.quarantined:
            began = perf_counter()
            project.quarantined.store()
            project.seconds += perf_counter() - began
    if stored := [project for project in commits if project.stored]:
        for project in stored:
            began = perf_counter()
            project.store()
            project.seconds += perf_counter() - began
        move_heads(connection, {project.snapshot.project_pk: project.head for project in stored})
    return commits


def _known(draft: Draft, event: Event, subject: Subject) -> KnownOutcomes | None:
    """Return what is known of a draft's conditions; None if it was not pre-evaluated."""
    return known_outcomes(draft.pre_evaluated, event, subject) if draft.pre_evaluated else None


def _current_snapshot(connection: Connection, batches: Sequence[Batch], head: Head) -> CatalogSnapshot:
    """Return the current catalog snapshot, and validate again the batches that were validated by another.

    Raise Deferral if it takes too long to load it here.
    """
    snapshot = max((batch.snapshot for batch in batches), key=lambda snapshot: snapshot.version)
    if snapshot.version != head.catalog_version:
        project_id = snapshot.project_id
        try:
            snapshot = load_snapshot(connection, snapshot.project_pk, snapshot, QUICK_AUTOMATIONS)
        except TooManyChanged:
            raise Deferral(snapshot.project_pk) from None
        if snapshot.project_id != project_id:
            # The project was lost, and its integer key belongs to another one by now.
            raise KeyInvalid
    for batch in batches:
        if batch.snapshot.version != snapshot.version:
            batch.snapshot = snapshot
            validate_batch(batch)
    return snapshot


def _characters(draft: Draft, event: Event) -> int:
    """Return the characters of an event: payload, coercions, name and address."""
    return sum(map(len, draft.encoded)) + len(event.name) + len(event.email)


def _row(project_pk: int, event: Event, contact: ContactKey, draft: Draft, fingerprint: str) -> LogRow:
    properties, coercions = draft.encoded
    return (
        project_pk,
        event.position,
        event.id,
        event.name,
        event.definition_id,
        event.revision,
        contact.key,
        "" if contact.key else event.email,
        properties,
        coercions,
        event.occurred_at,
        event.received_at,
        event.match_count,
        draft.idempotency_key,
        fingerprint,
        1 if event.ignore_case else 0,
    )
