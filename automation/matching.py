"""Matching: the runs that the events of one transaction start or resume.

`LiveAutomations` holds the compiled automations of a project and is shared by all transactions of a catalog version.
`Matching` belongs to one transaction, which holds the lock of the project's head, and works in this order:

    prepare  read, in a few queries for all events: waiting runs, earlier entries of contacts, contact properties
    match    for each event in log order: first resume the waiting runs of its contact, then start new runs
    -        the caller writes `matches`, the new runs and `resumed` in the same transaction as the events

Two invariants:
- An event sees the effects of the ones before it in the transaction: a run that one event resumed does not wait for
  the next one, and a contact for which one event started a run has entered the automation. So events that share a
  transaction have the same matches as events that were sent one by one.
- The runs that `prepare` reads do not change until the transaction ends: all writers of runs hold the same lock.

The cost of an event depends on the candidates of `ConditionIndex`, not on the number of automations. Its limits are
those of `automation.matcher`. What a transaction evaluates itself is limited by the room that each batch has: a batch
that needs more is pre-evaluated before its transaction, and its outcomes come as `known`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from functools import lru_cache
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeAlias

from automation.automations import Automation, AutomationState, EntryRule
from automation.conditions.compiling import UNLIMITED
from automation.conditions.condition import Condition
from automation.matcher import EVENT_COST, EVENT_MATCHES, Matcher, MatchingLimit
from automation.matches import Match, MatchKind
from automation.run_store import entries_of, waiting_runs
from registry.log_ids import LogIds

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from sqlalchemy import Connection

    from automation.conditions.subject import Subject
    from automation.matcher import Decision, KnownOutcomes
    from automation.runs import Run


EventName: TypeAlias = tuple[str, bool]
"""The name of an event, and whether its case is ignored."""

compiled = lru_cache(1_000)(Condition)
"""Compiles the conditions of waiting runs, of which many are equal."""


class LiveAutomations:
    """The automations of a project at one version of its catalog.

    The matcher of an event name is compiled when its first event arrives. What the version before had compiled is taken
    over: its conditions, and the index of those that did not change. Each event determines whether the case of its name
    is ignored.
    """

    def __init__(
        self, version: int, automations: Iterable[Automation], *, before: LiveAutomations | None = None
    ) -> None:
        self.version = version
        self.by_key: dict[int, Automation] = {automation.key: automation for automation in automations}
        self._matchers: dict[tuple[str, ...], Matcher] = {}
        self._before: dict[tuple[str, ...], Matcher] = before.all_matchers() if before is not None else {}
        texts = {automation.condition for automation in self.by_key.values()}
        # A copy, made at once: the previous version may still be in use, and compile more conditions meanwhile.
        compiled = before.conditions.copy() if before is not None else {}
        self.conditions: dict[str, Condition] = {text: compiled[text] for text in compiled.keys() & texts}
        self._active: dict[str, list[Automation]] = defaultdict(list)
        for automation in self.by_key.values():
            if automation.state is AutomationState.ACTIVE:
                self._active[automation.event_name].append(automation)
        self._spellings: dict[str, tuple[str, ...]] = {}
        for name in self._active:
            self._spellings[name.casefold()] = (*self._spellings.get(name.casefold(), ()), name)

    def __bool__(self) -> bool:
        """Return whether the project has automations: without any, no event can match and no run can wait."""
        return bool(self.by_key)

    def matcher(self, event_name: str, *, ignore_case: bool) -> Matcher | None:
        """Return the matcher of the events of a name; None if they have no active automation."""
        spellings: tuple[str, ...] = (event_name,)
        if ignore_case:
            spellings = self._spellings.get(event_name.casefold(), ())
        elif event_name not in self._active:
            return None
        if not spellings:
            return None
        matcher = self._matchers.get(spellings)
        if matcher is None:
            active = [automation for name in spellings for automation in self._active[name]]
            active.sort(key=lambda automation: automation.key)
            before = self._before.get(spellings)
            matcher = before if before is not None and before.is_of(active) else None
            matcher = matcher or Matcher(active, self._condition, before)
            self._matchers[spellings] = matcher
        return matcher

    def all_matchers(self) -> dict[tuple[str, ...], Matcher]:
        """Return the matchers of this version, and those of earlier ones where it has none yet."""
        return {**self._before, **self._matchers}

    def compile(self, seconds: float) -> bool:
        """Compile the matchers of all event names, so that no event has to wait for it.

        Stop after some time, and return whether all are compiled; if not, call it again.
        """
        ends_at = perf_counter() + seconds
        for automations in self._active.values():
            for automation in automations:
                if automation.condition and automation.condition not in self.conditions:
                    self._condition(automation.condition)
                    if perf_counter() > ends_at:
                        return False
        for name in self._active:
            self.matcher(name, ignore_case=False)
        for name in self._spellings:
            self.matcher(name, ignore_case=True)
        self._before.clear()
        return True

    def _condition(self, text: str) -> Condition:
        condition = self.conditions.get(text)
        if condition is None:
            condition = self.conditions[text] = Condition(text)
        return condition


class TooManyMatches(Exception):
    """An event would have a match beyond `Matching.match_limit`."""


class Matching:
    """Matches the events of one project in one transaction, in the order of their positions.

    `matches` are to be appended to the match log. `resumed` has the positions of the newest matches of resumed runs, by
    run numbers. `failures` counts the conditions of automations that were neither true nor false, by verdict, and what
    was not considered because of a limit, by limit. `room` is the number of steps that the transaction may still spend,
    and `match_limit` that of matches which it may hold.
    """

    def __init__(
        self,
        connection: Connection,
        project_pk: int,
        automations: LiveAutomations,
        position: int,
        now: int,
        contact_properties: Callable[[Collection[int]], Mapping[int, Mapping[str, Any]]],
    ) -> None:
        self._connection = connection
        self._project_pk = project_pk
        self._automations = automations
        self._contact_properties = contact_properties
        self._now = now
        self._ids = LogIds(now)
        self._matchers: dict[EventName, Matcher | None] = {}
        self._waiting: dict[tuple[int, str], list[Run]] = defaultdict(list)
        self._entered: dict[tuple[int, int], bool] = {}
        self._properties: Mapping[int, Mapping[str, Any]] = {}
        self.position = position
        self.matches: list[Match] = []
        self.resumed: dict[int, int] = {}
        self.failures: Counter[str] = Counter()
        self.room = UNLIMITED
        self.match_limit = UNLIMITED

    def prepare(self, event_names: Collection[EventName], contact_keys: Collection[int]) -> None:
        """Read, in a few queries, all that matching events of these names about these contacts depends on."""
        contacts = sorted(contact_keys)
        waiting = waiting_runs(self._connection, self._project_pk, contacts)
        for run in waiting:
            assert run.wait is not None
            # A wait whose timeout has passed belongs to the timer, also if the timer is late.
            if not 0 < run.wait.timeout_at <= self._now:
                self._waiting[run.contact_key, run.wait.event_name.casefold()].append(run)
        self._matchers = {
            (name, ignore_case): self._automations.matcher(name, ignore_case=ignore_case)
            for name, ignore_case in event_names
        }
        matchers = [matcher for matcher in self._matchers.values() if matcher is not None]
        entry_limited = sorted({key for matcher in matchers for key in matcher.entry_limited})
        if entry_limited:
            self._entered = entries_of(self._connection, self._project_pk, entry_limited, contacts)
        if any(matcher.reads_contact for matcher in matchers) or any(
            run.wait and run.wait.condition for run in waiting
        ):
            self._properties = self._contact_properties(contacts)

    def may_match(self, event_name: EventName, contact_key: int, properties: Mapping[str, Any]) -> bool:
        """Return whether an event could start or resume a run; if not, its subject need not be made."""
        matcher = self._matchers[event_name]
        if matcher is not None and not matcher.rules_out(properties):
            return True
        return bool(self._waiting) and (contact_key, event_name[0].casefold()) in self._waiting

    def contact_properties(self, contact_key: int) -> Mapping[str, Any]:
        """Return the properties of a contact; none if no condition reads them."""
        return self._properties.get(contact_key, {})

    def match(
        self,
        event_name: EventName,
        event_position: int,
        contact_key: int,
        subject: Subject,
        known: KnownOutcomes | None = None,
    ) -> list[Match]:
        """Return the matches of one event: waiting runs are resumed first, then new runs start.

        Raise OutOfRoom if that takes more steps than there is room for, and TooManyMatches.
        """
        first = len(self.matches)
        if self._waiting:
            self._resume(event_name, event_position, contact_key, subject, known)
        if matcher := self._matchers[event_name]:
            decision = self.decide(matcher, subject, known)
            for automation in decision.matching:
                if self._may_enter(automation, contact_key):
                    self._start(automation, event_name[0], event_position, contact_key)
            if decision.failures:
                self.failures.update(decision.failures)
            if decision.beyond:
                self.failures[decision.limit or MatchingLimit.LATE] += decision.beyond
        if len(self.matches) > self.match_limit:
            raise TooManyMatches
        return self.matches[first:]

    def decide(self, matcher: Matcher, subject: Subject, known: KnownOutcomes | None = None) -> Decision:
        """Return the decision of a matcher, and spend its cost. Raise OutOfRoom."""
        decision = matcher.decide(subject, known, self.room)
        self.room -= decision.spent
        return decision

    def _resume(
        self,
        event_name: EventName,
        event_position: int,
        contact_key: int,
        subject: Subject,
        known: KnownOutcomes | None,
    ) -> None:
        name = event_name[0]
        waiting = self._waiting.get((contact_key, name.casefold()))
        if not waiting:
            return
        for run in self._satisfied([run for run in waiting if awaits(run, event_name)], subject, known):
            waiting.remove(run)
            match = self._add(
                MatchKind.RESUMED, run.automation_key, name, event_position, contact_key, run.number, run.id
            )
            self.resumed[run.number] = match.position

    def _satisfied(self, waiting: Sequence[Run], subject: Subject, known: KnownOutcomes | None) -> list[Run]:
        """Return the runs whose condition holds, oldest first, within the limits of one event; others keep waiting."""
        satisfied: list[Run] = []
        cost = 0
        for place, run in enumerate(waiting):
            if cost >= EVENT_COST or len(satisfied) == EVENT_MATCHES:
                self.failures[MatchingLimit.COST if cost >= EVENT_COST else MatchingLimit.MATCHES] += (
                    len(waiting) - place
                )
                break
            if run.wait is None or not run.wait.condition:
                satisfied.append(run)
                continue
            condition = compiled(run.wait.condition)
            found = known.outcome(condition) if known is not None else None
            if found is None:
                found = condition.spend(subject, self.room)
                self.room -= found[1]
            cost += found[1]
            if found[0] is True:
                satisfied.append(run)
        return satisfied

    def _may_enter(self, automation: Automation, contact_key: int) -> bool:
        if automation.entry_rule is EntryRule.EVERY_TIME or not contact_key:
            return True
        is_open = self._entered.get((automation.key, contact_key))
        return is_open is None or (automation.entry_rule is EntryRule.ONCE_WHILE_RUNNING and not is_open)

    def _start(self, automation: Automation, event_name: str, event_position: int, contact_key: int) -> None:
        self._add(MatchKind.STARTED, automation.key, event_name, event_position, contact_key)
        if automation.entry_rule is not EntryRule.EVERY_TIME:
            self._entered[automation.key, contact_key] = True

    def _add(
        self,
        kind: MatchKind,
        automation_key: int,
        event_name: str,
        event_position: int,
        contact_key: int,
        run_number: int = 0,
        run_id: str = "",
    ) -> Match:
        self.position += 1
        match = Match(
            position=self.position,
            id=self._ids.make(self.position),
            kind=kind,
            automation_key=automation_key,
            run_number=run_number or self.position,
            run_id=run_id or self._ids.make(self.position),
            event_position=event_position,
            event_name=event_name,
            contact_key=contact_key,
            matched_at=self._now,
        )
        self.matches.append(match)
        return match


def timed_out(runs: Sequence[Run], started_by: Mapping[int, str], position: int, now: int) -> list[Match]:
    """Return TIMED_OUT matches of runs, for the positions of the match log after `position`.

    `started_by` has the names of the events that started the runs, by the positions of these events.
    """
    ids = LogIds(now)
    return [
        Match(
            position=match_position,
            id=ids.make(match_position),
            kind=MatchKind.TIMED_OUT,
            automation_key=run.automation_key,
            run_number=run.number,
            run_id=run.id,
            event_position=run.event_position,
            event_name=started_by[run.event_position],
            contact_key=run.contact_key,
            matched_at=now,
        )
        for match_position, run in enumerate(runs, position + 1)
    ]


def awaits(run: Run, event_name: EventName) -> bool:
    """Return whether a run waits for events of a name."""
    name, ignore_case = event_name
    return ignore_case or (run.wait is not None and run.wait.event_name == name)
