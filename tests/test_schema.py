from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.definitions.schema import (
    CoercionMode,
    Property,
    PropertyType,
    Schema,
    UnknownProperties,
    canonical_schema,
    check_schema,
    same_schema,
    schema_from_json,
    schema_to_json,
)
from registry.errors import InvalidName, InvalidSchema
from registry.names import check_event_name
from registry.paths import path_parts, property_path, quoted_property, without_indexes

STRING, NUMBER, ARRAY, OBJECT = (
    PropertyType.STRING,
    PropertyType.NUMBER,
    PropertyType.ARRAY,
    PropertyType.OBJECT,
)
ANY = PropertyType.ANY

ORDER = Schema(
    (
        Property("order_total", NUMBER, required=True, description="With tax"),
        Property("currency", STRING, suggested_values=("EUR", "USD")),
        Property("items", ARRAY, properties=(Property("sku", STRING), Property("n", NUMBER)), item_type=OBJECT),
        Property("tags", ARRAY, item_type=STRING),
    ),
    UnknownProperties.DROP,
    CoercionMode.STRICT,
)


def faults(*properties: Property) -> list[tuple[str, str]]:
    with pytest.raises(InvalidSchema) as refused:
        check_schema(Schema(properties))
    return [(each.path, each.reason) for each in refused.value.violations]


def nested(depth: int) -> Property:
    innermost = Property("leaf", STRING)
    for _ in range(depth - 1):
        innermost = Property("level", OBJECT, properties=(innermost,))
    return innermost


def test_a_good_schema_passes() -> None:
    check_schema(ORDER)
    check_schema(Schema())


def test_the_same_name_at_another_level_is_no_duplicate() -> None:
    check_schema(Schema((Property("a", OBJECT, properties=(Property("a", STRING),)),)))


@pytest.mark.parametrize(
    ("wrong", "path", "reason"),
    [
        (Property("", STRING), "name", "INVALID_PROPERTY_NAME"),
        (Property(" \t", STRING), "name", "INVALID_PROPERTY_NAME"),
        (Property("a\nb", STRING), "name", "INVALID_PROPERTY_NAME"),
        (Property("a" * 256, STRING), "name", "INVALID_PROPERTY_NAME"),
        (Property("a", STRING, description="x" * 2001), "description", "DESCRIPTION_TOO_LONG"),
        (Property("a", NUMBER, suggested_values=("1",)), "suggested_values", "INVALID_SUGGESTED_VALUES"),
        (Property("a", STRING, suggested_values=("v",) * 101), "suggested_values", "INVALID_SUGGESTED_VALUES"),
        (Property("a", STRING, suggested_values=("v" * 256,)), "suggested_values", "INVALID_SUGGESTED_VALUES"),
        (Property("a", STRING, properties=(nested(1),)), "properties", "NESTED_PROPERTIES_NOT_ALLOWED"),
        (Property("a", ARRAY, properties=(nested(1),)), "properties", "NESTED_PROPERTIES_NOT_ALLOWED"),
        (Property("a", STRING, item_type=OBJECT), "item_type", "ITEM_TYPE_NOT_ALLOWED"),
        (Property("a", ARRAY, item_type=ANY), "item_type", "ITEM_TYPE_NOT_ALLOWED"),
        (Property("a", ANY, properties=(nested(1),)), "properties", "NESTED_PROPERTIES_NOT_ALLOWED"),
        (Property("a", ANY, suggested_values=("v",)), "suggested_values", "INVALID_SUGGESTED_VALUES"),
    ],
)
def test_a_rule_is_named_with_its_place(wrong: Property, path: str, reason: str) -> None:
    assert faults(Property("fine", STRING), wrong) == [(f"schema.properties[1].{path}", reason)]


def test_all_violations_are_found_at_once() -> None:
    inner = Property("outer", OBJECT, properties=(Property("a", STRING), Property("a", NUMBER)))
    assert faults(Property("", STRING), inner, Property("", STRING, item_type=STRING)) == [
        ("schema.properties[0].name", "INVALID_PROPERTY_NAME"),
        ("schema.properties[2].name", "DUPLICATE_PROPERTY"),
        ("schema.properties[2].name", "INVALID_PROPERTY_NAME"),
        ("schema.properties[2].item_type", "ITEM_TYPE_NOT_ALLOWED"),
        ("schema.properties[1].properties[1].name", "DUPLICATE_PROPERTY"),
    ]


def test_a_schema_has_at_most_fifty_properties_nested_ones_included() -> None:
    flat = tuple(Property(f"p{index}", STRING) for index in range(49))
    check_schema(Schema((*flat, Property("last", STRING))))
    group = Property("group", OBJECT, properties=(Property("one", STRING), Property("two", STRING)))
    assert faults(*flat[:48], group) == [("schema.properties[48].properties[1]", "TOO_MANY_PROPERTIES")]


