"""The tally of a backtest: what is counted of each event, and how much of it is kept."""

from __future__ import annotations

import json
from typing import Any

import pytest

from registry.coercion.validation import compile_schema
from registry.definitions.schema import Property, PropertyType, Schema
from server.services import backtests
from server.services.backtests import Outcome, _Tally
from server.storage.events.history import RecordedPayload

NUMBER, STRING = PropertyType.NUMBER, PropertyType.STRING
REJECTED, ACCEPTED, DIFFERENT = Outcome


def schema(**types: PropertyType) -> Schema:
    return Schema(tuple(Property(name, kind) for name, kind in types.items()))


def tally_of(before: Schema, after: Schema, max_samples: int = 10) -> _Tally:
    return _Tally(compile_schema(before), compile_schema(after), max_samples)


def recorded(position: int, properties: dict[str, Any], coercions: str = "") -> RecordedPayload:
    return RecordedPayload(f"e{position}", position, 1, json.dumps(properties), coercions)


def sized(position: int, size: int) -> RecordedPayload:
    """Make an event whose stored properties have a number of characters."""
    text = '{"n":5' + " " * (size - 7) + "}"
    assert len(text) == size
    return RecordedPayload(f"e{position}", position, 1, text, "")


def test_each_event_has_one_outcome_or_none() -> None:
    tally = tally_of(schema(n=NUMBER, x=STRING), schema(n=STRING, y=STRING))
    sent: list[dict[str, Any]] = [{"n": 5}, {"x": "1"}, {"y": "1"}, {"z": 1}, {}, {"n": 7}]
    for position, properties in enumerate(sent, 1):
        tally.take(recorded(position, properties))
    assert (tally.compared, tally.unreadable) == (6, 0)
    assert tally.outcomes == {DIFFERENT: 2, REJECTED: 1, ACCEPTED: 1}
    assert [(each.position, each.outcome, each.before, each.after) for each in tally.samples] == [
        (1, DIFFERENT, {"n": 5}, {"n": "5"}),
        (2, REJECTED, {"x": "1"}, None),
        (3, ACCEPTED, None, {"y": "1"}),
        (6, DIFFERENT, {"n": 7}, {"n": "7"}),
    ]
    assert [[each.path for each in sample.violations] for sample in tally.samples] == [
        [],
        ["properties.x"],
        ["properties.y"],
        [],
    ]
    assert tally.reasons == {("properties.x", "UNKNOWN_PROPERTY"): 1}


def test_an_unreadable_event_is_counted_apart() -> None:
    tally = tally_of(schema(n=NUMBER), schema(n=STRING))
    tally.take(RecordedPayload("e1", 1, 1, "[1]", ""))
    tally.take(recorded(2, {"n": 1}))
    assert (tally.compared, tally.unreadable, [each.position for each in tally.samples]) == (1, 1, [2])


def test_equal_coercions_on_both_sides_are_no_difference() -> None:
    tally = tally_of(schema(n=NUMBER), schema(n=NUMBER, more=STRING))
    tally.take(recorded(1, {"n": "5"}))
    assert (tally.compared, tally.outcomes.total()) == (1, 0)


@pytest.mark.parametrize("most", [1, 2])
def test_each_outcome_has_places_of_its_own(most: int) -> None:
    tally = tally_of(schema(n=NUMBER, x=STRING), schema(n=STRING), most)
    for position in range(1, 7):
        tally.take(recorded(position, {"n": 1} if position % 2 else {"x": "1"}))
    assert [each.position for each in tally.samples] == list(range(1, 2 * most + 1))
    assert tally.outcomes == {DIFFERENT: 3, REJECTED: 3}


@pytest.mark.parametrize(("size", "positions"), [(99, [1, 2, 3]), (100, [1, 2])])
def test_no_more_samples_are_kept_once_they_hold_300000_characters(size: int, positions: list[int]) -> None:
    tally = tally_of(schema(n=NUMBER), schema(n=STRING), 100)
    tally.take(sized(1, 200_000))
    tally.take(sized(2, 99_900 + size))
    for position in (3, 4):
        tally.take(sized(position, 100_000))
    assert [each.position for each in tally.samples] == positions
    assert tally.outcomes == {DIFFERENT: 4}


def test_coercions_take_room_as_properties_do() -> None:
    # As a payload was coerced when it was recorded: a number that was sent as a text.
    text = " " * 150_000
    coercions = json.dumps([["properties.n", "converted", "5" + text, 5]])
    tally = tally_of(schema(n=NUMBER), schema(n=STRING))
    for position in range(1, 5):
        tally.take(recorded(position, {"n": 5}, coercions))
    assert [each.position for each in tally.samples] == [1, 2]
    assert tally.samples[0].sent == {"n": "5" + text}


def test_an_outcome_whose_samples_are_large_leaves_the_others_theirs() -> None:
    tally = tally_of(schema(n=NUMBER, x=STRING), schema(n=STRING))
    for position in (1, 2):
        tally.take(sized(position, 300_000))
    for position in (3, 4):
        tally.take(recorded(position, {"x": "1"}))
    assert [each.position for each in tally.samples] == [1, 3, 4]


def test_a_reason_counts_events_not_items() -> None:
    items = Schema((Property("a", PropertyType.ARRAY, item_type=NUMBER),))
    tally = tally_of(Schema((Property("a", PropertyType.ARRAY),)), items)
    tally.take(recorded(1, {"a": ["x", "y"]}))
    tally.take(recorded(2, {"a": [1, "y"]}))
    assert tally.reasons == {("properties.a[]", "INVALID_PROPERTY_VALUE"): 2}


def test_a_limited_number_of_undeclared_properties_is_distinguished(monkeypatch: pytest.MonkeyPatch) -> None:
    assert backtests.MAX_UNKNOWN == 1_000
    monkeypatch.setattr(backtests, "MAX_UNKNOWN", 2)
    tally = tally_of(schema(a=STRING, b=STRING, c=STRING, n=STRING), schema(n=NUMBER))
    for position, properties in enumerate(({"a": ""}, {"b": ""}, {"c": ""}, {"a": ""}, {"n": "x"}, {"c": ""}), 1):
        tally.take(recorded(position, properties))
    assert tally.reasons == {
        ("properties.a", "UNKNOWN_PROPERTY"): 2,
        ("properties.b", "UNKNOWN_PROPERTY"): 1,
        ("properties.n", "INVALID_PROPERTY_VALUE"): 1,
    }
    assert tally.outcomes == {REJECTED: 6}
