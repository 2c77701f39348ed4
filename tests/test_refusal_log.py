"""Refused events in the metrics and in the log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prometheus_client import generate_latest
from structlog.testing import capture_logs

from registry.errors import PayloadRejected, Violation
from server.current_call.context import SERVER
from server.errors import ContactNotFound, QueueFull
from server.ingest import refusal_log
from server.ingest.draft import Draft
from server.ingest.refusal_log import RefusalLog
from server.metrics import Metrics

if TYPE_CHECKING:
    import pytest

ADDRESS = "somebody@example.com"


class Snapshot:
    project_id = "p1"


class Batch:
    """As much of a batch as is counted."""

    snapshot = Snapshot()

    def __init__(self, *errors: Exception | None) -> None:
        self.caller = SERVER
        self.drafts = [Draft("name", "", ADDRESS, {}, error=error) for error in errors]


REJECTED = PayloadRejected((Violation("properties.secret", "UNKNOWN_PROPERTY", "secret"),))


def test_refused_events_are_counted_by_project_and_reason_and_others_are_not() -> None:
    metrics = Metrics()
    batch: Any = Batch(REJECTED, REJECTED, ContactNotFound(ADDRESS), QueueFull(), None)
    RefusalLog(metrics)._metrics.refusals.count_events("p2", "order", "PAYLOAD_REJECTED", 5)
    counted = RefusalLog(metrics)
    counted._log = lambda *_: None  # type: ignore[method-assign]
    counted.note(batch)
    value, name = metrics.registry.get_sample_value, "signalbox_events_refused_total"
    assert value(name, {"project": "p1", "event": "", "reason": "PAYLOAD_REJECTED"}) == 2
    assert value(name, {"project": "p1", "event": "", "reason": "CONTACT_NOT_FOUND"}) == 1
    assert value(name, {"project": "p2", "event": "order", "reason": "PAYLOAD_REJECTED"}) == 5
    page = generate_latest(metrics.registry).decode()
    assert "QUEUE_FULL" not in page
    assert ADDRESS not in page


async def test_the_log_has_a_line_a_minute_and_nothing_of_the_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusal_log, "LOG_SECONDS", 1_000.0)
    noted = RefusalLog(Metrics())
    with capture_logs() as lines:
        for _ in range(50):
            batch: Any = Batch(REJECTED, ContactNotFound(ADDRESS))
            noted.note(batch)
        assert [(line["reason"], line["count"]) for line in lines] == [
            ("PAYLOAD_REJECTED", 1),
            ("CONTACT_NOT_FOUND", 1),
        ]
        noted._log_rest(("p1", "PAYLOAD_REJECTED"))
        noted._log_rest(("p1", "PAYLOAD_REJECTED"))
        noted._log_rest(("p1", "CONTACT_NOT_FOUND"))
    assert [line["count"] for line in lines] == [1, 1, 49, 49]
    assert {line["project"] for line in lines} == {"p1"}
    assert ADDRESS not in repr(lines)
    assert "secret" not in repr(lines)
