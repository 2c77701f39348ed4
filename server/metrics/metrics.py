"""The metrics of one server: what is counted as it happens, and where the rest is read when the metrics are."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from registry.unreadable_rows import UNREADABLE_ROWS
from server.metrics.calls import CallMetrics
from server.metrics.database import DatabaseMetrics
from server.metrics.series import EVENT_LABEL, OTHER, PROJECT_LABEL
from server.metrics.subscriptions import SubscriptionMetrics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_COMMIT_SECONDS = (0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
_PUSH_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_COMMIT_EVENTS = (1, 10, 100, 1_000, 10_000)
_LOOP_SECONDS = (0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)

MAX_REFUSED_NAMES = 1_000
"""The most events, of all projects, whose refusals are counted apart."""


class Metrics:
    """The numbers of one server, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.calls = CallMetrics(self.registry)
        self.subscriptions = SubscriptionMetrics(self.registry)
        self.database = DatabaseMetrics(self.registry)
        self._condition_failures = Counter(
            "signalbox_condition_failures",
            "Conditions that did not match a recorded event because they failed, or because a limit was reached,"
            " by verdict or limit.",
            (PROJECT_LABEL, "verdict"),
            registry=self.registry,
        )
        self._requests = Counter(
            "signalbox_http_requests",
            "Requests over HTTP, by dialect (connect for RPCs, empty if none was identified) and by status.",
            ("dialect", "status"),
            registry=self.registry,
        )
        self._refused = Counter(
            "signalbox_refused",
            "Requests and connections that were refused to protect the server, by the reason that the caller saw.",
            ("reason",),
            registry=self.registry,
        )
        self._refused_events = Counter(
            "signalbox_events_refused",
            "Events that were refused for their content or by the rules of their project, by reason. The event is the"
            " name of its definition, empty without one.",
            (PROJECT_LABEL, EVENT_LABEL, "reason"),
            registry=self.registry,
        )
        self._unkept = Counter(
            "signalbox_refused_events_not_kept",
            "Refused events that did not fit into the quarantine of their project.",
            (PROJECT_LABEL,),
            registry=self.registry,
        )
        self._refused_names: set[tuple[str, str]] = set()
        self._events = Counter("signalbox_events_recorded", "Events that were recorded.", registry=self.registry)
        self._matches = Counter("signalbox_matches", "Matches that were recorded.", registry=self.registry)
        self._commit_seconds = Histogram(
            "signalbox_commit_seconds",
            "How long a group commit took.",
            buckets=_COMMIT_SECONDS,
            registry=self.registry,
        )
        self._commit_events = Histogram(
            "signalbox_commit_events",
            "How many events a group commit recorded.",
            buckets=_COMMIT_EVENTS,
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
        self._failed_commits = Counter(
            "signalbox_commits_failed", "Group commits that failed, and stored nothing.", registry=self.registry
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
        self._refusal = lru_cache(1_000)(lambda reason: self._refused.labels(reason).inc)
        self._refused_event = lru_cache(1_000)(
            lambda project_id, event, reason: self._refused_events.labels(project_id, event, reason).inc
        )

    def count_failures(self, project_id: str, failures: Mapping[str, int]) -> None:
        """Count failed conditions, by verdict or limit."""
        for verdict, count in failures.items():
            self._condition_failures.labels(project_id, verdict).inc(count)

    def count_request(self, dialect: str, status: int, route: str = "", seconds: float = 0.0) -> None:
        """Add a request over HTTP. `route` is the template of its path, empty for a path that is none."""
        self._request(dialect, status)()
        self.calls.requests(dialect, route, status).observe(seconds)

    def observe_page(self, path: str, status: int, seconds: float) -> None:
        """Add a request for one of the pages about the server, at a known path."""
        self.calls.requests("system", path, status).observe(seconds)

    def count_refused(self, reason: str) -> None:
        """Add a request or connection that was refused because a limit of the server was reached."""
        self._refusal(reason)()

    def count_refused_events(self, project_id: str, event: str, reason: str, count: int) -> None:
        """Add events that were refused for their content. `event` is the name of a definition, or empty."""
        if event and (project_id, event) not in self._refused_names:
            if len(self._refused_names) < MAX_REFUSED_NAMES:
                self._refused_names.add((project_id, event))
            else:
                event = OTHER
        self._refused_event(project_id, event, reason)(count)

    def count_unkept(self, project_id: str, count: int) -> None:
        """Add refused events that did not fit into the quarantine."""
        self._unkept.labels(project_id).inc(count)

    def forget(self, project_id: str) -> None:
        """Drop the series of a project that is deleted for good: those of others take their places."""
        for counter in (self._condition_failures, self._refused_events, self._unkept):
            counter.remove_by_labels({PROJECT_LABEL: project_id})
        self._refused_event.cache_clear()
        self._refused_names = {name for name in self._refused_names if name[0] != project_id}

    def count_matches(self, count: int) -> None:
        """Add matches that were recorded without an event, such as those of timeouts."""
        self._matches.inc(count)

    def count_commit(self, events: int, matches: int, seconds: float) -> None:
        """Add a group commit: the events and matches that it recorded, and how long it took."""
        self._events.inc(events)
        self._matches.inc(matches)
        self._commit_events.observe(events)
        self._commit_seconds.observe(seconds)

    def count_push(self, outcome: str, seconds: float) -> None:
        """Add a request that pushed a match, or a ping."""
        self._pushes.labels(outcome).observe(seconds)

    def watch_pushes(self, in_flight: Callable[[], int]) -> None:
        """Report the number of requests to receivers in progress, which is read whenever the metrics are."""
        text = "Requests to receivers that are in progress; large ones count several times."
        Gauge("signalbox_push_in_flight", text, registry=self.registry).set_function(in_flight)

    def count_failed_commit(self) -> None:
        """Add a group commit that failed."""
        self._failed_commits.inc()

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

    def watch_queue(self, waiting: Callable[[], int], size: Callable[[], int] = lambda: 0) -> None:
        """Report the number of queued events and their bytes, which are read whenever the metrics are."""
        self.watch("signalbox_queue_events", "Events that are queued to be stored.", waiting)
        self.watch("signalbox_queue_bytes", "Bytes of the requests whose events are queued to be stored.", size)


class _UnreadableRowsCollector(Collector):
    """Collects the counts of rows that could not be read."""

    def collect(self) -> Iterator[CounterMetricFamily]:
        """Yield the counter, with a sample for each table that has such rows."""
        text = "Reads of stored rows of which something could not be read, by table."
        family = CounterMetricFamily("signalbox_unreadable_rows", text, labels=["table"])
        for table, count in sorted(UNREADABLE_ROWS.counts().items()):
            family.add_metric([table], count)
        yield family
