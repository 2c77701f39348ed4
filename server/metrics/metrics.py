"""The metrics of one server: what is counted as it happens, and the sources of values that are read on request."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from registry.sql.unreadable_rows import UNREADABLE_ROWS
from server.metrics.calls import CallMetrics
from server.metrics.commits import CommitMetrics
from server.metrics.database import DatabaseMetrics
from server.metrics.refusals import RefusalMetrics
from server.metrics.subscriptions import SubscriptionMetrics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_PUSH_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_LOOP_SECONDS = (0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


class Metrics:
    """The numbers of one server, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.calls = CallMetrics(self.registry)
        self.subscriptions = SubscriptionMetrics(self.registry)
        self.database = DatabaseMetrics(self.registry)
        self.commits = CommitMetrics(self.registry)
        self.refusals = RefusalMetrics(self.registry)
        self._requests = Counter(
            "signalbox_http_requests",
            "Requests over HTTP, by dialect (connect for RPCs, empty if none was identified) and by status.",
            ("dialect", "status"),
            registry=self.registry,
        )
        self._pushes = Histogram(
            "signalbox_push_seconds",
            "How long a request to a receiver took, by outcome: acknowledged, refused (another status than 2xx) or"
            " unanswered.",
            ("outcome",),
            buckets=_PUSH_SECONDS,
            registry=self.registry,
        )
        self._runs = Counter(
            "signalbox_runs",
            "Runs that took a status: those that were started or resumed (queued), and those that callers moved.",
            ("status",),
            registry=self.registry,
        )
        self._loop_delay = Histogram(
            "signalbox_loop_delay_seconds",
            "How late the event loop was, twice a second: as late it is with everything else.",
            buckets=_LOOP_SECONDS,
            registry=self.registry,
        )
        self.registry.register(_UnreadableRowsCollector())
        # Cached, because looking up a child by its labels takes a microsecond.
        self._request = lru_cache(1_000)(lambda dialect, status: self._requests.labels(dialect, status).inc)

    def count_request(self, dialect: str, status: int, route: str = "", seconds: float = 0.0) -> None:
        """Add a request over HTTP. `route` is the template of its path, empty for a path that is none."""
        self._request(dialect, status)()
        self.calls.requests(dialect, route, status).observe(seconds)

    def observe_page(self, path: str, status: int, seconds: float) -> None:
        """Add a request for one of the pages about the server, at a known path."""
        self.calls.requests("system", path, status).observe(seconds)

    def forget(self, project_id: str) -> None:
        """Drop the series of a project that is deleted for good."""
        self.commits.forget(project_id)
        self.refusals.forget(project_id)

    def count_push(self, outcome: str, seconds: float) -> None:
        """Add a request that pushed a match, or a ping."""
        self._pushes.labels(outcome).observe(seconds)

    def watch_pushes(self, in_flight: Callable[[], int]) -> None:
        """Report the number of requests to receivers in progress, which is read whenever the metrics are."""
        text = "Requests to receivers that are in progress; large ones count several times."
        Gauge("signalbox_push_in_flight", text, registry=self.registry).set_function(in_flight)

    def count_runs(self, status: str, count: int = 1) -> None:
        """Add runs that took a status."""
        self._runs.labels(status).inc(count)

    def observe_loop_delay(self, seconds: float) -> None:
        """Add how late the event loop was."""
        self._loop_delay.observe(seconds)

    def watch(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Report a number that is read whenever the metrics are."""
        Gauge(name, text, registry=self.registry).set_function(read)

    def watch_clock(self, skew_seconds: Callable[[], float]) -> None:
        """Report how far the system clock was stepped, which is read whenever the metrics are."""
        text = "How far the system clock is ahead of the time that is used, since a step that is not followed."
        gauge = Gauge("signalbox_clock_skew_seconds", text, registry=self.registry)
        gauge.set_function(skew_seconds)


class _UnreadableRowsCollector(Collector):
    """Collects the counts of rows that could not be read."""

    def collect(self) -> Iterator[CounterMetricFamily]:
        """Yield the counter, with a sample for each table that has such rows."""
        text = "Reads of stored rows of which something could not be read, by table."
        family = CounterMetricFamily("signalbox_unreadable_rows", text, labels=["table"])
        for table, count in sorted(UNREADABLE_ROWS.counts().items()):
            family.add_metric([table], count)
        yield family
