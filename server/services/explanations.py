"""Why events match automations or do not: the decisions of a commit, made again and explained. Stores nothing."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from uuid_utils import uuid7

from automation.automation_store import automations_by_key, event_names_by_key, get_automation, versions_at
from automation.automations import Automation, AutomationState, EntryRule
from automation.conditions.checking import check
from automation.conditions.condition import Condition
from automation.conditions.values import Verdict
from automation.errors import ConditionInvalid
from automation.match_log import matches_of_events
from automation.matches import MatchKind
from automation.run_store import entries_before
from registry.coercion import coerce_undefined
from registry.errors import PayloadRejected, RowUnreadable, Violation
from registry.names import check_event_name
from registry.page_sizes import PAGE_CHARACTERS
from registry.timestamps import now_micros
from server.errors import ContactNotFound
from server.ingest.contacts import CommitContacts, IfUnknown, if_unknown, with_new_contact
from server.ingest.subjects import subject_of
from server.ingest.validate import validate_draft
from server.model import Event
from server.status import message_of, reason_of
from server.storage.contacts import contact_key, contact_properties, find_contact
from server.storage.events import get_event

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from sqlalchemy import Connection

    from automation.automations import AutomationVersion
    from automation.conditions.errors import ConditionError
    from automation.conditions.subject import Subject
    from automation.conditions.tracing import Clause
    from automation.matches import Match
    from registry.coercion import Coercion
    from server.ingest.catalog import Catalog, CatalogSnapshot
    from server.ingest.draft import Draft
    from server.paging import Page, PageRequest
    from server.storage.database import Database

_CHUNK: Final = 200
_CLAUSE_OVERHEAD: Final = 100
_NOW: Final = 2**62
"""A position after all others."""


class BlockingKind(StrEnum):
    """What keeps an event from starting a run even if the condition is true."""

    DRAFT = "draft"
    PAUSED = "paused"
    ACTIVATED_LATER = "activated_later"
    ONCE_PER_CONTACT = "once_per_contact"
    ONCE_WHILE_RUNNING = "once_while_running"
    OTHER_CASE = "other_case"


@dataclass(frozen=True, slots=True)
class BlockingReason:
    """A reason that keeps an event from starting a run; `run_id` is the run that does, if one does."""

    kind: BlockingKind
    message: str
    run_id: str = ""


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why one event did or did not match one automation. `match` is the recorded one, if any."""

    automation: Automation
    event_name: str
    condition: str
    verdict: Verdict
    trace: Sequence[Clause]
    reasons: Sequence[BlockingReason]
    match: Match | None

    @property
    def matched(self) -> bool:
        """Whether the event starts a run."""
        return self.verdict is Verdict.TRUE and not self.reasons

    @property
    def size(self) -> int:
        """The approximate number of characters."""
        return len(self.condition) + sum(
            _CLAUSE_OVERHEAD + len(clause.expression) + len(str(clause.actual)) + len(str(clause.operand))
            for clause in self.trace
        )


@dataclass(frozen=True, slots=True)
class EventExplanation:
    """A page of explanations and the event as it was matched; only violations for an event that would be refused."""

    event: Event | None
    violations: Sequence[Violation] = ()
    page: Page[Explanation] | None = None


@dataclass(frozen=True, slots=True)
class ConditionTest:
    """The result of a condition on one event; not evaluated if there are errors or violations."""

    verdict: Verdict = Verdict.NOT_EVALUATED
    trace: Sequence[Clause] = ()
    errors: Sequence[ConditionError] = ()
    violations: Sequence[Violation] = ()
    coercions: Sequence[Coercion] = ()


@dataclass(frozen=True, slots=True)
class ExplainedContact:
    """A contact whose properties conditions read. It need not exist."""

    id: str
    email: str
    properties: Mapping[str, Any] = field(hash=False)


