"""The twelve promises of matches, each a check of a history; AssertionError names what breaks it.

A check knows what clients saw and no more. Where they cannot know when a server did something, it goes by the earliest
or latest time at which it can have been, so what a check reports is broken for certain.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_right
from collections import defaultdict, deque
from dataclasses import dataclass
from itertools import islice, pairwise, zip_longest
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from signalbox.v1 import match_stream_pb2 as pb
from tests.support.history import (
    Accepted,
    Answered,
    Beat,
    ClockStepped,
    Closing,
    Confirmed,
    Delivered,
    Draining,
    Ended,
    History,
    Observed,
    Opened,
    Opening,
    Restarted,
    Said,
    Sought,
    Watching,
    passes,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Sequence

    from tests.support.history import Entry, SeenMatch

T = TypeVar("T")
K = TypeVar("K", bound="Hashable")

LATE: Final = 2_000_000
"""The longest time by which a message may be read late: the clients share a machine with the servers."""

NOTICED: Final = 1_000_000
"""The time in which a server notices that a stream is over, or a change by another server."""

WAITED: Final = 1_000_000
"""The longest time between a server's reading of its clock and its lock of the subscription."""

SETTLED: Final = {pb.DELIVERY_OUTCOME_ACKNOWLEDGED, pb.DELIVERY_OUTCOME_SKIPPED}
FINAL_WORDS: Final = {"ack", "park", "skip"}


@dataclass
class Lease:
    """A delivery with the times that the consumer can tell.

    The lease lasts from `granted` to `ends` at least. From `done` on the match may be settled or parked.
    """

    given: Delivered
    opening: Opening
    granted: int
    ends: int
    done: float = math.inf

    @property
    def place(self) -> tuple[str, int]:
        return self.opening.subscription, self.given.match.position


class _Reading(NamedTuple):
    """A floor that a stream showed, or the subscription itself (0); `begun` is since when it may have been so."""

    reader: int
    begun: int
    at: int
    floor: int

    @property
    def since(self) -> int:
        """Since when no seek went unnoticed: a stream shows what its server knows of what others did."""
        return self.begun - (NOTICED + LATE if self.reader else 0)


def no_acked_loss(history: History) -> None:
    """NoAckedLoss: every event that was accepted is in the log, where the sender was told; the log has no gap."""
    _none(each for number, each in enumerate(history.events, 1) if each.position != number)
    stored = set(history.events)
    _none(each for each in history.of(Accepted) if each.event not in stored)


def atomic_match(history: History) -> None:
    """AtomicMatch: an event is stored with its matches, the same that its sender was told; no match is without one."""
    _none(each for number, each in enumerate(history.log, 1) if each.position != number)
    by_event: dict[str, list[SeenMatch]] = defaultdict(list)
    for match in history.log:
        by_event[match.event_id].append(match)
    _none(each for each in history.of(Accepted) if list(each.matches) != by_event[each.event.id])
    places = {each.id: (each.position, each.name) for each in history.events}
    _none(each for each in history.log if places.get(each.event_id) != (each.event_position, each.event_name))
    for event in history.events:
        automations = [each.automation_id for each in by_event[event.id]]
        assert len(set(automations)) == len(automations), event
        missing = {key for key, name in history.steady.items() if name == event.name} - set(automations)
        assert not missing, (event, missing)


def at_least_once(history: History) -> None:
    """AtLeastOnce: every match is delivered until it is acknowledged, skipped or parked; counted from the last seek."""
    leases = _by_place(_leases(history))
    said = {each for entry in history.of(Said) if entry.word in {"ack", "skip"} for each in entry.ids}
    for name, rules in history.subscriptions.items():
        start, since = _last_seek(history, name)
        for match in history.wanted(rules.filter):
            if match.position <= start or match.position in history.parked[name]:
                continue
            given = [each.given for each in leases[name, match.position] if each.given.at >= since]
            assert any(each.id in said for each in given), (name, match, given)


