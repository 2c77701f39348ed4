from __future__ import annotations

import copy
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import assume, example, given

from registry.coercion.docs import coercion_page
from registry.coercion.report import MAX_VIOLATIONS, CoercedPayload, Coercion, CoercionKind
from registry.coercion.table import TABLE, Example
from registry.definitions.schema import CoercionMode, Property, PropertyType, Schema, UnknownProperties, check_schema
from registry.errors import PayloadRejected, Violation
from registry.times.timestamps import parse_rfc3339
from tests.support.payloads import (
    ANY,
    ARRAY,
    BOOLEAN,
    CASES,
    DATE,
    ITEM_TYPES,
    NUMBER,
    OBJECT,
    STRING,
    validated,
    validated_or_none,
)

if TYPE_CHECKING:
    from registry.values.plain_json import JSON

LENIENT, STRICT = CoercionMode
REJECT, KEEP, DROP = UnknownProperties

ORDER = Schema((Property("order_total", NUMBER), Property("currency", STRING), Property("paid", BOOLEAN)))


def refused(schema: Schema, payload: dict[str, Any]) -> tuple[Violation, ...]:
    with pytest.raises(PayloadRejected) as rejection:
        validated(schema, payload)
    return rejection.value.violations


def text(value: JSON) -> str:
    """Return the JSON text: texts of 1 and True differ, and of 5 and 5.0, which are equal for Python."""
    return json.dumps(value)


# The table


@pytest.mark.parametrize("mode", CoercionMode)
@pytest.mark.parametrize(
    ("target", "case"),
    [(target, case) for target, row in TABLE.items() for case in row.examples],
    ids=lambda part: repr(part.given)[:30] if isinstance(part, Example) else None,
)
def test_every_example_of_the_table_holds(mode: CoercionMode, target: PropertyType, case: Example) -> None:
    expected = case.lenient if mode is LENIENT else case.strict
    coerced = validated_or_none(Schema((Property("value", target),), coercion=mode), {"value": case.given})
    if expected is None:
        assert coerced is None
    else:
        assert coerced is not None
        assert text(coerced.properties) == text({"value": expected})


@pytest.mark.checkout
def test_the_page_is_made_from_the_table() -> None:
    page = Path(__file__).parents[1] / "docs" / "coercion.md"
    assert page.read_text(encoding="utf-8") == coercion_page(), "python -m registry.coercion.docs"


# Changes


def test_a_payload_that_fits_is_not_changed() -> None:
    payload = {"paid": True, "currency": "EUR", "order_total": 12.5}
    coerced = validated(ORDER, payload)
    assert list(coerced.properties.items()) == list(payload.items())
    assert coerced.coercions == ()


def test_every_conversion_is_reported() -> None:
    coerced = validated(ORDER, {"order_total": "129.95", "currency": 978, "paid": "TRUE"})
    assert coerced.properties == {"order_total": 129.95, "currency": "978", "paid": True}
    assert coerced.coercions == (
        Coercion("properties.order_total", CoercionKind.CONVERTED, "129.95", 129.95),
        Coercion("properties.currency", CoercionKind.CONVERTED, 978, "978"),
        Coercion("properties.paid", CoercionKind.CONVERTED, "TRUE", True),
    )


def test_another_spelling_of_an_instant_is_reported_in_strict_too() -> None:
    schema = Schema((Property("at", DATE),), coercion=STRICT)
    given_text, canonical = "2026-06-01T14:00:00+02:00", "2026-06-01T12:00:00.000Z"
    assert validated(schema, {"at": given_text}).coercions == (
        Coercion("properties.at", CoercionKind.CONVERTED, given_text, canonical),
    )
    assert validated(schema, {"at": canonical}).coercions == ()