@dataclass(frozen=True, slots=True)
class _Matched:
    """An event with everything that decides its matches. `position` is after all others for an unrecorded one."""

    event: Event
    position: int
    contact_key: int
    subject: Subject
    matches: Mapping[int, Match]


class Explanations:
    """Explains events, and tests conditions before they are saved."""

    def __init__(self, database: Database, catalog: Catalog) -> None:
        self._database = database
        self._catalog = catalog

    async def test(
        self, project_pk: int, condition: str, draft: Draft, contact: ExplainedContact | None
    ) -> ConditionTest:
        """Evaluate a condition on an event, with the contact that the event names unless another is given.

        An address that no contact has stands for a contact without properties. Raise InvalidName and ContactNotFound.
        """
        check_event_name(draft.name)
        snapshot = await self._catalog.load(project_pk)
        definition = snapshot.definition(draft.name)
        errors: Sequence[ConditionError] = ()
        violations: Sequence[Violation] = ()
        try:
            compiled = Condition(condition)
            check(compiled.expression, definition.schema if definition else None)
        except ConditionInvalid as error:
            errors = error.errors
        properties: dict[str, Any] = {}
        coercions: tuple[Coercion, ...] = ()
        try:
            coerced = (definition.coerce if definition else coerce_undefined)(draft.given)
            properties, coercions = coerced.properties, coerced.coercions
        except PayloadRejected as error:
            violations = error.violations
        if errors or violations:
            return ConditionTest(errors=errors, violations=violations, coercions=coercions)
        if contact is None:
            contact = await self._database.read(lambda connection: _contact_of(connection, project_pk, draft))
        event = _unrecorded(snapshot, draft, properties, coercions, contact)
        trace = compiled.trace(subject_of(event, contact.properties if contact else {}))
        return ConditionTest(_verdict(trace), trace, coercions=coercions)

    async def of_recorded(
        self, project_pk: int, event_id: str, automation_id: str, request: PageRequest
    ) -> EventExplanation:
        """Explain a recorded event by the automations as they were at its position.

        The contact's properties are the current ones. Raise EventNotFound and AutomationNotFound.
        """
        await self._catalog.load(project_pk)

        def read_event(connection: Connection) -> _Matched:
            event = get_event(connection, project_pk, event_id)
            if event.unreadable:
                raise RowUnreadable("event", event_id, event.unreadable)
            # Without an id this finds nobody: no contact has an empty address.
            key = contact_key(connection, project_pk, contact_id=event.contact_id) or 0
            properties = contact_properties(connection, [key]).get(key, {})
            found = matches_of_events(connection, project_pk, [event.position]).get(event.position, ())
            started = {match.automation_key: match for match in found if match.kind is MatchKind.STARTED}
            subject = subject_of(event, properties)
            return _Matched(event, event.position, key, subject, started)

        def work(connection: Connection) -> tuple[Event, Page[Explanation]]:
            event = read_event(connection)
            return event.event, _page(connection, project_pk, event, automation_id, request, event_id)

        event, page = await self._database.read(work)
        return EventExplanation(event, page=page)

    async def of_given(
        self, project_pk: int, draft: Draft, automation_id: str, request: PageRequest
    ) -> EventExplanation:
        """Explain an event by the current automations, as if it were sent now. Raise AutomationNotFound."""
        snapshot = await self._catalog.load(project_pk)
        validate_draft(snapshot, draft)

        def work(connection: Connection) -> tuple[Event, Page[Explanation]]:
            key, contact = _contact_of_commit(connection, snapshot, draft)
            event = _unrecorded(snapshot, draft, draft.properties, draft.coercions, contact)
            subject = subject_of(event, contact.properties if contact else {})
            unrecorded = _Matched(event, _NOW, key, subject, {})
            return event, _page(connection, project_pk, unrecorded, automation_id, request, draft.fingerprint())

        if draft.error is not None:
            return EventExplanation(None, _refusal(draft.error))
        try:
            event, page = await self._database.read(work)
        except ContactNotFound as error:
            return EventExplanation(None, _refusal(error))
        return EventExplanation(event, page=page)


