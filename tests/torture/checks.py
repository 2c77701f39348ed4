"""Checks of the senders' journal against the final logs; an AssertionError names each difference.

The twelve promises of `tests/support/promises.py` are checked beside these, over what watchers and consumers saw.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import TYPE_CHECKING, Any

from tests.torture.scenario import EXPECTATIONS, expected_matches

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from tests.support.history import SeenMatch
    from tests.torture.journal import Journal, StoredEvent


@dataclass
class Evidence:
    """The journal, and both logs as a server that knows nothing else reads them in the end.

    `automations` names the automations by id.
    """

    journal: Journal
    events: list[StoredEvent]
    matches: list[SeenMatch]
    automations: Mapping[str, str]

    def by_number(self) -> dict[int, StoredEvent]:
        """Return the events by the numbers that their senders gave them."""
        return {event.number: event for event in self.events}


def no_acknowledged_event_is_missing(evidence: Evidence) -> None:
    """Every acknowledged event is in the log: under the id and position returned to its sender."""
    stored = evidence.by_number()
    for number, receipts in evidence.journal.receipts.items():
        assert number in stored, ("acknowledged, but not stored", receipts, evidence.journal.intents[number])
        event = stored[number]
        _none(each for each in receipts if each.event_id not in ("", event.id))
        _none(each for each in receipts if each.position not in (None, event.position))


def positions_are_gapless(evidence: Evidence) -> None:
    """The positions of both logs are 1, 2, 3 and so on."""
    _none(event for number, event in enumerate(evidence.events, 1) if event.position != number)
    _none(match for number, match in enumerate(evidence.matches, 1) if match.position != number)


def every_event_was_sent(evidence: Evidence) -> None:
    """The log has only events that were sent, each with its content."""
    for event in evidence.events:
        intent = evidence.journal.intents.get(event.number)
        assert intent is not None, ("nobody sent", event)
        assert (event.name, event.email) == (intent.name, intent.email), (event, intent)
        assert dict(event.properties) == dict(intent.expected), (event, intent)


def nothing_is_stored_twice(evidence: Evidence) -> None:
    """A key has one record however often it was sent, and so has an event that was sent once."""
    times = Counter(event.number for event in evidence.events)
    _none((number, evidence.journal.intents.get(number)) for number, count in times.items() if count > 1)


def nothing_refused_is_stored(evidence: Evidence) -> None:
    """Neither a refused nor an invalid event is stored, and no valid event is refused.

    An event of a batch of which all or nothing is stored may be refused for the fault of another one.
    """
    stored, journal = evidence.by_number(), evidence.journal
    spoiled = {intent.batch for intent in journal.intents.values() if not intent.valid and intent.batch is not None}
    for number, intent in journal.intents.items():
        refusable = not intent.valid or intent.batch in spoiled
        assert number not in stored or not refusable, ("invalid, but stored", intent)
        assert not journal.receipts.get(number) or not refusable, ("invalid, but acknowledged", intent)
        assert not journal.refusals.get(number) or refusable, ("valid, but refused", intent, journal.refusals[number])


def batches_are_whole(evidence: Evidence) -> None:
    """An ALL_OR_NOTHING batch is stored whole or not at all, its events side by side and in its order."""
    stored = evidence.by_number()
    batches: dict[int, list[int]] = defaultdict(list)
    for number, intent in sorted(evidence.journal.intents.items()):
        if intent.batch is not None:
            batches[intent.batch].append(number)
    for numbers in batches.values():
        positions = [stored[number].position for number in numbers if number in stored]
        assert len(positions) in (0, len(numbers)), ("a part of a batch", numbers, positions)
        # An event whose key was seen before keeps the position of its first record, so only whole batches are compared.
        _none((numbers, pair) for pair in pairwise(positions) if pair[1] != pair[0] + 1)


def events_have_their_matches(evidence: Evidence) -> None:
    """Each event has just the matches that an independent evaluator expects, and no match is without its event."""
    by_event: dict[str, list[SeenMatch]] = defaultdict(list)
    for match in evidence.matches:
        by_event[match.event_id].append(match)
    expected = expected_matches(evidence.events)
    known = {each.name for each in EXPECTATIONS}
    for event in evidence.events:
        names = [evidence.automations[match.automation_id] for match in by_event.pop(event.id, [])]
        matched = sorted(name for name in names if name in known)
        assert matched == sorted(expected[event.position]), (event, matched, expected[event.position])
    assert not by_event, ("matches without an event", dict(by_event))


def receipts_tell_the_matches(evidence: Evidence) -> None:
    """A receipt counts, or names, the matches that the log has of its event."""
    stored = evidence.by_number()
    names: dict[str, list[str]] = defaultdict(list)
    for match in evidence.matches:
        names[match.event_id].append(evidence.automations[match.automation_id])
    for number, receipts in evidence.journal.receipts.items():
        if number in stored:
            found = names[stored[number].id]
            _none((each, found) for each in receipts if each.match_count not in (None, len(found)))
            _none((each, found) for each in receipts if each.automations is not None and [*each.automations] != found)


def received_at_never_falls(evidence: Evidence) -> None:
    """`received_at` does not fall as positions rise, whatever the clock did."""
    _none(pair for pair in pairwise(evidence.events) if pair[0].received_at > pair[1].received_at)


CHECKS: Sequence[Callable[[Evidence], None]] = (
    no_acknowledged_event_is_missing,
    positions_are_gapless,
    every_event_was_sent,
    nothing_is_stored_twice,
    nothing_refused_is_stored,
    batches_are_whole,
    events_have_their_matches,
    receipts_tell_the_matches,
    received_at_never_falls,
)


def _none(offending: Iterable[Any]) -> None:
    """Fail with the first faults."""
    found = list(islice(offending, 3))
    assert not found, found
