"""Consumers whose connections break and whose servers stop: over real channels and both databases."""

from __future__ import annotations

import asyncio
import signal
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
import pytest_asyncio
from grpc import StatusCode
from structlog.testing import capture_logs

from server.logs import outages
from signalbox.v1 import match_stream_pb2 as pb
from tests.support.automations import automate
from tests.support.command_line import ENVIRONMENT, forker
from tests.support.consumers import (
    ACKNOWLEDGED,
    STALE,
    WAIT,
    Engine,
    acknowledge,
    get,
    ids,
    positions,
    pull,
    record,
    seconds,
    seek,
    stats,
    subscribe,
)
from tests.support.messages import ANYTHING, event
from tests.support.process import server_process
from tests.support.refusals import refusal
from tests.support.service import serving

if TYPE_CHECKING:
    from tests.support.service import Client, Service
    from tests.support.stores import Store

pytestmark = pytest.mark.lasting
# What a connection holds and when it ends has nothing to do with the database.
on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)

ROOT = Path(__file__).parents[1]
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


# Connections


async def test_a_broken_connection_keeps_its_leases_for_the_same_consumer(till: Client) -> None:
    await subscribe(till)
    await record(till, 3)
    engine = await Engine.open(till, consumer_id="worker")
    taken = await engine.deliveries(3)
    await engine.break_off()
    assert await pull(till) == []
    async with asyncio.timeout(10):
        while (consumer := (await get(till)).consumers[0]).connected:  # noqa: ASYNC110 - it must be asked
            await asyncio.sleep(0.02)
    assert consumer.outstanding_count == 3
    held = [taken[1].delivery_id, "unknown"]
    again = await Engine.open(till, consumer_id="worker", held_delivery_ids=held)
    assert list(again.opened.held_delivery_ids) == held[:1]
    assert positions(await again.deliveries(2)) == [1, 3]
    assert outcomes(await again.ack(taken)) == [STALE, ACKNOWLEDGED, STALE]
    await again.close()


async def test_a_newer_stream_of_a_consumer_replaces_the_older(till: Client) -> None:
    await subscribe(till)
    older = await Engine.open(till, consumer_id="worker")
    newer = await Engine.open(till, consumer_id="worker")
    refused = await refusal(older.ended())
    assert (refused.code, refused.reason) == (StatusCode.ABORTED, "CONSUMER_REPLACED")
    await record(till, 1)
    await newer.ack(await newer.deliveries())
    await newer.close()


async def test_a_consumer_that_closes_its_side_gets_the_results_and_ends_its_leases(till: Client) -> None:
    await subscribe(till)
    await record(till, 2)
    engine = await Engine.open(till)
    first, _ = await engine.deliveries(2)
    sequence = engine.say(ack=pb.AckDeliveries(delivery_ids=[first.delivery_id]))
    await engine.close()
    assert outcomes(await engine.results(sequence)) == [ACKNOWLEDGED]
    assert [(each.match.position, each.attempt) for each in await pull(till)] == [(2, 2)]


async def test_a_consumer_that_stops_settles_its_deliveries_and_is_closed(till: Client) -> None:
    await subscribe(till)
    await record(till, 2)
    engine = await Engine.open(till)
    taken = await engine.deliveries(2)
    engine.say(stop=pb.StopDeliveries())
    await record(till, 1)
    await engine.nothing()
    await engine.ack(taken)
    await engine.ended()
    assert positions(await pull(till)) == [3]


@on_sqlite
async def test_something_is_sent_within_each_heartbeat(till: Client) -> None:
    await subscribe(till)
    await record(till, 3)
    engine = await Engine.open(till, heartbeat_interval=seconds(1), max_outstanding=2)
    await engine.ack((await engine.deliveries(2))[:1])
    await engine.deliveries()
    while not engine.heartbeats:
        await engine.read()
    (beat,) = engine.heartbeats
    assert (beat.floor_position, beat.head_position, beat.outstanding_count) == (1, 3, 2)
    await engine.close()


