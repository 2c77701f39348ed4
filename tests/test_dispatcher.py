"""Live: whatever is owed to a consumer with capacity is on its way after finitely many steps.

The real dispatcher, consumer sessions, pulls and match notifier run in virtual time over a subscription in memory,
under schedules drawn from a seed. A failure names its seed. SIGNALBOX_SCHEDULES=100000 is the long form.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import aclosing, suppress
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any, Final, TypeVar

from structlog.testing import capture_logs

from automation.errors import AutomationError
from automation.subscriptions import parked_matches
from automation.subscriptions.values import (
    Ack,
    Extend,
    Nack,
    NackAction,
    ParkedSelection,
    SettleOutcome,
    SubscriptionStats,
    TakeOver,
    Undelivered,
)
from server.delivery import consumer_session
from server.delivery.consumer_session import (
    DeliveryBatch,
    Heartbeat,
    Opening,
    SettleRequest,
    SettleResults,
    StopRequest,
)
from server.delivery.deliveries import Deliveries
from server.delivery.dispatcher import GROUP_DELIVERIES, Dispatcher
from server.delivery.dispatchers import Dispatchers
from server.delivery.match_notifier import MatchNotifier
from server.delivery.subscription_status import SubscriptionStatus
from server.errors import ServiceError
from server.process.shutdown import Shutdown
from server.services.subscriptions import Subscriptions
from tests.support.delivery_model import (
    PROJECT,
    SECOND,
    SUBSCRIPTION,
    ModelCommits,
    ModelDatabase,
    ModelMatches,
    ModelSubscription,
    cancelled,
    set_clock,
)
from tests.support.virtual_time import now, run_virtually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Sequence

    import pytest

    from automation.subscriptions.values import (
        Delivery,
        Settlement,
        SettleResult,
        Subscription,
    )
    from server.delivery.consumer import Consumer
    from server.delivery.consumer_session import ConsumerRequest, ConsumerResponse
    from server.delivery.steps import StepInProgress

T = TypeVar("T")

SCHEDULES = int(os.environ.get("SIGNALBOX_SCHEDULES", "80"))
START: Final = 4_000_000_000 * SECOND
"""Ahead of the real clock: a stream compares leases with that one, and none is late."""
HEARTBEAT: Final = 1.0
LOCAL_SECONDS, SHARED_SECONDS = 0.6, 1.8
"""The longest time for which something owed may be left with a consumer that has capacity; steps take up to 40 ms."""


class CheckedDispatcher(Dispatcher):
    """Checks that a takeover ends no lease whose delivery was settled or returned before.

    Settled: submitted before the takeover. Returned: before the step that takes over.
    """

    def __init__(self, server: Server, *arguments: Any, **options: Any) -> None:
        self._untaken: list[Settlement] = []
        self._before_take_overs: dict[int, list[Settlement]] = {}
        self._undelivered: set[str] = set()
        super().__init__(*arguments, **options)
        self._take_step = server.model.step
        self._group_deliveries = server.group_deliveries
        set_clock(self, server.clock)

    def submit(self, settlements: Sequence[Settlement]) -> asyncio.Future[list[list[SettleResult]]]:
        self._untaken += settlements
        return super().submit(settlements)

    def return_undelivered(self, deliveries: Sequence[Delivery]) -> None:
        self._undelivered |= {delivery.id for delivery in deliveries}
        super().return_undelivered(deliveries)

    async def take_over(self, request: TakeOver) -> list[str]:
        self._before_take_overs[id(request)] = list(self._untaken)
        try:
            return await super().take_over(request)
        finally:
            del self._before_take_overs[id(request)]

    def begin(self) -> StepInProgress:
        assert not self._stepping, "two steps at the same time"
        step = super().begin()
        settlements = [*step.returned, *(each for group in step.submitted for each in group.settlements)]
        self._check(settlements, [take_over.take_over for take_over in step.take_overs])
        return step

    def requeue(self, step: StepInProgress) -> None:
        self._untaken[:0] = [settlement for group in step.submitted for settlement in group.settlements]
        self._undelivered |= {name for returned in step.returned for name in returned.delivery_ids}
        super().requeue(step)

    def _check(self, settlements: Sequence[Settlement | Undelivered], take_overs: Sequence[TakeOver]) -> None:
        taken = {id(settlement) for settlement in settlements}
        self._untaken = [settlement for settlement in self._untaken if id(settlement) not in taken]
        untaken = {id(settlement) for settlement in self._untaken}
        for take_over in take_overs:
            before = self._before_take_overs.get(id(take_over), ())
            late = [settlement for settlement in before if id(settlement) in untaken]
            assert not late, "a takeover goes before earlier settlements"
        returns = [settlement for settlement in settlements if isinstance(settlement, Undelivered)]
        self._undelivered -= {name for settlement in returns for name in settlement.delivery_ids}
        assert not self._undelivered, "a step leaves returned deliveries to the next one"


class Server:
    """The parts of one server that deliver, in virtual time."""

    def __init__(
        self, random: Random, *, shared: bool, group_deliveries: int = GROUP_DELIVERIES, piggyback: bool = False
    ) -> None:
        self.random = random
        self.model = ModelSubscription()
        self.database = ModelDatabase(self.model, random, shared=shared)
        self.notifier = MatchNotifier(self.database)
        self.stopping = asyncio.Event()
        self.group_deliveries = group_deliveries
        self.commits = ModelCommits(self.database, self.model)
        self.model.locked = lambda: shared and random.random() < 0.2
        self.piggyback = piggyback
        schedule = self.commits.schedule if piggyback else None
        self.dispatchers = Dispatchers(self.database, self.notifier, schedule)
        self.dispatchers._make = partial(CheckedDispatcher, self)
        if piggyback:
            self.commits.steps = self.dispatchers
        matches: Any = ModelMatches(self.database, random)
        pushes: Any = None
        self.subscriptions = ModelSubscriptions(self.database, self.dispatchers, matches, pushes)
        self.deliveries = Deliveries(self.subscriptions, self.dispatchers, matches, Shutdown(self.stopping, 5))

    def clock(self) -> int:
        return START + round(asyncio.get_running_loop().time() * SECOND)

    def consumers(self) -> list[Consumer]:
        by_key = self.dispatchers._by_key
        return list(by_key[SUBSCRIPTION.key].consumers) if by_key else []

    def owed(self) -> int:
        """Count the matches that are available to a consumer that has capacity."""
        if any(self.has_capacity(each) for each in self.consumers()):
            return self.model.available(self.clock())
        return 0

    def has_capacity(self, consumer: Consumer) -> bool:
        window = consumer.max_outstanding
        return consumer.capacity > 0 and (window is None or self.model.outstanding(consumer.id) < window)


class ModelSubscriptions(Subscriptions):
    """Knows one subscription without reading it."""

    async def find(self, project_pk: int, subscription: str) -> Subscription:
        return SUBSCRIPTION

    async def status(self, project_pk: int, subscription: str) -> SubscriptionStatus:
        return SubscriptionStatus(SUBSCRIPTION, SubscriptionStats(0, 0, 0, 0, 0), 1)


class Stream:
    """An engine on a stream. It settles in any way at any time, or acknowledges at once if it is `diligent`."""

    def __init__(self, server: Server, consumer_id: str, window: int, *, diligent: bool = False) -> None:
        self.id = consumer_id
        self._server = server
        self._window = window
        self._diligent = diligent
        self._requests: asyncio.Queue[ConsumerRequest | None] = asyncio.Queue()
        self._sequence = 0
        self._heard_at = 0.0
        self._slow = False
        self.failure: Exception | None = None
        self.unanswered: dict[int, float] = {}
        self.held: list[str] = []
        self.task: asyncio.Task[None] | None = None

    def open(self) -> None:
        self._heard_at = now()
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        opening = Opening("engine", self.id, self._window, self.held, HEARTBEAT)
        try:
            async with aclosing(self._server.deliveries.consume(PROJECT, opening, self._outgoing())) as responses:
                async for response in responses:
                    self._heard_at = now()
                    await self._handle(response)
                    # The client has the message before the server goes on.
                    await self._server.database.delay(0.002)
        except (ServiceError, AutomationError) as error:
            self.failure = error

    async def _outgoing(self) -> AsyncIterator[ConsumerRequest]:
        while (request := await self._requests.get()) is not None:
            yield request

    async def _handle(self, response: ConsumerResponse) -> None:
        if isinstance(response, SettleResults):
            del self.unanswered[response.sequence]
        random = self._server.random
        batch = response.deliveries if isinstance(response, DeliveryBatch) else ()
        delivered = [delivery.id for delivery, _ in batch]
        self.held += delivered
        if self._diligent and delivered:
            self.say(Ack(delivered))
        for name in [] if self._diligent else delivered:
            if random.random() < 0.9:
                later(random.random() / 4, self._settle, name)
        if not self._diligent and random.random() < 0.1:
            self._slow = True
            await asyncio.sleep(random.random() / 2)
            self._slow = False

    def _settle(self, name: str) -> None:
        random = self._server.random
        settle = random.choice(("ack", "ack", "ack", "retry", "retry later", "park", "extend"))
        if settle == "ack":
            self.say(Ack([name]))
        elif settle == "extend":
            self.say(Extend([name], 2 * SECOND))
        else:
            action = NackAction.PARK if settle == "park" else NackAction.RETRY
            delay = random.randint(1, 800) * SECOND // 1_000 if settle == "retry later" else 0
            self.say(Nack([name], action, delay))

    def say(self, settlement: Settlement) -> None:
        self._sequence += 1
        self.unanswered[self._sequence] = now()
        self._requests.put_nowait(SettleRequest(self._sequence, settlement))

    def stop(self) -> None:
        self._requests.put_nowait(StopRequest())

    def close(self) -> None:
        self._requests.put_nowait(None)

    def check(self) -> None:
        """Live: something is heard within each interval, and every message is answered."""
        if self.task is None or self.task.done() or self._slow:
            return
        assert now() - self._heard_at < HEARTBEAT + LOCAL_SECONDS, f"{self.id} hears nothing"
        waited = now() - min(self.unanswered.values(), default=now())
        assert waited < HEARTBEAT + LOCAL_SECONDS, f"{self.id} waits for results"


class Schedule:
    """A random history of one subscription, drawn from a seed."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)  # noqa: S311 - it draws schedules
        self.shared = self.random.random() < 0.4
        group_deliveries = self.random.choice((1, 1, 3, GROUP_DELIVERIES))
        piggyback = self.random.random() < 0.6
        self.server = Server(self.random, shared=self.shared, group_deliveries=group_deliveries, piggyback=piggyback)
        self.server.database.failing = self.random.choice((0, 0, 0.02, 0.1))
        self.streams: list[Stream] = []
        self.calls: set[asyncio.Task[None]] = set()

    async def run(self) -> int:
        """Run the schedule; return how many steps it took."""
        server, random = self.server, self.random
        server.notifier.start()
        watching = asyncio.create_task(self._watch())
        committing = asyncio.create_task(server.commits.run())
        try:
            for _ in range(random.randint(5, 40)):
                random.choices(*zip(*self._actions(), strict=True))[0]()
                await asyncio.sleep(random.choice((0, 0, random.expovariate(40))))
                self._raise_from(watching)
            server.database.failing = 0
            await (self._delete() if random.random() < 0.2 else self._drain(watching))
            self._raise_from(watching)
        finally:
            await cancelled(watching)
            for stream in self.streams:
                if stream.task is not None:
                    await cancelled(stream.task)
            ended_at = now()
            await server.dispatchers.close()
            assert now() - ended_at < LOCAL_SECONDS, "a dispatcher outlives its users"
            await server.notifier.close()
            await cancelled(committing)
        return server.model.steps

    def _raise_from(self, watching: asyncio.Task[None]) -> None:
        if watching.done():
            watching.result()
        for call in [call for call in self.calls if call.done()]:
            self.calls.remove(call)
            call.result()

    def _actions(self) -> list[tuple[Callable[[], None], int]]:
        actions = [
            (self._commit, 8),
            (self._open_stream, 6),
            (self._pull, 6),
            (self._end_stream, 3),
            (self._seek, 1),
            (self._replay, 1),
        ]
        return [*actions, (self._elsewhere, 6)] if self.shared else actions

    def _commit(self) -> None:
        """Record matches, with the light steps; the notifier hears of them a little later."""
        if self.server.piggyback and self.random.random() < 0.8:
            self.calls.add(asyncio.create_task(self._commit_with_steps()))
            return
        self._record()
        later(self.random.random() / 50, self.server.notifier.advance, PROJECT, self.server.model.head)

    async def _commit_with_steps(self) -> None:
        head = await self.server.commits.record(self.random.choice((1, 1, 2, 15)))
        self.server.notifier.advance(PROJECT, head)

    def _record(self) -> None:
        self.server.model.head += self.random.choice((1, 1, 2, 15))

    def _elsewhere(self) -> None:
        """Do what another server does on the same database."""
        model, now_there = self.server.model, self.server.clock()
        action = self.random.choice(("record", "record", "lease", "acknowledge", "release", "seek", "replay"))
        if action == "record":
            self._record()
        elif action == "seek":
            model.seek(self.random.randint(0, model.head))
        elif action == "replay":
            model.replay(now_there)
        elif action == "lease":
            for position in [at for at, row in model.rows.items() if row.state == "waiting"][:2]:
                model._lease(position, "elsewhere", now_there)
        else:
            for position in [at for at, row in model.rows.items() if row.state == "leased"][:2]:
                if action == "release":
                    model._fail(position, now_there)
                else:
                    del model.rows[position]

    def _open_stream(self) -> None:
        """Open a stream, or open one again that keeps some of its deliveries."""
        ended = [each for each in self.streams if each.task is not None and each.task.done()]
        consumer_id = self.random.choice(("a", "b", "c", ended[0].id if ended else "d"))
        stream = Stream(self.server, consumer_id, self.random.choice((1, 1, 2, 5)))
        stream.held = [name for each in ended if each.id == consumer_id for name in each.held[-2:]]
        self.streams.append(stream)
        stream.open()

    def _end_stream(self) -> None:
        running = [each for each in self.streams if each.task is not None and not each.task.done()]
        if running:
            stream = self.random.choice(running)
            end = self.random.choice((stream.stop, stream.close, stream.task.cancel if stream.task else stream.close))
            end()

    def _pull(self) -> None:
        self.calls.add(asyncio.create_task(self._pull_and_settle()))

    async def _pull_and_settle(self) -> None:
        random = self.random
        wait = random.choice((0, 0, random.random()))
        with suppress(ServiceError, AutomationError):
            async with asyncio.timeout(wait + LOCAL_SECONDS):
                pulled = await self.server.deliveries.pull(PROJECT, "engine", "puller", random.randint(1, 5), wait)
            await asyncio.sleep(random.random() / 4)
            names = [delivery.id for delivery, _ in pulled.deliveries]
            settlements: tuple[Settlement, ...] = Ack(names), Nack(names, NackAction.RETRY, 0), Extend(names)
            if names:
                async with asyncio.timeout(LOCAL_SECONDS):
                    await self.server.deliveries.settle(PROJECT, "engine", [random.choice(settlements)])

    def _seek(self) -> None:
        self.server.model.seek(self.random.randint(0, self.server.model.head))
        later(self.random.random() / 50, self.server.dispatchers.wake, SUBSCRIPTION.key)

    def _replay(self) -> None:
        self.server.model.replay(self.server.clock())
        later(self.random.random() / 50, self.server.dispatchers.wake, SUBSCRIPTION.key)

    async def _watch(self) -> None:
        """Assert that no owed match is stuck, checking in between all that happens."""
        bound = SHARED_SECONDS if self.shared else LOCAL_SECONDS
        still_since = now()
        delivered = 0
        while True:
            await asyncio.sleep(0.05)
            if not self.server.owed() or self.server.model.serial != delivered:
                still_since, delivered = now(), self.server.model.serial
            assert now() - still_since < bound, f"{self.server.owed()} owed matches are stuck"
            for stream in self.streams:
                stream.check()

    async def _drain(self, watching: asyncio.Task[None]) -> None:
        """Replace the consumers by diligent ones: they get all that is owed, and then no step is taken for nothing."""
        for stream in self.streams:
            if stream.task is not None:
                stream.task.cancel()
        self.server.model.head += 30
        self._commit()
        for consumer_id in ("last", "last but one")[: self.random.randint(1, 2)]:
            self.streams.append(Stream(self.server, consumer_id, self.random.choice((1, 2, 5)), diligent=True))
            self.streams[-1].open()
        deadline = now() + 60
        while not self.server.model.drained():
            await asyncio.sleep(0.1)
            self._raise_from(watching)
            assert now() < deadline, "AtLeastOnce: not all that is owed is delivered"
        await asyncio.sleep(SHARED_SECONDS)
        taken = self.server.model.steps
        await asyncio.sleep(self.random.uniform(1, 2))
        # A poll that meets a stream writing its heartbeat does not look, and is followed by a step that does.
        assert self.server.model.steps - taken <= (8 if self.shared else 0), "steps without work"
        await self._pull_and_settle()
        self._commit()
        await asyncio.sleep(LOCAL_SECONDS)
        assert self.server.model.drained()
        self.server.model.seek(self.server.model.head - 1)
        if not self.shared:
            self.server.dispatchers.wake(SUBSCRIPTION.key)
        await asyncio.sleep(SHARED_SECONDS)
        assert self.server.model.drained()

    async def _delete(self) -> None:
        """Delete the subscription: every consumer gets the error."""
        self.server.model.deleted = True
        if not self.shared:
            self.server.dispatchers.wake(SUBSCRIPTION.key)
        await asyncio.sleep(SHARED_SECONDS if self.shared else LOCAL_SECONDS)
        assert not self.server.consumers()
        # A slow reader hears of it when it reads.
        await asyncio.sleep(LOCAL_SECONDS)
        assert all(stream.task is None or stream.task.done() for stream in self.streams)


