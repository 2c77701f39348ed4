"""Consumers of subscriptions: over real channels and both databases."""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from grpc import StatusCode

from server.delivery.subscription_status import ConsumerStatus
from signalbox.v1 import automations_pb2
from signalbox.v1 import match_stream_pb2 as pb
from tests.support.automations import automate, get_run
from tests.support.consumers import (
    ACKNOWLEDGED,
    EXTENDED,
    PARK,
    PARKED,
    RETRYING,
    SKIP,
    SKIPPED,
    STALE,
    UNKNOWN,
    Engine,
    get,
    parked,
    positions,
    pull,
    record,
    seconds,
    seek,
    stats,
    subscribe,
)
from tests.support.messages import ANYTHING, BOB, event, struct
from tests.support.refusals import refusal, verdict

if TYPE_CHECKING:
    from tests.support.service import Client
    from tests.support.stores import Store

pytestmark = pytest.mark.lasting
# Messages of a stream are checked, and fill responses, in the same way on every database.
on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)

INVALID = StatusCode.INVALID_ARGUMENT
SOON = pb.Backoff(initial_delay=seconds(0.2))
AT_ONCE = pb.Backoff(initial_delay=seconds(0))


@pytest_asyncio.fixture
async def till(shop: Client) -> Client:
    """The shop, with an automation on orders."""
    await automate(shop)
    return shop


def outcomes(results: list[pb.DeliveryResult]) -> list[Any]:
    return [each.outcome for each in results]


async def test_a_stream_keeps_nothing_of_the_other_consumers(till: Client) -> None:
    await subscribe(till)
    engines = [await Engine.open(till) for _ in range(4)]
    gc.collect()
    assert not [each for each in gc.get_objects() if isinstance(each, ConsumerStatus)]
    assert engines[-1].opened.subscription.stats.consumer_count == len(engines)


# Leases and what becomes of them


async def test_a_consumer_is_delivered_matches_under_a_lease(till: Client) -> None:
    await subscribe(till, ack_deadline=seconds(20))
    engine = await Engine.open(till, consumer_id="worker")
    assert (engine.opened.consumer_id, engine.opened.max_outstanding) == ("worker", 100)
    assert engine.opened.subscription.stats.consumer_count == 1
    await record(till, 2)
    first, second = await engine.deliveries(2)
    assert (first.match.position, second.match.position) == (1, 2)
    assert (first.attempt, first.max_attempts, first.replayed, first.last_failure) == (1, 10, False, "")
    assert 19 < first.lease_duration.ToTimedelta().total_seconds() <= 20
    run = await get_run(till, first.match.run_id)
    assert run.status == automations_pb2.RUN_STATUS_RUNNING
    answer = await get(till)
    assert [(each.consumer_id, each.connected, each.outstanding_count) for each in answer.consumers] == [
        ("worker", True, 2)
    ]
    await engine.close()


async def test_an_acknowledged_match_is_not_delivered_again(till: Client) -> None:
    await subscribe(till)
    await record(till, 3)
    engine = await Engine.open(till)
    taken = await engine.deliveries(3)
    assert outcomes(await engine.ack(taken[:2])) == [ACKNOWLEDGED] * 2
    assert outcomes(await engine.ack(taken[:1])) == [ACKNOWLEDGED]
    assert (await stats(till)).floor_position == 2
    await engine.close()
    assert positions(await pull(till)) == [3]


async def test_a_match_given_back_waits_and_says_why(till: Client) -> None:
    await subscribe(till, backoff=SOON)
    await record(till, 1)
    engine = await Engine.open(till)
    (result,) = await engine.nack(await engine.deliveries(), reason="no room")
    assert result.outcome == RETRYING
    (again,) = await engine.deliveries()
    assert (again.attempt, again.last_failure) == (2, "no room")
    assert again.lease_expires_at.ToNanoseconds() > result.retry_at.ToNanoseconds()
    (result,) = await engine.nack([again], delay=seconds(0))
    assert (await engine.deliveries())[0].attempt == 3
    await engine.close()