@on_sqlite
async def test_leases_of_a_client_that_dies_run_on(service: Service, till: Client) -> None:
    await subscribe(till)
    await record(till, 2)
    arguments = (service.address, till.secret)
    run = partial(forker.run, arguments, ENVIRONMENT, ROOT, stdin="", timeout=60, module="tests.support.dying_consumer")
    code, _, errors = await asyncio.to_thread(run)
    assert code == -signal.SIGKILL, errors
    assert await pull(till, wait=0.3) == []
    (consumer,) = (await get(till)).consumers
    assert (consumer.consumer_id, consumer.connected, consumer.outstanding_count) == ("worker", False, 2)


@on_sqlite
async def test_leases_of_a_slow_reader_begin_when_it_reads(till: Client) -> None:
    await till.define("large", ANYTHING)
    await automate(till, "large")
    await subscribe(till, ack_deadline=seconds(2.5))
    await till.send_all([event({"text": "x" * 250_000}, name="large")] * 36)
    engine = await Engine.open(till, max_outstanding=1_000)
    await asyncio.sleep(1.25)
    began = time.time_ns()
    # The first ones are in the transport since they were leased; the last lease from before the reading waited for it.
    waited = batch = await engine.some()
    while batch[0].lease_expires_at.ToNanoseconds() < began + 2.5e9:
        waited, batch = batch, await engine.some()
    while time.time_ns() <= waited[0].lease_expires_at.ToNanoseconds():  # noqa: ASYNC110 - a clock does not tell
        await asyncio.sleep(0.05)
    assert outcomes(await engine.ack(waited)) == [ACKNOWLEDGED] * len(waited)
    await engine.close()


# Servers


async def test_at_a_shutdown_consumers_settle_and_are_let_go(database_url: str) -> None:
    async with serving(database_url) as service:
        till = await service.shop()
        await automate(till)
        await subscribe(till)
        engine, idle = await Engine.open(till, max_outstanding=2), await Engine.open(till, max_outstanding=1)
        await record(till, 3)
        taken = await engine.deliveries(2)
        await idle.ack(await idle.deliveries())
        ending = asyncio.create_task(settle_and_end(engine, taken))
        idling = asyncio.create_task(refusal(idle.ended()))
    stopping = (StatusCode.UNAVAILABLE, "SERVER_STOPPING")
    for ended in (await ending, await idling):
        assert (ended.code, ended.reason) == stopping
    assert 4 < engine.drains[0].grace_period.ToTimedelta().total_seconds() < 5
    async with serving(database_url) as service:
        assert (await stats(service.client(till.secret))).floor_position == 3


async def settle_and_end(engine: Engine, taken: list[pb.Delivery]) -> Any:
    while not engine.drains:
        await engine.read()
    await asyncio.sleep(0.2)
    assert outcomes(await engine.ack(taken)) == [ACKNOWLEDGED] * 2
    return await refusal(engine.ended())


async def test_leases_outlive_a_restart(database_url: str) -> None:
    async with serving(database_url, grace_seconds=0.5) as service:
        till = await service.shop()
        await automate(till)
        await subscribe(till)
        await record(till, 2)
        taken = await (engine := await Engine.open(till, consumer_id="worker")).deliveries(2)
        ending = asyncio.create_task(refusal(engine.ended()))
    await ending
    async with serving(database_url) as service:
        till = service.client(till.secret)
        engine = await Engine.open(till, consumer_id="worker", held_delivery_ids=ids(taken))
        assert list(engine.opened.held_delivery_ids) == ids(taken)
        assert outcomes(await engine.ack(taken)) == [ACKNOWLEDGED] * 2
        await engine.close()
        assert await pull(till) == []