def later(seconds: float, call: Callable[..., object], *arguments: object) -> None:
    asyncio.get_running_loop().call_later(seconds, call, *arguments)


def simulate(work: Coroutine[Any, Any, T]) -> T:
    """Run work in virtual time, in which no step of a dispatcher fails."""
    with capture_logs() as logs:
        result = run_virtually(work)
    assert [entry for entry in logs if entry["event"] == "dispatch_failed"] == []
    return result


def run_schedule(seed: int) -> int:
    """Run a schedule; return how many steps it took."""
    try:
        return simulate(Schedule(seed).run())
    except BaseException as error:
        error.add_note(f"seed {seed}")
        raise


def test_a_due_match_is_delivered_while_a_consumer_has_capacity() -> None:
    assert sum(map(run_schedule, range(SCHEDULES))) > SCHEDULES


async def pulled_beside_the_steps_of_others(seed: int) -> int:
    """Pull without waiting while other servers cause steps; return the number of matches that were delivered."""
    server = Server(Random(seed), shared=True)  # noqa: S311 - as above
    server.model.head = 4
    pulls = [asyncio.create_task(server.deliveries.pull(PROJECT, "engine", "puller", 1, 0)) for _ in range(4)]
    for _ in range(20):
        server.dispatchers.wake(SUBSCRIPTION.key)
        await asyncio.sleep(server.random.random() / 100)
    batches = [await pull for pull in pulls]
    await server.dispatchers.close()
    return sum(len(batch.deliveries) for batch in batches)


