"""The numbering of generated types: which field of which message stands for which property.

A field gets its number and name once. When its property goes or changes its type on the wire, both are reserved for
ever in that message; a property that comes back gets new ones. The layout of a revision follows from the schema and
the layout made last under the event's name, and is stored with the revision.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final

import msgspec

from registry.codegen.proto_names import comparable, message_name, pascal_name, snake_name, unique_name
from registry.schema import Property, PropertyType, Schema

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_FIRST_RESERVED, _LAST_RESERVED = 19_000, 19_999
"""Protocol Buffers keep these numbers for themselves."""


class WireType(StrEnum):
    """What a field holds, or each of its items."""

    STRING = "string"
    NUMBER = "number"
    BOOLEAN = "boolean"
    DATE = "date"
    MESSAGE = "message"
    OPEN_OBJECT = "open_object"
    OPEN_LIST = "open_list"
    OPEN_VALUE = "open_value"


_SCALARS: Final = frozenset({WireType.STRING, WireType.NUMBER, WireType.BOOLEAN})


class Field(msgspec.Struct, frozen=True):
    """One field: `name` is its own, `property` the exact name of the property that it holds.

    `json_name` is the property's name too, with a tab at its end where Protocol Buffers would refuse it.
    """

    number: int
    name: str
    property: str
    json_name: str
    type: WireType
    repeated: bool = False

    def oneof(self) -> str:
        """Return the oneof in which protoc records that an `optional` field is set; empty if it needs none."""
        return f"_{self.name}" if self.type in _SCALARS and not self.repeated else ""


class MessageLayout(msgspec.Struct, frozen=True):
    """The fields of one message, in the order of their numbers, and what the message may not use again.

    Numbers below `next_number` that no field has are reserved, like the `retired` names. `nested` holds the messages of
    objects by the names of their properties; one whose property is gone stays, so that its numbers do.
    """

    fields: tuple[Field, ...] = ()
    next_number: int = 1
    retired: tuple[str, ...] = ()
    nested: dict[str, NestedLayout] = {}

    def message(self, field: Field) -> NestedLayout:
        """Give the message that a field of type MESSAGE holds."""
        return self.nested[field.property]

    def messages(self) -> Iterator[NestedLayout]:
        """Give the nested messages in use, in the order of their fields."""
        return (self.message(field) for field in self.fields if field.type is WireType.MESSAGE)

    def reserved_numbers(self) -> Iterator[tuple[int, int]]:
        """Give the ranges of reserved numbers, first and last."""
        free = 1
        for number in (*(field.number for field in self.fields), self.next_number):
            if free < number and (free, number - 1) != (_FIRST_RESERVED, _LAST_RESERVED):
                yield free, number - 1
            free = number + 1


class NestedLayout(msgspec.Struct, frozen=True):
    """A message inside another one."""

    name: str
    layout: MessageLayout


NO_LAYOUT: Final = MessageLayout()
"""What the first revision under an event's name follows."""

_decoder = msgspec.json.Decoder(MessageLayout)


def layout_to_json(layout: MessageLayout) -> str:
    """Write a layout as compact JSON."""
    return msgspec.json.encode(layout).decode()


def layout_from_json(text: str) -> MessageLayout:
    """Read what `layout_to_json` wrote. Raises ValueError for other text."""
    return _loadable(_decoder.decode(text))


def next_layout(earlier: MessageLayout, event_name: str, schema: Schema) -> MessageLayout:
    """Give the layout of an event's next revision, which has this schema."""
    return _next(earlier, schema.properties, (message_name(event_name),))


def _next(earlier: MessageLayout, properties: tuple[Property, ...], enclosing: tuple[str, ...]) -> MessageLayout:
    types = {each.name: _wire_type(each) for each in properties}
    fields = [field for field in earlier.fields if types.get(field.property) == (field.type, field.repeated)]
    known = {field.property for field in fields}
    retired = (*earlier.retired, *(field.name for field in earlier.fields if field.property not in known))
    taken = _comparable((*retired, *(field.name for field in fields)))
    number = earlier.next_number
    # Those whose names can stay as they are come first.
    for each in sorted(properties, key=lambda each: snake_name(each.name) != each.name):
        if each.name not in known:
            name = unique_name(snake_name(each.name), taken, refused=types.keys() - {each.name})
            taken.add(comparable(name))
            fields.append(Field(number, name, each.name, each.name, *types[each.name]))
            number = _LAST_RESERVED + 1 if number + 1 == _FIRST_RESERVED else number + 1
    return MessageLayout(_unambiguous(fields), number, retired, _nested(earlier.nested, properties, enclosing))


def _nested(
    earlier: dict[str, NestedLayout], properties: tuple[Property, ...], enclosing: tuple[str, ...]
) -> dict[str, NestedLayout]:
    members = dict.fromkeys(earlier, ()) | {each.name: each.properties for each in properties if each.properties}
    taken = _comparable((*enclosing, *(each.name for each in earlier.values())))
    nested: dict[str, NestedLayout] = {}
    for name, inner in members.items():
        before = earlier.get(name) or NestedLayout(unique_name(pascal_name(name), taken, joint=""), NO_LAYOUT)
        taken.add(comparable(before.name))
        nested[name] = NestedLayout(before.name, _next(before.layout, inner, (*enclosing, before.name)))
    return nested


def _unambiguous(fields: Iterable[Field]) -> tuple[Field, ...]:
    """Return the fields with JSON names that descriptor pools accept.

    A name in brackets, `[x]`, is that of an extension; and a descriptor pool looks up JSON names, fields and oneofs in
    one table, so that the JSON name `_id` collides with the oneof of `optional string id`.
    """
    fields = tuple(fields)
    names, oneofs = {field.name for field in fields}, {field.oneof() for field in fields}

    def refused(field: Field) -> bool:
        name = field.json_name
        return (name.startswith("[") and name.endswith("]")) or name in oneofs or name in names - {field.name}

    # No property has a tab in its name.
    return tuple(
        msgspec.structs.replace(field, json_name=f"{field.property}\t") if refused(field) else field for field in fields
    )


def _loadable(layout: MessageLayout) -> MessageLayout:
    """Return a stored layout with JSON names that can be loaded; the first versions assigned some that could not."""
    nested = {name: NestedLayout(each.name, _loadable(each.layout)) for name, each in layout.nested.items()}
    return msgspec.structs.replace(layout, fields=_unambiguous(layout.fields), nested=nested)


def _comparable(names: Iterable[str]) -> set[str]:
    return {comparable(name) for name in names}


def _wire_type(each: Property) -> tuple[WireType, bool]:
    """Give what the field of a property holds, and whether it is repeated."""
    if each.type is not PropertyType.ARRAY:
        return _single(each.type, each), False
    if each.item_type is None:
        return WireType.OPEN_LIST, False
    return _single(each.item_type, each), True


def _single(kind: PropertyType, each: Property) -> WireType:
    if kind is PropertyType.OBJECT:
        return WireType.MESSAGE if each.properties else WireType.OPEN_OBJECT
    if kind is PropertyType.ARRAY:
        return WireType.OPEN_LIST
    if kind is PropertyType.ANY:
        return WireType.OPEN_VALUE
    return WireType(kind.value)
