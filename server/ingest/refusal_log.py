"""Refused events: counted in the metrics, and logged now and then.

The log has a line for the first refusal of a project and reason, and for as long as there are further ones a line a
minute with their number. Neither has anything of the event: names, paths and values are the caller's input.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import structlog

from server.ingest.quarantine import content_errors
from server.status import reason_of

if TYPE_CHECKING:
    from server.ingest.draft import Batch
    from server.metrics import Metrics

log = structlog.get_logger()

LOG_SECONDS: Final = 60.0
"""The time between two lines about the same project and reason."""

MAX_LOGGED: Final = 10_000
"""The projects and reasons that are logged apart; beyond it, further ones are only counted in the metrics."""


class RefusalLog:
    """Counts and logs refused events."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._counts: dict[tuple[str, str], int] = {}
        """How many refusals were not logged yet, by project and reason; those without any were logged lately."""

    def note(self, batch: Batch) -> None:
        """Count the events of a batch that were refused for their content. The batch is decided."""
        refused = content_errors(batch.drafts)
        if not refused:
            return
        project_id = batch.snapshot.project_id
        # Plain dictionaries: a counter is slow to make, and most batches have one event.
        kinds: dict[tuple[str, str], int] = {}
        reasons: dict[str, int] = {}
        for draft in refused:
            reason = _reason(draft.error)
            kind = draft.definition.name if draft.definition is not None else "", reason
            kinds[kind] = kinds.get(kind, 0) + 1
            reasons[reason] = reasons.get(reason, 0) + 1
        for (event, reason), count in kinds.items():
            self._metrics.refusals.count_events(project_id, event, reason, count)
        for reason, count in reasons.items():
            self._log(project_id, reason, count, batch.caller.api)

    def _log(self, project_id: str, reason: str, count: int, api: str) -> None:
        place = (project_id, reason)
        if place in self._counts:
            self._counts[place] += count
        elif len(self._counts) < MAX_LOGGED:
            log.warning("events_refused", project=project_id, reason=reason, count=count, door=api)
            self._counts[place] = 0
            asyncio.get_running_loop().call_later(LOG_SECONDS, self._log_rest, place)

    def _log_rest(self, place: tuple[str, str]) -> None:
        """Log the refusals since the last line; without any, forget the place."""
        count = self._counts.pop(place)
        if count:
            project_id, reason = place
            log.warning("events_refused", project=project_id, reason=reason, count=count)
            self._counts[place] = 0
            asyncio.get_running_loop().call_later(LOG_SECONDS, self._log_rest, place)


def _reason(error: Exception | None) -> str:
    # A rule that only a dialect has is not among the errors of the service.
    return str(getattr(error, "reason", "")) or reason_of(error or Exception())
