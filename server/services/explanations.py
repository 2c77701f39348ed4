"""Explanations of events, and tests of conditions before they are saved. Both store nothing.

The database is read first; conditions are evaluated after that, in a thread, because that may take long.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import msgspec
from uuid_utils import uuid7

from automation.conditions.checking import check
from automation.conditions.condition import Condition
from automation.conditions.errors import ConditionInvalid
from automation.conditions.values import Verdict
from automation.match_log import matches_of_events
from automation.matches import MatchKind
from registry.coercion.report import CoercedPayload
from registry.coercion.validation import coerce_undefined
from registry.errors import DefinitionNotFound, PayloadRejected, RevisionNotFound, RowUnreadable, Violation
from registry.names import check_event_name
from registry.paths import ROOT
from registry.personal.masking import PersonalPaths
from registry.storage.definition_store import get_definition
from registry.storage.revision_store import get_revision
from registry.times.timestamps import now_micros
from server.current_call.personal_access import personal_shown, shown_violations
from server.errors import ContactNotFound
from server.ingest.contacts import CommitContacts, UnknownContactAction, unknown_contact_action, with_new_contact
from server.ingest.subjects import subject_of
from server.ingest.validate import validate_draft
from server.model import Event
from server.services.match_reasons import (
    BEYOND_ALL,
    ConsideredAutomation,
    EventLimits,
    Explanation,
    ExplanationPage,
    MatchedEvent,
    considered_of_page,
    limits_of,
    verdict_of,
)
from server.status import message_of, reason_of
from server.storage.contacts import contact_key, contact_properties, find_contact
from server.storage.events.reading import get_event

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import Connection

    from automation.conditions.errors import ConditionProblem
    from automation.conditions.subject import Subject
    from automation.conditions.tracing import Clause
    from automation.matcher import Decision, Matcher
    from registry.coercion.report import Coercion
    from registry.definitions.schema import Schema
    from server.ingest.catalog import Catalog, CatalogSnapshot
    from server.ingest.draft import Draft
    from server.paging import Page, PageRequest
    from server.storage.database import Database


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
    errors: Sequence[ConditionProblem] = ()
    violations: Sequence[Violation] = ()
    coercions: Sequence[Coercion] = ()
    omitted_coercions: int = 0


@dataclass(frozen=True, slots=True)
class ExplainedContact:
    """A contact whose properties conditions read. It need not exist."""

    id: str
    email: str
    properties: Mapping[str, Any] = field(hash=False)


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
        violations: Sequence[Violation] = ()
        schema = definition.schema if definition else None
        compiled, errors = await self._catalog.thread.run(project_pk, lambda: _compiled(condition, schema))
        coerced = CoercedPayload({}, ())
        try:
            coerced = (definition.coerce if definition else coerce_undefined)(draft.given)
        except PayloadRejected as error:
            violations = shown_violations(error.violations)
        tested = ConditionTest(
            errors=errors, violations=violations, coercions=coerced.coercions, omitted_coercions=coerced.omitted
        )
        if compiled is None or violations:
            return tested
        if contact is None:
            contact = await self._database.read(lambda connection: _contact_of(connection, project_pk, draft))
        event = _unrecorded(snapshot, draft, coerced, contact)
        subject = subject_of(event, contact.properties if contact else {})
        trace = await self._catalog.thread.run(project_pk, lambda: compiled.trace(subject))
        hidden = _hidden(schema)
        return replace(
            tested,
            verdict=verdict_of(trace),
            trace=_mask_trace(trace, hidden),
            coercions=hidden.mask_coercions(coerced.coercions),
        )

    async def of_recorded(
        self, project_pk: int, event_id: str, automation_id: str, request: PageRequest
    ) -> EventExplanation:
        """Explain a recorded event by the automations as they were at its position.

        The contact's properties are the current ones. Raise EventNotFound and AutomationNotFound.
        """
        snapshot = await self._catalog.load(project_pk)

        def read_event(connection: Connection) -> MatchedEvent:
            event = get_event(connection, project_pk, event_id)
            if event.unreadable:
                raise RowUnreadable("event", event_id, event.unreadable)
            # An event without a contact finds none here: no contact has an empty address.
            key = contact_key(connection, project_pk, contact_id=event.contact_id) or 0
            properties = contact_properties(connection, [key]).get(key, {})
            found = matches_of_events(connection, project_pk, [event.position]).get(event.position, ())
            started = {match.automation_key: match for match in found if match.kind is MatchKind.STARTED}
            subject = subject_of(event, properties)
            return MatchedEvent(event, event.position, key, subject, started)

        shown = personal_shown()

        def read(
            connection: Connection,
        ) -> tuple[MatchedEvent, list[ConsideredAutomation], EventLimits, Sequence[Schema]]:
            event = read_event(connection)
            considered, keys = considered_of_page(connection, project_pk, event, automation_id, request, event_id)
            limits = limits_of(connection, project_pk, event, keys, snapshot.automations)
            schemas = () if shown else _schemas_of(connection, snapshot.project_id, event.event)
            return event, considered, limits, schemas

        matched, considered, limits, schemas = await self._database.read(read)
        hidden = _hidden(*schemas)
        page = await self._explain(project_pk, matched, considered, limits, request, event_id, automation_id, hidden)
        return EventExplanation(_mask_event(matched.event, hidden), page=page)

    async def of_given(
        self, project_pk: int, draft: Draft, automation_id: str, request: PageRequest
    ) -> EventExplanation:
        """Explain an event by the current automations, as if it were sent now. Raise AutomationNotFound."""
        snapshot = await self._catalog.load(project_pk)
        validate_draft(snapshot, draft)
        if draft.error is not None:
            return EventExplanation(None, _refusal(draft.error))
        try:
            key, contact = await self._contact_of_commit(snapshot, draft)
        except ContactNotFound as error:
            return EventExplanation(None, _refusal(error))
        event = _unrecorded(snapshot, draft, _coerced(draft), contact)
        matched = MatchedEvent(event, BEYOND_ALL, key, subject_of(event, contact.properties if contact else {}), {})
        source = draft.fingerprint()

        def read(connection: Connection) -> list[ConsideredAutomation]:
            return considered_of_page(connection, project_pk, matched, automation_id, request, source)[0]

        considered = await self._database.read(read)
        limits = EventLimits(snapshot.automations.matcher(event.name, ignore_case=event.ignore_case))
        hidden = _hidden(draft.definition.schema if draft.definition else None)
        page = await self._explain(project_pk, matched, considered, limits, request, source, automation_id, hidden)
        return EventExplanation(_mask_event(event, hidden), page=page)

    async def _explain(
        self,
        project_pk: int,
        matched: MatchedEvent,
        considered: Sequence[ConsideredAutomation],
        limits: EventLimits,
        request: PageRequest,
        source: str,
        automation_id: str,
        hidden: PersonalPaths,
    ) -> Page[Explanation]:
        """Return a page of explanations, the newest automation first."""
        writing = ExplanationPage(matched, considered, limits, request.limit())
        await self._catalog.thread.run_in_slices(project_pk, writing.proceed)
        filters = ("explanations", project_pk, source, automation_id)
        found = [replace(each, trace=_mask_trace(each.trace, hidden)) for each in writing.found]
        return request.page(found, filters, lambda last: (last.automation.key,), more=writing.more)

    async def _contact_of_commit(self, snapshot: CatalogSnapshot, draft: Draft) -> tuple[int, ExplainedContact | None]:
        """Return the contact that a commit would give the event, and its key, 0 for one that does not exist yet.

        Raise ContactNotFound.
        """

        def find(connection: Connection) -> tuple[int, ExplainedContact] | None:
            found = CommitContacts(connection, snapshot.project_pk, {}, [draft]).find(draft)
            if found is None:
                return None
            properties = contact_properties(connection, [found.key]).get(found.key, {})
            return found.key, ExplainedContact(found.id, found.email, properties)

        known = await self._database.read(find)
        if known is not None:
            return known
        action = unknown_contact_action(draft, draft.rules or snapshot.rules)
        if action is UnknownContactAction.REFUSE:
            raise ContactNotFound(draft.contact_id or draft.email)
        if action is UnknownContactAction.CREATE:
            return 0, ExplainedContact(str(uuid7()), draft.email, {})
        if action is UnknownContactAction.RECORD_WITHOUT:
            return 0, None
        event = _unrecorded(snapshot, draft, _coerced(draft), None)
        assigned = await self._catalog.thread.run(
            snapshot.project_pk, lambda: with_new_contact(event, snapshot.automations, _decide)
        )
        return 0, ExplainedContact(assigned.contact_id, draft.email, {}) if assigned else None


def _hidden(*schemas: Schema | None) -> PersonalPaths:
    """Return the paths to mask in payloads, because one of the schemas declares them as personal."""
    return PersonalPaths() if personal_shown() else PersonalPaths.of(*schemas)


def _schemas_of(connection: Connection, project_id: str, event: Event) -> Sequence[Schema]:
    """Return the schema that validated an event, and the latest one of its definition, deleted or not."""
    if not event.definition_id:
        return ()
    try:
        latest = get_definition(connection, project_id, event.definition_id, deleted=True)
        return get_revision(connection, latest.id, event.revision).schema, latest.schema
    except (DefinitionNotFound, RevisionNotFound):
        return ()


def _mask_trace(trace: Sequence[Clause], hidden: PersonalPaths) -> Sequence[Clause]:
    if not hidden.names:
        return trace
    return [
        replace(clause, actual=None, operand=None, message="", masked=True)
        if any(names[0] == ROOT and hidden.touched_by(names[1:]) for names in clause.reads)
        else clause
        for clause in trace
    ]


def _mask_event(event: Event, hidden: PersonalPaths) -> Event:
    if not hidden.names:
        return event
    masked = hidden.mask(event.properties)
    return msgspec.structs.replace(event, properties=masked, coercions=hidden.mask_coercions(event.coercions))


def _coerced(draft: Draft) -> CoercedPayload:
    return CoercedPayload(draft.properties, draft.coercions, draft.omitted_coercions)


def _unrecorded(
    snapshot: CatalogSnapshot, draft: Draft, coerced: CoercedPayload, contact: ExplainedContact | None
) -> Event:
    definition = snapshot.definition(draft.name)
    now = now_micros()
    return Event(
        id="",
        position=0,
        name=definition.name if definition else draft.name,
        definition_id=definition.id if definition else "",
        revision=definition.revision if definition else 0,
        contact_id=contact.id if contact else "",
        email=contact.email if contact else draft.email,
        properties=coerced.properties,
        coercions=coerced.coercions,
        occurred_at=now if draft.occurred_at is None else draft.occurred_at,
        received_at=now,
        match_count=0,
        ignore_case=snapshot.rules.ignore_case,
        omitted_coercions=coerced.omitted,
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


def _compiled(condition: str, schema: Schema | None) -> tuple[Condition | None, Sequence[ConditionProblem]]:
    """Return the compiled condition, or None and why it is invalid for events of a schema."""
    try:
        compiled = Condition(condition)
        check(compiled.expression, schema)
    except ConditionInvalid as error:
        return None, error.errors
    return compiled, ()


def _decide(matcher: Matcher, event: Event, subject: Subject) -> Decision:
    return matcher.decide(subject)


def _refusal(error: Exception) -> Sequence[Violation]:
    """Return the violations of an error, or one at the path of the whole event if it has none."""
    violations: Sequence[Violation] = getattr(error, "violations", ())
    return violations or [Violation("event", reason_of(error), message_of(error))]