def test_a_pull_that_does_not_wait_is_answered_by_a_step_that_looked_for_it() -> None:
    assert {simulate(pulled_beside_the_steps_of_others(seed)) for seed in range(20)} == {4}


async def replayed_by_a_caller_that_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(Random(0), shared=False)  # noqa: S311 - as above
    server.model.head = server.model.read_position = 1
    server.model.parked = {1}

    def replay(*_: object) -> int:
        server.model.replay(server.clock())
        return 1

    monkeypatch.setattr(parked_matches, "replay_parked", replay)
    monkeypatch.setattr("server.services.subscriptions.transaction_time", lambda _: server.clock())
    stream = Stream(server, "idle", 1, diligent=True)
    stream.open()
    await asyncio.sleep(HEARTBEAT / 2)
    chosen = ParkedSelection(all=True)
    caller = asyncio.create_task(server.subscriptions.replay_parked(PROJECT, "engine", chosen, dry_run=False))
    while not server.database.writing:  # noqa: ASYNC110 - it does not tell
        await asyncio.sleep(0)
    await cancelled(caller)
    await asyncio.sleep(LOCAL_SECONDS)
    assert (server.model.parked, server.model.drained()) == (set(), True)
    assert stream.task is not None
    await cancelled(stream.task)
    await server.dispatchers.close()


