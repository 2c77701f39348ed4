"""The decisions of a consumer's stream: what is renewed, requested and sent next."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from automation.subscriptions.values import Delivery, Extend, Settlement, TakeOver
from server.current_call.wait import CallWait
from server.delivery import consumer_session
from server.delivery.consumer import Consumer
from server.delivery.consumer_session import ConsumerSession, DeliveryBatch, Drain, Heartbeat, Opening, SettleResults
from server.delivery.deliveries import _first_delivery
from server.delivery.loading import LoadedDelivery
from server.errors import ConsumerReplaced, Stopping, StorageUnavailable
from server.process.shutdown import Shutdown
from tests.support.delivery_model import SECOND, SUBSCRIPTION
from tests.support.virtual_time import now, run_virtually

if TYPE_CHECKING:
    from collections.abc import Sequence

NOW = 1_000 * SECOND


class Noting:
    """Stands for the dispatcher: it notes what it is asked for."""

    def __init__(self, ack_deadline: int = 30 * SECOND) -> None:
        self.subscription = replace(SUBSCRIPTION, ack_deadline=ack_deadline, floor_position=5)
        self.submitted: list[Sequence[Settlement]] = []
        self.requested: list[int] = []
        self.returned: list[Delivery] = []
        self.stopped = 0

    def submit(self, settlements: Sequence[Settlement]) -> asyncio.Future[Any]:
        self.submitted.append(settlements)
        return asyncio.get_running_loop().create_future()

    def request(self, consumer: Any, capacity: int) -> None:
        self.requested.append(capacity)

    def return_undelivered(self, deliveries: Sequence[Delivery]) -> None:
        self.returned += deliveries

    def stop_delivering(self, consumer: Any) -> None:
        self.stopped += 1

    async def head_position(self) -> int:
        return 9


class Stream:
    """A session over a dispatcher that notes."""

    def __init__(self, dispatcher: Noting, grace_seconds: float = 10, heartbeat_seconds: float = 4) -> None:
        self.dispatcher = dispatcher
        self.stopping = asyncio.Event()
        noting: Any = dispatcher
        opening = Opening("engine", "worker", 5, [], heartbeat_seconds)
        self.session = ConsumerSession(noting, noting, Shutdown(self.stopping, grace_seconds), opening)
        self.session._note_sent()

    async def next(self, reading: asyncio.Task[None] | None = None) -> Any:
        endless: Any = asyncio.get_running_loop().create_future()
        return await self.session._next(reading or endless)


def loaded(number: int, lease_expires_at: int = 0) -> LoadedDelivery:
    nothing: Any = None
    return LoadedDelivery(Delivery(f"d{number}", "worker", 1, nothing, lease_expires_at, False, ""), nothing)


@pytest.mark.parametrize(
    ("ack_deadline", "waited", "renewed"),
    [
        (30 * SECOND, SECOND, False),
        (30 * SECOND, SECOND + 1, True),
        (10 * SECOND, SECOND, False),
        (5 * SECOND, SECOND // 2, False),
        (5 * SECOND, SECOND // 2 + 1, True),
        (SECOND, SECOND // 10, False),
        (SECOND, SECOND // 10 + 1, True),
    ],
)
def test_leases_are_renewed_a_second_or_a_tenth_of_the_deadline_after_they_began(
    monkeypatch: pytest.MonkeyPatch, ack_deadline: int, waited: int, renewed: bool
) -> None:
    async def work() -> None:
        stream = Stream(Noting(ack_deadline))
        began = NOW - waited
        # Those of one batch began at the same time; the first one tells.
        batch = DeliveryBatch([loaded(1, began + ack_deadline), loaded(2, began + ack_deadline)], 5)
        stream.session._renew_late(batch)
        assert stream.dispatcher.submitted == ([[Extend(["d1", "d2"])]] if renewed else [])

    monkeypatch.setattr(consumer_session, "database_now", lambda: NOW)
    run_virtually(work())


def test_as_many_are_requested_as_fitted_last_time_and_more_while_all_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    fitting: list[int] = []

    async def load(_reader: Any, _dispatcher: Any, deliveries: Sequence[Delivery]) -> list[LoadedDelivery]:
        return [loaded(number) for number in range(min(fitting.pop(0), len(deliveries)))]

    async def work() -> None:
        session = Stream(Noting()).session
        assert session._batch_size == 1_000
        for taken, fit, size in (
            (10, 10, 1_000),
            (10, 3, 3),
            (3, 3, 6),
            (6, 6, 12),
            (12, 1, 1),
            (1, 1, 2),
            (2, 0, 1),
            (400, 399, 399),
            (399, 399, 798),
            (798, 798, 1_000),
        ):
            session.consumer.deliveries = [loaded(number).delivery for number in range(taken)]
            fitting.append(fit)
            batch = await session._load()
            assert (0 if batch is None else len(batch.deliveries), session._batch_size) == (fit, size)
            assert session.consumer.deliveries == []
            assert batch is None or batch.max_attempts == SUBSCRIPTION.max_attempts

    monkeypatch.setattr(consumer_session, "load_deliveries", load)
    run_virtually(work())


def done() -> asyncio.Future[Any]:
    made: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    made.set_result([[]])
    return made


@pytest.mark.parametrize(
    ("stop_step", "unanswered", "outstanding", "deliveries", "over"),
    [
        ("done", False, 0, False, True),
        ("done", True, 0, False, False),
        ("done", False, 1, False, False),
        ("done", False, 0, True, False),
        ("pending", False, 0, False, False),
        (None, False, 0, False, False),
    ],
)
def test_a_stopped_stream_is_over_once_all_is_answered_and_settled(
    stop_step: str | None, unanswered: bool, outstanding: int, deliveries: bool, over: bool
) -> None:
    async def work() -> None:
        session = Stream(Noting()).session
        if stop_step is not None:
            session._stop_step = done() if stop_step == "done" else asyncio.get_running_loop().create_future()
        waiting: Any = [None] * unanswered
        session._unanswered.extend(waiting)
        session.consumer.outstanding = outstanding
        session.consumer.deliveries = [loaded(1).delivery] * deliveries
        assert session._is_over() is over

    run_virtually(work())


def test_a_drain_lasts_nine_tenths_of_the_grace_period() -> None:
    async def work() -> None:
        stream = Stream(Noting(), grace_seconds=10, heartbeat_seconds=60)
        stream.session.consumer.outstanding = 1
        stream.stopping.set()
        assert await stream.next() == Drain(9)
        assert (stream.dispatcher.stopped, stream.dispatcher.submitted) == (1, [[]])
        assert not stream.session._is_over()
        with pytest.raises(Stopping):
            await stream.next()
        assert now() == 9
        # Nothing is requested any more, and the stop was submitted once.
        assert set(stream.dispatcher.requested) == {0}
        assert stream.dispatcher.submitted == [[]]

    run_virtually(work())


@pytest.mark.parametrize("draining", [True, False])
def test_a_client_has_time_to_read_the_last_results_before_its_stream_ends(draining: bool) -> None:
    async def work() -> None:
        stream = Stream(Noting())
        if draining:
            stream.stopping.set()
            assert await stream.next() == Drain(9)
        stream.session._stop_step = done()
        await asyncio.sleep(2)
        stream.session._note_sent()
        if draining:
            with pytest.raises(Stopping):
                await stream.next()
        else:
            assert await stream.next() is None
        assert now() == pytest.approx(2.05)

    run_virtually(work())


def test_heartbeats_go_on_during_a_drain() -> None:
    async def work() -> None:
        stream = Stream(Noting(), grace_seconds=10, heartbeat_seconds=4)
        stream.session.consumer.outstanding = 2
        stream.stopping.set()
        assert await stream.next() == Drain(9)
        stream.session._note_sent()
        for seconds in (4, 8):
            assert await stream.next() == Heartbeat(5, 9, 2)
            assert now() == seconds
            stream.session._note_sent()
        with pytest.raises(Stopping):
            await stream.next()
        assert now() == 9

    run_virtually(work())


def test_a_quiet_stream_requests_matches_only_while_it_waits() -> None:
    async def work() -> None:
        stream = Stream(Noting())
        assert await stream.next() == Heartbeat(5, 9, 0)
        assert (now(), stream.dispatcher.requested) == (4, [1_000, 0])

    run_virtually(work())


def test_the_next_batch_waits_for_the_transport_only_for_a_short_time() -> None:
    async def work() -> None:
        stream = Stream(Noting(ack_deadline=5 * SECOND))
        session, requested, returned = stream.session, stream.dispatcher.requested, stream.dispatcher.returned
        waiting = [loaded(1).delivery, loaded(2).delivery]
        with session._sending():
            # The next step leases with the next commit, whether the transport has taken the response or not.
            session.consumer.deliveries = list(waiting)
            await asyncio.sleep(0.4)
            assert (requested, returned) == ([1_000], [])
        assert session.consumer.take() == waiting
        requested.clear()
        with session._sending():
            session.consumer.deliveries = list(waiting)
            await asyncio.sleep(0.6)
            assert (requested, returned, session.consumer.deliveries) == ([1_000, 0], waiting, [])
        requested.clear()
        with session._sending():
            assert requested == []
        with session._sending():
            assert requested == [1_000]

    run_virtually(work())


def test_results_are_sent_before_deliveries_and_in_their_order() -> None:
    async def work() -> None:
        stream = Stream(Noting())
        session = stream.session
        session.consumer.deliveries = [loaded(1).delivery]
        pending: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        for sequence, results in ((1, done()), (2, pending), (3, done())):
            await session._request_window.acquire()
            session._unanswered.append(consumer_session._UnansweredRequest(sequence, results))
        before = session._request_window._value
        assert await stream.next() == SettleResults(1, [])
        assert session._request_window._value == before + 1
        pending.set_result([["second"]])
        assert await stream.next() == SettleResults(2, ["second"])  # type: ignore[list-item]  # any result
        assert await stream.next() == SettleResults(3, [])

    run_virtually(work())


def test_a_failure_of_the_consumer_ends_its_stream() -> None:
    async def work() -> None:
        stream = Stream(Noting())
        stream.session.consumer.fail(ConsumerReplaced("worker"))
        with pytest.raises(ConsumerReplaced):
            await stream.next()

    run_virtually(work())


@pytest.mark.parametrize("close", [True, False])
def test_a_stream_that_its_client_closed_ends_its_leases_unless_another_one_has_them(close: bool) -> None:
    taken_over: list[TakeOver] = []

    async def take_over(request: TakeOver) -> list[str]:
        taken_over.append(request)
        return []

    async def work() -> None:
        stream = Stream(Noting())
        noting: Any = stream.dispatcher
        noting.take_over = take_over
        stream.session.consumer.keep("1-7-x", "2-5-x")
        reading = asyncio.create_task(asyncio.sleep(0))
        await reading
        if close:
            assert await stream.next(reading) is None
            # Leases that are newer are those of a newer stream.
            assert (taken_over, now()) == ([TakeOver("worker", newest_serial=7)], consumer_session.BROKEN_SECONDS)
        else:
            soon, fail = consumer_session.BROKEN_SECONDS / 2, stream.session.consumer.fail
            asyncio.get_running_loop().call_later(soon, fail, ConsumerReplaced("worker"))
            with pytest.raises(ConsumerReplaced):
                await stream.next(reading)
            assert taken_over == []

    run_virtually(work())


# Pulls


@pytest.mark.parametrize(
    ("changes", "fails", "ends_at"),
    [([0], None, 5), ([3], None, 5), ([7], None, 7), ([0, 2], 2, 2), ([0], 5, 5), ([1], 1, 1), ([6], 6, 6)],
)
def test_a_pull_waits_for_one_step_and_then_for_its_time_and_reports_a_failure(
    changes: list[float], fails: float | None, ends_at: float
) -> None:
    async def work() -> None:
        consumer, loop = Consumer("puller"), asyncio.get_running_loop()
        for seconds in changes:
            loop.call_at(seconds, consumer.changed.set)
        if fails is not None:
            # Also at the very end of its time.
            loop.call_at(fails, consumer.fail, StorageUnavailable())
        with nullcontext() if fails is None else pytest.raises(StorageUnavailable):
            await _first_delivery(consumer, 5, CallWait())
        assert now() == ends_at

    run_virtually(work())


def test_a_pull_ends_with_its_first_deliveries() -> None:
    async def work() -> None:
        consumer, loop = Consumer("puller"), asyncio.get_running_loop()
        loop.call_at(1, consumer.changed.set)
        loop.call_at(2, consumer.changed.set)
        loop.call_at(3, consumer.deliveries.append, loaded(1).delivery)
        loop.call_at(3, consumer.changed.set)
        await _first_delivery(consumer, 5, CallWait())
        assert (now(), len(consumer.take())) == (3, 1)

    run_virtually(work())
