"""A step of a subscription: the work that it took from the dispatcher, and its transaction.

begin      the dispatcher takes the waiting settlements, returns, takeovers and requests
run        in a transaction of its own, or in one with others (`server.ingest.piggyback`), which may be repeated
end        the transaction is durable: the dispatcher hands out the results
requeue    it was rolled back for another reason, or the subscription was locked: the dispatcher takes a step again
fail       the step failed, or may or may not be stored
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from automation.errors import SubscriptionNotFound
from automation.subscriptions.log_reading import READ_LIMIT
from automation.subscriptions.store import SubscriptionLocked

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence

    from sqlalchemy import Connection

    from automation.subscriptions.log_reading import Recorded
    from automation.subscriptions.values import (
        DeliveryRequest,
        SearchBounds,
        Settlement,
        SettleResult,
        StepResult,
        Subscription,
        TakeOver,
        Undelivered,
    )
    from server.delivery.consumer import Consumer


class Step(Protocol):
    """A function that takes a step as `automation.subscriptions.leasing.step` does; see there.

    In a group commit it also gets `recorded`, the matches that the transaction has recorded.
    """

    def __call__(
        self,
        connection: Connection,
        subscription_key: int,
        clock: Callable[[], int],
        settlements: Sequence[Settlement | Undelivered],
        requests: Sequence[DeliveryRequest],
        take_overs: Sequence[TakeOver],
        bounds: SearchBounds,
    ) -> StepResult:
        """Settle, take over, expire and lease."""
        ...


@dataclass(frozen=True, slots=True)
class PendingSettlements:
    """Settlements that wait for a step, and the future of their results."""

    settlements: Sequence[Settlement]
    done: asyncio.Future[list[list[SettleResult]]]


@dataclass(frozen=True, slots=True)
class PendingTakeOver:
    """A takeover that waits for a step, and the future of the deliveries that are kept."""

    take_over: TakeOver
    done: asyncio.Future[list[str]]


class StepOwner(Protocol):
    """What a step needs of its dispatcher: it runs the step, and is notified of the result."""

    subscription: Subscription

    def run_step(self, connection: Connection, step: StepInProgress, recorded: Recorded | None) -> StepResult:
        """Take a step in a transaction, which has `recorded` matches if it is a group commit."""
        ...

    def end(self, step: StepInProgress, result: StepResult) -> None:
        """Hand out the results of a step, once it is durable."""
        ...

    def requeue(self, step: StepInProgress) -> None:
        """Take a step again that was not committed."""
        ...

    def fail(self, step: StepInProgress, error: Exception) -> None:
        """Report an error to the consumers and submitters whose work a step took."""
        ...


class StepInProgress:
    """A step that has begun, with the work that it took. It is a `server.ingest.piggyback.PiggybackedStep`."""

    def __init__(
        self,
        dispatcher: StepOwner,
        pending: Sequence[PendingSettlements | PendingTakeOver],
        returned: Sequence[Undelivered],
        consumers: Sequence[Consumer],
        requests: Sequence[DeliveryRequest],
        bounds: SearchBounds,
        availability_version: int,
        woken: int,
    ) -> None:
        self.project_pk = dispatcher.subscription.project_pk
        self.pending = pending
        self.submitted = [settlements for settlements in pending if isinstance(settlements, PendingSettlements)]
        self.take_overs = [take_over for take_over in pending if isinstance(take_over, PendingTakeOver)]
        self.returned = returned
        self.consumers = consumers
        self.requests = requests
        self.bounds = bounds
        self.availability_version = availability_version
        self.woken = woken
        self._dispatcher = dispatcher
        self._result: StepResult | None = None
        self._error: Exception | None = None

    @property
    def size(self) -> int:
        """The number of deliveries that the step settles, and of those that it may lease."""
        settled = sum(len(settlement.delivery_ids) for group in self.submitted for settlement in group.settlements)
        return settled + sum(min(request.capacity, READ_LIMIT) for request in self.requests)

    def run_alone(self, connection: Connection) -> None:
        """Take the step in a transaction of its own."""
        self._result = self._dispatcher.run_step(connection, self, None)

    def run(self, connection: Connection, recorded: Recorded) -> None:
        """Take the step as a part of a transaction that has recorded these matches."""
        self._result = self._error = None
        # Both errors are raised before the step writes anything, so the transaction can continue.
        try:
            self._result = self._dispatcher.run_step(connection, self, recorded)
        except SubscriptionLocked:
            pass
        except SubscriptionNotFound as error:
            self._error = error

    def end(self) -> None:
        """Hand out the results, once the transaction is durable."""
        if self._error is not None:
            self.fail(self._error)
        elif self._result is None:
            self.requeue()
        else:
            self._dispatcher.end(self, self._result)

    def requeue(self) -> None:
        """Take the step again, in a transaction of its own."""
        self._dispatcher.requeue(self)

    def fail(self, error: Exception) -> None:
        """Report an error to the consumers and submitters whose work the step took."""
        self._dispatcher.fail(self, error)
