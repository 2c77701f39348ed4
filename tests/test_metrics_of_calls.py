"""What calls, subscriptions and runs add to the metrics of a running server."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import grpc
import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families

from server.background import statistics
from server.metrics import Metrics
from server.metrics.subscriptions import SubscriptionState
from server.storage.sqlite import writer as sqlite_writer
from server.storage.sqlite.database import SqliteDatabase
from signalbox.v1 import match_stream_pb2, projects_pb2
from tests.support.automations import automate, await_event, cancel, complete, started
from tests.support.bridge import http_client
from tests.support.consumers import PARK, RETRY, Engine, acknowledge, pull, record, seconds, subscribe
from tests.support.messages import ADA, ORDER
from tests.support.service import ADMIN_KEY

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import httpx

    from tests.support.service import Client, Service

pytestmark = pytest.mark.lasting

on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)


STATUSES = ("queued", "completed", "cancelled", "waiting")


class Page:
    """The samples of /metrics, as an operator or anybody else sees them."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def read(self, *, operator: bool = True) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        headers = {"authorization": f"Bearer {ADMIN_KEY}"} if operator else {}
        text = (await self._http.get("/metrics", headers=headers)).text
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    async def value(self, name: str, **labels: str) -> float | None:
        return (await self.read()).get((name, frozenset(labels.items())))


@pytest_asyncio.fixture
async def http(service: Service) -> AsyncIterator[httpx.AsyncClient]:
    async with http_client(service) as http:
        yield http