async def test_parked_and_skipped_matches_are_done_with(till: Client) -> None:
    await subscribe(till)
    await record(till, 2)
    engine = await Engine.open(till)
    first, second = await engine.deliveries(2)
    assert outcomes(await engine.nack([first], action=PARK, reason="bad")) == [PARKED]
    assert outcomes(await engine.nack([second], action=SKIP)) == [SKIPPED]
    await engine.nothing()
    await engine.close()
    (aside,) = await parked(till)
    assert (aside.match, aside.last_failure, aside.cause) == (first.match, "bad", pb.ParkedMatch.CAUSE_NACKED)
    now = await stats(till)
    assert (now.floor_position, now.parked_count) == (2, 1)


async def test_a_lease_that_ends_is_a_failed_attempt(till: Client) -> None:
    await subscribe(till, ack_deadline=seconds(1), max_attempts=2, backoff=AT_ONCE)
    await record(till, 1)
    engine = await Engine.open(till)
    (first,) = await engine.deliveries()
    (second,) = await engine.deliveries()
    assert (second.attempt, second.last_failure) == (2, "lease expired")
    assert outcomes(await engine.ack([first])) == [STALE]
    while not (aside := await parked(till)):
        await engine.nothing(0.1)
    assert (aside[0].cause, aside[0].attempt_count) == (pb.ParkedMatch.CAUSE_ATTEMPTS_EXHAUSTED, 2)
    await engine.close()


async def test_no_lease_runs_while_the_database_lets_a_step_wait(till: Client, store: Store) -> None:
    await subscribe(till)
    await record(till, 1)
    async with store.held("subscription"):
        pulling = asyncio.create_task(pull(till))
        await asyncio.sleep(1.5)
    (delivery,) = await pulling
    assert delivery.lease_duration.ToMicroseconds() > 28_900_000


async def test_an_extended_lease_lasts(till: Client) -> None:
    await subscribe(till, ack_deadline=seconds(1.5), backoff=AT_ONCE)
    await record(till, 1)
    engine = await Engine.open(till)
    taken = await engine.deliveries()
    (result,) = await engine.extend(taken, lease_duration=seconds(9))
    assert result.outcome == EXTENDED
    assert result.lease_expires_at.ToNanoseconds() > taken[0].lease_expires_at.ToNanoseconds()
    await engine.nothing(1.7)
    assert outcomes(await engine.ack(taken)) == [ACKNOWLEDGED]
    await engine.close()


async def test_a_delivery_of_no_subscription_is_unknown(till: Client) -> None:
    await subscribe(till)
    engine = await Engine.open(till)
    (result,) = await engine.results(engine.say(ack=pb.AckDeliveries(delivery_ids=["1-1-00000000"])))
    assert result.outcome == UNKNOWN
    await engine.close()


# Windows


async def test_a_consumer_never_holds_more_than_its_window(till: Client) -> None:
    await subscribe(till)
    await record(till, 5)
    engine = await Engine.open(till, max_outstanding=2)
    taken = await engine.deliveries(2)
    await engine.nothing()
    await engine.ack(taken[:1])
    assert positions(await engine.deliveries()) == [3]
    await engine.close()


async def test_consumers_share_a_subscription(till: Client) -> None:
    await subscribe(till)
    engines = [await Engine.open(till, max_outstanding=2) for _ in range(3)]
    await record(till, 6)
    taken = [await engine.deliveries(2) for engine in engines]
    assert sorted(position for one in taken for position in positions(one)) == [1, 2, 3, 4, 5, 6]
    for engine in engines:
        await engine.close()


@on_sqlite
async def test_deliveries_of_large_events_come_in_batches_that_a_client_takes(till: Client) -> None:
    await till.define("large", ANYTHING)
    await automate(till, "large")
    await subscribe(till)
    await till.send_all([event({"text": "x" * 250_000}, name="large")] * 16)
    engine = await Engine.open(till)
    taken = await engine.deliveries(16)
    assert (positions(taken), {each.attempt for each in taken}) == (list(range(1, 17)), {1})
    assert max(engine.batches) < 4 << 20
    await engine.close()


