"""The layouts of generated types: the fields of each message, with the properties that they hold.

A field number is never used for anything else, so that messages that were encoded by an old revision never decode as
something else by a new one. When a property is removed or changes its type on the wire, the number and the name of its
field are reserved forever in that message; a property that returns gets a new field. The layout of a revision depends
on its schema and on the newest earlier layout of the event's name, and is stored with the revision.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final

import msgspec

from registry.codegen.proto_names import comparable, message_name, pascal_name, snake_name, unique_name
from registry.definitions.schema import Property, PropertyType, Schema

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_FIRST_RESERVED, _LAST_RESERVED = 19_000, 19_999
"""Protocol Buffers reserves these numbers for itself."""


class WireType(StrEnum):
    """The type of a field, or of each item of a repeated field."""

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
    """One field: `name` is its identifier, `property` the exact name of the property that it holds.

    `json_name` is the name of the property, followed by a tab where Protocol Buffers would reject it.
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
    """The fields of one message, in the order of their numbers, with its reserved numbers and names.

    Reserved are the numbers below `next_number` without a field, and the `retired` names. `nested` holds the messages
    of objects by the names of their properties. The message of a removed property stays, so that its numbers stay
    reserved if the property returns.
    """

    fields: tuple[Field, ...] = ()
    next_number: int = 1
    retired: tuple[str, ...] = ()
    nested: dict[str, NestedLayout] = {}

    def message(self, field: Field) -> NestedLayout:
        """Return the message of a field of type MESSAGE."""
        return self.nested[field.property]

    def messages(self) -> Iterator[NestedLayout]:
        """Return the nested messages in use, in the order of their fields."""
        return (self.message(field) for field in self.fields if field.type is WireType.MESSAGE)

    def reserved_numbers(self) -> Iterator[tuple[int, int]]:
        """Return the ranges of reserved numbers, first and last."""
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
"""The layout before the first revision of an event's name."""

_decoder = msgspec.json.Decoder(MessageLayout)


def layout_to_json(layout: MessageLayout) -> str:
    """Return a layout as compact JSON."""
    return msgspec.json.encode(layout).decode()


def layout_from_json(text: str) -> MessageLayout:
    """Return the layout that `layout_to_json` wrote. Raise ValueError for other text."""
    return _loadable(_decoder.decode(text))


def next_layout(earlier: MessageLayout, event_name: str, schema: Schema) -> MessageLayout:
    """Return the layout of the next revision of an event, which has this schema."""
    return _next(earlier, schema.properties, (message_name(event_name),))


def _next(earlier: MessageLayout, properties: tuple[Property, ...], enclosing: tuple[str, ...]) -> MessageLayout:
    types = {declared.name: _wire_type(declared) for declared in properties}
    fields = [field for field in earlier.fields if types.get(field.property) == (field.type, field.repeated)]
    known = {field.property for field in fields}
    retired = (*earlier.retired, *(field.name for field in earlier.fields if field.property not in known))
    taken = _comparable((*retired, *(field.name for field in fields)))
    number = earlier.next_number
    # Properties whose names are valid field names come first, so that they get exactly these names.
    for declared in sorted(properties, key=lambda declared: snake_name(declared.name) != declared.name):
        if declared.name not in known:
            name = unique_name(snake_name(declared.name), taken, refused=types.keys() - {declared.name})
            taken.add(comparable(name))
            fields.append(Field(number, name, declared.name, declared.name, *types[declared.name]))
            number = _LAST_RESERVED + 1 if number + 1 == _FIRST_RESERVED else number + 1
    return MessageLayout(_unambiguous(fields), number, retired, _nested(earlier.nested, properties, enclosing))


def _nested(
    earlier: dict[str, NestedLayout], properties: tuple[Property, ...], enclosing: tuple[str, ...]
) -> dict[str, NestedLayout]:
    members = dict.fromkeys(earlier, ()) | {
        declared.name: declared.properties for declared in properties if declared.properties
    }
    taken = _comparable((*enclosing, *(message.name for message in earlier.values())))
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
    nested = {name: NestedLayout(message.name, _loadable(message.layout)) for name, message in layout.nested.items()}
    return msgspec.structs.replace(layout, fields=_unambiguous(layout.fields), nested=nested)


def _comparable(names: Iterable[str]) -> set[str]:
    return {comparable(name) for name in names}


def _wire_type(declared: Property) -> tuple[WireType, bool]:
    """Return the type of the field of a property, and whether it is repeated."""
    if declared.type is not PropertyType.ARRAY:
        return _single(declared.type, declared), False
    if declared.item_type is None:
        return WireType.OPEN_LIST, False
    return _single(declared.item_type, declared), True


def _single(kind: PropertyType, declared: Property) -> WireType:
    if kind is PropertyType.OBJECT:
        return WireType.MESSAGE if declared.properties else WireType.OPEN_OBJECT
    if kind is PropertyType.ARRAY:
        return WireType.OPEN_LIST
    if kind is PropertyType.ANY:
        return WireType.OPEN_VALUE
    return WireType(kind.value)
