"""Limits the push requests in progress of a server, and the bytes of their bodies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from server.sharing.fair_budget import FairBudget

if TYPE_CHECKING:
    from automation.subscriptions.values import Subscription

ALL_IN_FLIGHT: Final = 512
"""The most requests in progress of all subscriptions; projects share them."""
PART_BYTES: Final = 64 * 1024
"""A body that is larger counts as several requests."""


class PushBudget:
    """The requests in progress of a server, in units: one for a request, several for a large body.

    Projects share ALL_IN_FLIGHT units. One project has at most half of them, which its subscriptions share.
    """

    def __init__(self) -> None:
        self._shared = FairBudget(ALL_IN_FLIGHT)
        self._projects: dict[int, FairBudget] = {}

    def take(self, subscription: Subscription, size: int) -> bool:
        """Begin a request with a body of this size if a subscription may now; return whether it may."""
        own, cost = self._own(subscription), self._cost(size)
        if not own.take(subscription.key, cost):
            return False
        if self._shared.take(subscription.project_pk, cost):
            return True
        self._give_own(subscription, cost)
        return False

    async def acquire(self, subscription: Subscription, size: int) -> None:
        """Wait until a subscription may begin a request with a body of this size, and begin it."""
        own, cost = self._own(subscription), self._cost(size)
        await own.acquire(subscription.key, cost)
        try:
            await self._shared.acquire(subscription.project_pk, cost)
        except BaseException:
            self._give_own(subscription, cost)
            raise

    def give(self, subscription: Subscription, size: int) -> None:
        """End a request."""
        cost = self._cost(size)
        self._shared.give(subscription.project_pk, cost)
        self._give_own(subscription, cost)

    @property
    def used(self) -> int:
        """The number of requests in progress, large ones counted several times."""
        return self._shared.used

    def _own(self, subscription: Subscription) -> FairBudget:
        return self._projects.setdefault(subscription.project_pk, FairBudget(ALL_IN_FLIGHT // 2))

    def _give_own(self, subscription: Subscription, cost: int) -> None:
        own = self._projects[subscription.project_pk]
        own.give(subscription.key, cost)
        if not own.used:
            del self._projects[subscription.project_pk]

    def _cost(self, size: int) -> int:
        return min(max(1, -(-size // PART_BYTES)), ALL_IN_FLIGHT // 4)
