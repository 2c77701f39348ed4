"""The types of the type check of conditions: sets of kinds of values, derived from the properties of a schema."""

from __future__ import annotations

from enum import Flag, auto
from typing import TYPE_CHECKING, Final

import msgspec

from automation.conditions.values import ORDER
from registry.definitions.schema import PropertyType, UnknownProperties

if TYPE_CHECKING:
    from collections.abc import Mapping

    from registry.definitions.schema import Property


class Kind(Flag):
    """The kinds of values."""

    NULL = auto()
    BOOLEAN = auto()
    INTEGER = auto()
    DOUBLE = auto()
    STRING = auto()
    LIST = auto()
    OBJECT = auto()
    TIMESTAMP = auto()
    DURATION = auto()


NULL, BOOLEAN, INTEGER, DOUBLE, STRING, LIST, OBJECT, TIMESTAMP, DURATION = Kind
NUMBER: Final = INTEGER | DOUBLE
JSON: Final = NULL | BOOLEAN | DOUBLE | STRING | LIST | OBJECT
ANY: Final = JSON | INTEGER | TIMESTAMP | DURATION

_ORDERED: Final = (NUMBER, STRING, BOOLEAN, TIMESTAMP, DURATION)


class Type(msgspec.Struct, frozen=True):
    """The possible values of a part.

    `items` is the type of a list's items. `properties` are the declared properties of an object, None if unknown; a
    `closed` object has no others. A `date` is an instant that is stored as text.
    """

    kinds: Kind
    items: Type | None = None
    properties: Mapping[str, Type] | None = None
    closed: bool = False
    date: bool = False


DYNAMIC_TYPE: Final = Type(JSON)
BOOLEAN_TYPE: Final = Type(BOOLEAN)
_PLAIN: Final = {
    PropertyType.STRING: Type(STRING),
    PropertyType.NUMBER: Type(DOUBLE),
    PropertyType.BOOLEAN: BOOLEAN_TYPE,
    PropertyType.DATE: Type(STRING, date=True),
    PropertyType.ANY: DYNAMIC_TYPE,
}


def object_type(declared: tuple[Property, ...], unknown: UnknownProperties) -> Type:
    """Return the type of an object with declared properties and a policy for the others."""
    types = {prop.name: _declared_type(prop, unknown) for prop in declared}
    return Type(OBJECT, properties=types, closed=unknown is not UnknownProperties.KEEP)


def _declared_type(declared: Property, unknown: UnknownProperties) -> Type:
    if declared.type is PropertyType.ARRAY:
        return Type(LIST, items=_typed(declared.item_type, declared, unknown))
    return _typed(declared.type, declared, unknown)


def _typed(kind: PropertyType | None, declared: Property, unknown: UnknownProperties) -> Type:
    if kind is PropertyType.OBJECT:
        return object_type(declared.properties, unknown) if declared.properties else Type(OBJECT)
    if kind is PropertyType.ARRAY:
        return Type(LIST)
    return _PLAIN[kind] if kind else DYNAMIC_TYPE


def items_type(container: Type) -> Type:
    """Return the type of a list's items. Those of an empty list have an unknown type, which every operation accepts."""
    return container.items if container.items is not None and container.items.kinds else Type(ANY)


def union_of(types: list[Type]) -> Type:
    """Return the union of the types of alternatives; without alternatives, a type of no kinds."""
    if types and all(alternative == types[0] for alternative in types):
        return types[0]
    kinds = Kind(0)
    for alternative in types:
        kinds |= alternative.kinds
    return Type(kinds)


def comparable(left: Type, right: Type, operator: str) -> bool:
    """Return whether an operator is defined for some values of the types: equality for all kinds, order for some."""
    common = _numbers_alike(left.kinds) & _numbers_alike(right.kinds)
    return any(common & kind for kind in _ORDERED) if operator in ORDER else bool(common)


def _numbers_alike(kinds: Kind) -> Kind:
    return kinds | NUMBER if kinds & NUMBER else kinds


def in_words(described: Type) -> str:
    """Return a type in words: `a string`, `a list or an object`."""
    if described.date:
        return "a date"
    if described.kinds in {ANY, JSON}:
        return "any value"
    names = [
        "null" if kind is NULL else f"{'an' if kind in {INTEGER, OBJECT} else 'a'} {str(kind.name).lower()}"
        for kind in described.kinds
    ]
    return " or ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]
