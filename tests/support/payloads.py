"""Generated schemas, and payloads that fit them more or less."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

from registry.coercion.validation import compile_schema
from registry.definitions.schema import CoercionMode, Property, PropertyType, Schema, UnknownProperties
from registry.errors import PayloadRejected
from tests.support import boundaries

if TYPE_CHECKING:
    from registry.coercion.report import CoercedPayload
    from registry.values.plain_json import JSON

STRING, NUMBER, BOOLEAN, DATE, OBJECT, ARRAY, ANY = PropertyType
ITEM_TYPES = [each for each in PropertyType if each is not ANY]


def validated(schema: Schema, payload: dict[str, Any]) -> CoercedPayload:
    return compile_schema(schema)(payload)


def validated_or_none(schema: Schema, payload: dict[str, Any]) -> CoercedPayload | None:
    try:
        return validated(schema, payload)
    except PayloadRejected:
        return None


NAMES = st.sampled_from(["a", "b", "c", "order_total", "a.b", "größe"])
NUMBERS = (
    boundaries.doubles
    | st.integers()
    | st.floats(allow_nan=True, allow_infinity=True)
    | st.sampled_from([0, 1, -0.0, 2**53 + 1, 10**400, 1780315200000])
)
TEXTS = (
    st.text(max_size=8)
    | st.from_regex(r"\A[ \t]?[+-]?[0-9]{1,4}(\.[0-9]{1,4})?(e[0-9]{1,3})?\n?\Z")
    | st.sampled_from(["true", "FALSE", "2026-06-01", "2026-06-01T12:00:00Z", "2026-06-01T14:00:00.5+02:00"])
)
SCALARS = st.none() | st.booleans() | NUMBERS | TEXTS
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES | st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
PAYLOADS = st.dictionaries(NAMES | st.text(max_size=3), VALUES, max_size=5)


def properties(depth: int) -> st.SearchStrategy[tuple[Property, ...]]:
    return st.lists(declared(depth), max_size=4, unique_by=lambda each: each.name).map(tuple)


@st.composite
def declared(draw: st.DrawFn, depth: int) -> Property:
    target = draw(st.sampled_from(PropertyType))
    item = draw(st.none() | st.sampled_from(ITEM_TYPES)) if target is ARRAY else None
    found = Property(draw(NAMES), target, required=draw(st.booleans()), item_type=item)
    return replace(found, properties=draw(properties(depth - 1))) if found.may_nest and depth else found


SCHEMAS = st.builds(Schema, properties(2), st.sampled_from(UnknownProperties), st.sampled_from(CoercionMode))


@st.composite
def fitting(draw: st.DrawFn, level: tuple[Property, ...]) -> dict[str, JSON]:
    """Payloads that are mostly valid: each declared property has a plausible value."""
    payload: dict[str, JSON] = {}
    for each in level:
        if draw(st.integers(0, 7)):
            payload[each.name] = draw(plausible(each.type, each))
    return payload | (draw(PAYLOADS) if draw(st.integers(0, 3)) == 0 else {})


def plausible(target: PropertyType, each: Property) -> st.SearchStrategy[Any]:
    native: dict[PropertyType, st.SearchStrategy[Any]] = {
        STRING: TEXTS,
        NUMBER: NUMBERS,
        BOOLEAN: st.booleans(),
        DATE: st.sampled_from(["2026-06-01", "2026-06-01T12:00:00Z", "2026-06-01T12:00:00.000Z", 5]),
        OBJECT: fitting(each.properties),
        ARRAY: VALUES if each.item_type in {None, ARRAY} else st.nothing(),
        ANY: VALUES,
    }
    if target is ARRAY and each.item_type not in {None, ARRAY}:
        assert each.item_type is not None
        return st.lists(plausible(each.item_type, each), max_size=3)
    return native[target] | (st.nothing() if target in {OBJECT, ARRAY} else SCALARS)


CASES = SCHEMAS.flatmap(lambda schema: st.tuples(st.just(schema), fitting(schema.properties) | PAYLOADS))
