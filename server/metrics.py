"""What a server counts, in the form that Prometheus takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter

if TYPE_CHECKING:
    from collections.abc import Mapping

    from automation.conditions.values import Verdict


class Metrics:
    """The counters of one server, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._condition_failures = Counter(
            "signalbox_condition_failures",
            "Conditions that came to neither true nor false on a recorded event, and so did not match.",
            ("project", "verdict"),
            registry=self.registry,
        )

    def count_failures(self, project_id: str, failures: Mapping[Verdict, int]) -> None:
        """Add conditions that failed, by what they came to."""
        for verdict, count in failures.items():
            self._condition_failures.labels(project_id, verdict).inc(count)