async def test_what_was_acknowledged_is_not_delivered_after_kill_9(database_url: str, tmp_path: Path) -> None:
    acknowledged: set[int] = set()
    enough = asyncio.Event()

    async def work(engine: Engine) -> None:
        while True:
            taken = await engine.some()
            await engine.ack(taken)
            acknowledged.update(positions(taken))
            if len(acknowledged) > 150:
                enough.set()

    async with server_process(database_url, tmp_path) as server:
        till = await server.service.shop()
        await automate(till)
        await subscribe(till, backoff=AT_ONCE)
        await record(till, 600)
        engine = await Engine.open(till, consumer_id="worker", max_outstanding=50)
        working = asyncio.create_task(work(engine))
        await enough.wait()
        server.kill()
        assert (await refusal(working)).code is StatusCode.UNAVAILABLE
    async with serving(database_url) as service:
        till = service.client(till.secret)
        engine = await Engine.open(till, consumer_id="worker", max_outstanding=10_000)
        left: set[int] = set()
        while len(left | acknowledged) < 600:
            left.update(positions(taken := await engine.some()))
            await engine.ack(taken)
        assert left & acknowledged == set()
        await engine.close()


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
async def test_two_servers_share_a_subscription_without_concurrent_leases(store: Store) -> None:
    async with serving(store.url) as one, serving(store.url) as two:
        till = await one.shop()
        await automate(till)
        await subscribe(till)
        other = two.client(till.secret)
        engines = [await Engine.open(client, max_outstanding=20) for client in (till, other, till, other)]
        leased: set[int] = set()
        done: list[int] = []

        async def work(engine: Engine) -> None:
            while len(done) < 200:
                taken = await engine.some(0.2)
                assert leased.isdisjoint(positions(taken))
                leased.update(positions(taken))
                await asyncio.sleep(0.005)
                leased.difference_update(positions(taken))
                if taken:
                    await engine.ack(taken)
                done.extend(positions(taken))

        await asyncio.gather(*(work(engine) for engine in engines), *(record(client, 100) for client in (till, other)))
        assert sorted(done) == list(range(1, 201))
        for engine in engines:
            await engine.close()


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
async def test_what_another_server_does_is_noticed(store: Store) -> None:
    async with serving(store.url) as one, serving(store.url) as two:
        till = await one.shop()
        await automate(till)
        await subscribe(till)
        await record(till, 2)
        engine = await Engine.open(till, max_outstanding=1)
        first = await engine.deliveries()
        other = two.client(till.secret)
        await acknowledge(other, ack=pb.AckDeliveries(delivery_ids=ids(first)))
        assert positions(await engine.deliveries()) == [2]
        await seek(other, 0)
        assert positions(await engine.deliveries()) == [1]
        request = pb.DeleteSubscriptionRequest(subscription="engine")
        await other.matches.DeleteSubscription(request)
        assert (await refusal(engine.ended())).reason == "SUBSCRIPTION_NOT_FOUND"


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
async def test_subscriptions_that_cannot_follow_the_log_are_part_of_one_outage_in_the_log_of_the_server(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outages, "SETTLE_SECONDS", 1.0)
    async with serving(store.url) as service:
        shop = await service.shop()
        for number in range(3):
            await subscribe(shop, f"engine{number}")
        with capture_logs() as logs:
            await store.execute("ALTER TABLE project_head RENAME TO away")
            for number in range(6):
                # Refused if a step needs the table meanwhile.
                with suppress(grpc.RpcError):
                    assert await pull(shop, wait=0.1, name=f"engine{number % 3}") == []
            await store.execute("ALTER TABLE away RENAME TO project_head")
            async with asyncio.timeout(WAIT):
                while not any(entry["event"] == "storage_outage_over" for entry in logs):  # noqa: ASYNC110 - it must be read
                    await asyncio.sleep(0.05)
    of_calls = {"call", "calls_not_logged", "storage_refused"}
    lines = [entry["event"] for entry in logs if entry["event"] not in of_calls]
    assert lines == ["storage_outage", "storage_outage_over"]
