from __future__ import annotations

import itertools
import os
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.coercion.validation import compile_schema
from registry.compatibility.comparison import (
    Direction,
    Incompatibility,
    IncompatibilityKind,
    check_compatibility,
    compare,
)
from registry.compatibility.docs import compatibility_page
from registry.definitions.event_definitions import Revision
from registry.definitions.schema import (
    CoercionMode,
    Compatibility,
    Property,
    PropertyType,
    Schema,
    UnknownProperties,
    check_schema,
)
from registry.errors import PayloadRejected

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from registry.values.plain_json import JSON

STRING, NUMBER, BOOLEAN, DATE, OBJECT, ARRAY, ANY = PropertyType
ITEM_TYPES = [each for each in PropertyType if each is not ANY]
LENIENT, STRICT = CoercionMode
REJECT, KEEP, DROP = UnknownProperties
BACKWARD, FORWARD = Direction
KINDS = IncompatibilityKind

Payload: TypeAlias = "dict[str, JSON]"

# The universe: one property `a`, absent or with a value of every sort that the coercion table tells apart, alone,
# in an array, and as the properties `c` and `d` of an object in its place.

SCALARS: list[Any] = [
    *("", "abc", "5", " 5 ", "1e3", "true", "TRUE", "2026-06-01"),
    *("2026-06-01T12:00:00.000Z", "2026-06-01T14:00:00+02:00", "2026-06-01T12:00:00"),
    *(0, 1, 2, -1, 1.5, 5.0, 1e300, 2**53, 2**53 + 1, 1780315200000),
    *(None, True, False),
]
INNER = [*SCALARS, [], [1], {}]
FLAGS: list[Any] = [True, "TRUE", "abc", None]
OBJECTS: list[Any] = [
    {},
    *({"c": value} for value in INNER),
    *({"d": value} for value in FLAGS),
    *({"c": value, "d": flag} for value in INNER for flag in FLAGS),
]
ARRAYS: list[Any] = [[], *([value] for value in (*INNER, *OBJECTS)), [1, "1"], [{"c": 1}, {"c": "1"}]]
UNIVERSE: list[Payload] = [{}, *({"a": value} for value in (*SCALARS, *OBJECTS, *ARRAYS))]


def outcome(schema: Schema, payload: Payload) -> str | None:
    """Return the result of a schema on a payload, as text with numbers as doubles: 1 and true differ."""
    try:
        return text(compile_schema_once(schema)(payload).properties)
    except PayloadRejected:
        return None


compile_schema_once = cache(compile_schema)


def text(value: Any) -> str:
    match value:
        case dict():
            return "{" + ",".join(f"{key}:{text(value[key])}" for key in sorted(value)) + "}"
        case list():
            return "[" + ",".join(map(text, value)) + "]"
        case bool() | None | str():
            return repr(value)
        case _:
            return repr(float(value))


