"""Subscriptions and their leasing step: each fact, over both databases."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
import pytest_asyncio
from sqlalchemy import select

from automation.errors import InvalidSubscription, SubscriptionAlreadyExists, SubscriptionNotFound
from automation.matches import MatchFilter
from automation.subscriptions import tables as subscription_tables
from automation.subscriptions.log_reading import READ_LIMIT
from automation.subscriptions.parked_matches import count_parked, discard_parked, list_parked
from automation.subscriptions.store import (
    SubscriptionChanges,
    delete_subscription,
    get_subscription,
    list_subscriptions,
    outstanding_counts,
    stats_of,
    update_subscription,
)
from automation.subscriptions.values import (
    Ack,
    Backoff,
    Delivery,
    DeliveryOrder,
    DeliveryRequest,
    Extend,
    Nack,
    NackAction,
    ParkedSelection,
    ParkingCause,
    SettleOutcome,
    SettleResult,
    Subscription,
    TakeOver,
    Undelivered,
    lease_serial,
)
from automation.tables import run
from registry.errors import EtagMismatch
from tests.support.leasing import (
    ALL,
    NOW,
    PROJECT,
    SECOND,
    SUBSCRIPTION,
    Engine,
    engine_for,
    ids,
    make_automation,
    match,
    outcomes,
    positions,
    record,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection

    from server.storage.database import Database
    from tests.support.stores import Store


@pytest_asyncio.fixture
async def engine(database: Database) -> Engine:
    return await engine_for(database)


@pytest_asyncio.fixture
async def by_contact(database: Database) -> Engine:
    return await engine_for(database, replace(SUBSCRIPTION, order=DeliveryOrder.CONTACT))


# First deliveries and acknowledgements


async def test_first_deliveries_come_in_the_order_of_positions_under_leases(engine: Engine) -> None:
    await engine.record(*(match(position) for position in range(1, 6)))
    first, second = await engine.lease(3), await engine.lease(3)
    assert positions(first) == [1, 2, 3]
    assert positions(second) == [4, 5]
    assert {each.lease_expires_at for each in first} == {NOW + 30 * SECOND}
    assert {(each.attempt, each.replayed, each.last_failure) for each in first} == {(1, False, "")}


async def test_what_is_acknowledged_is_never_delivered_again_and_raises_the_floor(engine: Engine) -> None:
    await engine.record(match(1), match(2), match(3))
    first = await engine.lease()
    assert outcomes(await engine.settle(Ack(ids(first)[1:]))) == [SettleOutcome.ACKNOWLEDGED] * 2
    assert (await engine.read()).floor_position == 0
    await engine.settle(Ack(ids(first)[:1]))
    assert (await engine.read()).floor_position == 3
    engine.now += 3_600 * SECOND
    assert await engine.lease() == []


async def test_a_repeated_acknowledgement_is_acknowledged_and_other_words_are_stale(engine: Engine) -> None:
    await engine.record(match(1))
    (only,) = ids(await engine.lease())
    result = await engine.step(Ack([only, only]), Nack([only]), Extend([only]))
    assert [outcomes(each) for each in result.results] == [
        [SettleOutcome.ACKNOWLEDGED, SettleOutcome.ACKNOWLEDGED],
        [SettleOutcome.STALE],
        [SettleOutcome.STALE],
    ]


async def test_ids_that_were_never_given_out_are_unknown(engine: Engine) -> None:
    await engine.record(match(1))
    (good,) = ids(await engine.lease())
    position, serial, tag = good.split("-")
    forged = ["", "x", good.upper(), f"0{good}", f"9-{serial}-{tag}", f"{position}-2-{tag}", f"{position}-{serial}-0"]
    forged += [f"{good}\n", f"{position}-{serial}-00000000"]
    assert set(outcomes(await engine.settle(Ack(forged)))) == {SettleOutcome.UNKNOWN}


async def test_a_delivered_match_puts_its_run_into_running(engine: Engine) -> None:
    await engine.record(match(1), match(2))
    await engine.lease(1)
    statuses = await engine.do(lambda connection: list(connection.scalars(select(run.c.status).order_by(run.c.number))))
    assert statuses == ["running", "queued"]


# Failures


async def test_a_lease_that_ends_is_a_failed_attempt_with_backoff(engine: Engine) -> None:
    await engine.record(match(1))
    (first,) = await engine.lease()
    engine.now = first.lease_expires_at
    result = await engine.step(requests=[DeliveryRequest("a", 10)])
    assert (result.deliveries, result.next_due) == ([[]], engine.now + SECOND)
    engine.now += SECOND
    (second,) = await engine.lease()
    assert (second.attempt, second.last_failure) == (2, "lease expired")
    assert outcomes(await engine.settle(Ack([first.id]))) == [SettleOutcome.STALE]


async def test_what_reached_no_consumer_is_due_at_once_and_does_not_count(engine: Engine) -> None:
    await engine.record(match(1))
    for _ in range(SUBSCRIPTION.max_attempts + 1):
        (only,) = await engine.lease()
        assert (only.attempt, only.last_failure) == (1, "")
        assert outcomes((await engine.step(Undelivered([only.id]))).results[0]) == [SettleOutcome.RETRYING]
    assert outcomes(await engine.settle(Ack([only.id]))) == [SettleOutcome.STALE]


async def test_the_last_failed_attempt_parks(engine: Engine) -> None:
    await engine.record(match(1))
    for attempt in (1, 2, 3):
        (delivered,) = await engine.lease()
        assert delivered.attempt == attempt
        (result,) = await engine.settle(Nack([delivered.id], delay=0, reason=f"reason {attempt}"))
    assert result.outcome is SettleOutcome.PARKED
    (parked,) = await engine.do(lambda connection: list_parked(connection, engine.subscription, ALL, 10))
    assert (parked.cause, parked.attempt_count, parked.last_failure, parked.consumer_id, parked.parked_at) == (
        ParkingCause.ATTEMPTS_EXHAUSTED, 3, "reason 3", "a", NOW,
    )  # fmt: skip
    assert (await engine.read()).floor_position == 1
    assert outcomes(await engine.settle(Ack([delivered.id]))) == [SettleOutcome.STALE]


async def test_a_nack_retries_when_it_says_and_holds_the_floor(engine: Engine) -> None:
    await engine.record(match(1), match(2))
    first, second = await engine.lease()
    result = await engine.step(Nack([first.id], delay=5 * SECOND, reason="busy"), Ack([second.id]))
    assert result.results[0] == [SettleResult(first.id, SettleOutcome.RETRYING, NOW + 5 * SECOND)]
    assert (result.subscription.floor_position, result.next_due) == (0, NOW + 5 * SECOND)
    engine.now += 5 * SECOND - 1
    assert await engine.lease() == []
    engine.now += 1
    (again,) = await engine.lease()
    assert (again.match, again.attempt, again.last_failure) == (first.match, 2, "busy")


async def test_nacks_park_and_skip(engine: Engine) -> None:
    await engine.record(match(1), match(2))
    first, second = ids(await engine.lease())
    results = (await engine.step(Nack([first], NackAction.PARK), Nack([second], NackAction.SKIP))).results
    assert [outcomes(each) for each in results] == [[SettleOutcome.PARKED], [SettleOutcome.SKIPPED]]
    assert await engine.parked() == [1]
    assert (await engine.read()).floor_position == 2


async def test_an_extended_lease_lasts_from_now(engine: Engine) -> None:
    await engine.record(match(1))
    (only,) = await engine.lease()
    engine.now += 29 * SECOND
    (result,) = await engine.settle(Extend([only.id], 60 * SECOND))
    assert (result.outcome, result.due_at) == (SettleOutcome.EXTENDED, engine.now + 60 * SECOND)
    engine.now += 59 * SECOND
    assert outcomes(await engine.settle(Ack([only.id]))) == [SettleOutcome.ACKNOWLEDGED]


@pytest.mark.parametrize(
    ("backoff", "delays"),
    [
        (Backoff(), [1 * SECOND, 2 * SECOND, 4 * SECOND, 8 * SECOND]),
        (Backoff(SECOND, 3 * SECOND, 10), [SECOND, 3 * SECOND, 3 * SECOND, 3 * SECOND]),
        (Backoff(0, SECOND, 10), [0, 0, 0, 0]),
        (Backoff(SECOND, SECOND * 2, 1), [SECOND] * 4),
    ],
)
def test_delays_grow_to_the_longest(backoff: Backoff, delays: list[int]) -> None:
    assert [backoff.delay(attempt) for attempt in (1, 2, 3, 4)] == delays
    assert backoff.delay(1_000) <= backoff.max_delay


# Consumers


async def test_a_window_counts_the_leases_of_earlier_steps(engine: Engine) -> None:
    await engine.record(*(match(position) for position in range(1, 6)))
    requests = [DeliveryRequest("a", 100, 2)]
    first = (await engine.step(requests=requests)).deliveries[0]
    result = await engine.step(requests=requests)
    assert (positions(first), result.deliveries, result.outstanding) == ([1, 2], [[]], {"a": 2})
    result = await engine.step(Ack(ids(first)[:1]), requests=requests)
    assert positions(result.deliveries[0]) == [3]


async def test_consumers_get_equal_shares_within_their_capacity(engine: Engine) -> None:
    await engine.record(*(match(position) for position in range(1, 11)))
    result = await engine.step(requests=[DeliveryRequest("a", 100), DeliveryRequest("b", 1), DeliveryRequest("c", 100)])
    assert [positions(each) for each in result.deliveries] == [[1, 2, 3, 4], [5], [6, 7, 8, 9, 10]]


async def test_a_returning_consumer_keeps_the_leases_it_names(engine: Engine) -> None:
    await engine.record(match(1), match(2), match(3))
    first, second = await engine.lease(2, "a")
    (other,) = await engine.lease(1, "b")
    named = [second.id, other.id, "nonsense"]
    assert (await engine.step(take_overs=[TakeOver("a", named)])).kept == [[second.id]]
    assert positions(await engine.lease()) == [first.match.position]
    key = engine.subscription.key
    counts = await engine.do(lambda connection: outstanding_counts(connection, key, 10))
    assert counts == {"a": 2, "b": 1}


async def test_leases_of_a_consumer_that_leaves_are_delivered_again_at_once(engine: Engine) -> None:
    await engine.record(match(1))
    await engine.lease(1, "a")
    await engine.step(take_overs=[TakeOver("a")])
    (again,) = await engine.lease(1, "b")
    assert (again.attempt, again.last_failure) == (2, "lease expired")


async def test_a_consumer_that_leaves_late_ends_no_lease_of_its_newer_stream(engine: Engine) -> None:
    await engine.record(match(1), match(2), match(3))
    (first,) = await engine.lease(1, "a")
    (second,) = await engine.lease(1, "a")
    await engine.step(take_overs=[TakeOver("a", newest_serial=lease_serial(first.id))])
    assert positions(await engine.lease(10, "b")) == [1, 3]
    assert [result.outcome for result in await engine.settle(Ack([second.id]))] == [SettleOutcome.ACKNOWLEDGED]


# The filter


@pytest.mark.parametrize(
    ("wanted", "delivered"),
    [
        (MatchFilter(), [1, 2, 3, 4]),
        (MatchFilter(event_names=("signup",)), [4]),
        (MatchFilter(automation_ids=(str(UUID(int=2)),)), [2]),
        (MatchFilter(labels={"team": "growth"}), [1, 2]),
        (MatchFilter(labels={"team": "growth", "tier": "gold"}), [2]),
        (MatchFilter(labels={"team": "growth"}, event_names=("signup",)), []),
    ],
)
async def test_only_matches_of_the_filter_are_delivered(
    database: Database, wanted: MatchFilter, delivered: list[int]
) -> None:
    engine = await engine_for(database, replace(SUBSCRIPTION, filter=wanted))
    labels = [{"team": "growth"}, {"team": "growth", "tier": "gold"}, {}]

    def fill(connection: Connection) -> None:
        keys = [make_automation(connection, number, each) for number, each in enumerate(labels, 1)]
        record(connection, [match(at, automation=key) for at, key in enumerate(keys, 1)])
        record(connection, [match(4, automation=keys[2], event="signup")])

    await engine.do(fill)
    assert positions(await engine.lease()) == delivered
    assert (await engine.read()).read_position == 4


async def test_the_read_position_moves_over_filtered_matches_in_bounded_steps(database: Database) -> None:
    engine = await engine_for(database, replace(SUBSCRIPTION, filter=MatchFilter(event_names=("signup",))))
    await engine.record(*(match(position) for position in range(1, READ_LIMIT + 2)))
    first = await engine.step(requests=[DeliveryRequest("a", 1)])
    assert (first.more, first.subscription.floor_position) == (True, READ_LIMIT)
    second = await engine.step(requests=[DeliveryRequest("a", 1)])
    assert (second.more, second.subscription.floor_position) == (False, READ_LIMIT + 1)


# The order of contacts


async def test_a_match_waits_for_the_earlier_ones_of_its_contact(by_contact: Engine) -> None:
    await by_contact.record(match(1, 5), match(2, 6), match(3, 5), match(4), match(5), match(6, 5))
    first = await by_contact.lease()
    assert positions(first) == [1, 2, 4, 5]
    await by_contact.record(match(7, 6))
    assert await by_contact.lease() == []
    (third,) = await by_contact.lease(100, "a", Ack([first[0].id]))
    assert third.match.position == 3
    assert await by_contact.lease(100, "a", Nack([third.id], delay=SECOND)) == []
    by_contact.now += SECOND
    (third,) = await by_contact.lease()
    assert positions(await by_contact.lease(100, "a", Nack([third.id], NackAction.PARK))) == [6]


async def test_a_replay_goes_before_later_ones_of_its_contact(by_contact: Engine) -> None:
    await by_contact.record(match(1, 5), match(2, 5), match(3, 6))
    first, other = await by_contact.lease()
    (second,) = await by_contact.lease(100, "a", Nack([first.id], NackAction.PARK), Ack([other.id]))
    await by_contact.replay()
    (again,) = await by_contact.lease(100, "a", Nack([second.id], delay=0))
    assert (again.match.position, again.replayed, again.attempt) == (1, True, 1)
    assert positions(await by_contact.lease(100, "a", Ack([again.id]))) == [2]


async def test_an_unblocked_match_is_due_when_its_own_retry_is(by_contact: Engine) -> None:
    await by_contact.record(match(1, 5), match(2, 5))
    (first,) = await by_contact.lease()
    (second,) = await by_contact.lease(100, "a", Nack([first.id], NackAction.PARK))
    await by_contact.replay()
    retried = await by_contact.step(Nack([second.id], delay=10 * SECOND), requests=[DeliveryRequest("a", 100)])
    ((again,),) = retried.deliveries
    acknowledged = await by_contact.step(Ack([again.id]), bounds=retried.bounds)
    assert acknowledged.next_due == NOW + 10 * SECOND
    by_contact.now += 10 * SECOND
    due = await by_contact.step(requests=[DeliveryRequest("a", 100)], bounds=acknowledged.bounds)
    assert positions(due.deliveries[0]) == [2]


# Parked matches


async def park(engine: Engine, count: int) -> list[Delivery]:
    await engine.record(*(match(position) for position in range(1, count + 1)))
    deliveries = await engine.lease(count)
    await engine.settle(Nack(ids(deliveries), NackAction.PARK))
    return deliveries


async def test_replayed_matches_begin_again_and_leave_the_floor(engine: Engine) -> None:
    old = await park(engine, 2)
    assert await engine.replay(ParkedSelection(match_ids=[old[0].match.id, match(2).id, "x"])) == 1
    (again,) = await engine.lease()
    assert (again.match, again.attempt, again.replayed) == (old[0].match, 1, True)
    assert (await engine.read()).floor_position == 2
    assert outcomes(await engine.settle(Ack(ids(old)))) == [SettleOutcome.STALE] * 2
    assert outcomes(await engine.settle(Ack([again.id]))) == [SettleOutcome.ACKNOWLEDGED]
    assert await engine.parked() == [2]


async def test_a_window_counts_leases_of_replayed_matches_below_the_floor(engine: Engine) -> None:
    await park(engine, 2)
    await engine.record(match(3), match(4))
    (fourth,) = (await engine.lease(2))[1:]
    assert await engine.replay() == 2
    result = await engine.step(requests=[DeliveryRequest("a", 100, 3), DeliveryRequest("b", 100, 1)])
    assert ([*map(positions, result.deliveries)], result.outstanding) == ([[1], [2]], {"a": 3, "b": 1})
    assert (await engine.read()).floor_position == 2
    result = await engine.step(
        Ack([fourth.id]), requests=[DeliveryRequest("a", 0), DeliveryRequest("b", 0), DeliveryRequest("c", 0)]
    )
    assert result.outstanding == {"a": 2, "b": 1, "c": 0}


async def test_a_selection_narrows_and_an_empty_one_selects_nothing(engine: Engine) -> None:
    await park(engine, 2)

    def count(selection: ParkedSelection) -> Callable[[Connection], int]:
        return lambda connection: count_parked(connection, engine.subscription, selection)

    assert await engine.do(count(ParkedSelection())) == 0
    assert await engine.do(count(ParkedSelection(parked_until=NOW))) == 0
    assert await engine.do(count(ParkedSelection(parked_until=NOW + 1))) == 2
    assert await engine.do(count(ParkedSelection(automation_id=str(UUID(int=9))))) == 0
    assert await engine.do(lambda connection: discard_parked(connection, engine.subscription.key, ALL)) == 2
    assert await engine.parked() == []


# Seeking


async def test_a_seek_ends_the_leases_and_delivers_later_matches_again(engine: Engine) -> None:
    await engine.record(match(1), match(2), match(3))
    old = await engine.lease()
    await engine.settle(Ack(ids(old)[:2]))
    moved = await engine.seek(1)
    assert (moved.read_position, moved.floor_position, moved.etag) == (1, 1, "2")
    assert outcomes(await engine.settle(Ack(ids(old)))) == [SettleOutcome.STALE] * 3
    again = await engine.lease()
    assert [(each.match.position, each.attempt) for each in again] == [(2, 1), (3, 1)]
    assert set(ids(again)).isdisjoint(ids(old))


async def test_a_parked_match_after_the_sought_position_is_parked_until_it_is_read_again(engine: Engine) -> None:
    await park(engine, 2)
    await engine.seek(0)
    assert await engine.parked() == [2, 1]
    assert positions(await engine.lease(1)) == [1]
    assert await engine.parked() == [2]
    assert await engine.replay() == 1
    assert positions(await engine.lease()) == [2]
    assert await engine.lease() == []


# The store


async def test_a_subscription_is_read_by_id_and_name_and_listed(engine: Engine) -> None:
    wanted = MatchFilter(("a",), {"k": "v"}, ("e",))
    backoff = Backoff(5, 7, 1.5)
    other = await engine_for(
        engine.database, replace(SUBSCRIPTION, id=str(UUID(int=1)), name="other", filter=wanted, backoff=backoff)
    )
    for key in ("other", str(UUID(int=1))):
        found = await engine.do(lambda connection, key=key: get_subscription(connection, PROJECT, key))  # type: ignore[misc]
        assert found == other.subscription
    listed = await engine.do(lambda connection: list_subscriptions(connection, PROJECT, 10))
    assert listed == [engine.subscription, other.subscription]
    listed = await engine.do(lambda connection: list_subscriptions(connection, PROJECT, 10, SUBSCRIPTION.id))
    assert listed == [other.subscription]


async def test_a_name_is_taken_once(engine: Engine) -> None:
    with pytest.raises(SubscriptionAlreadyExists):
        await engine_for(engine.database, replace(SUBSCRIPTION, id=str(UUID(int=1))))


async def test_every_broken_rule_is_named(database: Database) -> None:
    wanted = MatchFilter(tuple(map(str, range(101))), {str(at): "" for at in range(33)}, tuple(map(str, range(101))))
    broken = replace(
        SUBSCRIPTION, name=" ", filter=wanted, ack_deadline=1, max_attempts=0, backoff=Backoff(-1, -2, float("nan"))
    )
    with pytest.raises(InvalidSubscription) as refused:
        await engine_for(database, broken)
    assert [each.path.removeprefix("subscription.") for each in refused.value.violations] == [
        "name", "ack_deadline", "max_attempts", "backoff.initial_delay", "backoff.max_delay", "backoff.multiplier",
        "filter.automation_ids", "filter.labels", "filter.event_names",
    ]  # fmt: skip


async def test_an_update_changes_the_rules_and_the_etag(engine: Engine) -> None:
    def change(changes: SubscriptionChanges, etag: str = "") -> Callable[[Connection], Subscription]:
        return lambda connection: update_subscription(connection, PROJECT, "engine", changes, etag, NOW + 1)

    assert await engine.do(change(SubscriptionChanges(name="engine"))) == engine.subscription
    with pytest.raises(EtagMismatch):
        await engine.do(change(SubscriptionChanges(max_attempts=5), "9"))
    changed = await engine.do(change(SubscriptionChanges(max_attempts=5, backoff=Backoff(1, 2, 3)), "1"))
    assert (changed.max_attempts, changed.backoff, changed.etag) == (5, Backoff(1, 2, 3), "2")
    assert await engine.read() == changed


async def test_a_deleted_subscription_is_forgotten(engine: Engine, store: Store) -> None:
    await park(engine, 2)
    await engine.record(match(3))
    await engine.lease()
    await engine.do(lambda connection: delete_subscription(connection, PROJECT, "engine", ""))
    with pytest.raises(SubscriptionNotFound):
        await engine.step()
    tables = (subscription_tables.subscription_delivery, subscription_tables.subscription_parked)
    assert [await store.rows(table.name) for table in tables] == [[], []]


async def test_stats_say_how_far_it_is(engine: Engine) -> None:
    await engine.record(*(match(position) for position in range(1, 6)))
    first, second, _ = await engine.lease(3)
    await engine.step(Nack([first.id], NackAction.PARK), Nack([second.id]))
    stats = (await engine.do(lambda connection: stats_of(connection, [engine.subscription])))[engine.subscription.key]
    assert (stats.head_position, stats.outstanding_count, stats.retrying_count, stats.parked_count) == (5, 1, 1, 1)
    assert stats.oldest_matched_at == NOW + 2


# Many at once


async def test_steps_at_the_same_time_never_lease_one_match_twice(engine: Engine) -> None:
    await engine.record(*(match(position) for position in range(1, 201)))
    leased = await asyncio.gather(*(engine.lease(5, f"consumer {number}") for number in range(40)))
    assert sorted(position for each in leased for position in positions(each)) == list(range(1, 201))
