"""Schemas that are inferred from payloads."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.definitions.schema import MAX_PROPERTIES, Property, PropertyType, Schema, UnknownProperties, check_schema
from registry.inference.inference import MAX_PATHS, Check, Inference
from registry.inference.places import MAX_SUGGESTED
from tests.support.laws import examples

NUMBER, STRING, DATE = PropertyType.NUMBER, PropertyType.STRING, PropertyType.DATE
ANY, OBJECT, ARRAY, BOOLEAN = PropertyType.ANY, PropertyType.OBJECT, PropertyType.ARRAY, PropertyType.BOOLEAN


def inferred(payloads: list[dict[str, Any]]) -> tuple[Schema, Check, Inference]:
    """Infer a schema, and check the payloads by it."""
    inference = Inference(Schema())
    for payload in payloads:
        inference.take(payload)
    schema = inference.propose()
    check_schema(schema)
    check = Check(schema)
    for payload in payloads:
        check.take(payload)
    return schema, check, inference


def property_of(values: list[Any]) -> tuple[Property, int]:
    """Infer the only property of payloads, and count the conflicts."""
    schema, check, _ = inferred([{"p": value} for value in values])
    (found,) = schema.properties
    return found, check.payloads


@pytest.mark.parametrize(
    ("values", "kind", "conflicts"),
    [
        ([1, 2.5], NUMBER, 0),
        ([1, "2", 3], NUMBER, 0),
        ([1, 2, "a lot"], NUMBER, 1),
        (["1", "2"], STRING, 0),
        (["a", "b", 3], STRING, 0),
        (["a", "2026-06-01"], STRING, 0),
        (["2026-06-01", "2026-06-01T12:00:00Z"], DATE, 0),
        (["2026-06-01T12:00:00+02:00"], DATE, 0),
        ([True, False], BOOLEAN, 0),
        ([True, True, "yes"], BOOLEAN, 1),
        ([None, None], ANY, 0),
        ([1, "a lot"], ANY, 0),
        ([{"a": 1}, {"a": 2}, 3], OBJECT, 1),
        ([[1], {}, []], ARRAY, 1),
        ([1, None], NUMBER, 0),
    ],
)
def test_the_type_is_that_of_most_values(values: list[Any], kind: PropertyType, conflicts: int) -> None:
    found, refused = property_of(values)
    assert (found.type, refused) == (kind, conflicts)


def test_a_property_is_required_if_it_never_lacks() -> None:
    schema, _, _ = inferred([{"a": 1, "b": 1, "o": {"c": 1, "d": None}}, {"a": 2, "b": None, "o": {"c": 2}}])
    a, b, o = schema.properties
    assert (a.required, b.required, o.required) == (True, False, True)
    assert [(each.name, each.required) for each in o.properties] == [("c", True), ("d", False)]
    (alone,) = inferred([{"a": 1}])[0].properties
    assert not alone.required


def test_few_different_strings_are_suggested() -> None:
    assert property_of(["EUR", "USD", "EUR", "EUR"])[0].suggested_values == ("EUR", "USD")
    assert property_of(["EUR", "USD", "GBP"])[0].suggested_values == ()
    assert property_of(["a@example.com"] * 9)[0].suggested_values == ()
    many = [str(number) for number in range(MAX_SUGGESTED + 1)] * 3
    assert property_of(["x", *many])[0].suggested_values == ()


def test_what_was_declared_personal_stays_so_and_its_values_are_not_suggested() -> None:
    known = Schema(
        (
            Property("ssn", NUMBER, description="Tax number", personal=True),
            Property("home", OBJECT, personal=True, properties=(Property("city", STRING),)),
            Property("cart", OBJECT, properties=(Property("note", STRING, personal=True),)),
        )
    )
    inference = Inference(known)
    for _ in range(3):
        inference.take({"ssn": "1a", "home": {"city": "Bonn"}, "cart": {"note": "hush", "sku": "A"}, "new": "B"})
    cart, home, new, ssn = inference.propose().properties
    assert (ssn.type, ssn.personal, ssn.description, ssn.suggested_values) == (STRING, True, "Tax number", ())
    assert (home.personal, home.properties[0].suggested_values) == (True, ())
    assert [(each.personal, each.suggested_values) for each in cart.properties] == [(True, ()), (False, ("A",))]
    assert (new.personal, new.suggested_values) == (False, ("B",))


def test_items_of_arrays_have_a_type_if_all_have_it() -> None:
    assert property_of([[1, 2], []])[0].item_type is NUMBER
    assert property_of([[1, "a"]])[0].item_type is None
    assert property_of([[1, None]])[0].item_type is None
    lines, refused = property_of([[{"sku": "a", "price": 1}, {"sku": "b", "price": 2.5}]])
    assert (lines.item_type, refused) == (OBJECT, 0)
    assert [(each.name, each.type, each.required) for each in lines.properties] == [
        ("price", NUMBER, True),
        ("sku", STRING, True),
    ]


def test_an_object_whose_keys_are_values_is_left_open() -> None:
    found, refused = property_of([{f"sku_{number}": 1} for number in range(50)])
    assert (found.type, found.properties, refused) == (OBJECT, (), 0)


def test_what_does_not_fit_into_a_schema_is_left_out_and_kept() -> None:
    wide = {f"p{number}": number for number in range(MAX_PROPERTIES + 5)}
    schema, check, inference = inferred([wide, wide, {"p54": 1}])
    assert (len(schema.properties), schema.unknown_properties) == (MAX_PROPERTIES, UnknownProperties.KEEP)
    assert "p54" in {each.name for each in schema.properties}
    assert check.payloads == 0
    assert sum(bool(finding.omitted) for finding in inference.findings({})) == 5
    schema, check, _ = inferred([{"": 1, " ": 2, "a": 3}])
    assert ([each.name for each in schema.properties], check.payloads) == (["a"], 0)
    schema, check, _ = inferred([{f"p{number}": 1} for number in range(MAX_PATHS + 10)])
    assert (schema.unknown_properties, check.payloads) == (UnknownProperties.KEEP, 0)


def test_conflicts_are_counted_by_path() -> None:
    payloads: list[dict[str, Any]] = [{"lines": [{"price": 1}, {"price": "free"}]}, {"lines": [{"price": 2}] * 3}]
    _, check, inference = inferred(payloads)
    (found,) = [each for each in inference.findings(check.by_path) if each.path == "properties.lines[].price"]
    assert (found.kinds, found.conflicts) == ((("integer", 4), ("string", 1)), 1)


SCALARS = st.none() | st.booleans() | st.integers(-9, 9) | st.floats(0, 1) | st.sampled_from(["a", "7", "2026-06-01"])
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner), max_leaves=5
)


@settings(max_examples=examples(150))
@given(st.lists(st.dictionaries(st.sampled_from("pqr"), VALUES), min_size=1, max_size=6))
def test_a_proposal_is_a_valid_schema_and_names_each_of_its_conflicts(payloads: list[dict[str, Any]]) -> None:
    _, check, inference = inferred(payloads)
    found = {finding.path for finding in inference.findings(check.by_path) if finding.conflicts}
    assert bool(check.payloads) == bool(check.by_path)
    assert found == set(check.by_path)


@given(st.lists(st.fixed_dictionaries({}, optional={"p": SCALARS, "q": SCALARS}), min_size=1, max_size=6))
def test_what_agrees_in_type_is_accepted(payloads: list[dict[str, Any]]) -> None:
    by_kind: dict[str, set[type]] = {}
    for payload in payloads:
        for name, value in payload.items():
            if value is not None:
                by_kind.setdefault(name, set()).add(float if type(value) is int else type(value))
    if all(len(kinds) == 1 for kinds in by_kind.values()):
        assert inferred(payloads)[1].payloads == 0