def used(value: JSON, path: str = "") -> Iterator[str]:
    """Return the paths of the properties of a payload: `.a`, `.a.c`, `.a[].c`."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield f"{path}.{name}"
            yield from used(inner, f"{path}.{name}")
    if isinstance(value, list):
        for inner in value:
            yield from used(inner, f"{path}[]")


def declared(properties: Iterable[Property], path: str = "") -> Iterator[str]:
    for each in properties:
        place = f"{path}.{each.name}"
        yield place
        yield from declared(each.properties, f"{place}[]" if each.type is ARRAY else place)


# All schemas of one property, one level of nesting


def leaves(name: str) -> Iterator[Property]:
    for target, required in itertools.product(PropertyType, (False, True)):
        yield Property(name, target, required)


def places(item_types: Iterable[PropertyType | None]) -> Iterator[Property]:
    """Every state of `a`: each type, arrays of each item type, objects and items that declare `c` or `d`."""
    nested = [(), *((each,) for each in leaves("c")), *((Property("d", BOOLEAN, each),) for each in (False, True))]
    for each in leaves("a"):
        for item in item_types if each.type is ARRAY else (None,):
            state = replace(each, item_type=item)
            yield from (replace(state, properties=inner) for inner in (nested if state.may_nest else [()]))


def single(states: Iterable[Property]) -> list[Schema]:
    levels = [(), *((each,) for each in states)]
    return [Schema(*each) for each in itertools.product(levels, UnknownProperties, CoercionMode)]


SINGLE = single(places((None, *ITEM_TYPES)))
STEP = int(os.environ.get("SIGNALBOX_COMPATIBILITY_STEP", "8"))
"""Each schema is compared with one in STEP of all schemas, as the old and as the new one."""
SOME = 3
"""One in SOME of these pairs is enough for FORWARD: by a law below it equals BACKWARD with the schemas exchanged."""


def test_the_verdict_equals_enumeration_for_pairs_of_all_schemas_of_one_property() -> None:
    """SIGNALBOX_COMPATIBILITY_STEP=1 compares every pair."""
    every = [Outcomes(schema) for schema in SINGLE]
    assert len(every) == len(set(SINGLE)) > 450
    pairs = [(one, other) for number, one in enumerate(every) for other in every[-number % STEP :: STEP]]
    assert len(pairs) >= len(every) * (len(every) // STEP)
    for direction, compared in ((BACKWARD, pairs), (FORWARD, pairs[::SOME])):
        wrong = [
            (one.schema, other.schema)
            for one, other in compared
            if bool(compare(*ordered(one.schema, other.schema, direction), direction)) is one.within(other)
        ]
        assert wrong == []


def ordered(one: Schema, other: Schema, direction: Direction) -> tuple[Schema, Schema]:
    """Return the old and the new schema, so that the direction asks whether `one` is within `other`."""
    return (one, other) if direction is BACKWARD else (other, one)


class Outcomes:
    """The results of one schema on the universe: a bit for each pair of a payload and a result."""

    bits: ClassVar[dict[tuple[int, str], int]] = {}
    pairs: ClassVar[dict[frozenset[str], int]] = {}

    def __init__(self, schema: Schema) -> None:
        check_schema(schema)
        self.schema = schema
        self.names = frozenset(declared(schema.properties))
        outcomes = ((index, outcome(schema, payload)) for index, payload in enumerate(UNIVERSE))
        self.taken = sum(1 << self.bits.setdefault((i, found), len(self.bits)) for i, found in outcomes if found)

    def within(self, other: Outcomes) -> bool:
        """Return whether the other schema has the same results, by the definition of compatibility."""
        return not self.taken & ~other.taken & self._pairs_of(self.names | other.names)

    def _pairs_of(self, names: frozenset[str]) -> int:
        if names not in self.pairs:
            allowed = {index for index, payload in enumerate(UNIVERSE) if names >= set(used(payload))}
            self.pairs[names] = sum(1 << bit for (index, _), bit in self.bits.items() if index in allowed)
        return self.pairs[names]


# Two properties, two levels of nesting

FEW: list[Any] = ["5", "2026-06-01T14:00:00+02:00", 1, True, None]


def payloads(*levels: tuple[Property, ...]) -> list[dict[str, Any]]:
    """Every object of the properties that the levels declare, each absent or with a value that could matter."""
    names = dict.fromkeys(each.name for level in levels for each in level)
    choices = [[..., *values([each for level in levels for each in level if each.name == name])] for name in names]
    objects = (zip(names, each, strict=True) for each in itertools.product(*choices))
    return [{name: value for name, value in each if value is not ...} for each in objects]


def values(states: list[Property]) -> list[Any]:
    inner = payloads(*(each.properties for each in states)) if any(each.may_nest for each in states) else [{}]
    array = any(each.type in {ARRAY, ANY} for each in states)
    return [*FEW, *inner, [], *([item] for item in (*FEW, *inner, []) if array)]


@st.composite
def levels(draw: st.DrawFn, names: tuple[str, ...]) -> tuple[Property, ...]:
    return tuple([draw(states(each)) for each in draw(st.permutations(names)) if draw(st.integers(0, 4))])


@st.composite
def states(draw: st.DrawFn, name: str) -> Property:
    target = draw(st.sampled_from(PropertyType))
    item = draw(st.none() | st.sampled_from(ITEM_TYPES)) if target is ARRAY else None
    found = Property(name, target, draw(st.booleans()), item_type=item)
    inner = {"a": ("x", "y"), "b": ("x",), "y": ("z",)}.get(name, ())
    return replace(found, properties=draw(levels(inner))) if found.may_nest else found


SCHEMAS = st.builds(Schema, levels(("a", "b")), st.sampled_from(UnknownProperties), st.sampled_from(CoercionMode))


@st.composite
def changed(draw: st.DrawFn, schema: Schema) -> Schema:
    """A variant of a schema: some parts are drawn again, the others stay."""
    other = draw(SCHEMAS)
    return Schema(
        draw(changed_levels(schema.properties, other.properties)),
        draw(st.sampled_from([schema.unknown_properties, other.unknown_properties])),
        draw(st.sampled_from([schema.coercion, other.coercion])),
    )


@st.composite
def changed_levels(draw: st.DrawFn, old: tuple[Property, ...], new: tuple[Property, ...]) -> tuple[Property, ...]:
    found = {each.name: each for each in draw(st.sampled_from([old, (*old, *new)]))}
    for name, each in list(found.items()):
        match draw(st.sampled_from(["same", "same", "required", "removed", "inside"])):
            case "required":
                found[name] = replace(each, required=not each.required)
            case "removed":
                del found[name]
            case "inside":
                found[name] = replace(each, properties=draw(changed_levels(each.properties, ())))
    return tuple(found.values())


CHANGES = SCHEMAS.flatmap(lambda schema: st.tuples(st.just(schema), changed(schema)))


@given(CHANGES)
def test_the_verdict_equals_enumeration_for_several_and_nested_properties(change: tuple[Schema, Schema]) -> None:
    old, new = change
    outcomes = [(outcome(old, each), outcome(new, each)) for each in payloads(old.properties, new.properties)]
    assert (not compare(old, new, BACKWARD)) is all(before in {None, after} for before, after in outcomes)
    assert (not compare(old, new, FORWARD)) is all(after in {None, before} for before, after in outcomes)


# Laws


@given(CHANGES)
def test_forward_is_backward_the_other_way_round(change: tuple[Schema, Schema]) -> None:
    old, new = change
    forward, backward = compare(old, new, FORWARD, 7), compare(new, old, BACKWARD, 7)
    assert {(each.path, each.old, each.new) for each in forward} == {
        (each.path, each.new, each.old) for each in backward
    }


@given(SCHEMAS)
def test_a_schema_is_compatible_with_itself(schema: Schema) -> None:
    assert compare(schema, schema, BACKWARD) == compare(schema, schema, FORWARD) == ()


@given(SCHEMAS)
def test_descriptions_suggestions_and_order_never_matter(schema: Schema) -> None:
    described = tuple(replace(each, description="new") for each in reversed(schema.properties))
    suggested = tuple(replace(each, suggested_values=("x",)) if each.type is STRING else each for each in described)
    other = replace(schema, properties=suggested)
    assert compare(schema, other, BACKWARD) == compare(schema, other, FORWARD) == ()


@given(CHANGES)
def test_at_most_one_incompatibility_is_found_for_a_property(change: tuple[Schema, Schema]) -> None:
    old, new = change
    for direction in Direction:
        paths = [each.path for each in compare(old, new, direction)]
        assert len(paths) == len(set(paths))


def test_under_one_unknown_properties_policy_compatibility_is_transitive() -> None:
    schemas = single(places((None, STRING, OBJECT)))
    step = min(STEP, len(UnknownProperties))
    for number, policy in enumerate(UnknownProperties):
        # Each policy has another third of the schemas.
        few = [each for each in schemas if each.unknown_properties is policy][number % step :: step]
        after = {each: {other for other in few if not compare(each, other, BACKWARD)} for each in few}
        broken = [(one, two) for one in few for two in after[one] if not after[two] <= after[one]]
        assert broken == []


def test_where_the_policy_changes_two_compatible_steps_can_make_an_incompatible_one() -> None:
    first = Schema((Property("id", STRING, required=True),), KEEP, STRICT)
    second = Schema((), KEEP, STRICT)
    third = Schema((), REJECT, STRICT)
    assert check_compatibility(Compatibility.BACKWARD, second, revisions(first)) == ()
    assert check_compatibility(Compatibility.BACKWARD, third, revisions(first, second)) == ()
    (found,) = check_compatibility(Compatibility.BACKWARD_TRANSITIVE, third, revisions(first, second))
    assert found.revision == 1


# Rules


def revisions(*oldest_first: Schema) -> list[Revision]:
    return [Revision("d", number, schema, 0) for number, schema in enumerate(oldest_first, 1)][::-1]


def test_each_rule_checks_its_directions_against_its_revisions_newest_first() -> None:
    text_id, number_id = (Schema((Property("id", target),)) for target in (STRING, NUMBER))
    candidate, earlier = Schema((Property("id", BOOLEAN),)), revisions(text_id, number_id)
    checked = {
        rule: [(each.revision, each.direction) for each in check_compatibility(rule, candidate, earlier)]
        for rule in Compatibility
    }
    assert checked == {
        Compatibility.NONE: [],
        Compatibility.BACKWARD: [(2, BACKWARD)],
        Compatibility.BACKWARD_TRANSITIVE: [(2, BACKWARD), (1, BACKWARD)],
        Compatibility.FORWARD: [(2, FORWARD)],
        Compatibility.FORWARD_TRANSITIVE: [(2, FORWARD), (1, FORWARD)],
        Compatibility.FULL: [(2, BACKWARD), (2, FORWARD)],
        Compatibility.FULL_TRANSITIVE: [(2, BACKWARD), (2, FORWARD), (1, BACKWARD), (1, FORWARD)],
    }


@pytest.mark.parametrize("rule", Compatibility)
def test_a_first_revision_is_always_allowed(rule: Compatibility) -> None:
    assert check_compatibility(rule, Schema(), []) == ()


# Examples

ORDER = Schema(
    (
        Property("order_total", NUMBER, required=True),
        Property("paid_at", DATE),
        Property("customer", OBJECT, properties=(Property("a.b", STRING),)),
        Property("lines", ARRAY, item_type=OBJECT, properties=(Property("sku", STRING, required=True),)),
        Property("tags", ARRAY),
    )
)


def with_property(name: str, **changes: Any) -> Schema:
    return replace(
        ORDER, properties=tuple(replace(each, **changes) if each.name == name else each for each in ORDER.properties)
    )


@pytest.mark.parametrize(
    ("new", "direction", "expected"),
    [
        (
            with_property("order_total", required=False),
            FORWARD,
            [("REQUIRED_REMOVED", "properties.order_total", "required number", "number")],
        ),
        (
            with_property("paid_at", required=True),
            BACKWARD,
            [("REQUIRED_ADDED", "properties.paid_at", "date", "required date")],
        ),
        (
            with_property("paid_at", type=STRING),
            BACKWARD,
            [("TYPE_CHANGED", "properties.paid_at", "date", "string")],
        ),
        (
            with_property("tags", item_type=STRING),
            BACKWARD,
            [("ITEM_TYPE_CHANGED", "properties.tags", "array", "array of string")],
        ),
        (
            with_property("lines", properties=(Property("sku", NUMBER), Property("quantity", NUMBER))),
            FORWARD,
            [
                ("TYPE_CHANGED", "properties.lines[].sku", "required string", "number"),
                ("PROPERTY_ADDED", "properties.lines[].quantity", "not declared, rejected", "number"),
            ],
        ),
        (
            with_property("customer", properties=()),
            FORWARD,
            [("PROPERTY_REMOVED", 'properties.customer["a.b"]', "string", "not declared, kept")],
        ),
        (
            replace(ORDER, coercion=STRICT),
            BACKWARD,
            [
                ("COERCION_CHANGED", "properties.order_total", "required number, LENIENT", "required number, STRICT"),
                ("COERCION_CHANGED", "properties.paid_at", "date, LENIENT", "date, STRICT"),
                ("COERCION_CHANGED", "properties.customer", "object, LENIENT", "object, STRICT"),
                ("COERCION_CHANGED", 'properties.customer["a.b"]', "string, LENIENT", "string, STRICT"),
                ("COERCION_CHANGED", "properties.lines", "array of object, LENIENT", "array of object, STRICT"),
                ("COERCION_CHANGED", "properties.lines[].sku", "required string, LENIENT", "required string, STRICT"),
                ("COERCION_CHANGED", "properties.tags", "array, LENIENT", "array, STRICT"),
            ],
        ),
        (replace(ORDER, coercion=STRICT), FORWARD, []),
        (replace(ORDER, unknown_properties=DROP), BACKWARD, []),
    ],
)
def test_an_incompatibility_has_the_kind_and_the_path_of_the_change(
    new: Schema, direction: Direction, expected: list[tuple[str, str, str, str]]
) -> None:
    found = compare(ORDER, new, direction, 3)
    assert found == tuple(
        Incompatibility(KINDS(kind), path, before, after, direction, 3) for kind, path, before, after in expected
    )


def test_a_property_that_breaks_by_being_required_is_not_blamed_on_its_items() -> None:
    old = Schema((Property("ids", ARRAY, item_type=STRING),), coercion=STRICT)
    new = Schema((Property("ids", ARRAY, required=True),), coercion=STRICT)
    assert [each.kind for each in compare(old, new, BACKWARD)] == [KINDS.REQUIRED_ADDED]
    assert [each.kind for each in compare(old, new, FORWARD)] == [KINDS.ITEM_TYPE_CHANGED]


def test_an_incompatible_property_is_reported_without_its_nested_properties() -> None:
    old = Schema(unknown_properties=KEEP)
    new = replace(old, properties=(Property("o", OBJECT, properties=(Property("at", DATE),)),))
    for direction in Direction:
        (found,) = compare(old, new, direction)
        assert (found.kind, found.path) == (KINDS.PROPERTY_ADDED, "properties.o")


def test_an_object_that_gets_declared_properties_is_compared_property_by_property() -> None:
    old = Schema(unknown_properties=KEEP, coercion=STRICT)
    new = replace(old, properties=(Property("o", OBJECT, required=True, properties=(Property("at", DATE),)),))
    (found,) = compare(old, new, FORWARD)
    assert (found.path, found.old, found.new) == ("properties.o.at", "not declared, kept", "date")


def test_full_allows_no_property_to_come_or_go() -> None:
    full = [
        (one, other)
        for one, other in itertools.product(SINGLE, SINGLE)
        if bool(one.properties) is not bool(other.properties)
        if not compare(one, other, BACKWARD) and not compare(one, other, FORWARD)
    ]
    assert full == []


def test_the_page_shows_every_kind() -> None:
    assert all(f"| {kind} |" in compatibility_page() for kind in IncompatibilityKind)


@pytest.mark.checkout
def test_the_page_is_generated_from_the_verdicts() -> None:
    page = Path(__file__).parents[1] / "docs" / "compatibility.md"
    assert page.read_text(encoding="utf-8") == compatibility_page(), "python -m registry.compatibility.docs"


def test_revisions_that_differ_only_in_annotations_are_compared_once() -> None:
    told = [Schema((Property("id", STRING, description=words),)) for words in ("first", "second")]
    found = check_compatibility(Compatibility.BACKWARD_TRANSITIVE, Schema((Property("id", NUMBER),)), revisions(*told))
    assert [each.revision for each in found] == [2]


def test_a_verdict_has_at_most_a_thousand_incompatibilities() -> None:
    earlier = [
        Schema(tuple(Property(f"p{at}", STRING, required=at < number) for at in range(50))) for number in range(30)
    ]
    candidate = Schema(tuple(Property(f"p{at}", NUMBER) for at in range(50)))
    assert len(check_compatibility(Compatibility.FULL_TRANSITIVE, candidate, revisions(*earlier))) == 1_000
