"""Decides which automations an event matches, within the limits of one event.

A decision depends only on the event, its contact and the active automations of the event's name. It considers them in
the order in which they were created, so that an automation which is added later never changes the decision on earlier
ones:

    EVENT_COST       once the conditions have cost this many steps, no further automation is considered
    EVENT_MATCHES    once this many automations match, no further automation is considered
    LATE_COST        once the late conditions have cost this many steps, no further late condition is evaluated

An automation that is not considered does not match. It is counted, and an explanation names the limit.

Outcomes that are known from an earlier evaluation are used, and count with their cost.
"""

from __future__ import annotations

from enum import StrEnum
from functools import cached_property
from operator import is_
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec

from automation.automations import EntryRule
from automation.conditions.closures import LATE_COST
from automation.conditions.compiling import UNLIMITED, OutOfRoom
from automation.conditions.costs import combined
from automation.conditions.index import ConditionIndex

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from automation.automations import Automation
    from automation.conditions.condition import Condition
    from automation.conditions.costs import Growth
    from automation.conditions.subject import Subject
    from automation.conditions.values import Failure, Verdict

EVENT_COST: Final = 200_000
"""Two conditions at their limit, or tens of thousands of comparisons: 20 to 60 ms."""

EVENT_MATCHES: Final = 1_000
"""Each match is a run, which is stored with the event in one transaction: a thousand take about 10 ms."""

CHANGED: Final = 128
"""Once more automations than this have changed, all are indexed again."""

Outcome: TypeAlias = "tuple[bool | Failure, int]"
"""The outcome of a condition, and its cost in steps."""


class MatchingLimit(StrEnum):
    """The limits of one event."""

    COST = "over_step_limit"
    MATCHES = "over_match_limit"
    LATE = "over_late_step_limit"


class Decision(msgspec.Struct):
    """Which automations one event matches, oldest first.

    `failures` has the verdicts of conditions that were neither true nor false. `cost` is that of all conditions, in
    steps, `spent` that of those whose outcomes were not known. If a limit was reached, the automations with keys above
    `last_key` were not considered; those of `late` were not because of LATE_COST. `beyond` is the number of candidates
    among them. `by_late` is true if a late condition had a part in it.
    """

    matching: list[Automation]
    failures: Sequence[Verdict] = ()
    cost: int = 0
    spent: int = 0
    limit: MatchingLimit | None = None
    last_key: int = 0
    beyond: int = 0
    late: Sequence[int] = ()
    by_late: bool = False

    def limit_of(self, key: int) -> MatchingLimit | None:
        """Return the limit because of which the automation of a key was not considered."""
        if self.limit is not None and key > self.last_key:
            return self.limit
        return MatchingLimit.LATE if key in self.late else None


class KnownOutcomes(msgspec.Struct):
    """The outcomes of conditions on one event, by their texts, and the decision of a matcher, as far as they hold.

    Those of late conditions never do; those of conditions that read the contact only if `with_contact` is true.
    """

    outcomes: dict[str, Outcome]
    with_contact: bool = True
    matcher: Matcher | None = None
    decision: Decision | None = None

    def outcome(self, condition: Condition) -> Outcome | None:
        """Return the outcome of a condition, None if it has to be evaluated."""
        if condition.late or (condition.reads_contact and not self.with_contact):
            return None
        return self.outcomes.get(condition.text)

    def decision_of(self, matcher: Matcher) -> Decision | None:
        """Return the decision of a matcher, None if it has to be made."""
        decision = self.decision
        if self.matcher is not matcher or decision is None or decision.by_late:
            return None
        return decision if self.with_contact or not matcher.reads_contact else None


class OutcomeRecorder:
    """Evaluates the conditions that a matcher asks for, each once, and keeps their outcomes.

    `costly` has those whose cost grows with the data: the others are soon evaluated again, and may be many. `pause` is
    called before each of them.
    """

    def __init__(self, subject: Subject, pause: Callable[[], None]) -> None:
        self._subject = subject
        self._pause = pause
        self.outcomes: dict[str, Outcome] = {}
        self.costly: dict[str, Outcome] = {}

    def outcome(self, condition: Condition) -> Outcome:
        """Return the outcome of a condition."""
        outcome = self.outcomes.get(condition.text)
        if outcome is None:
            if condition.plain is None:
                self._pause()
            outcome = self.outcomes[condition.text] = condition.spend(self._subject, UNLIMITED)
            if condition.plain is None:
                self.costly[condition.text] = outcome
        return outcome

    def decision_of(self, matcher: Matcher) -> None:
        """Return None: every decision has to be made."""


class _Layer:
    """Automations of one event name with an index of their conditions."""

    def __init__(self, automations: Sequence[Automation], condition: Callable[[str], Condition]) -> None:
        self.automations = automations
        self.conditions = [condition(each.condition) if each.condition else None for each in automations]
        self.index = ConditionIndex(self.conditions)

    @cached_property
    def by_key(self) -> dict[int, Automation]:
        """The automations by their keys."""
        return {automation.key: automation for automation in self.automations}

    @cached_property
    def growth(self) -> Growth:
        """The estimated cost of all conditions together, each text once."""
        return combined({each.text: each.growth for each in self.conditions if each and each.growth}.values())

    def candidates(self, subject: Subject) -> Sequence[int]:
        """Return the places of the automations that may match, oldest first."""
        return self.index.candidates(subject)