def no_redelivery_after_confirmed_ack(history: History) -> None:
    """NoRedeliveryAfterConfirmedAck: what was confirmed as acknowledged or skipped is not delivered again."""
    leases = _leases(history)
    places, by_id = _by_place(leases), {each.given.id: each for each in leases}
    seeks = _by(history.of(Sought), lambda each: each.subscription)
    for confirmed in history.of(Confirmed):
        lease = by_id.get(confirmed.id)
        if confirmed.outcome not in SETTLED or lease is None:
            continue
        for again in places[lease.place]:
            # One that was granted before may lie unread in its consumer's buffer.
            if again.granted < confirmed.said or again.given.at <= confirmed.at:
                continue
            name, position = lease.place
            sought = any(each.begun <= again.given.at and each.position < position for each in seeks[name])
            assert sought, (confirmed, again)


def no_concurrent_lease(history: History) -> None:
    """NoConcurrentLease: a match is under one lease of a subscription at a time."""
    for leases in _by_place(_leases(history)).values():
        for number, lease in enumerate(leases):
            _none((each, lease) for each in leases[:number] if lease.granted < each.ends)


def ordered(history: History) -> None:
    """Ordered: positions rise in a watch and in the first deliveries of a stream; by contact, one waits for another."""
    for answers in _by(history.of(Answered), lambda each: each.stream).values():
        matches = [match for each in answers for match in each.matches]
        _none((one, other) for one, other in pairwise(matches) if one.position >= other.position)
    leases = _leases(history)
    by_id = {each.given.id: each for each in leases}
    for stream in _by(history.of(Delivered), lambda each: each.stream).values():
        own = [by_id[each.id] for each in stream]
        if not history.subscriptions[own[0].opening.subscription].by_contact:
            _check_first_deliveries(history, own)
    for name, rules in history.subscriptions.items():
        if rules.by_contact:
            _check_contacts(history, name, [each for each in leases if each.opening.subscription == name])


def resumable(history: History) -> None:
    """Resumable: from any cursor, a watch continues with the next match of its filter and skips none."""
    for watching, answers in _watches(history):
        if watching.resumed and answers:
            matches = [match for each in answers for match in each.matches]
            end = answers[-1].position
            due = [each for each in history.wanted(watching.filter) if watching.after < each.position <= end]
            _none((watching, pair) for pair in zip_longest(matches, due) if pair[0] != pair[1])


def bookmarkable(history: History) -> None:
    """Bookmarkable: with a cursor, every match of the filter up to it was delivered and none after it.

    In the end the cursor of every watcher is at the end of the log, also where nothing passes its filter.
    """
    for watches in _by(_watches(history), lambda each: each[0].watcher).values():
        reached = watches[0][0].after
        due = deque(each.position for each in history.wanted(watches[0][0].filter) if each.position > reached)
        told: set[int] = set()
        for answer in (answer for _, answers in watches for answer in answers):
            assert reached <= answer.position <= answer.head, (reached, answer)
            _none((answer, each) for each in answer.matches if each.position > answer.position)
            told.update(each.position for each in answer.matches)
            while due and due[0] <= answer.position:
                assert due[0] in told, (answer, "not told of", due[0])
                due.popleft()
            reached = answer.position
        assert reached == len(history.log), (watches[-1], "stood still at", reached)


def filter_exact(history: History) -> None:
    """FilterExact: a filter passes exactly its matches, each as the log has it."""
    log = {each.position: each for each in history.log}
    told: list[tuple[Entry, SeenMatch, pb.MatchFilter]] = [
        (answer, match, watching.filter)
        for watching, answers in _watches(history)
        for answer in answers
        for match in answer.matches
    ]
    told += [
        (each.given, each.given.match, history.subscriptions[each.opening.subscription].filter)
        for each in _leases(history)
    ]
    _none((entry, match) for entry, match, chosen in told if not passes(match, chosen))
    _none((entry, match) for entry, match, _ in told if log.get(match.position) != match)
    for watching, answers in _watches(history):
        matches = {match for each in answers for match in each.matches}
        end = answers[-1].position if answers else 0
        due = (each for each in history.wanted(watching.filter) if watching.after < each.position <= end)
        _none((watching, each) for each in due if each not in matches)


def bounded_memory(history: History) -> None:
    """BoundedMemory: a consumer never holds more leases than its window; no answer is larger than asked for."""
    for leases in _by(_leases(history), lambda each: (each.opening.subscription, each.opening.consumer)).values():
        running: list[int] = []
        for lease in sorted(leases, key=lambda each: each.granted):
            while running and running[0] <= lease.granted:
                heapq.heappop(running)
            if lease.granted < lease.ends:
                heapq.heappush(running, lease.ends)
            assert len(running) <= lease.opening.window, (lease, len(running))
    windows = {each.stream: each.window for each in history.of(Opening)}
    _none(each for each in history.of(Beat) if each.outstanding > windows[each.stream])
    _none((watch, each) for watch, answers in _watches(history) for each in answers if len(each.matches) > watch.limit)