@pytest.fixture
def page(http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> Page:
    monkeypatch.setattr(statistics, "FRESH_SECONDS", 0.0)
    return Page(http)


@on_sqlite
async def test_calls_are_counted_by_rpc_and_code_whatever_carries_them(
    shop: Client, service: Service, http: httpx.AsyncClient, page: Page
) -> None:
    async def counted(code: str, method: str = "SendEvent") -> float:
        labels = {"service": "signalbox.v1.EventIngest", "method": method, "code": code}
        return await page.value("signalbox_rpc_seconds_count", **labels) or 0

    sent, refused = await counted("OK"), await counted("UNAUTHENTICATED")
    await shop.send()
    body = {"event": {"name": ORDER, "email": ADA, "properties": {"order_total": 5}}}
    key = {"authorization": f"Bearer {shop.secret}"}
    answer = await http.post("/signalbox.v1.EventIngest/SendEvent", json=body, headers=key)
    assert answer.status_code == 200, answer.text
    for _ in range(2):
        with pytest.raises(grpc.aio.AioRpcError):
            await service.client("nobody").send()
    assert (await counted("OK"), await counted("UNAUTHENTICATED")) == (sent + 2, refused + 2)


@on_sqlite
async def test_a_path_is_counted_by_the_template_of_its_route(
    shop: Client, service: Service, http: httpx.AsyncClient, page: Page
) -> None:
    secret = await service.secret(shop.project, projects_pb2.DIALECT_AUTOSEND)
    key = {"authorization": f"Bearer {secret}"}
    for number in range(3):
        await http.get(f"/events/of-a-caller-{number}", headers=key)
        await http.get(f"/nowhere-{number}", headers=key)
        await http.get(f"/nowhere-{number}")
        await http.post(f"/signalbox.v1.EventIngest/Nowhere{number}")
    await http.get("/healthz")
    routes = {
        (labels["dialect"], labels["route"])
        for name, found in await page.read()
        if name == "signalbox_http_request_seconds_count" and (labels := dict(found))
    }
    assert {("system", "/healthz"), ("autosend", "unknown"), ("", "unknown"), ("connect", "unknown")} <= routes
    assert not [route for _, route in routes if "nowhere" in route.lower() or "of-a-caller" in route]


@on_sqlite
async def test_open_streams_and_calls_in_progress_are_shown(shop: Client, page: Page) -> None:
    labels = {"service": "signalbox.v1.MatchStream", "method": "WatchMatches"}
    request = match_stream_pb2.WatchMatchesRequest(heartbeat_interval=seconds(1))
    before = await page.value("signalbox_open_streams", **labels) or 0
    watch = shop.matches.WatchMatches(request)
    await watch.read()
    assert await page.value("signalbox_open_streams", **labels) == before + 1
    assert (await page.value("signalbox_rpcs_in_flight") or 0) >= 1
    watch.cancel()
    async with asyncio.timeout(10):
        while await page.value("signalbox_open_streams", **labels) != before:  # noqa: ASYNC110 - a metric wakes nobody
            await asyncio.sleep(0.01)


async def test_a_subscription_shows_its_lag_and_what_it_owes(shop: Client, page: Page) -> None:
    await automate(shop)
    await subscribe(shop, max_attempts=3, backoff=match_stream_pb2.Backoff(initial_delay=seconds(60)))

    async def shown(name: str) -> float | None:
        return await page.value(f"signalbox_subscription_{name}", project=shop.project, subscription="engine")

    assert (await shown("lag_positions"), await shown("lag_seconds")) == (0, 0)
    await record(shop, 5)
    assert await shown("lag_positions") == 5
    assert 0 < (await shown("lag_seconds") or 0) < 60
    taken = [delivery.delivery_id for delivery in await pull(shop, 5)]
    nacks = [
        match_stream_pb2.NackDeliveries(delivery_ids=taken[1:2], action=RETRY),
        match_stream_pb2.NackDeliveries(delivery_ids=taken[2:3], action=PARK),
    ]
    await acknowledge(shop, ack=match_stream_pb2.AckDeliveries(delivery_ids=taken[:1]), nacks=nacks)
    states = [await shown(name) for name in ("lag_positions", "outstanding", "retrying", "parked")]
    assert states == [4, 2, 1, 1]
    times = {"project": shop.project, "subscription": "engine"}
    assert await page.value("signalbox_delivery_seconds_count", **times) == 5
    assert await page.value("signalbox_acknowledgement_seconds_count", **times) == 1
    everybody = await page.read(operator=False)
    assert not [labels for _, labels in everybody if {"project", "subscription", "event"} & dict(labels).keys()]
    assert everybody["signalbox_subscription_parked", frozenset()] >= 1


async def test_a_stream_adds_to_the_times_of_its_subscription(shop: Client, page: Page) -> None:
    await automate(shop)
    await subscribe(shop)
    engine = await Engine.open(shop)
    await record(shop, 3)
    taken = await engine.deliveries(3)
    await engine.ack(taken)
    await engine.ack(taken)
    times = {"project": shop.project, "subscription": "engine"}
    assert await page.value("signalbox_acknowledgement_seconds_count", **times) == 3
    assert await page.value("signalbox_delivery_seconds_count", **times) == 3
    await engine.close()


@on_sqlite
async def test_runs_are_counted_by_the_status_that_they_took(shop: Client, page: Page) -> None:
    async def taken() -> list[float]:
        return [await page.value("signalbox_runs_total", status=status) or 0 for status in STATUSES]

    await automate(shop)
    before = await taken()
    first, second, third = [await started(shop) for _ in range(3)]
    await complete(shop, first)
    await cancel(shop, second)
    await await_event(shop, third, timeout=seconds(3_600))
    assert [now - then for now, then in zip(await taken(), before, strict=True)] == [3, 1, 1, 1]
    assert (await page.value("signalbox_runs_waiting") or 0) >= 1
    assert await page.value("signalbox_runs_overdue") == 0


async def test_a_checkpoint_of_sqlite_is_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_writer, "_CHECKPOINT_SECONDS", 0.0)
    taken: list[float] = []

    async def commit_with(pages: int) -> int:
        monkeypatch.setattr(sqlite_writer, "CHECKPOINT_PAGES", pages)
        database = await SqliteDatabase.open(str(tmp_path / f"{pages}.db"))
        database.on_checkpoint(taken.append)
        await asyncio.sleep(0.02)  # file systems count time in ticks
        await database.write(lambda connection: connection.exec_driver_sql("CREATE TABLE example (number INTEGER)"))
        size = await database.size()
        await database.close()
        assert size.bytes + (size.wal_bytes or 0) > 0
        assert size.free_bytes
        return len(taken)

    assert await commit_with(1_000) == 0
    assert await commit_with(1) == 1


def test_of_many_subscriptions_some_are_shown_together() -> None:
    metrics = Metrics()
    states = [SubscriptionState(key, "p", f"s{key}", 10, float(key), 1, 2, 3) for key in range(1, 251)]
    metrics.subscriptions.update(states)
    for key in (1, 201, 250, 251):
        metrics.subscriptions.times(key).delivered.observe(0.5)

    def shown(name: str, project: str, subscription: str) -> float | None:
        return metrics.registry.get_sample_value(name, {"project": project, "subscription": subscription})

    assert shown("signalbox_subscription_lag_seconds", "p", "s200") == 200
    assert shown("signalbox_subscription_lag_seconds", "p", "s201") is None
    assert shown("signalbox_subscription_lag_seconds", "other", "other") == 250
    assert shown("signalbox_subscription_lag_positions", "other", "other") == 500
    assert shown("signalbox_delivery_seconds_count", "p", "s1") == 1
    assert shown("signalbox_delivery_seconds_count", "other", "other") == 3
    metrics.subscriptions.update(states[1:])
    assert shown("signalbox_delivery_seconds_count", "p", "s1") is None
    assert shown("signalbox_delivery_seconds_count", "p", "s201") == 1