@pytest.mark.parametrize(
    ("target", "value", "kind"),
    [
        (NUMBER, 5.0, None),
        (NUMBER, 2**53 - 1, None),
        (NUMBER, 2**53, CoercionKind.ROUNDED),
        (NUMBER, 2**53 + 1, CoercionKind.ROUNDED),
        (NUMBER, 2.0**53 + 2, CoercionKind.ROUNDED),
        (NUMBER, -(2.0**60), CoercionKind.ROUNDED),
        (NUMBER, "1e300", CoercionKind.ROUNDED),
        (NUMBER, "12", CoercionKind.CONVERTED),
        (STRING, 2**60, CoercionKind.CONVERTED),
        (STRING, 2.0**60, CoercionKind.ROUNDED),
    ],
)
def test_a_number_beyond_two_to_the_53_is_reported_as_rounded(
    target: PropertyType, value: JSON, kind: CoercionKind | None
) -> None:
    coercions = validated(Schema((Property("n", target),)), {"n": value}).coercions
    assert [coercion.kind for coercion in coercions] == ([] if kind is None else [kind])


def test_null_for_an_optional_property_is_dropped_and_reported() -> None:
    coerced = validated(ORDER, {"currency": None})
    assert coerced == CoercedPayload({}, (Coercion("properties.currency", CoercionKind.NULL_DROPPED, None, None),))


# Violations


def test_all_violations_are_reported_at_once_missing_properties_first() -> None:
    schema = Schema((Property("order_total", NUMBER, required=True), Property("id", STRING, required=True)))
    found = refused(schema, {"order_total": "abc", "foo": 1})
    assert found == (
        Violation("properties.id", "REQUIRED_PROPERTY_MISSING", 'Property "id" is required'),
        Violation(
            "properties.order_total",
            "INVALID_PROPERTY_VALUE",
            'Property "order_total" must be a number; got the string "abc"',
            "number",
        ),
        Violation("properties.foo", "UNKNOWN_PROPERTY", 'Property "foo" is not declared'),
    )


def test_the_message_of_one_violation_is_the_message_of_the_rejection() -> None:
    with pytest.raises(PayloadRejected, match=r'^Property "paid" must be a boolean; got null$'):
        validated(replace(ORDER, coercion=STRICT), {"paid": None})


EVERY_TYPE = tuple(Property(each, each, required=True) for each in PropertyType if each is not ANY)
WRONG: dict[PropertyType, Any] = {STRING: {}, NUMBER: "x", BOOLEAN: "x", DATE: "x", OBJECT: 1, ARRAY: 1}


@pytest.mark.parametrize("mode", CoercionMode)
def test_a_refused_value_tells_the_type_that_was_expected_at_every_level(mode: CoercionMode) -> None:
    schema = Schema(
        (
            *EVERY_TYPE,
            Property("inner", OBJECT, properties=EVERY_TYPE),
            Property("lines", ARRAY, item_type=OBJECT, properties=EVERY_TYPE),
            *(Property(f"{each}s", ARRAY, item_type=each) for each in ITEM_TYPES),
        ),
        coercion=mode,
    )
    wrong = {each.value: value for each, value in WRONG.items()}
    items = {f"{each}s": [value] for each, value in wrong.items()}
    found = refused(schema, {**wrong, "inner": wrong, "lines": [wrong], **items})
    assert [(each.path, each.reason, each.expected) for each in found] == [
        *((f"properties.{each}", "INVALID_PROPERTY_VALUE", each) for each in wrong),
        *((f"properties.inner.{each}", "INVALID_PROPERTY_VALUE", each) for each in wrong),
        *((f"properties.lines[0].{each}", "INVALID_PROPERTY_VALUE", each) for each in wrong),
        *((f"properties.{each}s[0]", "INVALID_PROPERTY_VALUE", each) for each in wrong),
    ]


@pytest.mark.parametrize(
    ("schema", "value", "expected"),
    [
        (Schema((Property("a", DATE, required=True),), coercion=STRICT), None, "date"),
        (Schema((Property("a", DATE, required=True),)), None, ""),
        (Schema((Property("a", ANY),), coercion=STRICT), None, "any"),
        (Schema((Property("a", NUMBER),)), math.nan, "number"),
        (Schema(unknown_properties=KEEP), math.nan, "number"),
        (Schema(), 1, ""),
    ],
)
def test_only_invalid_values_have_an_expected_type(schema: Schema, value: JSON, expected: str) -> None:
    (violation,) = refused(schema, {"a": value})
    assert violation.expected == expected
    assert bool(expected) is (violation.reason == "INVALID_PROPERTY_VALUE")


