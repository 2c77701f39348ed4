"""Why events match automations or do not: what the commit decides, decided again and written down. Stores nothing."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from uuid_utils import uuid7

from automation.automation_store import automations_by_key, automations_judging, get_automation, versions_at
from automation.automations import Automation, AutomationState, EntryRule
from automation.conditions.checking import check
from automation.conditions.condition import Condition
from automation.conditions.values import Verdict
from automation.errors import ConditionInvalid
from automation.match_log import matches_of_events
from automation.run_store import entered_before
from automation.runs import MatchKind
from registry.coercion import coerce_undefined
from registry.errors import PayloadRejected, RowUnreadable, Violation
from registry.names import check_event_name
from registry.pages import PAGE_CHARACTERS
from registry.timestamps import now_micros
from server.errors import ContactNotFound
from server.ingest.subjects import subject_of
from server.ingest.validate import validate_draft
from server.model import Event, UnknownContacts
from server.status import message_of, reason_of
from server.storage.contacts import contact_key, contact_keys, contact_properties, find_contact
from server.storage.events import get_event

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sqlalchemy import Connection

    from automation.automations import AutomationVersion
    from automation.conditions.faults import Fault
    from automation.conditions.subject import Subject
    from automation.conditions.tracing import Clause
    from automation.runs import Match
    from registry.coercion import Change
    from server.ingest.catalog import Catalog, CatalogSnapshot
    from server.ingest.draft import Draft
    from server.paging import Page, PageRequest
    from server.storage.database import Database

_CHUNK: Final = 200
_CLAUSE_OVERHEAD: Final = 100
_NOW: Final = 2**62
"""A position behind all others."""


class BlockingKind(StrEnum):
    """What can keep an event from starting a run although the condition may hold."""

    DRAFT = "draft"
    PAUSED = "paused"
    ACTIVATED_LATER = "activated_later"
    ONCE_PER_CONTACT = "once_per_contact"
    ONCE_WHILE_RUNNING = "once_while_running"
    OTHER_CASE = "other_case"


@dataclass(frozen=True, slots=True)
class BlockingReason:
    """One such reason; `run_id` is that of the run which stood in the way."""

    kind: BlockingKind
    message: str
    run_id: str = ""


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why one event did or did not match one automation. The match is the one that was recorded, if any."""

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
        """About how many characters it takes."""
        return len(self.condition) + sum(
            _CLAUSE_OVERHEAD + len(each.expression) + len(str(each.actual)) + len(str(each.operand))
            for each in self.trace
        )


@dataclass(frozen=True, slots=True)
class EventExplanation:
    """A page of explanations and the event as it was judged; neither, but violations, for one that would be refused."""

    event: Event | None
    violations: Sequence[Violation] = ()
    page: Page[Explanation] | None = None


@dataclass(frozen=True, slots=True)
class ConditionTest:
    """What a condition came to on one event; not evaluated if there are faults or violations."""

    verdict: Verdict = Verdict.NOT_EVALUATED
    trace: Sequence[Clause] = ()
    faults: Sequence[Fault] = ()
    violations: Sequence[Violation] = ()
    changes: Sequence[Change] = ()


@dataclass(frozen=True, slots=True)
class ExplainedContact:
    """A contact to judge with, which need not exist."""

    id: str
    email: str
    properties: Mapping[str, Any] = field(hash=False)


@dataclass(frozen=True, slots=True)
class _Judged:
    """An event with all that it is judged by. `position` is behind all others for one that is not recorded."""

    event: Event
    position: int
    contact_key: int
    subject: Subject
    matches: Mapping[int, Match]


