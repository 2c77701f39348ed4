"""The dashboard and the alert rules of ops/: each metric and label that they name is one that a server has."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
import yaml

from tests.support.metrics_docs import all_families, running_registry

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

pytestmark = pytest.mark.checkout

OPS = Path(__file__).parents[1] / "ops"
FUNCTIONS = {
    *("abs", "delta", "deriv", "histogram_quantile", "increase", "max", "max_over_time", "predict_linear", "rate"),
    *("sum", "time"),
}
WORDS = {"and", "or", "unless", "by", "offset"}
SCRAPED = {"instance", "job"}
"""Labels that Prometheus adds to all series."""


class Names:
    """The names in an expression of Prometheus: metrics with their labels, functions, and labels of aggregations."""

    def __init__(self, expression: str) -> None:
        self.metrics: list[tuple[str, set[str]]] = []
        self.functions: set[str] = set()
        self.grouped: set[str] = set()
        rest = re.sub(r'"[^"]*"', '""', expression)
        rest = re.sub(r"\[[^\]]*\]|offset \d+[smhdw]", " ", rest)
        for labels in re.findall(r"\bby \(([^)]*)\)", rest):
            self.grouped |= set(re.findall(r"\w+", labels))
        rest = re.sub(r"\bby \([^)]*\)", " ", rest)
        for name, call, braces in re.findall(r"([a-zA-Z_:][\w:]*)\s*(\()?({[^}]*})?", rest):
            if call:
                self.functions.add(name)
            elif name not in WORDS and not re.fullmatch(r"e\d*", name):
                self.metrics.append((name, set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", braces))))


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load((OPS / "alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    read: dict[str, Any] = json.loads((OPS / "grafana-dashboard.json").read_text())
    return read


def expressions() -> Iterator[tuple[str, set[str]]]:
    """Yield the expressions, each with the labels that its texts use."""
    for rule in alerts():
        yield rule["expr"], set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            yield target["expr"], set(re.findall(r"{{(\w+)}}", target["legendFormat"]))


@pytest_asyncio.fixture(scope="module")
async def known(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[dict[str, set[str]]]:
    """The names of all samples of a running server, with their labels."""
    folder = tmp_path_factory.mktemp("ops")
    known: dict[str, set[str]] = {"up": set()}
    async with running_registry(f"sqlite:///{folder}/signalbox.db") as (_, registry):
        for family in all_families(registry):
            known[family.name] = set(family.labels)
            if family.type == "histogram":
                known |= {f"{family.name}_{suffix}": set(family.labels) for suffix in ("count", "sum")}
                known[f"{family.name}_bucket"] = {*family.labels, "le"}
    yield known


def faults(expression: str, used: set[str], known: dict[str, set[str]]) -> Iterator[str]:
    names = Names(expression)
    yield from (f"there is no function {name}" for name in names.functions - FUNCTIONS)
    found: set[str] = set()
    for metric, labels in names.metrics:
        if metric not in known:
            yield f"there is no metric {metric}"
            continue
        found |= known[metric] | SCRAPED
        yield from (f"{metric} has no label {label}" for label in labels - known[metric] - SCRAPED)
        yield from (f"{metric} has no label {label} to group by" for label in names.grouped - known[metric] - SCRAPED)
    shown = names.grouped or found
    yield from (f"the text uses the label {label}, which the result has not" for label in used - shown)


def test_every_metric_and_label_of_an_expression_is_one_of_a_running_server(known: dict[str, set[str]]) -> None:
    wrong = {text: list(faults(text, used, known)) for text, used in expressions()}
    assert {text: found for text, found in wrong.items() if found} == {}
    assert len(wrong) > 50


@pytest.mark.parametrize(
    ("expression", "fault"),
    [
        ("signalbox_readi == 0", "there is no metric signalbox_readi"),
        ('signalbox_ready{project="a"} == 0', "signalbox_ready has no label project"),
        ("sum by (le) (rate(signalbox_queue_events[5m]))", "signalbox_queue_events has no label le to group by"),
        ("maximum(signalbox_ready)", "there is no function maximum"),
    ],
)
def test_a_wrong_name_is_found(expression: str, fault: str, known: dict[str, set[str]]) -> None:
    assert list(faults(expression, set(), known)) == [fault]


def test_the_rules_cover_what_an_operator_must_know_and_say_it() -> None:
    rules = {rule["alert"]: rule for rule in alerts()}
    assert len(rules) == len(alerts())
    wanted = "NotReady CommitsLate RefusalsRise LagGrows DeliveriesParked DiskFull WalGrows Overloaded ClockSkew"
    assert {f"Signalbox{name}" for name in wanted.split()} <= rules.keys()
    for rule in rules.values():
        assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in {"page", "warn"}
        assert re.fullmatch(r"\d+[smh]", rule.get("for", "0s"))
        assert rule["expr"].count("(") == rule["expr"].count(")")


def test_refused_events_have_a_panel_by_reason() -> None:
    shown = {panel["title"]: panel.get("targets", ()) for panel in dashboard()["panels"]}
    (target,) = shown["Refused events by reason"]
    assert re.match(r"sum by \(reason\) \(rate\(signalbox_events_refused_total", target["expr"])


def test_panels_have_ids_of_their_own_and_do_not_overlap() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_accepts_the_rules() -> None:
    checked = subprocess.run(["promtool", "check", "rules", OPS / "alerts.yaml"], capture_output=True, check=False)
    assert checked.returncode == 0, checked.stderr
