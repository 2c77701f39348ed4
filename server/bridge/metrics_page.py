"""The page of metrics: complete for operators, and summed over projects for anybody else."""

from __future__ import annotations

import asyncio
from operator import add
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

import msgspec
from prometheus_client import Metric, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from server.http.headers import SAFE_HEADERS
from server.metrics.series import TENANT_LABELS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from prometheus_client.samples import Sample

    from server.metrics import Metrics

    Send = Callable[[dict[str, Any]], Awaitable[None]]

METRICS_PATH: Final = "/metrics"
MEDIA_TYPE: Final = CONTENT_TYPE_LATEST.encode()

REST_FACTOR: Final = 5
"""After a page was rendered, none is for five times as long: anybody may ask, and each takes 20 ms of a processor."""


class MetricsPage:
    """Renders the metrics, once for all requests that wait at the same time."""

    def __init__(self, metrics: Metrics, refresh: Callable[[], Awaitable[None]] | None = None) -> None:
        """`refresh` is called before each rendering, to read the values that nothing counts."""
        self._refresh = refresh
        self._complete = metrics.registry
        self._summed = _Summed(metrics.registry)
        self._turn = asyncio.Lock()
        self._due = 0.0
        self._waiting: dict[bool, asyncio.Task[bytes]] = {}

    async def render(self, *, by_project: bool) -> bytes:
        """Return the page; every number in it is read after this call."""
        task = self._waiting.get(by_project)
        if task is None:
            task = self._waiting[by_project] = asyncio.create_task(self._rendered(by_project))
        return await asyncio.shield(task)

    async def _rendered(self, by_project: bool) -> bytes:
        async with self._turn:
            await asyncio.sleep(self._due - perf_counter())
            # Requests from here on get the next page.
            del self._waiting[by_project]
            if self._refresh is not None:
                await self._refresh()
            begun = perf_counter()
            # Too long for the event loop.
            content = await asyncio.to_thread(generate_latest, self._complete if by_project else self._summed)
            self._due = perf_counter() + REST_FACTOR * (perf_counter() - begun)
            return content


class _Summed(Collector):
    """The metrics of a registry, without names of tenants: samples are summed, or the longest time is taken."""

    def __init__(self, registry: Collector) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        """Yield every metric."""
        for metric in self._registry.collect():
            if any(TENANT_LABELS & sample.labels.keys() for sample in metric.samples):
                summed = Metric(metric.name, metric.documentation, metric.type)
                join = max if metric.type == "gauge" and metric.name.endswith("_seconds") else add
                summed.samples = list(_summed(metric.samples, join))
                yield summed
            else:
                yield metric


def _summed(samples: list[Sample], join: Callable[[float, float], float]) -> Iterator[Sample]:
    sums: dict[tuple[str, frozenset[tuple[str, str]]], Sample] = {}
    for sample in samples:
        labels = {name: value for name, value in sample.labels.items() if name not in TENANT_LABELS}
        place = sample.name, frozenset(labels.items())
        known = sums.get(place)
        if known is None:
            sums[place] = sample._replace(labels=labels, exemplar=None)
        elif sample.name.endswith("_created"):
            sums[place] = known._replace(value=min(known.value, sample.value))
        else:
            sums[place] = known._replace(value=join(known.value, sample.value))
    yield from sums.values()


class MetricsListener:
    """An application that serves the complete metrics and nothing else, on an address for operators."""

    def __init__(self, page: MetricsPage) -> None:
        self._page = page

    async def __call__(self, scope: Any, receive: Any, send: Send) -> None:
        """Serve one request."""
        found = scope["raw_path"] == METRICS_PATH.encode() and scope["method"] in {"GET", "HEAD"}
        content = (
            await self._page.render(by_project=True)
            if found
            else msgspec.json.encode({"error": f"There is only GET {METRICS_PATH} here"})
        )
        headers = [
            (b"content-type", MEDIA_TYPE if found else b"application/json"),
            (b"content-length", b"%d" % len(content)),
            *SAFE_HEADERS,
        ]
        await send({"type": "http.response.start", "status": 200 if found else 404, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    def end_calls(self) -> None:
        """Do nothing: a page takes milliseconds."""