class Explanations:
    """Judges events again, and conditions before they are saved."""

    def __init__(self, database: Database, catalog: Catalog) -> None:
        self._database = database
        self._catalog = catalog

    async def test(
        self, project_pk: int, condition: str, draft: Draft, contact: ExplainedContact | None
    ) -> ConditionTest:
        """Judge a condition on an event, with the contact that the event names unless another is given.

        An address that nobody has stands for a contact without properties. Raises InvalidName and ContactNotFound.
        """
        check_event_name(draft.name)
        snapshot = await self._catalog.load(project_pk)
        definition = snapshot.definition(draft.name)
        faults: Sequence[Fault] = ()
        violations: Sequence[Violation] = ()
        try:
            compiled = Condition(condition)
            check(compiled.expression, definition.schema if definition else None)
        except ConditionInvalid as error:
            faults = error.faults
        properties: dict[str, Any] = {}
        changes: tuple[Change, ...] = ()
        try:
            coerced = (definition.coerce if definition else coerce_undefined)(draft.given)
            properties, changes = coerced.properties, coerced.changes
        except PayloadRejected as error:
            violations = error.violations
        if faults or violations:
            return ConditionTest(faults=faults, violations=violations, changes=changes)
        if contact is None:
            contact = await self._database.read(lambda connection: _contact_of(connection, project_pk, draft))
        event = _unrecorded(snapshot, draft, properties, changes, contact)
        trace = compiled.trace(subject_of(event, contact.properties if contact else {}))
        return ConditionTest(_verdict(trace), trace, changes=changes)

    async def of_recorded(
        self, project_pk: int, event_id: str, automation_id: str, request: PageRequest
    ) -> EventExplanation:
        """Explain a recorded event by the automations as they were at its position.

        The contact's properties are as they are now. Raises EventNotFound and AutomationNotFound.
        """
        await self._catalog.load(project_pk)

        def judged(connection: Connection) -> _Judged:
            event = get_event(connection, project_pk, event_id)
            if event.unreadable:
                raise RowUnreadable("event", event_id, event.unreadable)
            key = (contact_key(connection, project_pk, contact_id=event.contact_id) if event.contact_id else 0) or 0
            properties = contact_properties(connection, [key]).get(key, {})
            found = matches_of_events(connection, project_pk, [event.position]).get(event.position, ())
            started = {match.automation_key: match for match in found if match.kind is MatchKind.STARTED}
            subject = subject_of(event, properties)
            return _Judged(event, event.position, key, subject, started)

        def work(connection: Connection) -> tuple[Event, Page[Explanation]]:
            what = judged(connection)
            return what.event, _page(connection, project_pk, what, automation_id, request, event_id)

        event, page = await self._database.read(work)
        return EventExplanation(event, page=page)

    async def of_given(
        self, project_pk: int, draft: Draft, automation_id: str, request: PageRequest
    ) -> EventExplanation:
        """Explain an event by the automations as they are, as if it were sent now. Raises AutomationNotFound."""
        snapshot = await self._catalog.load(project_pk)
        validate_draft(snapshot, draft)

        def work(connection: Connection) -> tuple[Event, Page[Explanation]]:
            key, contact = _recipient(connection, snapshot, draft)
            event = _unrecorded(snapshot, draft, draft.properties, draft.coercions, contact)
            subject = subject_of(event, contact.properties if contact else {})
            what = _Judged(event, _NOW, key, subject, {})
            return event, _page(connection, project_pk, what, automation_id, request, draft.fingerprint())

        if draft.error is not None:
            return EventExplanation(None, _refusal(draft.error))
        try:
            event, page = await self._database.read(work)
        except ContactNotFound as error:
            return EventExplanation(None, _refusal(error))
        return EventExplanation(event, page=page)


def _page(
    connection: Connection, project_pk: int, what: _Judged, automation_id: str, request: PageRequest, source: str
) -> Page[Explanation]:
    """Explain by one automation after the other, the newest first, until the page is full."""
    limit, filters = request.limit(), (project_pk, source, automation_id)
    (before,) = request.cursor(filters, int) or (_NOW,)
    name = what.event.name.casefold()
    judging = automations_judging(connection, project_pk)
    if automation_id:
        wanted = get_automation(connection, project_pk, automation_id, deleted=True).key
        judging = [(key, judged_name) for key, judged_name in judging if key == wanted]
    keys = list(dict.fromkeys(key for key, judged in judging if judged.casefold() == name and key < before))
    found: list[Explanation] = []
    room = PAGE_CHARACTERS
    for start in range(0, len(keys), _CHUNK):
        for each in _explained(connection, project_pk, what, keys[start : start + _CHUNK]):
            room -= each.size
            if len(found) == limit or (found and room < 0):
                return request.page(found, filters, lambda last: (last.automation.key,), more=True)
            found.append(each)
    return request.page(found, filters, lambda last: (last.automation.key,), more=False)


def _explained(connection: Connection, project_pk: int, what: _Judged, keys: list[int]) -> Iterator[Explanation]:
    """Explain by the automations with these keys, as far as they have to do with the event."""
    name = what.event.name.casefold()
    automations = automations_by_key(connection, keys)
    versions = versions_at(connection, keys, what.position)
    judges = {key: _judge(automations[key], versions.get(key)) for key in keys}
    judges = {key: each for key, each in judges.items() if each and each.event_name.casefold() == name}
    in_the_way = _in_the_way(connection, project_pk, what, [each for each in judges.values() if each])
    for key, each in judges.items():
        if each is not None:
            reasons = [*_state_reasons(each), *_case_reasons(each, what), *_once_reasons(each, in_the_way)]
            trace = Condition(each.condition).trace(what.subject)
            automation = automations[key]
            yield Explanation(
                automation, each.event_name, each.condition, _verdict(trace), trace, reasons, what.matches.get(key)
            )