def test_a_replay_is_delivered_although_its_caller_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    simulate(replayed_by_a_caller_that_gives_up(monkeypatch))


async def acknowledged_just_before_a_takeover() -> None:
    server = Server(Random(0), shared=False, group_deliveries=1)  # noqa: S311 - as above
    server.model.head = 4
    pulled = await server.deliveries.pull(PROJECT, "engine", "worker", 4, 0)
    names = [delivery.id for delivery, _ in pulled.deliveries]
    with server.dispatchers.used(SUBSCRIPTION) as dispatcher:
        submitted = [dispatcher.submit([Ack([name])]) for name in names]
        assert await dispatcher.take_over(TakeOver("worker", names)) == []
        outcomes = [(await results)[0][0].outcome for results in submitted]
    assert outcomes == [SettleOutcome.ACKNOWLEDGED] * len(names)
    assert (len(names), server.model.rows) == (4, {})
    await server.dispatchers.close()


def test_settlements_submitted_before_a_takeover_are_applied_before_it() -> None:
    simulate(acknowledged_just_before_a_takeover())


async def delivered_after_a_heartbeat_was_taken() -> tuple[int, int]:
    """Return the leases of a consumer while the transport does not take its heartbeat, and those after that."""
    server = Server(Random(0), shared=False)  # noqa: S311 - as above
    opening = Opening("engine", "slow", 4, [], HEARTBEAT)
    stream = Stream(server, "slow", 4)
    async with aclosing(server.deliveries.consume(PROJECT, opening, stream._outgoing())) as responses:
        await anext(responses)
        assert isinstance(await anext(responses), Heartbeat)
        server.model.head = 1
        server.notifier.advance(PROJECT, 1)
        await asyncio.sleep(HEARTBEAT)
        leased = server.model.outstanding("slow")
        batch = await anext(responses)
        while isinstance(batch, Heartbeat):
            batch = await anext(responses)
        assert isinstance(batch, DeliveryBatch)
    await server.dispatchers.close()
    return leased, len(batch.deliveries)


