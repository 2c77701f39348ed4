"""The commands `refused` and `definition infer`, against a real server."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.command_line import serving
from tests.support.messages import ADA

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.command_line import Result, Server


@pytest.fixture(scope="module")
def signalbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("refused")) as server:
        shown = server("project", "update", "demo", "--refused-events", "quarantine")
        assert "refused events    quarantine\n" in shown.out
        yield server


def send(signalbox: Server, name: str, **properties: object) -> Result:
    return signalbox("event", "send", name, "--email", ADA, "--properties", json.dumps(properties))


def test_a_definition_is_inferred_applied_and_the_events_are_sent_again(signalbox: Server, tmp_path: Path) -> None:
    sent: list[dict[str, Any]] = [
        {"total": 1, "currency": "EUR", "at": "2026-06-01", "lines": [{"sku": "a", "count": 1}]},
        {"total": 2.5, "currency": "USD", "at": "2026-06-01T12:00:00Z", "lines": []},
        {"total": "3", "currency": "EUR", "at": "2026-06-02", "lines": [{"sku": "7", "count": 2}], "no": None},
        {"total": 4, "currency": "EUR", "at": "2026-06-03", "lines": [], "yes": True, "a b": {"c": 1}},
    ]
    for properties in sent:
        assert send(signalbox, "invoice_paid", **properties).code == 1
    listed = signalbox("refused", "list", "--event", "invoice_paid", "--json").json
    assert [each["properties"] for each in reversed(listed)] == [
        json.loads(json.dumps(properties)) for properties in sent
    ]
    file = tmp_path / "invoice_paid.yaml"
    inferred = signalbox("definition", "infer", "invoice_paid", "-o", str(file))
    assert (inferred.code, inferred.out) == (0, f"{file}\n")
    assert file.read_text() == YAML
    dry = signalbox("refused", "reingest", "--event", "invoice_paid", "--dry-run")
    assert dry.out.startswith("0 would be recorded\n4 would be still refused\n")
    assert "create" in signalbox("definition", "plan", "-f", str(file)).out
    assert signalbox("definition", "apply", "-f", str(file)).code == 0
    assert signalbox("refused", "reingest", "--event", "invoice_paid", "--dry-run").out == "4 would be recorded\n"
    assert signalbox("refused", "reingest", "--event", "invoice_paid").out == "4 recorded\n"
    assert signalbox("refused", "list", "--event", "invoice_paid", "--json").json == []
    assert len(signalbox("event", "list", "--event", "invoice_paid", "--json").json) == 4
    again = signalbox("definition", "infer", "invoice_paid", "--from", "recorded")
    assert again.out == YAML.replace("4 are in quarantine", "0 are in quarantine")


def test_a_proposal_keeps_what_the_definition_says_of_privacy(signalbox: Server, tmp_path: Path) -> None:
    present, proposed = tmp_path / "present.yaml", tmp_path / "proposed.yaml"
    present.write_text(
        "definitions: {signed_up: {description: x, compatibility: backward, event_retention: 90d,"
        " properties: {nick: {type: string, personal: true},"
        " home: {type: object, personal: true, properties: {city: string}}}}}"
    )
    planned = signalbox("definition", "apply", "-f", str(present)).out
    assert "+ properties.nick personal: true\n" in planned
    assert send(signalbox, "signed_up", nick="Ada", home={"city": "London"}).code == 0
    assert signalbox("definition", "infer", "signed_up", "--from", "recorded", "-o", str(proposed)).code == 0
    (unchanged,) = signalbox("definition", "plan", "-f", str(proposed), "--json").json["definitions"]
    assert (unchanged["action"], unchanged["differences"]) == ("unchanged", [])


YAML = """\
# Inferred from 4 events; 4 are in quarantine.
definitions:
  invoice_paid:
    properties:
      a b:
        type: object
        properties:
          c: number
      at: date!
      currency:
        type: string
        required: true
        suggested_values:
        - EUR
        - USD
      lines:
        type: array<object>
        required: true
        properties:
          count: number!
          sku: string!
      'no': any
      total: number!
      'yes': boolean
"""


def test_refused_events_are_counted_shown_and_discarded(signalbox: Server) -> None:
    send(signalbox, "order_completed", order_total="a lot")
    send(signalbox, "order_completed", order_total="a lot", coupon="x")
    counted = signalbox("refused", "count", "--event", "order_completed")
    first, second, third, last = counted.out.splitlines()
    assert first.split() == ["EVENTS", "NAME", "REASON", "PATH"]
    assert second.split() == ["2", "order_completed", "INVALID_PROPERTY_VALUE", "properties.order_total"]
    assert third.split() == ["1", "order_completed", "UNKNOWN_PROPERTY", "properties.coupon"]
    assert last.startswith("2 events; the quarantine has 2 of 100,000")
    (found,) = signalbox("refused", "list", "--path", "properties.coupon", "--json").json
    shown = signalbox("refused", "show", found["id"])
    assert 'properties  {"coupon": "x", "order_total": "a lot"}\n' in shown.out
    assert 'properties.coupon  UNKNOWN_PROPERTY  Property "coupon" is not declared' in shown.out
    refused = signalbox("refused", "discard", "--event", "order_completed")
    assert (refused.code, "confirm with --yes" in refused.err) == (1, True)
    assert signalbox("refused", "discard", "--all", "--dry-run").out == "2 would be discarded\n"
    assert signalbox("refused", "discard", found["id"], "--yes").out == "1 discarded\n"
    assert signalbox("refused", "discard", "--all", "--yes", "--json").json == {"event_count": 1}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("reingest",), "Give IDs, options that select events, or --all."),
        (("discard", "--all", "--event", "x"), "Give IDs, options that select events, or --all."),
        (("discard", "id", "--all"), "Give IDs, options that select events, or --all."),
        (("list", "--since", "yesterday"), "yesterday"),
    ],
)
def test_a_wrong_command_line_is_refused(signalbox: Server, arguments: tuple[str, ...], message: str) -> None:
    result = signalbox("refused", *arguments)
    assert (result.code, message in result.err) == (2, True)


def test_what_is_not_there_is_an_error(signalbox: Server) -> None:
    assert signalbox("refused", "show", "nope").err.startswith('error: No refused event with the ID "nope"')
    missing = signalbox("definition", "infer", "never_sent")
    assert (missing.code, missing.err) == (1, 'error: There are no events "never_sent" to infer a definition from\n')
