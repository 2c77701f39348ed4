"""Where a step searches for leases that end and retries that are due. Times are microseconds UTC."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sqlalchemy import bindparam, func, select

from automation.prepared_statements import Prepared
from automation.subscriptions.store import LEASED, WAITING
from automation.subscriptions.tables import subscription_delivery
from automation.subscriptions.values import DeliveryOrder, SearchBounds

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import Connection

    from automation.subscriptions.values import Subscription

BOUNDS_MARGIN: Final = 2_000_000
"""After a step of the clock up to this, in microseconds, a due match is still found at once."""
FULL_SEARCH_PERIOD: Final = 10_000_000
"""After a larger step of the clock, a due match is found within this time."""

NEVER: Final = 2**62

_delivery = subscription_delivery.c


@dataclass(slots=True)
class DueSearch:
    """Where a step searches for due leases and retries, and for the next ones. See SearchBounds."""

    now: int
    leases_from: int
    retries_from: int
    next_lease: int
    next_retry: int
    full_at: int
    nothing_due_until: int = 0

    @classmethod
    def begin(
        cls, subscription: Subscription, bounds: SearchBounds, now: int, *, writes_no_due_time: bool
    ) -> DueSearch:
        """Begin where the last step ended, or at the beginning of time.

        `writes_no_due_time` if neither this step, its new leases apart, nor another node writes a time at which a lease
        ends or a retry is due. Such a step needs no search before `nothing_due_until`.
        """
        if writes_no_due_time and now < bounds.nothing_due_until:
            known = bounds.leases_from, bounds.retries_from, bounds.next_lease, bounds.next_retry, bounds.full_at
            return cls(now, *known, bounds.nothing_due_until)
        if now >= bounds.full_at or now < max(bounds.leases_from, bounds.retries_from):
            return cls(now, 0, 0, now + 1, now + 1, now + FULL_SEARCH_PERIOD)
        next_lease, next_retry = max(bounds.next_lease, now + 1), max(bounds.next_retry, now + 1)
        if subscription.order is DeliveryOrder.CONTACT:
            # A match that an earlier one of its contact sets free may be due at any time.
            next_retry = now + 1
        return cls(now, bounds.leases_from, bounds.retries_from, next_lease, next_retry, bounds.full_at)

    @property
    def skipped(self) -> bool:
        """True on the fast path: nothing is due before `nothing_due_until`, so the step needs no search."""
        return self.nothing_due_until > self.now

    def note_written(self, lease_end: int, retry_due: int) -> None:
        """Update the bounds after a step that has searched nothing.

        `lease_end` is when its leases end, `retry_due` when the first match that it has unblocked is due; NEVER if it
        wrote no such time.
        """
        self.nothing_due_until = min(self.nothing_due_until, lease_end, retry_due)
        self.next_lease = min(self.next_lease, lease_end)
        self.next_retry = min(self.next_retry, retry_due)

    def find_next(
        self,
        connection: Connection,
        subscription: Subscription,
        written: Iterable[int],
        *,
        all_due: bool,
        all_expired: bool,
    ) -> None:
        """Update the bounds after a step, and find when a lease ends and a match is due next, NEVER where none is.

        `written` are the times at which leases end or matches are due that the step has written, 0 where it wrote none.
        `all_due` if it has leased all matches that were due, `all_expired` if it has ended all leases that were over.
        """
        self._advance(min(time for time in written if time), all_due=all_due, all_expired=all_expired)
        times = _NEXT.row(connection, own=subscription.key, lease=self.next_lease, retry=self.next_retry)
        self.next_lease, self.next_retry = (time or NEVER for time in times)
        self.nothing_due_until = min(self.next_lease, self.next_retry) if all_due and all_expired else 0

    def _advance(self, earliest_written: int, *, all_due: bool, all_expired: bool) -> None:
        self.next_lease = max(min(self.next_lease, earliest_written), self.now + 1)
        self.next_retry = max(min(self.next_retry, earliest_written), self.now + 1)
        if all_expired:
            self.leases_from = max(0, self.now - BOUNDS_MARGIN)
        if all_due:
            self.retries_from = max(0, self.now - BOUNDS_MARGIN)

    @property
    def next_due(self) -> int:
        """The time of the next lease that ends or match that is due, at the earliest; 0 if there is neither."""
        next_due = self.nothing_due_until or min(self.next_lease, self.next_retry)
        return 0 if next_due == NEVER else next_due

    def bounds(self) -> SearchBounds:
        """Return the bounds for the next step; the time is NEVER where no lease ends or no retry is due."""
        times = self.leases_from, self.retries_from, self.next_lease, self.next_retry, self.full_at
        return SearchBounds(*times, self.nothing_due_until)


_NEXT = Prepared(
    select(
        *(
            select(func.min(_delivery.due_at))
            .where(
                _delivery.subscription_key == bindparam("own"),
                _delivery.state == state,
                _delivery.due_at >= bindparam(first),
            )
            .scalar_subquery()
            for state, first in ((LEASED, "lease"), (WAITING, "retry"))
        )
    )
)
