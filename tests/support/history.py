"""What clients saw and did, in the order and at the times they saw it. Times are microseconds UTC of one clock."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from registry.times.timestamps import now_micros

if TYPE_CHECKING:
    from collections.abc import Mapping

    from signalbox.v1 import match_stream_pb2 as pb
    from signalbox.v1.match_pb2 import Match

E = TypeVar("E", bound="Entry")


@dataclass(frozen=True, slots=True)
class SeenMatch:
    """A match, as somebody was told of it."""

    position: int
    id: str
    automation_id: str
    labels: tuple[tuple[str, str], ...]
    event_id: str
    event_position: int
    event_name: str
    contact_id: str


@dataclass(frozen=True, slots=True)
class SeenEvent:
    """An event, as the log tells of it in the end."""

    position: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class Entry:
    """Something that happened; `at` is when it was over."""

    at: int = field(default_factory=now_micros, kw_only=True)


@dataclass(frozen=True, slots=True)
class Accepted(Entry):
    """A sender was told that its event is stored, with these matches."""

    event: SeenEvent
    matches: tuple[SeenMatch, ...]


@dataclass(frozen=True, slots=True)
class Watching(Entry):
    """A watcher begins a stream after a position: from a cursor, or from the beginning of the log."""

    stream: int
    watcher: str
    after: int
    resumed: bool
    filter: pb.MatchFilter
    interval: int
    limit: int


@dataclass(frozen=True, slots=True)
class Answered(Entry):
    """A watcher read one answer."""

    stream: int
    position: int
    head: int
    matches: tuple[SeenMatch, ...]


@dataclass(frozen=True, slots=True)
class Opening(Entry):
    """A consumer opens a stream."""

    stream: int
    subscription: str
    consumer: str
    window: int
    held: frozenset[str]
    interval: int


@dataclass(frozen=True, slots=True)
class Opened(Entry):
    """A consumer was let in."""

    stream: int
    floor: int


@dataclass(frozen=True, slots=True)
class Delivered(Entry):
    """A consumer read one delivery."""

    stream: int
    id: str
    match: SeenMatch
    attempt: int
    max_attempts: int
    replayed: bool
    expires: int


@dataclass(frozen=True, slots=True)
class Said(Entry):
    """A consumer settles or extends: `word` is ack, retry, park, skip or extend."""

    stream: int
    word: str
    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Confirmed(Entry):
    """A consumer was told what became of one delivery, about which it had said something at `said`."""

    stream: int
    said: int
    id: str
    outcome: pb.DeliveryOutcome.ValueType
    expires: int


@dataclass(frozen=True, slots=True)
class Beat(Entry):
    """A consumer read a heartbeat."""

    stream: int
    floor: int
    head: int
    outstanding: int


@dataclass(frozen=True, slots=True)
class Draining(Entry):
    """A consumer was told that its server shuts down."""

    stream: int


@dataclass(frozen=True, slots=True)
class Closing(Entry):
    """A consumer closes its side of a stream."""

    stream: int


@dataclass(frozen=True, slots=True)
class Ended(Entry):
    """A stream is over: the reason that the server gave, the name of gRPC's own status, or `left`."""

    stream: int
    reason: str


@dataclass(frozen=True, slots=True)
class Observed(Entry):
    """Somebody read how far a subscription is."""

    begun: int
    subscription: str
    floor: int
    read: int
    head: int
    outstanding: int


@dataclass(frozen=True, slots=True)
class Sought(Entry):
    """A subscription was moved to the start after a position, some time between `begun` and `at`."""

    begun: int
    subscription: str
    position: int


@dataclass(frozen=True, slots=True)
class Replayed(Entry):
    """Parked matches of a subscription were replayed."""

    begun: int
    subscription: str
    count: int


@dataclass(frozen=True, slots=True)
class Restarted(Entry):
    """A server begins to stop, or is killed."""


@dataclass(frozen=True, slots=True)
class ClockStepped(Entry):
    """The clock of a server was set to another time; clients keep the time of this process."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What a subscription was made with; `ack_deadline` in microseconds."""

    filter: pb.MatchFilter
    by_contact: bool
    ack_deadline: int
    start: int = 0


@dataclass
class History:
    """The entries in their order, what was set up, and what the logs hold in the end.

    `steady` names the automations that were active all the time, with the events that they are on and no condition.
    """

    entries: list[Entry] = field(default_factory=list)
    steady: Mapping[str, str] = field(default_factory=dict)
    subscriptions: dict[str, Rules] = field(default_factory=dict)
    events: list[SeenEvent] = field(default_factory=list)
    log: list[SeenMatch] = field(default_factory=list)
    parked: dict[str, set[int]] = field(default_factory=dict)

    def note(self, entry: E) -> E:
        """Add an entry."""
        self.entries.append(entry)
        return entry

    def of(self, kind: type[E]) -> list[E]:
        """Return the entries of a kind."""
        return [each for each in self.entries if isinstance(each, kind)]

    def wanted(self, chosen: pb.MatchFilter) -> list[SeenMatch]:
        """Return the matches of the log that pass a filter."""
        return [each for each in self.log if passes(each, chosen)]


def seen(match: Match) -> SeenMatch:
    """Remember a match."""
    return SeenMatch(
        match.position,
        match.id,
        match.automation_id,
        tuple(sorted(match.labels.items())),
        match.event.id,
        match.event.position,
        match.event.name,
        match.contact_id,
    )


def passes(match: SeenMatch, chosen: pb.MatchFilter) -> bool:
    """Return whether a match passes a filter."""
    return (
        (not chosen.automation_ids or match.automation_id in chosen.automation_ids)
        and (not chosen.event_names or match.event_name in chosen.event_names)
        and chosen.labels.items() <= dict(match.labels).items()
    )
