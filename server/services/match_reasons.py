"""Why an event did or did not match each automation, recomputed from the versions active at its position.

considered_of_page   reads the automations of a page, as they are now and as they were at the position, with the
reasons that block them whatever their condition says
limits_of            reads what is needed to find out which limit of an event was reached
ExplanationPage      evaluates the conditions, in slices and outside of the transaction
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from time import perf_counter
from typing import TYPE_CHECKING, Final

from automation.automation_store import (
    automations_by_key,
    event_names_by_key,
    get_automation,
    last_change,
    versions_at,
)
from automation.automations import Automation, AutomationState, EntryRule
from automation.bulk import chunks
from automation.conditions.closures import LATE_COST
from automation.conditions.condition import Condition
from automation.conditions.values import Verdict
from automation.matcher import EVENT_COST, EVENT_MATCHES, Matcher, MatchingLimit
from automation.run_store import entries_before
from registry.sql.page_sizes import PAGE_CHARACTERS
from server.sharing.work_thread import SLICE_SECONDS
from server.storage.projects.heads import automations_version

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from sqlalchemy import Connection

    from automation.automations import AutomationVersion
    from automation.conditions.subject import Subject
    from automation.conditions.tracing import Clause
    from automation.matcher import Decision
    from automation.matches import Match
    from automation.matching import LiveAutomations
    from server.model import Event
    from server.paging import PageRequest

_CHUNK: Final = 200
"""Automations are read in chunks of this many, until a page is full."""

_CLAUSE_OVERHEAD: Final = 100
"""The approximate number of characters of a clause besides its texts."""

BEYOND_ALL: Final = 2**62
"""Greater than every position, and than the key of every automation."""


class BlockingKind(StrEnum):
    """A reason why an event starts no run even if the condition is true."""

    DRAFT = "draft"
    PAUSED = "paused"
    ACTIVATED_LATER = "activated_later"
    ONCE_PER_CONTACT = "once_per_contact"
    ONCE_WHILE_RUNNING = "once_while_running"
    OTHER_CASE = "other_case"
    STEP_LIMIT = "step_limit"
    MATCH_LIMIT = "match_limit"


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
class MatchedEvent:
    """An event with everything that decides its matches; `position` is BEYOND_ALL for one that is not recorded."""

    event: Event
    position: int
    contact_key: int
    subject: Subject
    matches: Mapping[int, Match]


@dataclass(frozen=True, slots=True)
class ConsideredAutomation:
    """An automation that matched events of this name at the event's position, as it is now and as it was then."""

    automation: Automation
    then: Automation
    reasons: Sequence[BlockingReason]


@dataclass(slots=True)
class EventLimits:
    """Finds which automations were not considered because a limit of the event was reached.

    The decision is recomputed when it is first needed: by `matcher`, or else from the automations that were active in
    the `past`.
    """

    matcher: Matcher | None = None
    past: Sequence[Automation] = ()
    decision: Decision | None = None

    def reason(self, key: int, subject: Subject) -> BlockingReason | None:
        """Return the limit that kept an automation whose condition holds from matching, None if none did."""
        if self.decision is None:
            if self.matcher is None:
                self.matcher = Matcher(self.past, Condition)
            self.decision = self.matcher.decide(subject)
        limit = self.decision.limit_of(key)
        return None if limit is None else BlockingReason(*_LIMIT_REASONS[limit])


_LIMIT_REASONS: Final = {
    MatchingLimit.COST: (
        BlockingKind.STEP_LIMIT,
        f"The conditions of older automations had taken {EVENT_COST:,} steps on this event, the maximum",
    ),
    MatchingLimit.LATE: (
        BlockingKind.STEP_LIMIT,
        f"Older conditions with event.id, event.received_at or contact.id had taken {LATE_COST:,} steps, the maximum",
    ),
    MatchingLimit.MATCHES: (
        BlockingKind.MATCH_LIMIT,
        f"The event satisfied the conditions of {EVENT_MATCHES:,} older automations, the maximum",
    ),
}