@on_sqlite
async def test_a_pull_of_large_events_counts_only_what_it_delivers(till: Client) -> None:
    await till.define("large", ANYTHING)
    await automate(till, "large")
    await subscribe(till)
    for _ in range(6):
        await till.send(event({"text": "x" * 250_000}, name="large"))
    first = await pull(till)
    assert len(first) < 6
    rest = await pull(till)
    assert positions([*first, *rest]) == list(range(1, len(first) + len(rest) + 1))
    assert {each.attempt for each in rest} == {1}


# Order


async def test_in_the_order_of_contacts_a_match_waits_for_earlier_ones_of_its_contact(till: Client) -> None:
    await till.upsert(BOB)
    await subscribe(till, order=pb.DELIVERY_ORDER_CONTACT, backoff=SOON)
    engine = await Engine.open(till)
    for sent in (event(), event(), event(email=BOB)):
        await till.send(sent)
    first = await engine.deliveries(2)
    assert positions(first) == [1, 3]
    await engine.nack(first[:1])
    (again,) = await engine.deliveries()
    assert (again.match.position, again.attempt) == (1, 2)
    await engine.ack([again])
    assert positions(await engine.deliveries()) == [2]
    await engine.close()


async def test_first_deliveries_come_in_the_order_of_positions(till: Client) -> None:
    await subscribe(till)
    engine = await Engine.open(till, max_outstanding=7)
    await record(till, 40)
    seen: list[int] = []
    while len(seen) < 40:
        taken = await engine.some()
        seen += positions(taken)
        await engine.ack(taken)
    assert seen == list(range(1, 41))
    await engine.close()


# Bad input


@on_sqlite
@pytest.mark.parametrize(
    ("opening", "field"),
    [
        ({"max_outstanding": 0}, "max_outstanding"),
        ({"max_outstanding": 10_001}, "max_outstanding"),
        ({"consumer_id": "x" * 256}, "consumer_id"),
        ({"consumer_id": "é"}, "consumer_id"),
        ({"consumer_id": "a\nb"}, "consumer_id"),
        ({"held_delivery_ids": ["1"] * 10_001}, "held_delivery_ids"),
        ({"heartbeat_interval": seconds(0.9)}, "heartbeat_interval"),
        ({"heartbeat_interval": seconds(61)}, "heartbeat_interval"),
    ],
)
async def test_a_consumer_that_breaks_the_rules_is_refused(till: Client, opening: Any, field: str) -> None:
    await subscribe(till)
    refused = await refusal(Engine.open(till, **opening))
    assert (refused.code, refused.reason) == (INVALID, "INVALID_CONSUMER")
    assert [path for path, _ in refused.violations] == [field]


@on_sqlite
async def test_a_stream_begins_with_open_and_opens_once(till: Client) -> None:
    await subscribe(till)
    ack = pb.ConsumeMatchesRequest(ack=pb.AckDeliveries(delivery_ids=["x"]))
    refused = await refusal(till.matches.ConsumeMatches(iter([ack])).read())
    assert refused.violations == (("message", "INVALID_MESSAGE"),)
    refused = await refusal(till.matches.ConsumeMatches(iter([])).read())
    assert refused.violations == (("message", "INVALID_MESSAGE"),)
    for message in ({"open": pb.OpenConsumer(subscription="engine")}, {}):
        engine = await Engine.open(till)
        engine.say(**message)
        assert (await refusal(engine.ended())).violations == (("message", "INVALID_MESSAGE"),)