def test_no_match_is_leased_while_a_heartbeat_waits_for_the_transport() -> None:
    assert simulate(delivered_after_a_heartbeat_was_taken()) == (0, 1)


async def renewed_for(seconds: float) -> float:
    """Return by how many seconds a lease was renewed whose batch the transport took after a time."""
    server = Server(Random(0), shared=False)  # noqa: S311 - as above
    server.model.head = 1
    opening = Opening("engine", "slow", 4, [], 10 * HEARTBEAT)
    async with aclosing(
        server.deliveries.consume(PROJECT, opening, Stream(server, "slow", 4)._outgoing())
    ) as responses:
        await anext(responses)
        batch = await anext(responses)
        assert isinstance(batch, DeliveryBatch)
        await asyncio.sleep(seconds)
        following = asyncio.create_task(anext(responses))
        await asyncio.sleep(0.05)
        renewed = server.model.rows[1].due_at - batch.deliveries[0].delivery.lease_expires_at
        await cancelled(following)
    await server.dispatchers.close()
    return renewed / SECOND


def test_leases_begin_anew_if_their_batch_was_taken_after_a_tenth_of_the_ack_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def clock() -> int:
        return START + round(asyncio.get_running_loop().time() * SECOND)

    monkeypatch.setattr(consumer_session, "database_now", clock)
    assert simulate(renewed_for(0.01)) == 0
    assert simulate(renewed_for(0.3)) >= 0.3


async def taken_over_by_a_caller_that_gives_up() -> None:
    server = Server(Random(0), shared=False)  # noqa: S311 - as above
    server.model.head = 4
    pulled = await server.deliveries.pull(PROJECT, "engine", "worker", 4, 0)
    with server.dispatchers.used(SUBSCRIPTION) as dispatcher:
        caller = asyncio.create_task(dispatcher.take_over(TakeOver("worker")))
        await asyncio.sleep(0)
        await cancelled(caller)
        settled = await dispatcher.submit([Ack([delivery.id for delivery, _ in pulled.deliveries])])
    await server.dispatchers.close()
    assert {result.outcome for result in settled[0]} == {SettleOutcome.ACKNOWLEDGED}


def test_a_takeover_that_nobody_waits_for_ends_no_lease() -> None:
    simulate(taken_over_by_a_caller_that_gives_up())
