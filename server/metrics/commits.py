"""The group commits of a server: what they recorded, how long they took, and what is queued for the next one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from prometheus_client import Counter, Gauge, Histogram

from server.metrics.series import PROJECT_LABEL

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from prometheus_client import CollectorRegistry

_COMMIT_SECONDS: Final = (0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
_COMMIT_EVENTS: Final = (1, 10, 100, 1_000, 10_000)


class CommitMetrics:
    """The numbers of commits."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._events = Counter("signalbox_events_recorded", "Events that were recorded.", registry=registry)
        self._matches = Counter("signalbox_matches", "Matches that were recorded.", registry=registry)
        self._seconds = Histogram(
            "signalbox_commit_seconds", "How long a group commit took.", buckets=_COMMIT_SECONDS, registry=registry
        )
        self._sizes = Histogram(
            "signalbox_commit_events",
            "How many events a group commit recorded.",
            buckets=_COMMIT_EVENTS,
            registry=registry,
        )
        self._failed = Counter(
            "signalbox_commits_failed", "Group commits that failed, and stored nothing.", registry=registry
        )
        self._failed_conditions = Counter(
            "signalbox_condition_failures",
            "Conditions that did not match a recorded event because they failed, or because a limit was reached,"
            " by verdict or limit.",
            (PROJECT_LABEL, "verdict"),
            registry=registry,
        )

    def count(self, events: int, matches: int, seconds: float) -> None:
        """Add a group commit: the events and matches that it recorded, and how long it took."""
        self._events.inc(events)
        self._matches.inc(matches)
        self._sizes.observe(events)
        self._seconds.observe(seconds)

    def count_failed(self) -> None:
        """Add a group commit that failed."""
        self._failed.inc()

    def count_matches(self, count: int) -> None:
        """Add matches that were recorded without an event, such as those of timeouts."""
        self._matches.inc(count)

    def count_failed_conditions(self, project_id: str, failures: Mapping[str, int]) -> None:
        """Add failed conditions, by verdict or limit."""
        for verdict, count in failures.items():
            self._failed_conditions.labels(project_id, verdict).inc(count)

    def forget(self, project_id: str) -> None:
        """Drop the series of a project."""
        self._failed_conditions.remove_by_labels({PROJECT_LABEL: project_id})

    def watch_queue(self, waiting: Callable[[], int], size: Callable[[], int] = lambda: 0) -> None:
        """Report the number of queued events and their bytes, which are read whenever the metrics are."""
        for name, text, read in (
            ("signalbox_queue_events", "Events that are queued to be stored.", waiting),
            ("signalbox_queue_bytes", "Bytes of the requests whose events are queued to be stored.", size),
        ):
            Gauge(name, text, registry=self._registry).set_function(read)
