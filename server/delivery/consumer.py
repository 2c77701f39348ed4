"""A consumer of a subscription as its dispatcher sees it: what it requested, what it holds, what it was delivered.

A stream chooses the most leases that it may hold, `max_outstanding`, when it opens (`rpc/messages/deliveries.py` checks
the range), and a step leases no more (`automation.subscriptions.leasing`). A pull has no such limit.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from automation.subscriptions.values import lease_serial
from registry.times.timestamps import now_micros

if TYPE_CHECKING:
    from collections.abc import Sequence

    from automation.subscriptions.values import Delivery

DEFAULT_OUTSTANDING: Final = 100
MAX_OUTSTANDING: Final = 10_000
"""The most leases that a stream may hold at once."""


class Consumer:
    """A stream, or a single pull, whose `max_outstanding` is None. One that `pushes` is the server itself.

    `capacity` is the number of matches requested and not yet delivered, `outstanding` the number of leases after the
    last step, `newest_serial` the number of its newest lease. `changed` is set on deliveries, on a failure, on another
    number of outstanding leases, and for a pull at the end of a step that looked for matches.
    """

    def __init__(self, consumer_id: str, max_outstanding: int | None = None, *, pushes: bool = False) -> None:
        self.id = consumer_id
        self.pushes = pushes
        self.max_outstanding = max_outstanding
        self.connected_at = now_micros()
        self.changed = asyncio.Event()
        self.deliveries: list[Delivery] = []
        self.outstanding = 0
        self.newest_serial = 0
        self.capacity = 0
        self.stopped = False
        self._failure: Exception | None = None

    @property
    def is_pull(self) -> bool:
        """True if the consumer is a single pull."""
        return self.max_outstanding is None

    @property
    def has_capacity(self) -> bool:
        """True if an available match would be delivered, by the number of leases after the last step."""
        return self.capacity > 0 and (self.max_outstanding is None or self.outstanding < self.max_outstanding)

    def deliver(self, deliveries: Sequence[Delivery]) -> None:
        """Add deliveries, and subtract them from the capacity.

        A stream may be delivered the rest of its capacity before it takes these. For a pull and for the server's own
        consumer the request ends with its first deliveries: a pull responds at once, and after these matches a push may
        have to pause, because its receiver asks for that.
        """
        self.deliveries += deliveries
        self.keep(deliveries[-1].id)  # in the order of their leases
        self.capacity = 0 if self.is_pull or self.pushes else max(0, self.capacity - len(deliveries))

    def keep(self, *delivery_ids: str) -> None:
        """Note that leases are the consumer's own."""
        self.newest_serial = max(self.newest_serial, *map(lease_serial, delivery_ids), 0)

    def take(self) -> list[Delivery]:
        """Remove and return the deliveries."""
        taken, self.deliveries = self.deliveries, []
        return taken

    def fail(self, failure: Exception) -> None:
        """Make `check` raise the failure."""
        self._failure = failure
        self.changed.set()

    def check(self) -> None:
        """Raise the failure that ended the consumer, if any."""
        if self._failure is not None:
            raise self._failure
