"""The journal of the senders: each event before its call, and the answer after it.

Every event carries a number of its own in the property `number`, which identifies it whichever API it was sent to.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any

from registry.times.timestamps import now_micros

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True, slots=True)
class Intent:
    """An event that is about to be sent.

    `api` is the RPC or the dialect. `expected` are its properties as they must be stored. Without a `key` it is sent
    once; with one, until it is answered. `batch` numbers the batches of which all or nothing is stored. An event that
    is not `valid` must be refused, and with it the whole of such a batch.
    """

    number: int
    api: str
    name: str
    email: str
    properties: Mapping[str, Any]
    expected: Mapping[str, Any]
    key: str = ""
    batch: int | None = None
    valid: bool = True


@dataclass(frozen=True, slots=True)
class Receipt:
    """An answer that acknowledges an event; None for values that an API does not return. `automations` matched it."""

    number: int
    event_id: str
    position: int | None = None
    match_count: int | None = None
    automations: tuple[str, ...] | None = None
    at: int = field(default_factory=now_micros)


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event as it is in the final log."""

    position: int
    id: str
    name: str
    email: str
    properties: Mapping[str, Any]
    received_at: int

    @property
    def number(self) -> int:
        return int(self.properties["number"])


@dataclass
class Journal:
    """The entries of all senders."""

    intents: dict[int, Intent] = field(default_factory=dict)
    receipts: dict[int, list[Receipt]] = field(default_factory=lambda: defaultdict(list))
    refusals: dict[int, list[str]] = field(default_factory=lambda: defaultdict(list))
    failures: dict[int, list[str]] = field(default_factory=lambda: defaultdict(list))
    _numbers: count[int] = field(default_factory=lambda: count(1))
    _batches: count[int] = field(default_factory=lambda: count(1))

    def next_number(self) -> int:
        """Return a number for an event."""
        return next(self._numbers)

    def next_batch(self) -> int:
        """Return a number for a batch."""
        return next(self._batches)

    def intend(self, intents: Sequence[Intent]) -> None:
        """Record events that are about to be sent."""
        self.intents |= {intent.number: intent for intent in intents}

    def acknowledge(self, receipt: Receipt) -> None:
        """Record that an event was acknowledged."""
        self.receipts[receipt.number].append(receipt)

    def refuse(self, number: int, reason: str) -> None:
        """Record that an event was refused: nothing of it may be stored."""
        self.refusals[number].append(reason)

    def fail(self, number: int, reason: str) -> None:
        """Record that an event may or may not have been stored."""
        self.failures[number].append(reason)

    @property
    def acknowledged(self) -> int:
        """The number of acknowledged events."""
        return len(self.receipts)
