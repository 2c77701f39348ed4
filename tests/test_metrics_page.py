"""Who sees which metrics, and the headers that every response carries."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from prometheus_client import Histogram, generate_latest

from automation.conditions.values import Verdict
from server.app import running
from server.bridge import metrics_page
from server.bridge.metrics_page import MetricsPage
from server.metrics import PROJECT_LABEL, Metrics
from signalbox.v1 import projects_pb2 as pb
from tests.support.messages import ADA, ORDER
from tests.support.service import ADMIN_KEY, http_client, settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    import httpx

    from tests.support.service import Service

# Nothing here depends on the database.
on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)


@pytest_asyncio.fixture
async def http(lasting_service: Service) -> AsyncIterator[httpx.AsyncClient]:
    async with http_client(lasting_service.http_address) as http:
        yield http


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


@on_sqlite
async def test_only_the_admin_key_sees_metrics_of_projects(lasting_service: Service, http: httpx.AsyncClient) -> None:
    client = await lasting_service.project()
    assert (await http.get("/metrics")).status_code == 200
    assert (await http.get("/metrics", headers=bearer(ADMIN_KEY))).status_code == 200
    for headers, status in ((bearer(client.secret), 403), (bearer("nobody"), 401), ({"authorization": "Basic x"}, 401)):
        refused = await http.get("/metrics", headers=headers)
        assert (refused.status_code, list(refused.json())) == (status, ["error"])
    twice = await http.get("/metrics", headers=[("authorization", f"Bearer {ADMIN_KEY}")] * 2)
    assert twice.status_code == 400


async def test_series_of_projects_are_summed_without_their_names() -> None:
    metrics = Metrics()
    metrics.commits.count_failed_conditions("first", {Verdict.ERROR: 2, Verdict.MISSING: 1})
    metrics.commits.count_failed_conditions("second", {Verdict.ERROR: 3})
    seconds = Histogram("seconds", "Of projects.", (PROJECT_LABEL,), buckets=(1,), registry=metrics.registry)
    for project, value in (("first", 0.5), ("second", 0.5), ("second", 5)):
        seconds.labels(project).observe(value)
    summed = (await MetricsPage(metrics).render(by_project=False)).decode()
    for line in (
        'signalbox_condition_failures_total{verdict="error"} 5.0',
        'signalbox_condition_failures_total{verdict="missing"} 1.0',
        'seconds_bucket{le="1.0"} 2.0',
        'seconds_bucket{le="+Inf"} 3.0',
        "seconds_sum 6.0",
    ):
        assert f"\n{line}\n" in summed
    assert "first" not in summed
    assert "second{" not in summed
    complete = await MetricsPage(metrics).render(by_project=True)
    assert complete == generate_latest(metrics.registry)
    assert b'{project="first",verdict="error"} 2.0' in complete


async def test_a_flood_of_requests_is_answered_from_few_renderings(monkeypatch: pytest.MonkeyPatch) -> None:
    rendered = 0

    def counted(registry: Any) -> bytes:
        nonlocal rendered
        rendered += 1
        return b""

    monkeypatch.setattr(metrics_page, "generate_latest", counted)
    page = MetricsPage(Metrics())
    for _ in range(3):
        await asyncio.gather(*(page.render(by_project=False) for _ in range(100)))
    assert rendered == 3


async def test_a_listener_of_its_own_serves_the_metrics_of_projects(tmp_path: Path) -> None:
    async with (
        running(settings(f"sqlite:///{tmp_path}/signalbox.db", metrics="127.0.0.1:0")) as server,
        http_client() as http,
    ):
        page = await http.get(f"http://{server.metrics_address}/metrics")
        assert (page.status_code, page.headers["content-type"].partition(";")[0]) == (200, "text/plain")
        assert "signalbox_condition_failures_total" in page.text
        elsewhere = await http.get(f"http://{server.metrics_address}/v1/events")
        assert (elsewhere.status_code, elsewhere.json()) == (404, {"error": "There is only GET /metrics here"})
        assert (await http.post(f"http://{server.metrics_address}/metrics")).status_code == 404


@on_sqlite
async def test_every_response_says_that_it_is_what_it_is_and_is_not_kept(
    lasting_service: Service, http: httpx.AsyncClient
) -> None:
    client = await lasting_service.shop()
    secret = await lasting_service.secret(client.project, pb.DIALECT_ARSEL)
    send: Callable[..., Any] = http.post
    responses = [
        *[await http.get(path) for path in ("/", "/healthz", "/readyz", "/metrics", "/openapi.json", "/nowhere")],
        await send("/v1/events/send", headers=bearer(secret), json={"event": ORDER, "email": ADA, "data": {}}),
        await send("/v1/events/send", headers=bearer(secret), content=b"{"),
        await send("/v1/events/send", json={}),
        await http.get("/v1/events", headers=bearer(secret)),
        await http.get("/", headers={"host": "signal box"}),
        await http.get("/", headers={"x": "a" * 70_000}),
    ]
    assert [each.status_code for each in responses] == [200, 200, 200, 200, 200, 404, 202, 400, 401, 200, 400, 431]
    for response in responses:
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["cache-control"] == "no-store"