@on_sqlite
async def test_a_message_names_1_to_1000_deliveries(till: Client) -> None:
    await subscribe(till)
    for message, field in (
        ({"ack": pb.AckDeliveries()}, "ack.delivery_ids"),
        ({"ack": pb.AckDeliveries(delivery_ids=["x"] * 1_001)}, "ack.delivery_ids"),
        ({"nack": pb.NackDeliveries(delivery_ids=["x"], reason="x" * 1_001)}, "nack.reason"),
        ({"nack": pb.NackDeliveries(delivery_ids=["x"], delay=seconds(86_401))}, "nack.delay"),
        ({"extend": pb.ExtendLeases(delivery_ids=["x"], lease_duration=seconds(0.5))}, "extend.lease_duration"),
    ):
        engine = await Engine.open(till)
        engine.say(**message)
        refused = await refusal(engine.ended())
        assert (refused.code, [path for path, _ in refused.violations]) == (INVALID, [field])


@on_sqlite
async def test_an_unknown_subscription_is_named_as_the_caller_does(till: Client) -> None:
    refused = await refusal(Engine.open(till, "nothing"))
    assert (refused.code, refused.reason) == (StatusCode.NOT_FOUND, "SUBSCRIPTION_NOT_FOUND")
    assert refused.metadata == {"subscription": "nothing"}


async def test_a_subscription_in_use_is_deleted_by_force_alone(till: Client) -> None:
    await subscribe(till)
    engine = await Engine.open(till)
    request = pb.DeleteSubscriptionRequest(subscription="engine")
    in_use = (StatusCode.FAILED_PRECONDITION, "SUBSCRIPTION_IN_USE")
    assert await verdict(till.matches.DeleteSubscription(request)) == in_use
    request.force = True
    await till.matches.DeleteSubscription(request)
    refused = await refusal(engine.ended())
    assert (refused.reason, refused.metadata) == ("SUBSCRIPTION_NOT_FOUND", {"subscription": "engine"})


async def test_a_seek_reaches_the_consumers_that_are_connected(till: Client) -> None:
    await subscribe(till)
    await record(till, 3)
    engine = await Engine.open(till)
    taken = await engine.deliveries(3)
    await seek(till, 1)
    again = await engine.deliveries(2)
    assert [(each.match.position, each.attempt) for each in again] == [(2, 1), (3, 1)]
    assert outcomes(await engine.ack(taken)) == [STALE] * 3
    assert outcomes(await engine.ack(again)) == [ACKNOWLEDGED] * 2
    await engine.close()


async def test_a_replay_reaches_the_consumers_that_are_connected(till: Client) -> None:
    await subscribe(till)
    await record(till, 2)
    engine = await Engine.open(till)
    await engine.nack(await engine.deliveries(2), action=PARK)
    request = pb.ReplayParkedMatchesRequest(subscription="engine", selection=pb.ParkedSelection(all=True), dry_run=True)
    assert (await till.matches.ReplayParkedMatches(request)).match_count == 2
    await engine.nothing()
    request.dry_run = False
    assert (await till.matches.ReplayParkedMatches(request)).match_count == 2
    again = await engine.deliveries(2)
    assert [(each.attempt, each.replayed) for each in again] == [(1, True)] * 2
    assert await parked(till) == []
    await engine.close()


async def test_a_filter_narrows_what_is_delivered(till: Client) -> None:
    await till.define("paid", ANYTHING)
    await automate(till, "paid", labels={"team": "growth"})
    await subscribe(till, filter=pb.MatchFilter(labels={"team": "growth"}))
    engine = await Engine.open(till)
    await till.send(event())
    await till.send(event(name="paid"))
    assert positions(await engine.deliveries()) == [2]
    await engine.close()


@on_sqlite
async def test_properties_as_deep_as_allowed_do_not_break_a_stream(till: Client) -> None:
    deep: Any = {"x": 1}
    for _ in range(31):
        deep = {"x": deep}
    await till.define("deep", ANYTHING)
    await automate(till, "deep")
    await subscribe(till)
    engine = await Engine.open(till)
    for properties in (deep, deep["x"]):
        await till.send(event(struct(properties), name="deep"))
    first, second = await engine.deliveries(2)
    assert (first.match.event.properties, second.match.event.properties) == (struct({}), struct(deep["x"]))
    await engine.close()
