"""The dispatchers of the subscriptions in use, and their steps that wait for a transaction."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from server.delivery.dispatcher import GROUP_DELIVERIES, Dispatcher

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from automation.subscriptions.values import Subscription
    from server.delivery.consumer import Consumer
    from server.delivery.dispatcher import StepInProgress
    from server.delivery.match_notifier import MatchNotifier
    from server.storage.database import Database


class Dispatchers:
    """The dispatchers of the subscriptions in use. They are the `server.ingest.riders.Riders` of the group commit."""

    def __init__(
        self,
        database: Database,
        notifier: MatchNotifier,
        make: Callable[..., Dispatcher] = Dispatcher,
        schedule: Callable[[], None] | None = None,
    ) -> None:
        """`schedule` asks the group commit, where there is one, for a transaction for the steps that are due."""
        self._database = database
        self._notifier = notifier
        self._make = make
        self._by_key: dict[int, Dispatcher] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._schedule = schedule
        self._due: dict[Dispatcher, asyncio.Future[None]] = {}

    @contextmanager
    def used(self, current: Subscription) -> Iterator[Dispatcher]:
        """Use the dispatcher of a subscription until the context is left.

        One without users is kept until its work is done: a consumer that returns at once finds its last settlements
        applied, and no second dispatcher grants leases beside it.
        """
        dispatcher = self._by_key.get(current.key)
        if dispatcher is None:
            dispatcher = self._by_key[current.key] = self._make(
                self._database, self._notifier, current, **self._riding()
            )
            on_end = partial(self._by_key.pop, current.key)
            task = asyncio.create_task(dispatcher.run(on_end), name="dispatch-matches")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        dispatcher.users += 1
        try:
            yield dispatcher
        finally:
            dispatcher.leave()

    def _riding(self) -> dict[str, Any]:
        """Return the arguments of a dispatcher whose steps wait for the group commit.

        On a shared database they do not: other servers may hold a subscription's row, and its transactions run beside
        each other.
        """
        return {} if self._schedule is None or self._database.shared else {"steps": self}

    async def take(self, dispatcher: Dispatcher) -> None:
        """Wait until a step of a dispatcher has begun with the next transaction."""
        assert self._schedule is not None
        begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._due[dispatcher] = begun
        self._schedule()
        await begun

    @property
    def due(self) -> bool:
        """True if steps wait for a transaction."""
        return bool(self._due)

    def board(self, project_pks: Collection[int]) -> Sequence[StepInProgress]:
        """Begin the light steps that can be taken with a commit of events of these projects."""
        return [
            self._begin(dispatcher)
            for dispatcher in self._by_key.values()
            if dispatcher.subscription.project_pk in project_pks and dispatcher.can_ride
        ]

    def board_due(self) -> Sequence[StepInProgress]:
        """Begin steps that are due, as many as one transaction takes."""
        steps: list[StepInProgress] = []
        work = 0
        for dispatcher in [*self._due]:
            if work < GROUP_DELIVERIES:
                steps.append(self._begin(dispatcher))
                work += steps[-1].size
        return steps

    def _begin(self, dispatcher: Dispatcher) -> StepInProgress:
        step = dispatcher.begin()
        begun = self._due.pop(dispatcher, None)
        if begun is not None and not begun.done():
            begun.set_result(None)
        return step

    def streams(self, subscription_key: int) -> list[Consumer]:
        """Return the streams that are connected to this server."""
        dispatcher = self._by_key.get(subscription_key)
        return [consumer for consumer in dispatcher.consumers if not consumer.is_pull] if dispatcher else []

    def wake(self, subscription_key: int) -> None:
        """Wake the dispatcher of a subscription that something other than a step has changed."""
        if dispatcher := self._by_key.get(subscription_key):
            dispatcher.wake()

    async def close(self) -> None:
        """Wait until the steps that are in progress have ended."""
        if self._tasks:
            await asyncio.wait(self._tasks)