def floor_monotone(history: History) -> None:
    """FloorMonotone: a floor moves back only by a seek, and never passes an unsettled match."""
    openings = {each.stream: each for each in history.of(Opening)}
    for name in history.subscriptions:
        observed = [each for each in history.of(Observed) if each.subscription == name]
        _none(each for each in observed if not each.floor <= each.read <= each.head)
        readings = [_Reading(0, each.begun, each.at, each.floor) for each in observed]
        beats: list[Opened | Beat] = [*history.of(Opened), *history.of(Beat)]
        readings += [
            _Reading(each.stream, each.at, each.at, each.floor)
            for each in beats
            if openings[each.stream].subscription == name
        ]
        seeks = [each for each in history.of(Sought) if each.subscription == name]
        for reader in _by(readings, lambda each: each.reader).values():
            for before, after in pairwise(sorted(reader, key=lambda each: each.at)):
                sought = any(each.begun <= after.at and each.at >= before.since for each in seeks)
                assert before.floor <= after.floor or before.at > after.begun or sought, (name, before, after)
        _check_floors(history, name, readings)


def live(history: History) -> None:
    """Live: a stream is never silent for longer than its heartbeat interval."""
    last: dict[int, tuple[int, Entry]] = {}
    intervals = {each.stream: each.interval for each in history.of(Opening)}
    intervals |= {each.stream: each.interval for each in history.of(Watching)}
    for entry in history.entries:
        if isinstance(entry, (Answered, Opened, Delivered, Confirmed, Beat, Draining, Ended)):
            at, before = last.get(entry.stream, (entry.at, entry))
            assert entry.at - at <= intervals[entry.stream] + LATE, (before, entry)
            last[entry.stream] = entry.at, entry


PROMISES: Final = (
    no_acked_loss,
    atomic_match,
    at_least_once,
    no_redelivery_after_confirmed_ack,
    no_concurrent_lease,
    ordered,
    resumable,
    bookmarkable,
    filter_exact,
    bounded_memory,
    floor_monotone,
    live,
)


def _leases(history: History) -> list[Lease]:
    """Return the leases in the order in which they were granted.

    Once the clock of a server was stepped, its times prove nothing: a lease may have been granted as soon as its stream
    was opened, and may have ended at once.
    """
    comparable = not history.of(ClockStepped)
    openings = {each.stream: each for each in history.of(Opening)}
    leases: dict[str, Lease] = {}
    for given in history.of(Delivered):
        opening = openings[given.stream]
        granted = given.expires - history.subscriptions[opening.subscription].ack_deadline
        granted, ends = (granted, given.expires) if comparable else (opening.at, opening.at)
        done = granted if given.attempt >= given.max_attempts else math.inf
        leases[given.id] = Lease(given, opening, granted, ends, done)
    extended = (each for each in history.of(Confirmed) if each.outcome == pb.DELIVERY_OUTCOME_EXTENDED)
    for confirmed in sorted(extended, key=lambda each: each.said) if comparable else ():
        leases[confirmed.id].ends = confirmed.expires
    for said in history.of(Said):
        for each in said.ids:
            if said.word != "extend":
                leases[each].ends = min(leases[each].ends, said.at)
            if said.word in FINAL_WORDS:
                leases[each].done = min(leases[each].done, said.at)
    _end_by_streams(history, leases)
    seeks = _by(history.of(Sought), lambda each: each.subscription)
    for lease in leases.values():
        for sought in seeks[lease.opening.subscription]:
            if sought.at >= lease.granted:
                lease.ends = min(lease.ends, max(sought.begun - WAITED, lease.granted))
    return sorted(leases.values(), key=lambda each: each.granted)