@pytest.mark.parametrize("mode", CoercionMode)
def test_null_for_a_required_property_is_a_violation(mode: CoercionMode) -> None:
    schema = Schema((Property("id", STRING, required=True),), coercion=mode)
    expected = {LENIENT: "REQUIRED_PROPERTY_MISSING", STRICT: "INVALID_PROPERTY_VALUE"}
    assert [each.reason for each in refused(schema, {"id": None})] == [expected[mode]]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("a" * 100, f'the string "{"a" * 40}…"'),
        (5.0, "the number 5"),
        pytest.param(10**5000, "an integer beyond the range of a double", id="huge"),
        (math.nan, "NaN"),
        (-math.inf, "-Infinity"),
        (True, "true"),
        ({}, "an object"),
    ],
)
def test_a_message_shows_the_value(value: JSON, shown: str) -> None:
    (violation,) = refused(Schema((Property("a", ARRAY),)), {"a": value})
    assert violation.message == f'Property "a" must be an array; got {shown}'


def test_a_close_name_is_suggested() -> None:
    (violation,) = refused(ORDER, {"order_totl": 5})
    assert violation.message == 'Property "order_totl" is not declared; did you mean "order_total"?'


def test_a_payload_is_given_up_at_one_hundred_violations() -> None:
    array = Schema((Property("ids", ARRAY, item_type=NUMBER),))
    found = refused(array, {"ids": ["x"] * 10_000})
    assert len(found) == MAX_VIOLATIONS
    assert found[-1].path == "properties.ids[99]"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 10**400])
@pytest.mark.parametrize("mode", CoercionMode)
@pytest.mark.parametrize("target", PropertyType)
def test_a_number_that_is_not_a_finite_double_is_rejected(
    target: PropertyType, mode: CoercionMode, value: JSON
) -> None:
    assert refused(Schema((Property("a", target),), coercion=mode), {"a": value})
    assert refused(Schema(unknown_properties=KEEP, coercion=mode), {"a": value})


# Nesting and undeclared properties

BASKET = Schema(
    (
        Property("customer", OBJECT, properties=(Property("age", NUMBER, required=True), Property("a.b", DATE))),
        Property("items", ARRAY, item_type=OBJECT, properties=(Property("sku", STRING), Property("tags", ARRAY))),
        Property("scores", ARRAY, item_type=NUMBER),
        Property("anything", OBJECT),
    )
)


def test_nested_values_are_coerced_with_their_paths() -> None:
    coerced = validated(
        BASKET,
        {"items": [{"sku": "a"}, {"sku": 7, "tags": [None]}], "customer": {"age": "41"}, "scores": [1, "2"]},
    )
    assert coerced.properties == {
        "items": [{"sku": "a"}, {"sku": "7", "tags": [None]}],
        "customer": {"age": 41},
        "scores": [1, 2],
    }
    assert [coercion.path for coercion in coerced.coercions] == [
        "properties.items[1].sku",
        "properties.customer.age",
        "properties.scores[1]",
    ]


def test_nested_violations_have_their_paths() -> None:
    found = refused(
        BASKET,
        {"customer": {"a.b": "soon"}, "items": [{}, 5, {"skew": 1}], "scores": [None]},
    )
    assert [(each.path, each.reason) for each in found] == [
        ("properties.customer.age", "REQUIRED_PROPERTY_MISSING"),
        ('properties.customer["a.b"]', "INVALID_PROPERTY_VALUE"),
        ("properties.items[1]", "INVALID_PROPERTY_VALUE"),
        ("properties.items[2].skew", "UNKNOWN_PROPERTY"),
        ("properties.scores[0]", "INVALID_PROPERTY_VALUE"),
    ]


def test_an_object_that_declares_nothing_takes_any_object() -> None:
    payload: dict[str, JSON] = {"anything": {"deep": [{"er": None}]}}
    assert validated(BASKET, payload) == CoercedPayload(payload, ())


def test_missing_properties_come_first_at_every_level() -> None:
    inner = (Property("x", NUMBER), Property("y", NUMBER, required=True), Property("z", NUMBER, required=True))
    schema = Schema((Property("o", OBJECT, properties=inner), Property("r", NUMBER, required=True)))
    assert [each.path for each in refused(schema, {"foo": 1, "o": {"x": "x", "z": "z"}})] == [
        "properties.r",
        "properties.foo",
        "properties.o.y",
        "properties.o.x",
        "properties.o.z",
    ]