def test_nesting_ends_at_ten_levels() -> None:
    check_schema(Schema((nested(10),)))
    deep = "schema" + ".properties[0]" * 10 + ".properties"
    assert faults(nested(11)) == [(deep, "SCHEMA_TOO_DEEP")]


def test_hostile_nesting_is_refused_like_any_other() -> None:
    assert [reason for _, reason in faults(nested(100_000))] == ["SCHEMA_TOO_DEEP"]


def test_a_schema_survives_its_json_with_its_order() -> None:
    assert schema_from_json(schema_to_json(ORDER)) == ORDER


def test_text_that_is_no_schema_is_refused() -> None:
    with pytest.raises(ValueError, match="object"):
        schema_from_json("[]")


def test_property_order_makes_no_difference_at_any_level() -> None:
    items = ORDER.properties[2]
    turned = replace(items, properties=items.properties[::-1])
    other = replace(ORDER, properties=(turned, *ORDER.properties[3:], *ORDER.properties[:2]))
    assert same_schema(ORDER, other)
    assert schema_to_json(canonical_schema(ORDER)) == schema_to_json(canonical_schema(other))
    assert schema_to_json(ORDER) != schema_to_json(other)


@pytest.mark.parametrize(
    "other",
    [
        replace(ORDER, unknown_properties=UnknownProperties.KEEP),
        replace(ORDER, coercion=CoercionMode.LENIENT),
        replace(ORDER, properties=ORDER.properties[1:]),
        replace(ORDER, properties=(replace(ORDER.properties[0], required=False), *ORDER.properties[1:])),
        replace(ORDER, properties=(replace(ORDER.properties[0], description=""), *ORDER.properties[1:])),
    ],
)
def test_every_other_difference_counts(other: Schema) -> None:
    assert not same_schema(ORDER, other)


@pytest.mark.parametrize("name", ["order_completed", "Order completed", "commande.passée", "x" * 255, "signalbox"])
def test_any_text_is_an_event_name(name: str) -> None:
    check_event_name(name)


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("", "must not be blank"),
        (" \u00a0", "must not be blank"),
        ("x" * 256, "at most 255 characters long; it has 256"),
        ("a\x00b", r"character 2 is U\+0000"),
        ("a\u0085", "control characters"),
        ("\ud800", r"U\+D800"),
        ("signalbox:internal", "reserved"),
        ("SignalBox:internal", "reserved"),
    ],
)
def test_an_invalid_event_name_is_refused_with_the_problem(name: str, complaint: str) -> None:
    with pytest.raises(InvalidName, match=complaint):
        check_event_name(name)


@pytest.mark.parametrize(
    ("name", "path", "quoted"),
    [
        ("order_total", "properties.order_total", '"order_total"'),
        ("a.b", 'properties["a.b"]', '"a.b"'),
        ('say "hi"', r'properties["say \"hi\""]', r'"say \"hi\""'),
        ("größe", 'properties["größe"]', '"größe"'),
        ("", 'properties[""]', '""'),
        ("x" * 300, f'properties["{"x" * 255}…"]', f'"{"x" * 255}…"'),
    ],
)
def test_a_path_names_its_property(name: str, path: str, quoted: str) -> None:
    assert property_path("properties", name) == path
    assert quoted_property(path) == quoted


def test_a_nested_property_is_quoted_by_its_way() -> None:
    assert quoted_property('properties.items[3]["a.b"]') == '"items[3]["a.b"]"'


PART_NAMES = st.text(max_size=9) | st.sampled_from(["a", 'a"]', "b[2]", "\\", "[]", "…", ".", "properties", "x" * 255])


@given(st.sampled_from(["properties", "schema"]), st.lists(PART_NAMES | st.integers(0, 10_000), max_size=5))
def test_the_parts_of_a_path_are_those_it_was_made_of(root: str, parts: list[str | int]) -> None:
    path = root
    for part in parts:
        path = property_path(path, part) if isinstance(part, str) else f"{path}[{part}]"
    assert path_parts(path) == (root, *parts)


@given(PART_NAMES, st.text(min_size=256, max_size=300))
def test_a_shortened_name_is_read_back_shortened(parent: str, name: str) -> None:
    path = property_path(property_path("properties", parent), name)
    assert path_parts(path) == ("properties", parent, name[:255] + "…")


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("properties.lines[2].sku", "properties.lines[].sku"),
        ("properties.scores[10]", "properties.scores[]"),
        ('properties["a[2]"][0]', 'properties["a[2]"][]'),
        ("properties.total", "properties.total"),
    ],
)
def test_a_path_without_indexes_keeps_its_names(path: str, shown: str) -> None:
    assert without_indexes(path) == shown