def _end_by_streams(history: History, leases: dict[str, Lease]) -> None:
    """A consumer that closes its side ends its leases, and so does one that opens again but for those that it holds."""
    own = _by(leases.values(), lambda each: (each.opening.subscription, each.opening.consumer))
    openings = {each.stream: each for each in history.of(Opening)}
    ends: list[Opening | Closing] = [*history.of(Opening), *history.of(Closing)]
    for end in ends:
        opening = openings[end.stream]
        held = end.held if isinstance(end, Opening) else frozenset()
        for lease in own[opening.subscription, opening.consumer]:
            late = isinstance(end, Closing) and lease.given.stream == end.stream
            if (lease.granted <= end.at or late) and lease.given.id not in held:
                lease.ends = min(lease.ends, max(lease.granted, end.at))


def _check_first_deliveries(history: History, leases: Sequence[Lease]) -> None:
    """Positions rise, but for matches that went back unread when another stream of the subscription was over."""
    first = [each for each in leases if each.given.attempt == 1 and not each.given.replayed]
    falls = [(before, after) for before, after in pairwise(first) if before.place >= after.place]
    if not falls:
        return
    name = leases[0].opening.subscription
    streams = {each.stream for each in history.of(Opening) if each.subscription == name}
    ends: list[Opening | Closing | Ended] = [*history.of(Opening), *history.of(Closing), *history.of(Ended)]
    over = [each.at for each in ends if each.stream in streams] + [each.at for each in history.of(Restarted)]
    seeks = [each for each in history.of(Sought) if each.subscription == name]
    for before, after in falls:
        went_back = any(before.granted - NOTICED <= each <= after.given.at for each in over)
        sought = any(each.begun <= after.given.at and each.at >= before.granted for each in seeks)
        assert went_back or sought, (before, after)


def _check_contacts(history: History, name: str, leases: Sequence[Lease]) -> None:
    """A match is delivered when all earlier ones of its contact are settled; looked at from the last seek on."""
    start, since = _last_seek(history, name)
    places = _by_place([each for each in leases if each.given.at >= since])
    over = max((each.at for each in history.of(Sought) if each.subscription == name), default=0)
    contacts = _by(history.wanted(history.subscriptions[name].filter), lambda each: each.contact_id)
    for contact, matches in contacts.items():
        settled: float = 0
        for match in matches if contact else ():
            if match.position > start:
                own = places[name, match.position]
                _none(each for each in own if over <= each.granted and each.given.at < settled)
                settled = max(settled, min((each.done for each in own), default=math.inf))


def _check_floors(history: History, name: str, readings: Sequence[_Reading]) -> None:
    """No floor is at a match that cannot have been settled by then; looked at between one seek and the next."""
    rules = history.subscriptions[name]
    seeks = [each for each in history.of(Sought) if each.subscription == name]
    since = [(0, 0, rules.start), *((each.begun, each.at, each.position) for each in seeks)]
    until = [*(each.begun for each in seeks), math.inf]
    leases = [each for each in _leases(history) if each.opening.subscription == name]
    for (begun, over, start), end in zip(since, until, strict=True):
        own = _by_place([each for each in leases if begun <= each.given.at])
        positions, settled = [start], [0.0]
        for match in history.wanted(rules.filter):
            if match.position > start:
                positions.append(match.position)
                done = min((each.done for each in own[name, match.position]), default=math.inf)
                settled.append(max(settled[-1], done))
        for reading in readings:
            if over <= reading.since and reading.at <= end and reading.floor >= start:
                below = bisect_right(positions, reading.floor) - 1
                assert settled[below] <= reading.at, (name, reading, "not settled up to", positions[below])


def _last_seek(history: History, name: str) -> tuple[int, int]:
    """Return the position after which a subscription last started, and the time from which it did."""
    seeks = [each for each in history.of(Sought) if each.subscription == name]
    return (seeks[-1].position, seeks[-1].begun) if seeks else (history.subscriptions[name].start, 0)


def _watches(history: History) -> list[tuple[Watching, list[Answered]]]:
    answers = _by(history.of(Answered), lambda each: each.stream)
    return [(each, answers[each.stream]) for each in history.of(Watching)]


def _by_place(leases: Iterable[Lease]) -> dict[tuple[str, int], list[Lease]]:
    return _by(leases, lambda each: each.place)


def _by(items: Iterable[T], key: Callable[[T], K]) -> dict[K, list[T]]:
    groups: dict[K, list[T]] = defaultdict(list)
    for each in items:
        groups[key(each)].append(each)
    return groups


def _none(offending: Iterable[object]) -> None:
    """Fail with the first faults."""
    found = list(islice(offending, 3))
    assert not found, found
