"""The dispatchers of the subscriptions in use, and their steps that wait for a transaction."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from server.delivery.dispatcher import GROUP_DELIVERIES, Dispatcher
from server.sharing.fair_queue import FairQueue

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from automation.subscriptions.values import Subscription
    from server.delivery.consumer import Consumer
    from server.delivery.match_notifier import MatchNotifier
    from server.delivery.steps import StepInProgress
    from server.metrics.subscriptions import DeliveryTimes
    from server.storage.database import Database

PIGGYBACK_STEPS: Final = 8
"""The most steps in a commit of events, whose senders wait for them. The others wait for a group of their own."""

GROUP_STEPS: Final = 32
"""The most steps of one transaction. Those of all projects are taken in turn."""


class Dispatchers:
    """The dispatchers of the subscriptions in use: the `server.ingest.piggyback.StepSource` of the group commit."""

    def __init__(
        self,
        database: Database,
        notifier: MatchNotifier,
        schedule: Callable[[], None] | None = None,
        times: Callable[[int], DeliveryTimes] | None = None,
    ) -> None:
        """`schedule` asks the group commit, where there is one, for a transaction for the steps that are due.

        `times` returns where the times of a subscription's deliveries are counted, by its key.
        """
        self._times = times
        self._database = database
        self._notifier = notifier
        self._make: Callable[..., Dispatcher] = Dispatcher
        self._by_key: dict[int, Dispatcher] = {}
        self._by_project: defaultdict[int, list[Dispatcher]] = defaultdict(list)
        self._tasks: set[asyncio.Task[None]] = set()
        self._schedule = schedule
        self._due: dict[Dispatcher, asyncio.Future[None]] = {}
        self._line: FairQueue[Dispatcher] = FairQueue()  # of those that are due, and of some whose step has begun since

    @contextmanager
    def used(self, current: Subscription) -> Iterator[Dispatcher]:
        """Use the dispatcher of a subscription until the context is left.

        One without users is kept until its work is done: a consumer that returns at once finds its last settlements
        applied, and no second dispatcher grants leases beside it.
        """
        dispatcher = self._by_key.get(current.key)
        if dispatcher is None:
            dispatcher = self._by_key[current.key] = self._make(
                self._database, self._notifier, current, **self._scheduling(), **self._timing(current)
            )
            self._by_project[current.project_pk].append(dispatcher)
            on_end = partial(self._remove, current)
            task = asyncio.create_task(dispatcher.run(on_end), name="dispatch-matches")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        dispatcher.users += 1
        try:
            yield dispatcher
        finally:
            dispatcher.leave()

    def _remove(self, current: Subscription) -> None:
        dispatcher = self._by_key.pop(current.key)
        dispatchers = self._by_project[current.project_pk]
        dispatchers.remove(dispatcher)
        if not dispatchers:
            del self._by_project[current.project_pk]

    def _scheduling(self) -> dict[str, Any]:
        """Return the arguments of a dispatcher whose steps wait for the group commit.

        On a shared database they do not: other servers may hold a subscription's row, and its transactions run beside
        each other.
        """
        return {} if self._schedule is None or self._database.shared else {"steps": self}

    def _timing(self, current: Subscription) -> dict[str, Any]:
        return {} if self._times is None else {"times": self._times(current.key)}

    async def take(self, dispatcher: Dispatcher) -> None:
        """Wait until a step of a dispatcher has begun with the next transaction."""
        assert self._schedule is not None
        begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._due[dispatcher] = begun
        self._line.push(dispatcher.subscription.project_pk, dispatcher)
        self._schedule()
        await begun

    @property
    def due(self) -> bool:
        """True if steps wait for a transaction."""
        return bool(self._due)

    def begin_light(self, project_pks: Collection[int]) -> Sequence[StepInProgress]:
        """Begin the light steps that can be taken with a commit of events of these projects, up to PIGGYBACK_STEPS."""
        able = (
            dispatcher
            for project_pk in project_pks
            for dispatcher in self._by_project.get(project_pk, ())
            if dispatcher.can_piggyback
        )
        return [self._begin(dispatcher) for dispatcher in islice(able, PIGGYBACK_STEPS)]

    def begin_due(self) -> Sequence[StepInProgress]:
        """Begin steps that are due, as many as one transaction takes, projects in turn."""
        steps: list[StepInProgress] = []
        work = 0
        while self._due and work < GROUP_DELIVERIES and len(steps) < GROUP_STEPS:
            dispatcher = self._line.pop()
            if dispatcher in self._due:
                steps.append(self._begin(dispatcher))
                work += steps[-1].size
        return steps

    def _begin(self, dispatcher: Dispatcher) -> StepInProgress:
        step = dispatcher.begin()
        begun = self._due.pop(dispatcher, None)
        if begun is not None and not begun.done():
            begun.set_result(None)
        if not self._due:
            self._line = FairQueue()
        return step

    def streams(self, subscription_key: int) -> list[Consumer]:
        """Return the streams that are connected to this server, without the server's own consumer."""
        dispatcher = self._by_key.get(subscription_key)
        consumers = dispatcher.consumers if dispatcher else []
        return [consumer for consumer in consumers if not consumer.is_pull and not consumer.pushes]

    def wake(self, subscription_key: int) -> None:
        """Wake the dispatcher of a subscription that something other than a step has changed."""
        if dispatcher := self._by_key.get(subscription_key):
            dispatcher.wake()

    async def close(self) -> None:
        """Wait until the steps that are in progress have ended."""
        if self._tasks:
            await asyncio.wait(self._tasks)
