"""Subscriptions to the match log, and what they deliver, as values. Times and durations are microseconds."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from math import exp, log
from typing import TYPE_CHECKING, Final

import msgspec

from registry.errors import RowUnreadable

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from automation.matches import Match, MatchFilter

_SECOND: Final = 1_000_000
DEFAULT_ACK_DEADLINE: Final = 30 * _SECOND
DEFAULT_MAX_ATTEMPTS: Final = 10
DEFAULT_INITIAL_DELAY: Final = _SECOND
DEFAULT_MAX_DELAY: Final = 600 * _SECOND
DEFAULT_MULTIPLIER: Final = 2.0

LEASE_EXPIRED: Final = "lease expired"
"""The failure of an attempt whose lease ended before it was settled."""

# Beyond this power of e every delay is longer than the longest.
_LARGE_EXPONENT = 50

_DELIVERY_ID = re.compile("([1-9a-f][0-9a-f]{0,14})-([1-9a-f][0-9a-f]{0,14})-([0-9a-f]{8})")


class DeliveryOrder(StrEnum):
    """The order in which a subscription delivers."""

    POSITION = "position"
    """First deliveries come in the order of positions."""
    CONTACT = "contact"
    """A match also waits until all earlier ones of its contact are settled."""


class NackAction(StrEnum):
    """What to do with a match that is not acknowledged."""

    RETRY = "retry"
    PARK = "park"
    SKIP = "skip"


class SettleOutcome(StrEnum):
    """The result of settling or extending a delivery."""

    ACKNOWLEDGED = "acknowledged"
    RETRYING = "retrying"
    PARKED = "parked"
    SKIPPED = "skipped"
    EXTENDED = "extended"
    STALE = "stale"
    """Nothing changed: the lease had ended, or the delivery was settled otherwise."""
    UNKNOWN = "unknown"
    """Nothing changed: the subscription made no delivery of this id."""


class ParkingCause(StrEnum):
    """Why a match is parked."""

    ATTEMPTS_EXHAUSTED = "attempts_exhausted"
    NACKED = "nacked"
    UNREADABLE = "unreadable"
    """Its stored data could not be read."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long a match waits after a failed attempt, before it is delivered again."""

    initial_delay: int = DEFAULT_INITIAL_DELAY
    max_delay: int = DEFAULT_MAX_DELAY
    multiplier: float = DEFAULT_MULTIPLIER

    def delay(self, attempt: int) -> int:
        """Return the delay after an attempt; attempts are counted from 1."""
        power = min((attempt - 1) * log(self.multiplier), _LARGE_EXPONENT)
        return min(self.max_delay, round(self.initial_delay * exp(power)))


@dataclass(frozen=True, slots=True)
class Subscription:
    """A named, durable reader of a project's match log.

    `read_position` is how far the log was read for first deliveries; every match of the filter up to `floor_position`
    is settled or parked. Leases are numbered from 1: `last_serial` is the newest one's number, and those up to
    `seek_serial` were granted before the last seek. `key` stands for the subscription inside the database. While it
    `pushes`, the server is its only consumer.
    """

    key: int
    project_pk: int
    id: str
    name: str
    filter: MatchFilter
    order: DeliveryOrder
    ack_deadline: int
    max_attempts: int
    backoff: Backoff
    read_position: int
    floor_position: int
    last_serial: int
    seek_serial: int
    version: int
    created_at: int
    updated_at: int
    pushes: bool = False
    unreadable: str = ""
    """Why the filter or order cannot be read; an unreadable filter is empty, and nothing is delivered."""

    def check_readable(self) -> None:
        """Raise RowUnreadable if the filter or order cannot be read."""
        if self.unreadable:
            raise RowUnreadable("subscription", self.id, self.unreadable)

    @property
    def etag(self) -> str:
        """Name of the state of the subscription; deliveries do not change it."""
        return str(self.version)

    @property
    def tag(self) -> str:
        """The suffix of the ids of its deliveries."""
        return self.id[-8:]


def delivery_id(tag: str, position: int, serial: int) -> str:
    """Write the id of one lease of the match at a position, of the subscription with a tag."""
    return f"{position:x}-{serial:x}-{tag}"


def lease_serial(delivery_id: str) -> int:
    """Read the serial of the lease from the id of a delivery."""
    return int(delivery_id.split("-")[1], 16)


def parse_delivery_ids(subscription: Subscription, ids: Iterable[str]) -> dict[str, tuple[int, int] | None]:
    """Read position and serial from ids of deliveries; None for those of no delivery of the subscription."""
    leases: dict[str, tuple[int, int] | None] = {}
    parse, own_tag, last_serial = _DELIVERY_ID.fullmatch, subscription.tag, subscription.last_serial
    for text in ids:
        leases[text] = None
        if parts := parse(text):
            position, serial, tag = parts.groups()
            lease = int(position, 16), int(serial, 16)
            if tag == own_tag and lease[1] <= last_serial:
                leases[text] = lease
    return leases