class Matcher:
    """The active automations of one event name; `condition` returns the compiled condition of a text.

    Indexing thousands of conditions takes a second, and while automations are edited each change makes a matcher. So a
    matcher takes over the layer that the one `before` it has indexed, and has a layer of its own for the few
    automations that have changed since.

    `growth` estimates the cost of all conditions together, see `Condition`. `always` is the number of automations that
    match every event, whoever its contact is.
    """

    def __init__(
        self, automations: Sequence[Automation], condition: Callable[[str], Condition], before: Matcher | None = None
    ) -> None:
        self._automations = automations
        self.base, self._changed, self._gone = self._layers(automations, condition, before)
        self.entry_limited = [
            automation.key for automation in automations if automation.entry_rule is not EntryRule.EVERY_TIME
        ]
        layers = (self.base,) if self._changed is None else (self.base, self._changed)
        self._indexes = [layer.index for layer in layers]
        self.reads_contact = any(each.reads_contact for layer in layers for each in layer.conditions if each)
        self.growth = combined(layer.growth for layer in layers)
        self.always = sum(
            not automation.condition and automation.entry_rule is EntryRule.EVERY_TIME for automation in automations
        )
        self.usual_cost: float = 0.0 if before is None else before.usual_cost
        """The cost of recent events in steps, roughly."""

    def rules_out(self, properties: Mapping[str, Any]) -> bool:
        """Return whether certainly no automation matches an event with these properties."""
        for index in self._indexes:
            if not index.rules_out(properties):
                return False
        self.usual_cost -= self.usual_cost / 16
        return True

    def is_of(self, automations: Sequence[Automation]) -> bool:
        """Return whether the matcher is of exactly these automations."""
        return len(automations) == len(self._automations) and all(map(is_, automations, self._automations))

    def _layers(
        self, automations: Sequence[Automation], condition: Callable[[str], Condition], before: Matcher | None
    ) -> tuple[_Layer, _Layer | None, Collection[int]]:
        """Return the base, the changed automations, and the keys of the base that are changed or gone."""
        if before is not None:
            base = before.base
            known = base.by_key
            changed = [automation for automation in automations if known.get(automation.key) is not automation]
            gone = known.keys() - {automation.key for automation in automations}
            gone.update(automation.key for automation in changed if automation.key in known)
            if len(changed) + len(gone) <= min(CHANGED, len(known) // 4):
                return base, _Layer(changed, condition), gone
        return _Layer(automations, condition), None, frozenset()

    def _candidates(self, subject: Subject) -> tuple[Sequence[Automation], Sequence[Condition | None], Sequence[int]]:
        """Return automations and their conditions, and the places of those that may match, oldest first."""
        base, changed = self.base, self._changed
        places = base.candidates(subject)
        if changed is None:
            return base.automations, base.conditions, places
        gone = self._gone
        kept = [(base.automations[place], base.conditions[place]) for place in places]
        found = [candidate for candidate in kept if candidate[0].key not in gone]
        found += [(changed.automations[place], changed.conditions[place]) for place in changed.candidates(subject)]
        found.sort(key=lambda candidate: candidate[0].key)
        return [each for each, _ in found], [condition for _, condition in found], range(len(found))

    def decide(  # noqa: C901 - the loop of every event
        self, subject: Subject, known: KnownOutcomes | OutcomeRecorder | None = None, room: int = UNLIMITED
    ) -> Decision:
        """Return the decision on an event. Raise OutOfRoom if more than `room` steps would have to be spent for it."""
        if known is not None and (made := known.decision_of(self)) is not None:
            return made
        automations, conditions, places = self._candidates(subject)
        matching: list[Automation] = []
        failures: list[Verdict] = []
        passed_over: list[int] = []
        decision = Decision(matching, failures, late=passed_over)
        total = spent = late = 0
        for number, place in enumerate(places):
            if total >= EVENT_COST or len(matching) == EVENT_MATCHES:
                decision.limit = MatchingLimit.COST if total >= EVENT_COST else MatchingLimit.MATCHES
                decision.last_key = automations[places[number - 1]].key
                decision.beyond += len(places) - number
                break
            condition = conditions[place]
            if condition is None:
                total += 1
                matching.append(automations[place])
                continue
            if known is None and condition.plain is not None:
                outcome, cost = condition.plain(subject), condition.cost
                spent += cost
                if spent > room:
                    raise OutOfRoom
            else:
                if condition.late:
                    decision.by_late = True
                    if late >= LATE_COST:
                        passed_over.append(automations[place].key)
                        decision.beyond += 1
                        continue
                found = known.outcome(condition) if known is not None else None
                if found is None:
                    found = condition.spend(subject, room - spent)
                    spent += found[1]
                outcome, cost = found
                late += cost if condition.late else 0
            total += cost
            if outcome is True:
                matching.append(automations[place])
            elif outcome is not False:
                failures.append(outcome.verdict)
        decision.cost, decision.spent = total, spent
        self.usual_cost += (total - self.usual_cost) / 16
        return decision
