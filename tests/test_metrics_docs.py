"""The metrics of a running server: documented, in base units, with bounded labels."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from prometheus_client import CollectorRegistry

from server.metrics.series import TENANT_LABELS, LoopHistogram
from tests.support.metrics_docs import documented_table, families, running_registry, table

if TYPE_CHECKING:
    from pathlib import Path

# Each is of a set of words of the program.
WORDS = {
    "code",
    "database",
    "dialect",
    "kind",
    "method",
    "outcome",
    "python",
    "reason",
    "route",
    "service",
    "status",
    "table",
    "verdict",
    "version",
}
OTHER_UNITS = re.compile("_(milliseconds|ms|micros|minutes|hours|days|kb|mb|kilobytes|megabytes|percent)(_|$)")


@pytest.mark.checkout
async def test_every_metric_is_documented_has_a_base_unit_and_bounded_labels(tmp_path: Path) -> None:
    async with running_registry(f"sqlite:///{tmp_path}/signalbox.db") as (_, registry):
        found = families(registry)
    assert documented_table() == table(found), "run `make docs`"
    for family in found:
        assert re.fullmatch("signalbox(_[a-z]+)+", family.name)
        assert not OTHER_UNITS.search(family.name), family
        assert family.name.endswith("_total") == (family.type == "counter"), family
        assert family.text.endswith("."), family
        assert set(family.labels) <= WORDS | TENANT_LABELS, family


def test_a_histogram_counts_each_observation_in_its_bucket_and_all_above() -> None:
    registry = CollectorRegistry()
    histogram = LoopHistogram("call_seconds", "Calls.", ("code",), (0.1, 1), registry)
    series = histogram.labels("OK")
    assert histogram.labels("OK") is series
    for seconds in (0.05, 0.1, 0.5, 5):
        series.observe(seconds)
    counts = [
        registry.get_sample_value("call_seconds_bucket", {"code": "OK", "le": le}) for le in ("0.1", "1.0", "+Inf")
    ]
    assert counts == [2, 3, 4]
    assert registry.get_sample_value("call_seconds_count", {"code": "OK"}) == 4
    assert registry.get_sample_value("call_seconds_sum", {"code": "OK"}) == 5.65
