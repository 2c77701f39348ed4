"""A subscription and its consumers as this server sees them, as values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from automation.subscriptions.push import Push
    from automation.subscriptions.values import Subscription, SubscriptionStats


@dataclass(frozen=True, slots=True)
class SubscriptionStatus:
    """A subscription with its progress, and the number of consumers that are connected to this server.

    `push` is None if it does not push. `made_secret` is set only in the result of the call that made it.
    """

    subscription: Subscription
    stats: SubscriptionStats
    consumer_count: int
    push: Push | None = None
    made_secret: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class ConsumerStatus:
    """A consumer that is connected or holds leases; `max_outstanding` and `connected_at` are 0 unless connected."""

    id: str
    outstanding_count: int
    max_outstanding: int = 0
    connected_at: int = 0
