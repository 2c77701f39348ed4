"""Metrics of refusals: of requests beyond the limits of the server, and of events for their content."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final

from prometheus_client import Counter

from server.metrics.series import EVENT_LABEL, OTHER, PROJECT_LABEL

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

MAX_REFUSED_NAMES: Final = 1_000
"""The most events, of all projects, whose refusals are counted apart."""


class RefusalMetrics:
    """The numbers of refusals."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "signalbox_refused",
            "Requests and connections that were refused to protect the server, by the reason that the caller saw.",
            ("reason",),
            registry=registry,
        )
        self._events = Counter(
            "signalbox_events_refused",
            "Events that were refused for their content or by the rules of their project, by reason. The event is the"
            " name of its definition, empty without one, or if it was refused before its definition was looked for.",
            (PROJECT_LABEL, EVENT_LABEL, "reason"),
            registry=registry,
        )
        self._unkept = Counter(
            "signalbox_refused_events_not_kept",
            "Refused events that did not fit into the quarantine of their project.",
            (PROJECT_LABEL,),
            registry=registry,
        )
        self._names: set[tuple[str, str]] = set()
        # Cached, because looking up a child by its labels takes a microsecond.
        self._request = lru_cache(1_000)(lambda reason: self._requests.labels(reason).inc)
        self._event = lru_cache(1_000)(
            lambda project_id, event, reason: self._events.labels(project_id, event, reason).inc
        )

    def count(self, reason: str) -> None:
        """Add a request or connection that was refused because a limit of the server was reached."""
        self._request(reason)()

    def count_events(self, project_id: str, event: str, reason: str, count: int) -> None:
        """Add events that were refused for their content. `event` is the name of a definition, or empty."""
        if event and (project_id, event) not in self._names:
            if len(self._names) < MAX_REFUSED_NAMES:
                self._names.add((project_id, event))
            else:
                event = OTHER
        self._event(project_id, event, reason)(count)

    def count_unkept(self, project_id: str, count: int) -> None:
        """Add refused events that did not fit into the quarantine."""
        self._unkept.labels(project_id).inc(count)

    def forget(self, project_id: str) -> None:
        """Drop the series of a project: events of others take the places of its own."""
        for counter in (self._events, self._unkept):
            counter.remove_by_labels({PROJECT_LABEL: project_id})
        self._event.cache_clear()
        self._names = {name for name in self._names if name[0] != project_id}
