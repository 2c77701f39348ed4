"""What consumers do with a subscription: consume its matches on a stream, pull them, settle them."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, contextmanager
from typing import TYPE_CHECKING, Protocol

from automation.errors import SubscriptionNotFound
from automation.subscriptions.values import TakeOver
from server.current_call.wait import current_wait
from server.delivery.consumer import Consumer
from server.delivery.consumer_session import ConsumerSession, DeliveryBatch, Opened
from server.delivery.loading import load_deliveries, parking, trace_deliveries
from server.errors import SubscriptionPushes
from server.process.shutdown import until

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence

    from automation.subscriptions.values import Delivery, Settlement, SettleResult, Subscription
    from server.current_call.wait import CallWait
    from server.delivery.consumer_session import ConsumerRequest, ConsumerResponse, Opening
    from server.delivery.dispatcher import Dispatcher
    from server.delivery.dispatchers import Dispatchers
    from server.delivery.match_reader import MatchReader
    from server.delivery.subscription_status import SubscriptionStatus
    from server.process.shutdown import Shutdown
    from server.tracing.tracer import Tracer


class SubscriptionReader(Protocol):
    """Reads subscriptions, which are named by their ids or names. Both methods raise SubscriptionNotFound."""

    async def find(self, project_pk: int, subscription: str) -> Subscription:
        """Return a subscription without its status."""
        ...

    async def status(self, project_pk: int, subscription: str) -> SubscriptionStatus:
        """Return a subscription with its status."""
        ...


class Deliveries:
    """Delivers matches to consumers. A subscription is named by its id or name."""

    def __init__(
        self,
        subscriptions: SubscriptionReader,
        dispatchers: Dispatchers,
        reader: MatchReader,
        shutdown: Shutdown,
        tracer: Tracer | None = None,
    ) -> None:
        self._tracer = tracer
        self._subscriptions = subscriptions
        self._dispatchers = dispatchers
        self._reader = reader
        self._shutdown = shutdown

    async def consume(
        self, project_pk: int, opening: Opening, requests: AsyncIterator[ConsumerRequest]
    ) -> AsyncGenerator[ConsumerResponse, None]:
        """Yield the responses of a stream, Opened first. The rules are those of `ConsumerSession`.

        Raise SubscriptionNotFound, SubscriptionPushes and ConsumerReplaced, the errors of reading requests, and
        Stopping at a shutdown.
        """
        subscription = await self._find_pulled(project_pk, opening.subscription)
        with self._dispatching(subscription, opening.subscription) as dispatcher:
            session = ConsumerSession(dispatcher, self._reader, self._shutdown, opening, self._tracer)
            with dispatcher.attached(session.consumer):
                held = await dispatcher.take_over(TakeOver(opening.consumer_id, opening.held_delivery_ids))
                session.consumer.keep(*held)
                yield Opened(opening, await self._subscriptions.status(project_pk, subscription.id), held)
                async with aclosing(session.responses(requests)) as responses:
                    async for response in responses:
                        yield response

    async def pull(
        self, project_pk: int, name: str, consumer_id: str, max_matches: int, wait_seconds: float
    ) -> DeliveryBatch:
        """Lease up to `max_matches`, as many as fit into a response, waiting up to `wait_seconds` for the first one.

        Raise SubscriptionNotFound, SubscriptionPushes, and Stopping when the server shuts down before any are leased.
        """
        subscription = await self._find_pulled(project_pk, name)
        consumer = Consumer(consumer_id)
        with self._dispatching(subscription, name) as dispatcher:
            return await until(self._shutdown.stopping, self._pull(dispatcher, consumer, max_matches, wait_seconds))

    async def settle(self, project_pk: int, name: str, settlements: Sequence[Settlement]) -> Sequence[SettleResult]:
        """Settle and extend deliveries in one transaction. Raise SubscriptionNotFound."""
        subscription = await self._subscriptions.find(project_pk, name)
        with self._dispatching(subscription, name) as dispatcher:
            return [result for results in await dispatcher.submit(settlements) for result in results]

    async def park(self, project_pk: int, name: str, unwritable: Sequence[tuple[Delivery, str]]) -> None:
        """Park pulled deliveries that cannot be written, each with the reason. Raise SubscriptionNotFound."""
        if unwritable:
            await self.settle(project_pk, name, parking(unwritable))

    async def _find_pulled(self, project_pk: int, name: str) -> Subscription:
        """Return a subscription that consumers may connect to."""
        subscription = await self._subscriptions.find(project_pk, name)
        if subscription.pushes:
            raise SubscriptionPushes(name)
        return subscription

    @contextmanager
    def _dispatching(self, subscription: Subscription, name: str) -> Iterator[Dispatcher]:
        """Use the dispatcher of a subscription; a SubscriptionNotFound names it as the caller does."""
        try:
            with self._dispatchers.used(subscription) as dispatcher:
                yield dispatcher
        except SubscriptionNotFound:
            raise SubscriptionNotFound(name) from None

    async def _pull(
        self, dispatcher: Dispatcher, consumer: Consumer, max_matches: int, wait_seconds: float
    ) -> DeliveryBatch:
        latest = asyncio.get_running_loop().time() + wait_seconds
        wait = current_wait()
        wait.wake = consumer.changed.set
        with dispatcher.attached(consumer):
            while True:
                consumer.changed.clear()
                consumer.check()
                dispatcher.request(consumer, max_matches)
                await _first_delivery(consumer, latest, wait)
                deliveries = consumer.take()
                loaded = await load_deliveries(self._reader, dispatcher, deliveries)
                # If all deliveries are unreadable, later ones may be readable.
                if self._tracer is not None:
                    trace_deliveries(self._tracer, loaded, dispatcher.subscription.id)
                if loaded or not deliveries:
                    return DeliveryBatch(loaded, dispatcher.subscription.max_attempts)


async def _first_delivery(consumer: Consumer, latest: float, wait: CallWait) -> None:
    """Wait until one step has looked for matches, and then for a delivery, until `latest` or the wait is over."""
    await consumer.changed.wait()
    try:
        async with asyncio.timeout_at(latest):
            while not (consumer.deliveries or wait.over):
                consumer.check()
                consumer.changed.clear()
                await consumer.changed.wait()
    except TimeoutError:
        pass
    consumer.check()