class ExplanationPage:
    """Makes the explanations of a page, until it is full."""

    def __init__(
        self, matched: MatchedEvent, considered: Sequence[ConsideredAutomation], limits: EventLimits, limit: int
    ) -> None:
        self._matched = matched
        self._considered = iter(considered)
        self._limits = limits
        self._limit = limit
        self._room = PAGE_CHARACTERS
        self.found: list[Explanation] = []
        self.more = False

    def proceed(self) -> bool:
        """Work for a short time. Return whether the page is complete."""
        ends_at = perf_counter() + SLICE_SECONDS
        for considered in self._considered:
            explanation = self._explanation(considered)
            self._room -= explanation.size
            if len(self.found) == self._limit or (self.found and self._room < 0):
                self.more = True
                return True
            self.found.append(explanation)
            if perf_counter() > ends_at:
                return False
        return True

    def _explanation(self, considered: ConsideredAutomation) -> Explanation:
        then, reasons = considered.then, [*considered.reasons]
        trace = Condition(then.condition).trace(self._matched.subject)
        verdict = verdict_of(trace)
        match = self._matched.matches.get(then.key)
        if verdict is Verdict.TRUE and not reasons and match is None:
            limit = self._limits.reason(then.key, self._matched.subject)
            reasons += [limit] if limit is not None else []
        return Explanation(
            automation=considered.automation,
            event_name=then.event_name,
            condition=then.condition,
            verdict=verdict,
            trace=trace,
            reasons=reasons,
            match=match,
        )


def considered_of_page(
    connection: Connection,
    project_pk: int,
    matched: MatchedEvent,
    automation_id: str,
    request: PageRequest,
    source: str,
) -> tuple[list[ConsideredAutomation], list[int]]:
    """Return the automations of a page, newest first, and one more if there are more.

    Also return the keys of all automations that ever matched events of this name.
    """
    limit, filters = request.limit(), ("explanations", project_pk, source, automation_id)
    (before,) = request.cursor(filters, int) or (BEYOND_ALL,)
    name = matched.event.name.casefold()
    named = event_names_by_key(connection, project_pk)
    every = list(dict.fromkeys(key for key, event_name in named if event_name.casefold() == name))
    keys = [key for key in every if key < before]
    if automation_id:
        selected = get_automation(connection, project_pk, automation_id, deleted=True).key
        keys = [key for key in keys if key == selected]
    found: list[ConsideredAutomation] = []
    for chunk in chunks(keys, _CHUNK):
        found += _considered(connection, project_pk, matched, [*chunk])
        if len(found) > limit:
            break
    return found[: limit + 1], every


def limits_of(
    connection: Connection, project_pk: int, matched: MatchedEvent, keys: list[int], current: LiveAutomations
) -> EventLimits:
    """Return the limits of a recorded event; the current matcher is used if no automation has changed since."""
    event = matched.event
    loaded = automations_version(connection, project_pk) == current.version
    if loaded and last_change(connection, keys) < matched.position:
        return EventLimits(current.matcher(event.name, ignore_case=event.ignore_case))
    past = [then for _, then in _past(connection, matched, keys).values()]
    active = [each for each in past if each.state is AutomationState.ACTIVE and not [*_case_reasons(each, matched)]]
    return EventLimits(None, sorted(active, key=lambda automation: automation.key))


def _past(
    connection: Connection, matched: MatchedEvent, keys: Sequence[int]
) -> dict[int, tuple[Automation, Automation]]:
    """Return the automations that matched events of this name at the position, as they are now and as they were."""
    name = matched.event.name.casefold()
    past: dict[int, tuple[Automation, Automation]] = {}
    for chunk in chunks(keys):
        automations = automations_by_key(connection, chunk)
        versions = versions_at(connection, [*chunk], matched.position)
        for key in chunk:
            then = _as_of_event(automations[key], versions.get(key))
            if then is not None and then.event_name.casefold() == name:
                past[key] = automations[key], then
    return past


def _considered(
    connection: Connection, project_pk: int, matched: MatchedEvent, keys: list[int]
) -> Iterator[ConsideredAutomation]:
    """Yield the automations with these keys that matched events of this name at the event's position."""
    past = _past(connection, matched, keys)
    blocking = _blocking_runs(connection, project_pk, matched, [then for _, then in past.values()])
    for now, then in past.values():
        reasons = [*_state_reasons(then), *_case_reasons(then, matched), *_once_reasons(then, blocking)]
        yield ConsideredAutomation(now, then, reasons)


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
    connection: Connection, project_pk: int, matched: MatchedEvent, automations: Collection[Automation]
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


def _case_reasons(automation: Automation, matched: MatchedEvent) -> Iterator[BlockingReason]:
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


def verdict_of(trace: Sequence[Clause]) -> Verdict:
    """Return the verdict of a whole condition; blank text, which has no clauses, always holds."""
    return trace[0].verdict if trace else Verdict.TRUE