def _judge(now: Automation, then: AutomationVersion | None) -> Automation | None:
    """Give an automation as it judged: as it is now where it had not been active, None where it is gone by now.

    In the answer a draft has a position if it was activated later.
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


def _in_the_way(connection: Connection, project_pk: int, what: _Judged, judges: Sequence[Automation]) -> dict[int, str]:
    """Find the runs that keep the contact from entering, by the keys of automations."""
    found: dict[int, str] = {}
    for rule in (EntryRule.ONCE_PER_CONTACT, EntryRule.ONCE_WHILE_RUNNING):
        keys = [each.key for each in judges if each.entry_rule is rule]
        if keys and what.contact_key:
            open_only = rule is EntryRule.ONCE_WHILE_RUNNING
            found |= entered_before(connection, project_pk, keys, what.contact_key, what.position, open_only=open_only)
    return found


def _state_reasons(each: Automation) -> Iterator[BlockingReason]:
    if each.state is AutomationState.PAUSED:
        yield BlockingReason(BlockingKind.PAUSED, "It was paused when the event came")
    elif each.state is AutomationState.DRAFT and each.activated_position is None:
        yield BlockingReason(BlockingKind.DRAFT, "It was a draft when the event came")
    elif each.state is AutomationState.DRAFT:
        message = f"It was activated later, and judges the events behind position {each.activated_position:,}"
        yield BlockingReason(BlockingKind.ACTIVATED_LATER, message)


def _case_reasons(each: Automation, what: _Judged) -> Iterator[BlockingReason]:
    if each.event_name != what.event.name and not what.event.ignore_case:
        message = f'It judges "{each.event_name}", and the project tells names apart that differ in case only'
        yield BlockingReason(BlockingKind.OTHER_CASE, message)


def _once_reasons(each: Automation, in_the_way: Mapping[int, str]) -> Iterator[BlockingReason]:
    run_id = in_the_way.get(each.key)
    if run_id is None:
        return
    if each.entry_rule is EntryRule.ONCE_PER_CONTACT:
        message = "The contact had entered before, and may enter once"
        yield BlockingReason(BlockingKind.ONCE_PER_CONTACT, message, run_id)
    else:
        message = "A run of the contact was open, and one at a time is allowed"
        yield BlockingReason(BlockingKind.ONCE_WHILE_RUNNING, message, run_id)


def _verdict(trace: Sequence[Clause]) -> Verdict:
    return trace[0].verdict if trace else Verdict.TRUE


def _unrecorded(
    snapshot: CatalogSnapshot,
    draft: Draft,
    properties: dict[str, Any],
    changes: tuple[Change, ...],
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
        changes,
        now if draft.occurred_at is None else draft.occurred_at,
        now,
        0,
        snapshot.rules.ignore_case,
    )


def _contact_of(connection: Connection, project_pk: int, draft: Draft) -> ExplainedContact | None:
    """Find the contact that a draft names, if it names one. Raises ContactNotFound for an id."""
    if not draft.contact_id and not draft.email:
        return None
    try:
        found = find_contact(connection, project_pk, contact_id=draft.contact_id, email=draft.email)
    except ContactNotFound:
        if draft.contact_id:
            raise
        return ExplainedContact(str(uuid7()), draft.email, {})
    return ExplainedContact(found.id, found.email, found.properties)


def _recipient(connection: Connection, snapshot: CatalogSnapshot, draft: Draft) -> tuple[int, ExplainedContact | None]:
    """Find whom a given event would be about, as the commit does; the key is 0 for a contact that is yet to be.

    Raises ContactNotFound.
    """
    name = draft.contact_id or draft.email
    found = contact_keys(
        connection,
        snapshot.project_pk,
        ids=[draft.contact_id] if draft.contact_id else (),
        emails=[draft.email] if draft.email else (),
    ).get(name)
    if found is not None:
        properties = contact_properties(connection, [found.key]).get(found.key, {})
        return found.key, ExplainedContact(found.id, found.email, properties)
    policy = snapshot.rules.unknown_contacts
    if draft.contact_id or policy is UnknownContacts.REJECT:
        raise ContactNotFound(name)
    new = ExplainedContact(str(uuid7()), draft.email, {})
    if policy is UnknownContacts.CREATE_ON_MATCH:
        event = _unrecorded(snapshot, draft, draft.properties, draft.coercions, new)
        matcher = snapshot.automations.matcher(event.name, ignore_case=event.ignore_case)
        if matcher is None or not matcher.matching(subject_of(event, {})):
            return 0, None
    return 0, new


def _refusal(error: Exception) -> Sequence[Violation]:
    """Say why an event would be refused; under the path of the whole event where the error names none."""
    violations: Sequence[Violation] = getattr(error, "violations", ())
    return violations or [Violation("event", reason_of(error), message_of(error))]
