"""Schemas of every shape, the payloads that they take as they are, and messages that carry them."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any

from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import strategies as st

from registry.codegen.field_numbers import NO_LAYOUT, WireType, next_layout
from registry.definitions.schema import Property, PropertyType, Schema
from server.rpc.messages.descriptors import message_class
from server.rpc.messages.structs import write_struct, write_value

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from google.protobuf.message import Message

    from registry.codegen.field_numbers import Field, MessageLayout

HOSTILE = [
    *(
        "a-b",
        "a_b",
        "a b",
        "aB",
        "a",
        "A",
        "a_2",
        "a2",
        "_a",
        "_a_b",
        "__a",
        "_a_2",
        "a_",
        "[a]",
        "[a]b",
        "__class__",
        "class",
        "message",
        "optional",
    ),
    *("reserved", "to", "max", "oneof", "google", "self", "None", "DESCRIPTOR", "fields", "größe", "日本", "😀", "1st"),
    *("_", "-", "'", 'q"uote', "back\\slash", "x" * 255, "x" * 254 + "y", "Order", "properties", "\ufeffbom"),
]

TYPES = list(PropertyType)
ITEM_TYPES = [each for each in TYPES if each is not PropertyType.ANY]


def schemas() -> st.SearchStrategy[Schema]:
    """Make schemas, named from a few names so that revisions meet; by chance alone, which is quick."""
    return st.integers(0, 2**32).map(lambda seed: _schema(Random(seed)))  # noqa: S311 - no secrets here


def many_chains() -> st.SearchStrategy[list[list[Schema]]]:
    """Make the revisions of many events at once, for tools that take long to start."""
    return st.integers(0, 2**32).map(lambda seed: _chains(Random(seed)))  # noqa: S311 - as above


def _chains(random: Random) -> list[list[Schema]]:
    return [[_schema(random) for _ in range(random.randrange(2, 6))] for _ in range(40)]


def _schema(random: Random) -> Schema:
    return Schema(_properties(random, depth=2))


def _properties(random: Random, depth: int) -> tuple[Property, ...]:
    names = random.sample(HOSTILE[:13], random.randrange(5)) + random.sample(HOSTILE[13:], random.randrange(3))
    return tuple(_property(random, name, depth) for name in names)


def _property(random: Random, name: str, depth: int) -> Property:
    kind = random.choice(TYPES)
    item = random.choice([None, *ITEM_TYPES]) if kind is PropertyType.ARRAY else None
    inner = _properties(random, depth - 1) if depth and (item or kind) is PropertyType.OBJECT else ()
    return Property(
        name, kind, random.random() < 0.5, random.choice(["", "*/ \x00\r\n\x0b // \u2028 x"]), (), inner, item
    )


def layouts(schemas: Iterable[Schema], event_name: str = "order_completed") -> list[MessageLayout]:
    """Number the revisions of one event."""
    made: list[MessageLayout] = []
    for each in schemas:
        made.append(next_layout(made[-1] if made else NO_LAYOUT, event_name, each))
    return made


def every_field(layout: MessageLayout, path: str = "") -> Iterator[tuple[str, Field]]:
    """Yield every field with the path of its message, those of unused messages included."""
    yield from ((path, field) for field in layout.fields)
    for nested in layout.nested.values():
        yield from every_field(nested.layout, f"{path}.{nested.name}")


_SCALARS: dict[PropertyType, st.SearchStrategy[Any]] = {
    PropertyType.STRING: st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    PropertyType.NUMBER: st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False),
    PropertyType.BOOLEAN: st.booleans(),
    PropertyType.DATE: st.builds(
        Timestamp, seconds=st.integers(-62_135_596_800, 253_402_300_799), nanos=st.integers(0, 999_999_999)
    ).map(lambda each: each.ToJsonString()),
}
_ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text("ab", max_size=2),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text("ab", max_size=2), inner, max_size=2),
    max_leaves=4,
)
_OPEN_OBJECT = st.dictionaries(st.text("ab", max_size=2), _ANYTHING, max_size=2)
_OPEN_LIST = st.lists(_ANYTHING, max_size=2)


def payloads(properties: tuple[Property, ...]) -> st.SearchStrategy[dict[str, Any]]:
    """Make payloads that a schema takes and a message can carry: no optional list is empty."""
    required = {each.name: _values(each) for each in properties if each.required}
    optional = {each.name: _values(each) for each in properties if not each.required}
    return st.fixed_dictionaries(required, optional=optional)


def _values(each: Property) -> st.SearchStrategy[Any]:
    if each.type is not PropertyType.ARRAY:
        return _single(each.type, each)
    if each.item_type is None:
        return _OPEN_LIST
    return st.lists(_single(each.item_type, each), min_size=0 if each.required else 1, max_size=3)


def _single(kind: PropertyType, each: Property) -> st.SearchStrategy[Any]:
    if kind is PropertyType.OBJECT:
        return payloads(each.properties) if each.properties else _OPEN_OBJECT
    if kind is PropertyType.ANY:
        return _ANYTHING.filter(lambda value: value is not None)
    return _OPEN_LIST if kind is PropertyType.ARRAY else _SCALARS[kind]


def typed(event_name: str, layout: MessageLayout, values: dict[str, Any]) -> Message:
    """Make the message of a payload."""
    message = message_class(event_name, layout)()
    _fill(message, layout, values)
    return message


def _fill(message: Any, layout: MessageLayout, values: dict[str, Any]) -> None:
    message.SetInParent()
    for field in layout.fields:
        if field.property not in values:
            continue
        value = values[field.property]
        if not field.repeated and field.type in (WireType.STRING, WireType.NUMBER, WireType.BOOLEAN):
            setattr(message, field.name, value)
        elif not field.repeated:
            _fill_message(getattr(message, field.name), field, layout, value)
        elif field.type in (WireType.STRING, WireType.NUMBER, WireType.BOOLEAN):
            getattr(message, field.name).extend(value)
        else:
            for item in value:
                _fill_message(getattr(message, field.name).add(), field, layout, item)


def _fill_message(message: Any, field: Field, layout: MessageLayout, value: Any) -> None:
    message.SetInParent()
    if field.type is WireType.MESSAGE:
        _fill(message, layout.message(field).layout, value)
    elif field.type is WireType.DATE:
        message.FromJsonString(value)
    elif field.type is WireType.OPEN_OBJECT:
        write_struct(value, message)
    elif field.type is WireType.OPEN_VALUE:
        write_value(value, message)
    else:
        for item in value:
            write_value(item, message.values.add())
