"""The leasing step against a model: any run of steps keeps every promise."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sqlalchemy import create_engine, select

from automation.deletion.retention import deletable_matches, delete_matches, move_start
from automation.match_log import log_end, log_start, matches_at
from automation.matches import MatchFilter
from automation.subscriptions.leasing import step
from automation.subscriptions.parked_matches import list_parked, replay_parked
from automation.subscriptions.store import (
    BLOCKED,
    create_subscription,
    get_subscription,
    seek_subscription,
)
from automation.subscriptions.tables import subscription_delivery
from automation.subscriptions.values import (
    Ack,
    Delivery,
    DeliveryOrder,
    DeliveryRequest,
    Extend,
    Nack,
    NackAction,
    SearchBounds,
    SettleOutcome,
    SettleResult,
    Subscription,
    TakeOver,
)
from automation.tables import metadata
from tests.support.leasing import (
    ALL,
    NOW,
    PROJECT,
    SECOND,
    SUBSCRIPTION,
    match,
    record,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from automation.subscriptions.values import Settlement, StepResult

EXAMPLES = int(os.environ.get("SIGNALBOX_LEASING_EXAMPLES", "15"))


class Promises(RuleBasedStateMachine):
    """Any run of steps against a model: what each match has come to, and which leases are out."""

    WINDOW = 3
    CONSUMERS = ("a", "b")

    def __init__(self) -> None:
        super().__init__()
        self.connection = create_engine("sqlite://").connect()
        metadata.create_all(self.connection)
        self.now, self.head, self.floor, self.serial = NOW, 0, 0, 0
        self.contacts: dict[int, int] = {}
        self.wanted: set[int] = set()
        self.done: set[int] = set()
        self.parked: set[int] = set()
        self.leases: dict[str, Delivery] = {}
        self.newest_first = 0
        self.bounds = SearchBounds()

    @initialize(order=st.sampled_from(DeliveryOrder), filtered=st.booleans())
    def subscribe(self, order: DeliveryOrder, filtered: bool) -> None:
        wanted = MatchFilter(event_names=("order_completed",) if filtered else ())
        self.filtered = filtered
        self.subscription = create_subscription(self.connection, replace(SUBSCRIPTION, order=order, filter=wanted))

    @rule(contacts=st.lists(st.integers(0, 2), min_size=1, max_size=6), other=st.booleans())
    def record(self, contacts: list[int], other: bool) -> None:
        names = ["signup" if other and at == 0 else "order_completed" for at in range(len(contacts))]
        made = [
            match(self.head + at, each, event=name)
            for at, (each, name) in enumerate(zip(contacts, names, strict=True), 1)
        ]
        record(self.connection, made)
        self.head += len(made)
        self.contacts |= {each.position: each.contact_key for each in made}
        self.wanted |= {each.position for each in made if not self.filtered or each.event_name == "order_completed"}

    @rule(room=st.integers(1, 4), both=st.booleans())
    def lease(self, room: int, both: bool) -> None:
        self.step([], self.CONSUMERS if both else self.CONSUMERS[:1], room)

    @precondition(lambda self: self.leases)
    @rule(
        data=st.data(),
        action=st.sampled_from([None, *NackAction]),
        delay=st.sampled_from([None, 0, 10 * SECOND]),
        room=st.integers(0, 3),
    )
    def settle(self, data: st.DataObject, action: NackAction | None, delay: int | None, room: int) -> None:
        chosen = data.draw(st.lists(st.sampled_from(sorted(self.leases)), min_size=1, max_size=3, unique=True))
        self.step([Ack(chosen) if action is None else Nack(chosen, action, delay)], self.CONSUMERS, room)

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def extend(self, data: st.DataObject) -> None:
        self.step([Extend([data.draw(st.sampled_from(sorted(self.leases)))])], (), 0)

    @rule(seconds=st.sampled_from([0, 1, 10, 30, 31]))
    def wait(self, seconds: int) -> None:
        self.now += seconds * SECOND

    @rule(consumer=st.sampled_from(CONSUMERS), data=st.data())
    def reopen(self, consumer: str, data: st.DataObject) -> None:
        own = sorted(key for key, each in self.leases.items() if each.consumer_id == consumer)
        held = data.draw(st.lists(st.sampled_from(own), unique=True)) if own else []
        self.step([], (), 0, TakeOver(consumer, held))

    @precondition(lambda self: self.parked)
    @rule()
    def replay(self) -> None:
        assert replay_parked(self.connection, self.subscription.key, ALL, self.now) == len(self.parked)
        self.parked.clear()
        # As a dispatcher that is woken: it knows of no time until which nothing is due.
        self.bounds = replace(self.bounds, nothing_due_until=0)

    @rule(data=st.data(), limit=st.integers(1, 3))
    def prune(self, data: st.DataObject, limit: int) -> None:
        before = NOW + data.draw(st.integers(0, self.head)) + 1
        move_start(self.connection, PROJECT, before, self.head)
        after: int | None = 0
        while after is not None:
            gone, after = deletable_matches(self.connection, PROJECT, after, limit)
            delete_matches(self.connection, PROJECT, gone)

    @rule(data=st.data())
    def seek(self, data: st.DataObject) -> None:
        place = data.draw(st.integers(log_start(self.connection, PROJECT).position - 1, self.head))
        seek_subscription(self.connection, PROJECT, self.subscription.id, place, "", self.now)
        self.leases.clear()
        self.floor = self.newest_first = place
        # Matches up to and including the new position are not delivered again, later ones are.
        self.done = {each for each in self.wanted if each <= place} - self.parked

    def read(self) -> Subscription:
        return get_subscription(self.connection, PROJECT, self.subscription.id)

    def failed(self, delivery: Delivery) -> None:
        if delivery.attempt == self.subscription.max_attempts:
            self.parked.add(delivery.match.position)

    def step(
        self, settlements: list[Settlement], consumers: Sequence[str], room: int, *take_overs: TakeOver
    ) -> list[Delivery]:
        requests = [DeliveryRequest(each, room, self.WINDOW) for each in consumers]
        clock = lambda: self.now  # noqa: E731
        result = step(self.connection, self.subscription.key, clock, settlements, requests, take_overs, self.bounds)
        # No full search mends what the bounds may miss.
        self.bounds = replace(result.bounds, full_at=2**62)
        self.check_next_due(result.next_due)
        for said, results in zip(settlements, result.results, strict=True):
            for one in results:
                self.check_result(said, one)
        for taken, kept in zip(take_overs, result.kept, strict=True):
            self.check_taken_over(taken, kept)
        for key in [key for key, each in self.leases.items() if each.lease_expires_at <= self.now]:
            self.failed(self.leases.pop(key))
        first = [each for batch in result.deliveries for each in batch]
        for each in first:
            self.check_delivery(each)
        assert all(count <= self.WINDOW for count in result.outstanding.values()), "BoundedMemory"
        assert result.outstanding == {
            each: sum(lease.consumer_id == each for lease in self.leases.values()) for each in consumers
        }
        self.check_exhausted(result, room * len(consumers))
        return first

    def check_exhausted(self, result: StepResult, capacity: int) -> None:
        """Only a step with capacity left over claims that nothing is available, and then nothing is."""
        leased = sum(map(len, result.deliveries))
        assert not (result.exhausted and (result.more or leased >= capacity))
        if result.exhausted:
            probe = self.connection.begin_nested()
            again = step(self.connection, self.subscription.key, lambda: self.now, (), [DeliveryRequest("probe", 10)])
            assert again.deliveries == [[]]
            probe.rollback()
        elif not result.more:
            full = [each == self.WINDOW for each in result.outstanding.values()]
            assert not capacity or all(each or full[at] for at, each in enumerate(result.deliveries))

    def check_taken_over(self, taken: TakeOver, kept: list[str]) -> None:
        assert kept == taken.held_delivery_ids
        for key in [key for key, each in self.leases.items() if each.consumer_id == taken.consumer_id]:
            if key not in kept:
                self.failed(self.leases.pop(key))

    def check_next_due(self, next_due: int) -> None:
        """A look at every row finds nothing due earlier; a step that searches nothing may name a settled match."""
        rows = self.connection.execute(select(subscription_delivery.c.due_at, subscription_delivery.c.state)).all()
        due = [row.due_at for row in rows if row.state != BLOCKED and row.due_at > self.now]
        assert not next_due or next_due > self.now
        assert not due or 0 < next_due <= min(due)
        assert self.bounds.nothing_due_until or next_due == min(due, default=0)

    def check_result(self, said: Settlement, result: SettleResult) -> None:
        lease = self.leases[result.delivery_id]
        if isinstance(said, Extend):
            assert result.outcome is SettleOutcome.EXTENDED
            self.leases[result.delivery_id] = Delivery(
                lease.id, lease.consumer_id, lease.attempt, lease.match, result.due_at, False, ""
            )
            return
        del self.leases[result.delivery_id]
        if isinstance(said, Ack) or said.action is NackAction.SKIP:
            assert result.outcome is (SettleOutcome.ACKNOWLEDGED if isinstance(said, Ack) else SettleOutcome.SKIPPED)
            self.done.add(lease.match.position)
        elif said.action is NackAction.PARK or lease.attempt == self.subscription.max_attempts:
            assert result.outcome is SettleOutcome.PARKED
            self.parked.add(lease.match.position)
        else:
            assert result.outcome is SettleOutcome.RETRYING

    def check_delivery(self, each: Delivery) -> None:
        position, contact = each.match.position, each.match.contact_key
        assert position in self.wanted, "FilterExact"
        assert position not in self.done, "NoRedeliveryAfterConfirmedAck"
        assert position not in {lease.match.position for lease in self.leases.values()}, "NoConcurrentLease"
        if self.subscription.order is DeliveryOrder.CONTACT:
            earlier = {at for at in self.wanted if contact and self.contacts[at] == contact and at < position}
            assert earlier <= self.done | self.parked, "Ordered"
        elif each.attempt == 1 and not each.replayed:
            assert position > self.newest_first, "Ordered"
            self.newest_first = position
        self.parked.discard(position)
        self.leases[each.id] = each

    @invariant()
    def the_floor_holds(self) -> None:
        if not hasattr(self, "subscription"):
            return
        current = self.read()
        assert current.floor_position >= self.floor, "FloorMonotone"
        assert current.floor_position <= current.read_position
        self.floor = current.floor_position
        found = list_parked(self.connection, current, ALL, 1_000)
        assert {each.match.position for each in found} == self.parked

    @invariant()
    def what_is_owed_is_kept(self) -> None:
        """NoAckedLoss: whatever was pruned."""
        owed = sorted(self.wanted - self.done)
        assert list(matches_at(self.connection, PROJECT, owed)) == owed
        assert log_end(self.connection, PROJECT) == self.head

    def teardown(self) -> None:
        try:
            self.drain()
        finally:
            self.connection.close()
            self.connection.engine.dispose()

    def drain(self) -> None:
        """Every match of the filter is acknowledged, parked or skipped in the end, and the floor reaches the head."""
        if hasattr(self, "subscription"):
            for _ in range(3 * self.head + 10):
                if self.wanted <= self.done | self.parked and self.read().floor_position == self.head:
                    break
                self.now += 60 * SECOND
                self.step([Ack(sorted(self.leases))] if self.leases else [], self.CONSUMERS, 3)
            assert self.wanted <= self.done | self.parked, "AtLeastOnce, NoAckedLoss"
            self.the_floor_holds()
            assert self.floor == self.head


TestPromises = Promises.TestCase
TestPromises.settings = settings(max_examples=EXAMPLES, stateful_step_count=25, deadline=None)
