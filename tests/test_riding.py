"""Steps of delivery that ride with a group commit: one transaction, and no harm to the senders."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
import pytest_asyncio

from automation.automations import AutomationState, NewAutomation
from automation.subscriptions import leasing
from automation.subscriptions.store import create_subscription, delete_subscription
from automation.subscriptions.values import Ack, MatchFilter, SettleOutcome
from server.delivery.consumer import Consumer
from server.delivery.dispatcher import Dispatcher
from server.delivery.dispatchers import GROUP_STEPS, RIDING_STEPS, Dispatchers
from server.errors import StorageRefused
from tests.support.ingest_pipeline import GatedDatabase, drafts, ingest_pipeline_over
from tests.support.stores import PostgresStore
from tests.test_leasing import SUBSCRIPTION

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Sequence

    from automation.subscriptions.values import Delivery, StepResult, Subscription
    from server.delivery.steps import StepInProgress
    from server.storage.database import Database
    from tests.support.ingest_pipeline import IngestPipeline
    from tests.support.stores import Store

ALWAYS = NewAutomation("x", "page_viewed", "", AutomationState.ACTIVE)


class Riding:
    """A subscription in use beside a queue of events, with a consumer that has got all that there was."""

    def __init__(self, pipeline: IngestPipeline, database: GatedDatabase, subscription: Subscription) -> None:
        self.pipeline = pipeline
        self.breaking = False
        self._database = database
        self._subscription = subscription
        self.dispatchers = Dispatchers(database, pipeline.notifier, pipeline.queue.schedule_steps)
        self.dispatchers._make = self._make
        pipeline.queue.riders = self.dispatchers
        self.consumer = Consumer("a", 100)

    def _make(self, *arguments: Any, **options: Any) -> Dispatcher:
        dispatcher = Dispatcher(*arguments, **options)
        dispatcher._take_step = self._step
        return dispatcher

    def _step(self, *arguments: Any, **options: Any) -> StepResult:
        result = leasing.step(*arguments, **options)
        if self.breaking and options.get("recorded") is not None:
            raise ZeroDivisionError
        return result

    async def idle(self, dispatcher: Dispatcher) -> None:
        """Wait until the consumer has got everything and the dispatcher waits for more."""
        dispatcher.request(self.consumer, 10)
        while not dispatcher._exhausted or dispatcher._stepping:  # noqa: ASYNC110 - steps end without a word
            await asyncio.sleep(0)

    async def delivered(self) -> list[Delivery]:
        """Wait for deliveries."""
        while not self.consumer.deliveries:
            self.consumer.changed.clear()
            self.consumer.check()
            await self.consumer.changed.wait()
        return self.consumer.take()


class DueDispatcher:
    """A dispatcher that notes when its step begins."""

    def __init__(self, project_pk: int, begun: list[int]) -> None:
        self.subscription = replace(SUBSCRIPTION, project_pk=project_pk)
        self._begun = begun

    def begin(self) -> Any:
        """Begin a step of one delivery."""
        self._begun.append(self.subscription.project_pk)
        return SimpleNamespace(size=1)


@pytest_asyncio.fixture
async def riding(database: Database) -> AsyncIterator[Riding]:
    gated = GatedDatabase(database)
    async with ingest_pipeline_over(gated) as pipeline:
        await pipeline.automate(ALWAYS)
        wanted = replace(SUBSCRIPTION, project_pk=pipeline.project_pk)
        subscription = await gated.write_past(lambda connection: create_subscription(connection, wanted))
        made = Riding(pipeline, gated, subscription)
        yield made
        await made.dispatchers.close()


async def test_matches_are_leased_in_the_transaction_that_records_them(riding: Riding) -> None:
    with riding.dispatchers.used(riding._subscription) as dispatcher, dispatcher.attached(riding.consumer):
        await riding.idle(dispatcher)
        for number in range(1, 4):
            writes = riding.pipeline.writes
            await riding.pipeline.send(drafts())
            [delivery] = await riding.delivered()
            assert (delivery.match.position, delivery.attempt) == (number, 1)
            assert riding.pipeline.writes == writes + 1
            await riding.idle(dispatcher)
            # Nothing is left to look for.
            assert riding.pipeline.writes == writes + 1


async def test_matches_are_leased_with_their_commit_although_earlier_ones_are_still_to_be_taken(riding: Riding) -> None:
    with riding.dispatchers.used(riding._subscription) as dispatcher, dispatcher.attached(riding.consumer):
        await riding.idle(dispatcher)
        writes = riding.pipeline.writes
        for number in range(1, 4):
            await riding.pipeline.send(drafts())
            assert (len(riding.consumer.deliveries), riding.pipeline.writes) == (number, writes + number)


async def test_acknowledgements_join_the_commit_of_events(riding: Riding) -> None:
    with riding.dispatchers.used(riding._subscription) as dispatcher, dispatcher.attached(riding.consumer):
        await riding.idle(dispatcher)
        await riding.pipeline.send(drafts())
        [first] = await riding.delivered()
        await riding.idle(dispatcher)
        riding.pipeline.gate.clear()
        begun = riding.pipeline.begin(drafts(name="signup"))
        while not riding.pipeline.queue._running:  # noqa: ASYNC110 - it does not tell
            await asyncio.sleep(0)
        writes = riding.pipeline.writes
        sent = riding.pipeline.begin(drafts())
        await asyncio.sleep(0.01)
        if riding._database.shared:
            # On a shared database a step that is due has its own transaction beside the commits.
            riding.pipeline.gate.set()
        results = dispatcher.submit([Ack([first.id])])
        riding.pipeline.gate.set()
        [[result]] = await results
        [second] = await riding.delivered()
        await asyncio.gather(begun, sent)
        assert (result.outcome, second.match.position) == (SettleOutcome.ACKNOWLEDGED, 2)
        assert riding.pipeline.writes <= writes + 2


async def test_a_step_that_breaks_the_transaction_fails_no_sender(riding: Riding) -> None:
    with riding.dispatchers.used(riding._subscription) as dispatcher, dispatcher.attached(riding.consumer):
        await riding.idle(dispatcher)
        riding.breaking = True
        await riding.pipeline.send(drafts(3))
        assert await riding.pipeline.stored() == ["page_viewed"] * 3
        with pytest.raises(StorageRefused):
            await riding.delivered()
        riding.breaking = False
        riding.consumer = Consumer("a", 100)
        with dispatcher.attached(riding.consumer):
            dispatcher.request(riding.consumer, 10)
            assert [delivery.match.position for delivery in await riding.delivered()] == [1, 2, 3]


async def test_matches_of_a_filter_are_known_without_being_read(riding: Riding, database: Database) -> None:
    wanted = replace(
        SUBSCRIPTION,
        id=SUBSCRIPTION.id.replace("abcd", "abce"),
        name="signups",
        project_pk=riding.pipeline.project_pk,
        filter=MatchFilter(event_names=("signup",)),
    )
    filtered = await database.write(lambda connection: create_subscription(connection, wanted))
    await riding.pipeline.automate(replace(ALWAYS, name="y", event_name="signup"))
    with riding.dispatchers.used(filtered) as dispatcher, dispatcher.attached(riding.consumer):
        await riding.idle(dispatcher)
        await riding.pipeline.send(drafts(2))
        await riding.pipeline.send([*drafts(), *drafts(1, "signup"), *drafts()])
        [delivery] = await riding.delivered()
        assert (delivery.match.position, delivery.match.event_name) == (4, "signup")
        await riding.idle(dispatcher)
        assert dispatcher.subscription.read_position == 5


async def test_senders_do_not_wait_for_a_subscription_that_another_server_has_locked(
    riding: Riding, store: Store
) -> None:
    if not isinstance(store, PostgresStore):
        pytest.skip("an SQLite file has one server")
    with riding.dispatchers.used(riding._subscription) as dispatcher, dispatcher.attached(riding.consumer):
        await riding.idle(dispatcher)
        async with store.connected() as other, other.transaction():
            await other.execute("SELECT 1 FROM subscription FOR UPDATE")
            await riding.pipeline.send(drafts())
            assert await riding.pipeline.stored() == ["page_viewed"]
            assert not riding.consumer.deliveries
        assert [delivery.match.position for delivery in await riding.delivered()] == [1]


async def create(database: Database, new: Subscription) -> Subscription:
    return await database.write(lambda connection: create_subscription(connection, new))


async def test_a_commit_of_events_takes_few_steps_along_and_the_others_follow(
    riding: Riding, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    boarded: list[int] = []
    board = riding.dispatchers.board

    def counted(project_pks: Collection[int]) -> Sequence[StepInProgress]:
        steps = board(project_pks)
        boarded.append(len(steps))
        return steps

    monkeypatch.setattr(riding.dispatchers, "board", counted)
    wanted = replace(SUBSCRIPTION, project_pk=riding.pipeline.project_pk)
    consumers = [Consumer("a", 100) for _ in range(3 * RIDING_STEPS)]
    async with AsyncExitStack() as stack:
        for number, consumer in enumerate(consumers):
            named = replace(wanted, id=f"{wanted.id[:-4]}{number:04}", name=f"engine {number}")
            subscription = await create(database, named)
            dispatcher = stack.enter_context(riding.dispatchers.used(subscription))
            stack.enter_context(dispatcher.attached(consumer))
            riding.consumer = consumer
            await riding.idle(dispatcher)
        await riding.pipeline.send(drafts())
        for consumer in consumers:
            riding.consumer = consumer
            assert [delivery.match.position for delivery in await riding.delivered()] == [1]
    assert boarded == [RIDING_STEPS]


async def test_steps_that_are_due_have_their_turns_by_project() -> None:
    begun: list[int] = []
    dispatchers = Dispatchers(cast("Any", None), cast("Any", None), schedule=lambda: None)

    def due(project_pk: int) -> asyncio.Task[None]:
        return asyncio.create_task(dispatchers.take(cast("Dispatcher", DueDispatcher(project_pk, begun))))

    waiting = [due(1) for _ in range(3 * GROUP_STEPS)] + [due(2)]
    await asyncio.sleep(0)
    assert len(dispatchers.board_due()) == GROUP_STEPS
    assert 2 in begun[:3]
    while dispatchers.due:
        dispatchers.board_due()
    await asyncio.gather(*waiting)
    assert len(begun) == len(waiting)


async def test_a_deleted_subscription_ends_its_consumers_and_no_commit(riding: Riding, database: Database) -> None:
    with riding.dispatchers.used(riding._subscription) as dispatcher, dispatcher.attached(riding.consumer):
        await riding.idle(dispatcher)
        await database.write(
            lambda connection: delete_subscription(connection, riding.pipeline.project_pk, SUBSCRIPTION.id, "")
        )
        await riding.pipeline.send(drafts())
        with pytest.raises(Exception, match="subscription"):
            await riding.delivered()
    assert await riding.pipeline.stored() == ["page_viewed"]
