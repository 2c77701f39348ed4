from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from registry.coercion.report import Coercion, CoercionKind
from registry.coercion.reverse import undo
from registry.coercion.validation import compile_schema
from registry.definitions.schema import CoercionMode, Property, PropertyType, Schema, UnknownProperties
from registry.errors import PayloadRejected
from registry.paths import path_parts
from tests.support.laws import examples
from tests.support.payloads import CASES, validated_or_none

if TYPE_CHECKING:
    from registry.values.plain_json import JSON

pytestmark = [pytest.mark.lasting, pytest.mark.usefixtures("neighbour")]

STRING, NUMBER, BOOLEAN, DATE, OBJECT, ARRAY, ANY = PropertyType
REJECT, KEEP, DROP = UnknownProperties
LONG = "x" * 300

LINE = (Property("sku", STRING), Property("a.b", NUMBER), Property("at", DATE))
BASKET = Schema(
    (Property("lines", ARRAY, item_type=OBJECT, properties=LINE), Property("customer", OBJECT, properties=LINE)),
    unknown_properties=DROP,
)


def undone(schema: Schema, payload: dict[str, Any]) -> dict[str, JSON]:
    coerced = compile_schema(schema)(payload)
    return undo(copy.deepcopy(coerced.properties), coerced.coercions)


def text(value: Any) -> str:
    """Return a JSON text that differs for 1 and True, but not for 5.0 and 5 or another order of names."""
    return json.dumps(_canonical(value), sort_keys=True)


def _canonical(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _canonical(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_canonical(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


# The law


@settings(max_examples=examples(50))
@given(CASES, st.sampled_from(UnknownProperties))
def test_undoing_the_coercions_restores_the_sent_payload(
    case: tuple[Schema, dict[str, JSON]], policy: UnknownProperties
) -> None:
    schema, payload = replace(case[0], unknown_properties=policy), case[1]
    coerced = validated_or_none(schema, payload)
    assume(coerced is not None)
    assert coerced is not None
    assert text(undo(copy.deepcopy(coerced.properties), coerced.coercions)) == text(payload)


ITEMS = st.fixed_dictionaries(
    {},
    optional={
        "sku": st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=2),
        "a.b": st.none() | st.sampled_from(["1", " 2 ", "1e300", 2.0**60, 5]),
        "at": st.none() | st.sampled_from(["2026-06-01", 0, 1780315200000]),
        'quo"te\\': st.none() | st.lists(st.none(), max_size=2),
        "lines": st.dictionaries(st.text(max_size=2), st.none(), max_size=2),
    },
)


@given(st.fixed_dictionaries({}, optional={"lines": st.lists(ITEMS, max_size=4), "customer": ITEMS, "x": ITEMS}))
def test_changes_inside_of_objects_and_items_are_undone(payload: dict[str, Any]) -> None:
    assert text(undone(BASKET, payload)) == text(payload)


def test_every_kind_of_change_is_undone() -> None:
    payload: dict[str, Any] = {
        "lines": [{"sku": "a"}, {}, {"sku": 7, "a.b": None, "x": {"y": [1]}}],
        "customer": {"a.b": "1e300", "at": 0},
    }
    coerced = compile_schema(BASKET)(payload)
    assert {coercion.kind for coercion in coerced.coercions} == set(CoercionKind)
    assert text(undo(coerced.properties, coerced.coercions)) == text(payload)


# Numbers in values that have no schema of their own

OBJECTS = {
    "properties.l[0].n": [{"n": 2.0**60}],
    'properties.l[1]["a b"].__proto__[1]': [{}, {"a b": {"__proto__": [0, 2.0**60]}}],
    'properties.l[0][""].n': [{"": {"n": 2.0**60}}],
}
ARRAYS = {"properties.l[1][0]": [[], [2.0**60]], "properties.l[1][0].n": [[], [{"n": 2.0**60}]]}


@pytest.mark.parametrize("policy", UnknownProperties)
@pytest.mark.parametrize(
    ("declared", "path", "items"),
    [
        (declared, path, items)
        for item_type, lists in ((OBJECT, OBJECTS), (ARRAY, ARRAYS))
        for declared in (
            Property("l", ARRAY),
            Property("l", ANY),
            Property("l", ARRAY, item_type=item_type),
            Property(
                "l", ARRAY, item_type=OBJECT, properties=(Property("n", ANY), Property("", ANY), Property("a b", ANY))
            ),
        )
        for path, items in lists.items()
        if item_type is OBJECT or not declared.properties
    ],
)
def test_the_path_of_a_rounded_number_leads_to_it(
    declared: Property, path: str, items: list[JSON], policy: UnknownProperties
) -> None:
    schema = Schema((declared,), policy)
    (coercion,) = compile_schema(schema)({"l": items}).coercions
    assert coercion.path == path
    place: Any = {"properties": {"l": items}}
    for part in path_parts(path):
        place = place[part]
    assert place == coercion.before
    assert undone(schema, {"l": items}) == {"l": items}


@pytest.mark.parametrize(("path", "items"), [*OBJECTS.items(), *ARRAYS.items()])
def test_the_path_of_a_number_out_of_range_leads_to_it(path: str, items: list[JSON]) -> None:
    kind = OBJECT if path in OBJECTS else ARRAY
    beyond = json.loads(json.dumps(items).replace(json.dumps(2.0**60), str(10**400)))
    with pytest.raises(PayloadRejected) as caught:
        compile_schema(Schema((Property("l", ARRAY, item_type=kind),)))({"l": beyond})
    assert [violation.path for violation in caught.value.violations] == [path]


def test_a_path_that_an_earlier_release_recorded_without_the_dot_of_an_item_leads_to_it() -> None:
    rounded = Coercion("properties.l[1]n.m[0].o", CoercionKind.ROUNDED, 2.0**60, 2.0**60)
    payload: dict[str, JSON] = {"l": [0, {"n": {"m": [{"o": 2.0**60}]}}]}
    assert undo(copy.deepcopy(payload), [rounded]) == payload


# Names that are too long for a path


@pytest.mark.parametrize("parent", ["customer", "lines"])
def test_a_dropped_property_whose_name_is_too_long_returns_under_a_shortened_one(parent: str) -> None:
    inside = {LONG: 1, "sku": "a"}
    payload = {parent: [inside] if parent == "lines" else inside}
    sent: Any = undone(BASKET, payload)
    (name,) = (sent[parent][0] if parent == "lines" else sent[parent]).keys() - {"sku"}
    assert name == "x" * 255 + "…"


def test_of_dropped_properties_with_the_same_long_beginning_one_returns() -> None:
    assert undone(BASKET, {LONG: 1, LONG + "y": 2}) == {"x" * 255 + "…": 2}


@pytest.mark.parametrize("mode", CoercionMode)
@pytest.mark.parametrize("policy", UnknownProperties)
def test_every_schema_treats_the_shortened_name_like_the_whole_one(
    mode: CoercionMode, policy: UnknownProperties
) -> None:
    schema = Schema((Property("a", STRING),), policy, mode)
    whole, cut = validated_or_none(schema, {LONG: 1}), validated_or_none(schema, undone(BASKET, {LONG: 1}))
    assert (whole is None) == (cut is None) == (policy is REJECT)
    if whole is not None and cut is not None:
        assert whole.coercions == cut.coercions


def test_a_rounded_number_that_is_kept_stays_under_its_whole_name() -> None:
    payload: dict[str, JSON] = {LONG: 2.0**60}
    assert undone(Schema(unknown_properties=KEEP), payload) == payload