def _page(
    connection: Connection, project_pk: int, matched: _Matched, automation_id: str, request: PageRequest, source: str
) -> Page[Explanation]:
    """Return a page of explanations, the newest automation first."""
    limit, filters = request.limit(), ("explanations", project_pk, source, automation_id)
    (before,) = request.cursor(filters, int) or (_NOW,)
    name = matched.event.name.casefold()
    candidates = event_names_by_key(connection, project_pk)
    if automation_id:
        selected = get_automation(connection, project_pk, automation_id, deleted=True).key
        candidates = [(key, event_name) for key, event_name in candidates if key == selected]
    keys = list(dict.fromkeys(key for key, event_name in candidates if event_name.casefold() == name and key < before))
    found: list[Explanation] = []
    room = PAGE_CHARACTERS
    for start in range(0, len(keys), _CHUNK):
        for explanation in _explained(connection, project_pk, matched, keys[start : start + _CHUNK]):
            room -= explanation.size
            if len(found) == limit or (found and room < 0):
                return request.page(found, filters, lambda last: (last.automation.key,), more=True)
            found.append(explanation)
    return request.page(found, filters, lambda last: (last.automation.key,), more=False)


def _explained(connection: Connection, project_pk: int, matched: _Matched, keys: list[int]) -> Iterator[Explanation]:
    """Yield the explanations of the automations with these keys that were about the event's name at its position."""
    name = matched.event.name.casefold()
    automations = automations_by_key(connection, keys)
    versions = versions_at(connection, keys, matched.position)
    past: dict[int, Automation] = {}
    for key in keys:
        then = _as_of_event(automations[key], versions.get(key))
        if then is not None and then.event_name.casefold() == name:
            past[key] = then
    blocking = _blocking_runs(connection, project_pk, matched, past.values())
    for key, then in past.items():
        reasons = [*_state_reasons(then), *_case_reasons(then, matched), *_once_reasons(then, blocking)]
        trace = Condition(then.condition).trace(matched.subject)
        match = matched.matches.get(key)
        yield Explanation(automations[key], then.event_name, then.condition, _verdict(trace), trace, reasons, match)


def _as_of_event(now: Automation, then: AutomationVersion | None) -> Automation | None:
    """Return an automation as it was at the event's position, None if it is deleted and was not active then.

    One that had not been active yet is returned as a draft, with `activated_position` if it was activated later.
    """
    if then is not None and then.state is not AutomationState.DRAFT:
        if now.deleted_at is not None and then.state is not AutomationState.ACTIVE:
            return None
        return replace(
            now,
            state=then.state,
            event_name=then.event_name,
            condition=then.condition,
            entry_rule=then.entry_rule,
        )
    return None if now.deleted_at is not None else replace(now, state=AutomationState.DRAFT)


def _blocking_runs(
    connection: Connection, project_pk: int, matched: _Matched, automations: Collection[Automation]
) -> dict[int, str]:
    """Return the ids of the runs that keep the contact from entering, by the keys of their automations."""
    found: dict[int, str] = {}
    for rule in (EntryRule.ONCE_PER_CONTACT, EntryRule.ONCE_WHILE_RUNNING):
        keys = [automation.key for automation in automations if automation.entry_rule is rule]
        if keys and matched.contact_key:
            open_only = rule is EntryRule.ONCE_WHILE_RUNNING
            found |= entries_before(
                connection, project_pk, keys, matched.contact_key, matched.position, open_only=open_only
            )
    return found


def _state_reasons(automation: Automation) -> Iterator[BlockingReason]:
    if automation.state is AutomationState.PAUSED:
        yield BlockingReason(BlockingKind.PAUSED, "It was paused when the event was received")
    elif automation.state is AutomationState.DRAFT and automation.activated_position is None:
        yield BlockingReason(BlockingKind.DRAFT, "It was a draft when the event was received")
    elif automation.state is AutomationState.DRAFT:
        message = f"It was activated later and matches events after position {automation.activated_position:,}"
        yield BlockingReason(BlockingKind.ACTIVATED_LATER, message)


