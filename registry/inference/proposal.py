"""The proposal of a schema, from what was found at each path."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from registry.definitions.schema import MAX_DEPTH, MAX_PROPERTIES, Property, PropertyType
from registry.inference.places import STRINGS
from registry.names import name_problem

if TYPE_CHECKING:
    from collections.abc import Iterable

    from registry.inference.places import Place

MIN_OBJECTS: Final = 2
"""The number of objects from which on a property that is in all of them is required."""

REPEATS: Final = 2
"""A string property gets suggested values if each occurs at least this often, on average."""

MAX_KEYS: Final = 20
"""An object with more rare keys, each in less than half of the objects, is a map: its keys are not declared."""

_SCALARS: Final = {"boolean", "integer", "decimal", "date", "numeric string", "string"}
_NUMBERS: Final = {"integer", "decimal", "numeric string"}
_ITEMS: Final = {
    PropertyType.STRING: _SCALARS,
    PropertyType.NUMBER: _NUMBERS,
    PropertyType.BOOLEAN: {"boolean"},
    PropertyType.DATE: {"date"},
    PropertyType.OBJECT: {"object"},
    PropertyType.ARRAY: {"array"},
}
"""The kinds of items that an array of each type accepts."""


def object_properties(place: Place, room: int, depth: int) -> tuple[tuple[Property, ...], bool]:
    """Return the properties of an object, at most `room` with nested ones, and whether these are all.

    Properties of this level come first, and of too many, those in most objects. They are in the order of their names.
    """
    found: list[tuple[str, Place]] = []
    complete = True
    ranked = sorted(place.children.items(), key=lambda child: -child[1].kinds.total())
    for name, child in ranked:
        if problem := name_problem(name):
            child.omitted = f"its name {problem}"
        elif len(found) == room:
            child.omitted = f"a schema has at most {MAX_PROPERTIES} properties"
        else:
            found.append((name, child))
            continue
        complete = False
    room -= len(found)
    properties: list[Property] = []
    chosen = dict(found)
    for name, child in sorted(place.children.items()):
        if name in chosen:
            proposed = _property(name, child, place.objects, room, depth)
            room -= _nested(proposed)
            properties.append(proposed)
    return tuple(properties), complete


def with_known(
    proposed: Iterable[Property], known: Iterable[Property], *, personal: bool = False
) -> tuple[Property, ...]:
    """Return properties with the descriptions of known ones, and as personal as these; `personal` if all are."""
    by_name = {declared.name: declared for declared in known}
    return tuple(_with(each, by_name.get(each.name), personal=personal) for each in proposed)


def _with(proposed: Property, known: Property | None, *, personal: bool) -> Property:
    known = known or Property(proposed.name, proposed.type)
    hidden = personal or known.personal
    return replace(
        proposed,
        description=known.description,
        personal=known.personal,
        suggested_values=() if hidden else proposed.suggested_values,
        properties=with_known(proposed.properties, known.properties, personal=hidden),
    )


def _nested(declared: Property) -> int:
    return len(declared.properties) + sum(_nested(nested) for nested in declared.properties)


def _property(name: str, place: Place, objects: int, room: int, depth: int) -> Property:
    kind = _type(place)
    required = place.values == objects >= MIN_OBJECTS
    proposed = Property(name, kind, required)
    if kind is PropertyType.STRING and place.texts and place.values >= REPEATS * len(place.texts):
        return replace(proposed, suggested_values=tuple(sorted(place.texts)))
    if kind is PropertyType.OBJECT:
        return replace(proposed, properties=_nested_properties(place, room, depth))
    if kind is PropertyType.ARRAY and place.items is not None:
        item_type = _type(place.items)
        if item_type is not PropertyType.ANY and not place.items.kinds["null"] and _uniform(place.items, item_type):
            nested = _nested_properties(place.items, room, depth) if item_type is PropertyType.OBJECT else ()
            return replace(proposed, item_type=item_type, properties=nested)
    return proposed


def _nested_properties(place: Place, room: int, depth: int) -> tuple[Property, ...]:
    """Return the properties of a nested object; none, which accepts every object, if they cannot all be declared."""
    if depth == MAX_DEPTH or _keys_are_values(place):
        return ()
    properties, complete = object_properties(place, room, depth + 1)
    return properties if complete else ()


def _keys_are_values(place: Place) -> bool:
    rare = sum(2 * child.kinds.total() < place.objects for child in place.children.values())
    return rare > MAX_KEYS


def _uniform(place: Place, kind: PropertyType) -> bool:
    """Return whether all items have a type: arrays of different items are left open."""
    return place.has(_ITEMS[kind]) == place.values


def _type(place: Place) -> PropertyType:
    """Return the type of most values, `any` if there is none."""
    numbers = place.has({"integer", "decimal"})
    strings = place.has(STRINGS)
    if numbers:
        # Numbers that some senders write as strings.
        numeric = place.kinds["numeric string"]
        numbers, strings = numbers + numeric, strings - numeric
    counts = {
        PropertyType.OBJECT: place.kinds["object"],
        PropertyType.ARRAY: place.kinds["array"],
        PropertyType.BOOLEAN: place.kinds["boolean"],
        PropertyType.NUMBER: numbers,
        PropertyType.STRING: strings,
    }
    (kind, most), (_, second) = Counter(counts).most_common(2)
    if most == second:
        return PropertyType.ANY
    if kind is PropertyType.STRING and place.kinds["date"] == strings:
        return PropertyType.DATE
    return kind
