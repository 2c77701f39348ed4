"""The metrics of a server: what each count adds to."""

from __future__ import annotations

from automation.conditions.values import Verdict
from server.metrics import Metrics


def test_each_count_adds_to_its_own_metrics() -> None:
    metrics = Metrics()
    value = metrics.registry.get_sample_value
    for _ in range(2):
        metrics.commits.count(3, 2, 0.5)
        metrics.commits.count_matches(4)
        metrics.commits.count_failed_conditions("p1", {Verdict.MISSING: 5, Verdict.ERROR: 1})
        metrics.count_request("arsel", 200)
    metrics.count_request("arsel", 404)
    metrics.count_request("", 404)
    assert value("signalbox_events_recorded_total") == 6
    assert value("signalbox_matches_total") == 12
    assert (value("signalbox_commit_events_sum"), value("signalbox_commit_events_count")) == (6, 2)
    assert (value("signalbox_commit_seconds_sum"), value("signalbox_commit_seconds_count")) == (1, 2)
    failures = "signalbox_condition_failures_total"
    assert value(failures, {"project": "p1", "verdict": Verdict.MISSING}) == 10
    assert value(failures, {"project": "p1", "verdict": Verdict.ERROR}) == 2
    requests = "signalbox_http_requests_total"
    found = {labels: value(requests, dict(zip(("dialect", "status"), labels, strict=True))) for labels in COUNTED}
    assert found == COUNTED


COUNTED = {("arsel", "200"): 2, ("arsel", "404"): 1, ("", "404"): 1}


def test_the_queue_is_read_when_the_metrics_are() -> None:
    metrics, waiting = Metrics(), [5, 7]
    metrics.commits.watch_queue(lambda: waiting.pop(0))
    assert [metrics.registry.get_sample_value("signalbox_queue_events") for _ in range(2)] == [5, 7]