# Msgspec structs where many are made in every step.
class Delivery(msgspec.Struct, frozen=True):
    """One match under a lease of one consumer. `attempt` counts from 1."""

    id: str
    consumer_id: str
    attempt: int
    match: Match
    lease_expires_at: int
    replayed: bool
    last_failure: str


@dataclass(frozen=True, slots=True)
class Ack:
    """Acknowledges deliveries: their matches have been acted on."""

    delivery_ids: Sequence[str]


@dataclass(frozen=True, slots=True)
class Nack:
    """Does not acknowledge deliveries. `delay` is the time until the retry; None means the subscription's backoff.

    `cause` is recorded with matches that the action PARK parks.
    """

    delivery_ids: Sequence[str]
    action: NackAction = NackAction.RETRY
    delay: int | None = None
    reason: str = ""
    cause: ParkingCause = ParkingCause.NACKED


@dataclass(frozen=True, slots=True)
class Extend:
    """Extends leases to `duration` from now; to the subscription's ack deadline where it is None."""

    delivery_ids: Sequence[str]
    duration: int | None = None


Settlement = Ack | Nack | Extend
"""What a consumer requests for its deliveries."""


@dataclass(frozen=True, slots=True)
class Undelivered:
    """Deliveries that never reached their consumer: they are due before all others, and the attempts do not count."""

    delivery_ids: Sequence[str]


@dataclass(frozen=True, slots=True)
class TakeOver:
    """Ends the leases of a consumer, except those of the deliveries that it still holds.

    An ended lease is a failed attempt, as if it had expired, so that the number of deliveries stays bounded even for a
    match that crashes its consumers. Its match is due at once, or parked after its last attempt.

    Leases that were granted after the one numbered `newest_serial` go on: they belong to a newer stream of the
    consumer, on another server. None sets no limit.
    """

    consumer_id: str
    held_delivery_ids: Sequence[str] = ()
    newest_serial: int | None = None


class SettleResult(msgspec.Struct, frozen=True):
    """The result for one delivery. `due_at`: when a RETRYING match is due, or an EXTENDED lease ends; else 0."""

    delivery_id: str
    outcome: SettleOutcome
    due_at: int = 0


@dataclass(frozen=True, slots=True)
class DeliveryRequest:
    """A consumer's request for up to `capacity` matches.

    It never holds more than `max_outstanding` leases, those of earlier steps included; None sets no limit. A consumer
    with such a limit has one request in a step.
    """

    consumer_id: str
    capacity: int
    max_outstanding: int | None = None


@dataclass(frozen=True, slots=True)
class SearchBounds:
    """Where the next step on this node may begin to search for due leases and retries: an optimization only.

    PostgreSQL keeps the index entries of settled matches as long as any transaction might still see them. A search that
    begins where the last search ended does not visit them again. In case the clock of the database is stepped, it
    begins BOUNDS_MARGIN earlier, and at the very beginning at `full_at` or when the clock has stepped back.

    Before `nothing_due_until` no lease ends and no retry is due, unless a step has written an earlier time or something
    other than a step has changed the deliveries. After such a change the dispatcher drops the bounds
    (`Dispatcher.wake`). So a node that is alone on its database, which SQLite ensures, searches for nothing until then.
    """

    leases_from: int = 0
    retries_from: int = 0
    next_lease: int = 0
    next_retry: int = 0
    full_at: int = 0
    nothing_due_until: int = 0


@dataclass(frozen=True, slots=True)
class StepResult:
    """The result of one step.

    `subscription` is as the step left it. `results` has a list for each settlement, `kept` the ids of the deliveries
    that each takeover kept, `deliveries` a list for each request, and `outstanding` the number of leases of each
    consumer with a request.

    With `more`, another step at once would do more. `exhausted` means that the step had capacity left over and leased
    every match that was available: before `next_due` (0: never) there is nothing to lease, for any consumer, unless a
    match is recorded or settled, or the subscription is changed. A step without capacity has not looked: it
    is never exhausted.

    `bounds` are for the next step of this node.
    """

    subscription: Subscription
    results: list[list[SettleResult]]
    kept: list[list[str]]
    deliveries: list[list[Delivery]]
    outstanding: Mapping[str, int]
    more: bool
    exhausted: bool
    next_due: int
    bounds: SearchBounds = SearchBounds()


@dataclass(frozen=True, slots=True)
class ParkedMatch:
    """A match that a subscription has put aside, with its last attempt."""

    match: Match
    cause: ParkingCause
    attempt_count: int
    last_failure: str
    consumer_id: str
    parked_at: int


@dataclass(frozen=True, slots=True)
class ParkedSelection:
    """Which parked matches to list, replay or discard.

    A match must pass every filter that is set; without filters, nothing is selected unless `all` is set.
    `parked_until` selects those parked before it.
    """

    match_ids: Collection[str] = ()
    automation_id: str = ""
    parked_until: int | None = None
    all: bool = False


@dataclass(frozen=True, slots=True)
class SubscriptionStats:
    """The progress of a subscription. `oldest_matched_at` is 0 where nothing is outstanding or retrying."""

    head_position: int
    outstanding_count: int
    retrying_count: int
    parked_count: int
    oldest_matched_at: int
