"""What the events of one transaction set off.

`LiveAutomations` is one state of a project's automations, compiled; `Matching` decides by it, event by event, which
waiting runs are resumed and which runs are started, and gathers what is to be stored.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias

from automation.automations import Automation, AutomationState, EntryRule
from automation.conditions.condition import Condition
from automation.conditions.index import ConditionIndex
from automation.matches import Match, MatchKind
from automation.run_store import entered, waiting_runs
from registry.log_ids import LogIds

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from sqlalchemy import Connection

    from automation.conditions.subject import Subject
    from automation.conditions.values import Verdict
    from automation.runs import Run


EventName: TypeAlias = tuple[str, bool]
"""The name of an event, and whether case does not count in it."""

_compiled = lru_cache(1_000)(Condition)
"""The conditions of waits, which are often the same."""


class Matcher:
    """The active automations of one event name; `condition` compiles a text."""

    def __init__(self, automations: Sequence[Automation], condition: Callable[[str], Condition]) -> None:
        conditions = [condition(each.condition) if each.condition else None for each in automations]
        self._automations = automations
        self._conditions: list[Condition | None] = conditions
        self._index = ConditionIndex(conditions)
        self.guarded = [each.key for each in automations if each.entry_rule is not EntryRule.EVERY_TIME]
        self.reads_contact = any(each.reads_contact for each in conditions if each)

    def matching(self, subject: Subject, failures: Counter[Verdict] | None = None) -> list[Automation]:
        """Return the automations whose condition holds, oldest first; one that fails does not hold, and is counted."""
        found = []
        for number in self._index.candidates(subject):
            condition = self._conditions[number]
            outcome = True if condition is None else condition.evaluate(subject)
            if outcome is True:
                found.append(self._automations[number])
            elif outcome is not False and failures is not None:
                failures[outcome.verdict] += 1
        return found


class LiveAutomations:
    """One state of a project's automations; what judges events of a name is compiled when the first one comes.

    Conditions that the state before had compiled are not compiled again. An event says itself whether case counts in
    its name.
    """

    def __init__(
        self, version: int, automations: Iterable[Automation], *, before: LiveAutomations | None = None
    ) -> None:
        self.version = version
        self.by_key = {each.key: each for each in automations}
        self._matchers: dict[tuple[str, ...], Matcher] = {}
        texts = {each.condition for each in self.by_key.values()}
        compiled = before.conditions.copy() if before is not None else {}
        self.conditions: dict[str, Condition] = {text: each for text, each in compiled.items() if text in texts}
        self._active: dict[str, list[Automation]] = defaultdict(list)
        for each in self.by_key.values():
            if each.state is AutomationState.ACTIVE:
                self._active[each.event_name].append(each)
        self._spellings: dict[str, tuple[str, ...]] = {}
        for name in self._active:
            self._spellings[name.casefold()] = (*self._spellings.get(name.casefold(), ()), name)

    def __bool__(self) -> bool:
        """Return whether anything could match or wait."""
        return bool(self.by_key)

    def matcher(self, event_name: str, *, ignore_case: bool) -> Matcher | None:
        """Return what judges the events of a name; None where no automation does."""
        spellings: tuple[str, ...] = (event_name,)
        if ignore_case:
            spellings = self._spellings.get(event_name.casefold(), ())
        elif event_name not in self._active:
            return None
        if not spellings:
            return None
        matcher = self._matchers.get(spellings)
        if matcher is None:
            active = [each for name in spellings for each in self._active[name]]
            matcher = Matcher(sorted(active, key=lambda each: each.key), self._condition)
            self._matchers[spellings] = matcher
        return matcher

    def compile(self) -> None:
        """Compile what judges events of all names, so that no event waits for it later."""
        for name in self._active:
            self.matcher(name, ignore_case=False)

    def _condition(self, text: str) -> Condition:
        condition = self.conditions.get(text)
        if condition is None:
            condition = self.conditions[text] = Condition(text)
        return condition


class Matching:
    """Decides for the events of one project in one transaction, in the order of their positions.

    `matches` are what is to be added to the match log, `resumed` the newest matches of resumed runs by their numbers.
    `failures` counts the conditions of automations that came to neither true nor false, by what they came to.
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
        self.failures: Counter[Verdict] = Counter()

    def prepare(self, event_names: Collection[EventName], contact_keys: Collection[int]) -> None:
        """Read in a few queries what the events of these names about these contacts will be judged by."""
        contacts = sorted(contact_keys)
        waiting = waiting_runs(self._connection, self._project_pk, contacts)
        for run in waiting:
            assert run.wait is not None
            # A wait whose time ran out is the timer's, although the timer may be late.
            if not 0 < run.wait.timeout_at <= self._now:
                self._waiting[run.contact_key, run.wait.event_name.casefold()].append(run)
        self._matchers = {
            (name, ignore_case): self._automations.matcher(name, ignore_case=ignore_case)
            for name, ignore_case in event_names
        }
        matchers = [each for each in self._matchers.values() if each is not None]
        guarded = sorted({key for each in matchers for key in each.guarded})
        if guarded:
            self._entered = entered(self._connection, self._project_pk, guarded, contacts)
        if any(each.reads_contact for each in matchers) or any(run.wait and run.wait.condition for run in waiting):
            self._properties = self._contact_properties(contacts)

    def interested(self, event_name: EventName, contact_key: int) -> bool:
        """Return whether an event could set anything off."""
        if self._matchers[event_name] is not None:
            return True
        return bool(self._waiting) and (contact_key, event_name[0].casefold()) in self._waiting

    def contact_properties(self, contact_key: int) -> Mapping[str, Any]:
        """Return the properties of a contact, as far as a condition may read them."""
        return self._properties.get(contact_key, {})

    def match(self, event_name: EventName, event_position: int, contact_key: int, subject: Subject) -> list[Match]:
        """Decide what one event sets off: waiting runs go on first, then new ones start."""
        first = len(self.matches)
        if self._waiting:
            self._resume(event_name, event_position, contact_key, subject)
        if matcher := self._matchers[event_name]:
            for automation in matcher.matching(subject, self.failures):
                if self._may_enter(automation, contact_key):
                    self._start(automation, event_name[0], event_position, contact_key)
        return self.matches[first:]

    def _resume(self, event_name: EventName, event_position: int, contact_key: int, subject: Subject) -> None:
        name = event_name[0]
        waiting = self._waiting.get((contact_key, name.casefold()))
        if not waiting:
            return
        for run in [run for run in waiting if _awaits(run, event_name) and _holds(run, subject)]:
            waiting.remove(run)
            match = self._add(
                MatchKind.RESUMED, run.automation_key, name, event_position, contact_key, run.number, run.id
            )
            self.resumed[run.number] = match.position

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
            self.position,
            self._ids.make(self.position),
            kind,
            automation_key,
            run_number or self.position,
            run_id or self._ids.make(self.position),
            event_position,
            event_name,
            contact_key,
            self._now,
        )
        self.matches.append(match)
        return match


def timed_out(runs: Sequence[Run], started_by: Mapping[int, str], position: int, now: int) -> list[Match]:
    """Make the matches that tell of waits in vain, from behind a position of the match log.

    `started_by` has the names of the events that started the runs, by their positions.
    """
    ids = LogIds(now)
    return [
        Match(
            at,
            ids.make(at),
            MatchKind.TIMED_OUT,
            run.automation_key,
            run.number,
            run.id,
            run.event_position,
            started_by[run.event_position],
            run.contact_key,
            now,
        )
        for at, run in enumerate(runs, position + 1)
    ]


def _awaits(run: Run, event_name: EventName) -> bool:
    name, ignore_case = event_name
    return ignore_case or (run.wait is not None and run.wait.event_name == name)


def _holds(run: Run, subject: Subject) -> bool:
    condition = run.wait.condition if run.wait else ""
    return not condition or _compiled(condition).matches(subject)
