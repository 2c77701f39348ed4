"""When a dispatcher takes a step and how long it waits, in virtual time, without a step being taken."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from automation.subscriptions.values import Ack, Delivery, DeliveryRequest, StepResult, Undelivered
from server.delivery.consumer import Consumer
from server.delivery.dispatcher import MAX_WAIT_SECONDS, POLL_SECONDS, Dispatcher
from server.delivery.dispatchers import Dispatchers
from server.errors import ConsumerReplaced, InternalError, StorageUnavailable
from tests.support.delivery_model import SECOND, SUBSCRIPTION, set_clock
from tests.support.virtual_time import run_virtually

if TYPE_CHECKING:
    from collections.abc import Callable


class Database:
    """Stands for the database; a test says what becomes of a write."""

    def __init__(self, *, shared: bool = False) -> None:
        self.shared = shared


class Loose(Dispatcher):
    """A dispatcher whose task does not run; `now` is its clock in microseconds."""

    def __init__(self, *, shared: bool = False) -> None:
        self.now = 100 * SECOND
        nobody: Any = None
        database: Any = Database(shared=shared)
        super().__init__(database, nobody, SUBSCRIPTION)
        set_clock(self, lambda: self.now)

    def look(self) -> None:
        """Take note that nothing more is available, as a step does."""
        self._exhausted_version = self._availability_version


def virtually(work: Callable[[], Any]) -> Any:
    """Run a function inside of a loop in virtual time, which begins at 0."""

    async def run() -> Any:
        return work()

    return run_virtually(run())


def delivery(number: int, consumer_id: str = "a") -> Delivery:
    nothing: Any = None
    return Delivery(f"d-{number}", consumer_id, 1, nothing, 0, False, "")


def test_without_consumers_and_work_nothing_is_due() -> None:
    def work() -> None:
        idle = Loose(shared=True)
        idle._next_due = 1
        assert (idle._step_due(), idle._wait_seconds()) == (False, None)

    virtually(work)


def test_work_is_due_at_once() -> None:
    def work() -> None:
        begins: list[Callable[[Dispatcher], object]] = [
            lambda each: each.submit([Ack(["x"])]),
            lambda each: each.submit([]),
            lambda each: each.return_undelivered([delivery(1)]),
            lambda each: each.wake(),
        ]
        for begin in begins:
            dispatcher = Loose()
            assert not dispatcher._step_due()
            begin(dispatcher)
            assert dispatcher._step_due()
            assert dispatcher._changed.is_set()
        unchanged = Loose()
        unchanged.return_undelivered([])
        assert not unchanged._step_due()
        assert not unchanged._changed.is_set()

    virtually(work)


@pytest.mark.parametrize(
    ("capacity", "window", "outstanding", "due"),
    [(0, 5, 0, False), (1, 5, 4, True), (1, 5, 5, False), (9, 5, 6, False), (1, None, 50, True), (0, None, 0, False)],
)
def test_a_step_is_due_while_a_consumer_has_capacity(
    capacity: int, window: int | None, outstanding: int, due: bool
) -> None:
    def work() -> None:
        dispatcher, consumer = Loose(), Consumer("a", window)
        consumer.outstanding = outstanding
        with dispatcher.attached(consumer):
            dispatcher._changed.clear()
            dispatcher.request(consumer, capacity)
            assert consumer.has_capacity is due
            assert dispatcher._changed.is_set() is due
            assert dispatcher._step_due() is due
            dispatcher.look()
            assert not dispatcher._step_due()

    virtually(work)


def test_a_pull_is_looked_for_although_the_log_is_exhausted_and_a_stream_is_not() -> None:
    def work() -> None:
        for window, due in ((None, True), (5, False)):
            dispatcher, consumer = Loose(), Consumer("a", window)
            with dispatcher.attached(consumer):
                dispatcher.look()
                dispatcher._changed.clear()
                dispatcher.request(consumer, 1)
                assert (dispatcher._step_due(), dispatcher._changed.is_set()) == (due, due)

    virtually(work)


@pytest.mark.parametrize(("due_in", "due"), [(-1, True), (0, True), (1, False)])
def test_a_step_is_due_when_a_lease_or_a_retry_is(due_in: int, due: bool) -> None:
    def work() -> None:
        dispatcher = Loose()
        with dispatcher.attached(Consumer("a", 5)):
            assert not dispatcher._step_due()
            dispatcher._next_due = dispatcher.now + due_in
            assert dispatcher._step_due() is due

    virtually(work)


def test_on_a_shared_database_a_step_is_due_every_second() -> None:
    async def work() -> None:
        dispatcher, alone = Loose(shared=True), Loose()
        loop = asyncio.get_running_loop()
        with dispatcher.attached(Consumer("a", 5)), alone.attached(Consumer("a", 5)):
            for each in (dispatcher, alone):
                each._poll_at = loop.time() + POLL_SECONDS
            assert not dispatcher._step_due()
            assert (dispatcher._wait_seconds(), alone._wait_seconds()) == (POLL_SECONDS, MAX_WAIT_SECONDS)
            await asyncio.sleep(0.75)
            assert (dispatcher._step_due(), dispatcher._wait_seconds()) == (False, 0.25)
            await asyncio.sleep(0.25)
            assert (dispatcher._step_due(), alone._step_due()) == (True, False)

    run_virtually(work())


@pytest.mark.parametrize(
    ("due_in", "seconds"), [(None, 60), (90 * SECOND, 60), (SECOND // 2, 0.5), (0, 0.001), (-SECOND, 0.001)]
)
def test_a_dispatcher_waits_until_something_is_due_and_a_minute_at_most(due_in: int | None, seconds: float) -> None:
    def work() -> None:
        dispatcher = Loose()
        with dispatcher.attached(Consumer("a", 5)):
            dispatcher._next_due = 0 if due_in is None else dispatcher.now + due_in
            assert dispatcher._wait_seconds() == seconds

    virtually(work)


def test_a_stream_replaces_an_older_one_of_its_id_and_no_pull() -> None:
    def work() -> None:
        dispatcher = Loose()
        older, other, pull = Consumer("a", 5), Consumer("b", 5), Consumer("a")
        older.deliveries = [delivery(1)]
        with dispatcher.attached(older), dispatcher.attached(other), dispatcher.attached(pull):
            with dispatcher.attached(Consumer("a")):
                assert older in dispatcher.consumers
            with dispatcher.attached(newer := Consumer("a", 5)):
                assert dispatcher.consumers == [other, pull, newer]
                with pytest.raises(ConsumerReplaced):
                    older.check()
                assert older.changed.is_set()
                for each in (other, pull, newer):
                    each.check()
                    assert not each.changed.is_set()
            # What it had not taken is returned, once.
            assert dispatcher._take_returned() == [Undelivered(["d-1"])]
            assert dispatcher._take_returned() == []
        assert dispatcher.consumers == []

    virtually(work)


def test_a_consumer_that_stops_gets_nothing_more_and_its_deliveries_are_returned() -> None:
    def work() -> None:
        dispatcher, consumer = Loose(), Consumer("a", 5)
        with dispatcher.attached(consumer):
            dispatcher.request(consumer, 3)
            consumer.deliveries = [delivery(1), delivery(2)]
            dispatcher.stop_delivering(consumer)
            assert (consumer.stopped, consumer.capacity, consumer.deliveries) == (True, 0, [])
            assert dispatcher._take_returned() == [Undelivered(["d-1", "d-2"])]

    virtually(work)


def step_result(*deliveries: list[Delivery], outstanding: int, more: bool = False) -> StepResult:
    counts = dict.fromkeys(("a", "b"), outstanding)
    return StepResult(SUBSCRIPTION, [], [], list(deliveries), counts, more, False, 0)


@pytest.mark.parametrize(
    ("window", "requested", "before", "after", "more", "noticed"),
    [
        (5, 3, 1, 1, False, False),
        (5, 3, 1, 0, False, True),
        (5, 0, 1, 2, False, True),
        (None, 3, 0, 0, False, True),
        (None, 3, 0, 0, True, False),
        (None, 0, 0, 0, False, False),
    ],
)
def test_a_consumer_notices_another_number_of_leases_and_a_pull_the_end_of_its_step(
    window: int | None, requested: int, before: int, after: int, more: bool, noticed: bool
) -> None:
    def work() -> None:
        dispatcher, consumer = Loose(), Consumer("a", window)
        consumer.outstanding = before
        with dispatcher.attached(consumer):
            requests = [DeliveryRequest("a", requested, window)]
            dispatcher._deliver([consumer], requests, step_result([], outstanding=after, more=more))
            assert (consumer.outstanding, consumer.changed.is_set()) == (after, noticed)

    virtually(work)


@pytest.mark.parametrize(
    ("window", "pushes", "requested", "count", "left"),
    [(5, False, 3, 2, 1), (5, False, 3, 3, 0), (5, False, 0, 2, 0), (None, False, 3, 2, 0), (5, True, 3, 2, 0)],
)
def test_the_rest_of_what_a_stream_requested_may_still_come_and_others_get_one_batch(
    window: int | None, pushes: bool, requested: int, count: int, left: int
) -> None:
    consumer = Consumer("a", window, pushes=pushes)
    consumer.capacity = requested
    consumer.deliver([delivery(number) for number in range(count)])
    assert (len(consumer.deliveries), consumer.capacity) == (count, left)


@pytest.mark.parametrize(("left", "stopped"), [(False, False), (True, False), (False, True)])
def test_deliveries_reach_a_consumer_unless_it_has_left_or_stopped(left: bool, stopped: bool) -> None:
    def work() -> None:
        dispatcher, consumer = Loose(), Consumer("a", 5)
        consumer.deliveries, consumer.capacity, consumer.stopped = [delivery(1)], 3, stopped
        if not left:
            dispatcher.consumers.append(consumer)
        result = step_result([delivery(2), delivery(3)], outstanding=3)
        dispatcher._deliver([consumer], [DeliveryRequest("a", 3, 5)], result)
        returned = dispatcher._take_returned()
        assert consumer.changed.is_set()
        if left or stopped:
            assert (consumer.deliveries, returned) == ([delivery(1)], [Undelivered(["d-2", "d-3"])])
        else:
            assert (consumer.take(), consumer.capacity, returned) == ([delivery(1), delivery(2), delivery(3)], 1, [])
            assert consumer.deliveries == []

    virtually(work)


def test_a_step_takes_settlements_until_they_name_enough_deliveries() -> None:
    def work() -> None:
        nobody: Any = None
        database: Any = Database()
        dispatcher = Dispatcher(database, nobody, SUBSCRIPTION)
        dispatcher._group_deliveries = 3
        groups = [["a"], ["b", "c"], ["d"], [], ["e", "f", "g", "h"], ["i"]]
        for names in groups:
            dispatcher.submit([Ack(names)])
        taken = []
        while dispatcher._has_work:
            pending: Any = dispatcher._take_pending()
            taken.append([each.settlements[0].delivery_ids for each in pending])
        assert taken == [[["a"], ["b", "c"]], [["d"], [], ["e", "f", "g", "h"]], [["i"]]]

    virtually(work)


@pytest.mark.parametrize(
    ("error", "told"), [(StorageUnavailable(), StorageUnavailable), (ValueError("x"), InternalError)]
)
def test_a_step_that_fails_fails_for_all_that_it_was_taken_for(error: Exception, told: type[Exception]) -> None:
    def work() -> None:
        dispatcher = Loose()
        here, gone, late = Consumer("a", 5), Consumer("b", 5), Consumer("c", 5)
        here.deliveries = [delivery(1)]
        first, second = dispatcher.submit([Ack(["x"])]), dispatcher.submit([Ack(["y"])])
        first.cancel()
        with dispatcher.attached(here), dispatcher.attached(late):
            dispatcher._fail([here, gone], dispatcher._take_pending(), error)
            assert dispatcher.consumers == [late]
        with pytest.raises(told):
            second.result()
        with pytest.raises(told):
            here.check()
        for each in (gone, late):
            each.check()
        assert dispatcher._take_returned() == [Undelivered(["d-1"])]

    virtually(work)


def test_streams_are_counted_and_pulls_are_not() -> None:
    def work() -> None:
        nobody: Any = None
        database: Any = Database()
        dispatchers = Dispatchers(database, nobody)
        assert dispatchers.streams(SUBSCRIPTION.key) == []
        dispatcher = Loose()
        dispatchers._by_key[SUBSCRIPTION.key] = dispatcher
        stream = Consumer("a", 5)
        with dispatcher.attached(stream), dispatcher.attached(Consumer("b")):
            assert dispatchers.streams(SUBSCRIPTION.key) == [stream]
        assert dispatchers.streams(SUBSCRIPTION.key + 1) == []
        dispatchers.wake(SUBSCRIPTION.key + 1)
        assert not dispatcher._step_due()
        dispatchers.wake(SUBSCRIPTION.key)
        assert dispatcher._step_due()

    virtually(work)


def test_a_shutdown_waits_for_the_steps_that_are_in_progress() -> None:
    class Working:
        """A dispatcher whose task goes on for three seconds."""

        users = 0

        def __init__(self, *_: object) -> None: ...

        def leave(self) -> None: ...

        async def run(self, on_end: Callable[[], object]) -> None:
            await asyncio.sleep(3)
            on_end()

    async def work() -> None:
        nobody: Any = None
        dispatchers = Dispatchers(nobody, nobody)
        make: Any = Working
        dispatchers._make = make
        await dispatchers.close()
        assert asyncio.get_running_loop().time() == 0
        with dispatchers.used(SUBSCRIPTION) as first, dispatchers.used(SUBSCRIPTION) as again:
            assert first is again
        await dispatchers.close()
        assert asyncio.get_running_loop().time() == 3
        await asyncio.sleep(0)
        assert not dispatchers._tasks
        with dispatchers.used(SUBSCRIPTION) as later:
            assert later is not first
        await dispatchers.close()

    run_virtually(work())