@pytest.mark.parametrize("mode", CoercionMode)
def test_any_takes_its_value_as_keep_takes_one_that_is_not_declared(mode: CoercionMode) -> None:
    declaring, keeping = Schema((Property("a", ANY),), coercion=mode), Schema(unknown_properties=KEEP, coercion=mode)
    values: list[JSON] = [5.0, -0.0, 2.0**60, 2**53 + 1, "x", True, [5.0, None], {"b": 5.0, "c": None}]
    for value in values:
        declared, kept = validated(declaring, {"a": value}), validated(keeping, {"a": value})
        assert text(declared.properties) == text(kept.properties)
        assert declared.coercions == kept.coercions


def test_a_required_nested_property_may_be_missing_with_its_object() -> None:
    assert validated(BASKET, {}) == CoercedPayload({}, ())


def test_drop_removes_undeclared_properties_at_every_level() -> None:
    coerced = validated(replace(BASKET, unknown_properties=DROP), {"x": 1, "customer": {"age": 1, "y": {}}})
    assert coerced.properties == {"customer": {"age": 1}}
    assert coerced.coercions == (
        Coercion("properties.x", CoercionKind.UNKNOWN_DROPPED, 1, None),
        Coercion("properties.customer.y", CoercionKind.UNKNOWN_DROPPED, {}, None),
    )


def test_keep_keeps_undeclared_properties_at_every_level() -> None:
    payload: dict[str, JSON] = {"x": None, "customer": {"age": 1, "y": [5.0]}, "z": 5.0, "big": 2.0**60}
    coerced = validated(replace(BASKET, unknown_properties=KEEP), payload)
    assert text(coerced.properties) == text({**payload, "z": 5})
    assert coerced.coercions == (Coercion("properties.big", CoercionKind.ROUNDED, 2.0**60, 2.0**60),)


# Laws


@given(CASES)
def test_any_payload_is_coerced_or_rejected_and_never_mutated(case: tuple[Schema, dict[str, JSON]]) -> None:
    schema, payload = case
    check_schema(schema)
    before = copy.deepcopy(payload)
    validated_or_none(schema, payload)
    assert repr(payload) == repr(before)


@given(CASES)
def test_a_coerced_payload_is_coerced_to_itself(case: tuple[Schema, dict[str, JSON]]) -> None:
    schema, payload = case
    once = validated_or_none(schema, payload)
    assume(once is not None)
    assert once is not None
    twice = validated(schema, once.properties)
    assert text(twice.properties) == text(once.properties)
    assert all(coercion.kind is CoercionKind.ROUNDED for coercion in twice.coercions)


@given(CASES)
@example((Schema((Property("a", DATE),)), {"a": "2026-06-01t12:00:00z"}))
def test_strict_accepts_only_payloads_that_lenient_leaves_unchanged(case: tuple[Schema, dict[str, JSON]]) -> None:
    schema, payload = case
    strict = validated_or_none(replace(schema, coercion=STRICT), payload)
    assume(strict is not None)
    assert strict is not None
    lenient = validated(replace(schema, coercion=LENIENT), payload)
    assert text(lenient.properties) == text(strict.properties)
    assert repr(lenient.coercions) == repr(strict.coercions)
    for coercion in lenient.coercions:
        if coercion.kind is CoercionKind.CONVERTED:
            assert isinstance(coercion.before, str)
            assert isinstance(coercion.after, str)
            assert parse_rfc3339(coercion.before) // 1000 == parse_rfc3339(coercion.after) // 1000


@given(CASES)
def test_reject_accepts_the_payloads_from_which_drop_removes_nothing(case: tuple[Schema, dict[str, JSON]]) -> None:
    schema, payload = case
    rejecting, dropping, keeping = (
        validated_or_none(replace(schema, unknown_properties=policy), payload) for policy in (REJECT, DROP, KEEP)
    )
    dropped = dropping is None or any(each.kind is CoercionKind.UNKNOWN_DROPPED for each in dropping.coercions)
    assert (rejecting is None) == dropped
    if rejecting is not None:
        assert repr(rejecting) == repr(dropping) == repr(keeping)