def _case_reasons(automation: Automation, matched: _Matched) -> Iterator[BlockingReason]:
    if automation.event_name != matched.event.name and not matched.event.ignore_case:
        message = f'It matches "{automation.event_name}", and names in this project are case-sensitive'
        yield BlockingReason(BlockingKind.OTHER_CASE, message)


def _once_reasons(automation: Automation, blocking: Mapping[int, str]) -> Iterator[BlockingReason]:
    run_id = blocking.get(automation.key)
    if run_id is None:
        return
    if automation.entry_rule is EntryRule.ONCE_PER_CONTACT:
        message = "The contact had entered before and may enter only once"
        yield BlockingReason(BlockingKind.ONCE_PER_CONTACT, message, run_id)
    else:
        message = "A run of the contact was open, and only one at a time is allowed"
        yield BlockingReason(BlockingKind.ONCE_WHILE_RUNNING, message, run_id)


def _verdict(trace: Sequence[Clause]) -> Verdict:
    return trace[0].verdict if trace else Verdict.TRUE


def _unrecorded(
    snapshot: CatalogSnapshot,
    draft: Draft,
    properties: dict[str, Any],
    coercions: tuple[Coercion, ...],
    contact: ExplainedContact | None,
) -> Event:
    definition = snapshot.definition(draft.name)
    now = now_micros()
    return Event(
        "",
        0,
        definition.name if definition else draft.name,
        definition.id if definition else "",
        definition.revision if definition else 0,
        contact.id if contact else "",
        contact.email if contact else draft.email,
        properties,
        coercions,
        now if draft.occurred_at is None else draft.occurred_at,
        now,
        0,
        snapshot.rules.ignore_case,
    )


def _contact_of(connection: Connection, project_pk: int, draft: Draft) -> ExplainedContact | None:
    """Return the contact that a draft names, if it names one. Raise ContactNotFound for an unknown id."""
    if not draft.contact_id and not draft.email:
        return None
    try:
        found = find_contact(connection, project_pk, contact_id=draft.contact_id, email=draft.email)
    except ContactNotFound:
        if draft.contact_id:
            raise
        return ExplainedContact(str(uuid7()), draft.email, {})
    return ExplainedContact(found.id, found.email, found.properties)


def _contact_of_commit(
    connection: Connection, snapshot: CatalogSnapshot, draft: Draft
) -> tuple[int, ExplainedContact | None]:
    """Return the contact that a commit would give the event, and its key, which is 0 for one that does not exist yet.

    Raise ContactNotFound.
    """
    contacts = CommitContacts(connection, snapshot.project_pk, {}, [draft])
    found = contacts.find(draft)
    if found is not None:
        properties = contact_properties(connection, [found.key]).get(found.key, {})
        return found.key, ExplainedContact(found.id, found.email, properties)
    fate = if_unknown(draft, draft.rules or snapshot.rules)
    if fate is IfUnknown.REFUSE:
        raise ContactNotFound(draft.contact_id or draft.email)
    if fate is IfUnknown.CREATE:
        return 0, ExplainedContact(str(uuid7()), draft.email, {})
    event = _unrecorded(snapshot, draft, draft.properties, draft.coercions, None)
    assigned = with_new_contact(event, snapshot.automations) if fate is IfUnknown.CREATE_ON_MATCH else None
    return 0, ExplainedContact(assigned.contact_id, draft.email, {}) if assigned else None


def _refusal(error: Exception) -> Sequence[Violation]:
    """Return the violations of an error, or one at the path of the whole event if it has none."""
    violations: Sequence[Violation] = getattr(error, "violations", ())
    return violations or [Violation("event", reason_of(error), message_of(error))]
