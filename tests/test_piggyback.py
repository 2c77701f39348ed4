"""Steps of delivery in the transaction of a group commit: one transaction, and no harm to the senders."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
import pytest_asyncio

from automation.automations import AutomationState, NewAutomation
from automation.matches import MatchFilter
from automation.subscriptions import leasing
from automation.subscriptions.store import create_subscription, delete_subscription
from automation.subscriptions.values import Ack, SettleOutcome
from server.delivery.consumer import Consumer
from server.delivery.dispatcher import Dispatcher
from server.delivery.dispatchers import GROUP_STEPS, PIGGYBACK_STEPS, Dispatchers
from server.errors import InternalError
from server.ingest import group_transaction
from server.ingest.commit import commit
from tests.support.ingest_pipeline import GatedDatabase, drafts, ingest_pipeline_over
from tests.support.leasing import SUBSCRIPTION
from tests.support.stores import PostgresStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Sequence

    from sqlalchemy import Connection

    from automation.subscriptions.values import Delivery, StepResult, Subscription
    from server.delivery.steps import StepInProgress
    from server.storage.database import Database
    from tests.support.ingest_pipeline import IngestPipeline
    from tests.support.stores import Store

ALWAYS = NewAutomation("x", "page_viewed", "", AutomationState.ACTIVE)


class Piggyback:
    """A subscription in use beside a queue of events, with a consumer that has got all that there was."""

    def __init__(self, pipeline: IngestPipeline, database: GatedDatabase, subscription: Subscription) -> None:
        self.pipeline = pipeline
        self.breaking = False
        self._database = database
        self._subscription = subscription
        self.dispatchers = Dispatchers(database, pipeline.notifier, pipeline.queue.schedule_steps)
        self.dispatchers._make = self._make
        pipeline.queue.steps = self.dispatchers
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
async def piggyback(database: Database) -> AsyncIterator[Piggyback]:
    gated = GatedDatabase(database)
    async with ingest_pipeline_over(gated) as pipeline:
        await pipeline.automate(ALWAYS)
        wanted = replace(SUBSCRIPTION, project_pk=pipeline.project_pk)
        subscription = await gated.write_past(lambda connection: create_subscription(connection, wanted))
        made = Piggyback(pipeline, gated, subscription)
        yield made
        await made.dispatchers.close()


async def test_matches_are_leased_in_the_transaction_that_records_them(piggyback: Piggyback) -> None:
    with piggyback.dispatchers.used(piggyback._subscription) as dispatcher, dispatcher.attached(piggyback.consumer):
        await piggyback.idle(dispatcher)
        for number in range(1, 4):
            writes = piggyback.pipeline.writes
            await piggyback.pipeline.send(drafts())
            [delivery] = await piggyback.delivered()
            assert (delivery.match.position, delivery.attempt) == (number, 1)
            assert piggyback.pipeline.writes == writes + 1
            await piggyback.idle(dispatcher)
            # Nothing is left to look for.
            assert piggyback.pipeline.writes == writes + 1


async def test_matches_are_leased_with_their_commit_before_earlier_ones_are_taken(
    piggyback: Piggyback,
) -> None:
    with piggyback.dispatchers.used(piggyback._subscription) as dispatcher, dispatcher.attached(piggyback.consumer):
        await piggyback.idle(dispatcher)
        writes = piggyback.pipeline.writes
        for number in range(1, 4):
            await piggyback.pipeline.send(drafts())
            assert (len(piggyback.consumer.deliveries), piggyback.pipeline.writes) == (number, writes + number)


async def test_acknowledgements_join_the_commit_of_events(piggyback: Piggyback) -> None:
    with piggyback.dispatchers.used(piggyback._subscription) as dispatcher, dispatcher.attached(piggyback.consumer):
        await piggyback.idle(dispatcher)
        await piggyback.pipeline.send(drafts())
        [first] = await piggyback.delivered()
        await piggyback.idle(dispatcher)
        piggyback.pipeline.gate.clear()
        begun = piggyback.pipeline.begin(drafts(name="signup"))
        while not piggyback.pipeline.queue._running:  # noqa: ASYNC110 - it does not tell
            await asyncio.sleep(0)
        writes = piggyback.pipeline.writes
        sent = piggyback.pipeline.begin(drafts())
        await asyncio.sleep(0.01)
        if piggyback._database.shared:
            # On a shared database a step that is due has its own transaction beside the commits.
            piggyback.pipeline.gate.set()
        results = dispatcher.submit([Ack([first.id])])
        piggyback.pipeline.gate.set()
        [[result]] = await results
        [second] = await piggyback.delivered()
        await asyncio.gather(begun, sent)
        assert (result.outcome, second.match.position) == (SettleOutcome.ACKNOWLEDGED, 2)
        assert piggyback.pipeline.writes <= writes + 2


async def test_a_step_that_breaks_the_transaction_fails_no_sender(piggyback: Piggyback) -> None:
    with piggyback.dispatchers.used(piggyback._subscription) as dispatcher, dispatcher.attached(piggyback.consumer):
        await piggyback.idle(dispatcher)
        piggyback.breaking = True
        await piggyback.pipeline.send(drafts(3))
        assert await piggyback.pipeline.stored() == ["page_viewed"] * 3
        with pytest.raises(InternalError):
            await piggyback.delivered()
        piggyback.breaking = False
        piggyback.consumer = Consumer("a", 100)
        with dispatcher.attached(piggyback.consumer):
            dispatcher.request(piggyback.consumer, 10)
            assert [delivery.match.position for delivery in await piggyback.delivered()] == [1, 2, 3]


async def test_a_step_whose_session_was_lost_is_not_failed_by_the_next_attempt(
    piggyback: Piggyback, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not piggyback._database.shared:
        pytest.skip("SQLite has no sessions that are lost")
    attempts = 0

    def committing(*arguments: Any) -> Any:
        nonlocal attempts
        attempts += 1
        if attempts == 2:
            raise ZeroDivisionError
        return commit(*arguments)

    def stepping(connection: Connection, *arguments: Any, **options: Any) -> StepResult:
        if attempts == 1 and options.get("recorded") is not None:
            connection.exec_driver_sql("SELECT pg_terminate_backend(pg_backend_pid())")
        return leasing.step(connection, *arguments, **options)

    monkeypatch.setattr(group_transaction, "commit", committing)
    monkeypatch.setattr(piggyback, "_step", stepping)
    with piggyback.dispatchers.used(piggyback._subscription) as dispatcher, dispatcher.attached(piggyback.consumer):
        await piggyback.idle(dispatcher)
        with pytest.raises(InternalError):
            await piggyback.pipeline.send(drafts())
        await piggyback.pipeline.send(drafts())
        [delivery] = await piggyback.delivered()
        assert (delivery.match.position, attempts) == (1, 3)


async def test_matches_of_a_filter_are_known_without_being_read(piggyback: Piggyback, database: Database) -> None:
    wanted = replace(
        SUBSCRIPTION,
        id=SUBSCRIPTION.id.replace("abcd", "abce"),
        name="signups",
        project_pk=piggyback.pipeline.project_pk,
        filter=MatchFilter(event_names=("signup",)),
    )
    filtered = await database.write(lambda connection: create_subscription(connection, wanted))
    await piggyback.pipeline.automate(replace(ALWAYS, name="y", event_name="signup"))
    with piggyback.dispatchers.used(filtered) as dispatcher, dispatcher.attached(piggyback.consumer):
        await piggyback.idle(dispatcher)
        await piggyback.pipeline.send(drafts(2))
        await piggyback.pipeline.send([*drafts(), *drafts(1, "signup"), *drafts()])
        [delivery] = await piggyback.delivered()
        assert (delivery.match.position, delivery.match.event_name) == (4, "signup")
        await piggyback.idle(dispatcher)
        assert dispatcher.subscription.read_position == 5


async def test_senders_do_not_wait_for_a_subscription_that_another_server_has_locked(
    piggyback: Piggyback, store: Store
) -> None:
    if not isinstance(store, PostgresStore):
        pytest.skip("an SQLite file has one server")
    with piggyback.dispatchers.used(piggyback._subscription) as dispatcher, dispatcher.attached(piggyback.consumer):
        await piggyback.idle(dispatcher)
        async with store.connected() as other, other.transaction():
            await other.execute("SELECT 1 FROM subscription FOR UPDATE")
            await piggyback.pipeline.send(drafts())
            assert await piggyback.pipeline.stored() == ["page_viewed"]
            assert not piggyback.consumer.deliveries
        assert [delivery.match.position for delivery in await piggyback.delivered()] == [1]


async def create(database: Database, new: Subscription) -> Subscription:
    return await database.write(lambda connection: create_subscription(connection, new))


async def test_a_commit_of_events_takes_few_steps_along_and_the_others_follow(
    piggyback: Piggyback, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[int] = []
    begin_light = piggyback.dispatchers.begin_light

    def counted(project_pks: Collection[int]) -> Sequence[StepInProgress]:
        steps = begin_light(project_pks)
        begun.append(len(steps))
        return steps

    monkeypatch.setattr(piggyback.dispatchers, "begin_light", counted)
    wanted = replace(SUBSCRIPTION, project_pk=piggyback.pipeline.project_pk)
    consumers = [Consumer("a", 100) for _ in range(3 * PIGGYBACK_STEPS)]
    async with AsyncExitStack() as stack:
        for number, consumer in enumerate(consumers):
            named = replace(wanted, id=f"{wanted.id[:-4]}{number:04}", name=f"engine {number}")
            subscription = await create(database, named)
            dispatcher = stack.enter_context(piggyback.dispatchers.used(subscription))
            stack.enter_context(dispatcher.attached(consumer))
            piggyback.consumer = consumer
            await piggyback.idle(dispatcher)
        await piggyback.pipeline.send(drafts())
        for consumer in consumers:
            piggyback.consumer = consumer
            assert [delivery.match.position for delivery in await piggyback.delivered()] == [1]
    assert begun == [PIGGYBACK_STEPS]


async def test_steps_that_are_due_have_their_turns_by_project() -> None:
    begun: list[int] = []
    dispatchers = Dispatchers(cast("Any", None), cast("Any", None), schedule=lambda: None)

    def due(project_pk: int) -> asyncio.Task[None]:
        return asyncio.create_task(dispatchers.take(cast("Dispatcher", DueDispatcher(project_pk, begun))))

    waiting = [due(1) for _ in range(3 * GROUP_STEPS)] + [due(2)]
    await asyncio.sleep(0)
    assert len(dispatchers.begin_due()) == GROUP_STEPS
    assert 2 in begun[:3]
    while dispatchers.due:
        dispatchers.begin_due()
    await asyncio.gather(*waiting)
    assert len(begun) == len(waiting)


async def test_a_deleted_subscription_ends_consumers_and_no_commit(piggyback: Piggyback, database: Database) -> None:
    with piggyback.dispatchers.used(piggyback._subscription) as dispatcher, dispatcher.attached(piggyback.consumer):
        await piggyback.idle(dispatcher)
        await database.write(
            lambda connection: delete_subscription(connection, piggyback.pipeline.project_pk, SUBSCRIPTION.id, "")
        )
        await piggyback.pipeline.send(drafts())
        with pytest.raises(Exception, match="subscription"):
            await piggyback.delivered()
    assert await piggyback.pipeline.stored() == ["page_viewed"]
