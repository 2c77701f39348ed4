"""Inference: a schema proposed from payloads, in two passes.

    take       each payload: the kinds of the values at each path, in bounded memory
    propose    the schema
    check      each payload again, by the proposed schema: what it does not accept is a conflict

The type of a property is that of most of its values:

    values, null aside                         proposed
    only booleans                              boolean
    numbers, perhaps with numeric strings      number
    strings that are all dates                 date
    strings, perhaps with other scalars        string, with `suggested_values` if there are few different ones
    objects                                    object, with its properties unless its keys differ like values
    arrays                                     array, with an item type if all items have one
    nothing but null, or as many of one kind   any
    as of another

A property is required if it is in every payload, or in every object, of at least MIN_OBJECTS. What no payload shows is
kept from the present definition: descriptions, and which properties are personal. Those have no suggested values.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from registry.coercion.table import date_from_string, number_from_string
from registry.coercion.validation import compile_schema
from registry.definitions.schema import (
    MAX_DEPTH,
    MAX_PROPERTIES,
    MAX_SUGGESTED_VALUE_LENGTH,
    Property,
    PropertyType,
    Schema,
    UnknownProperties,
)
from registry.errors import PayloadRejected
from registry.names import name_problem
from registry.paths import ROOT, property_path, without_indexes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

MIN_OBJECTS: Final = 2
"""Of a single object nothing can be said about what is required."""

MAX_PATHS: Final = 2_000
"""Paths that are examined; properties beyond them are left out of the proposal."""

MAX_SUGGESTED: Final = 20
"""A string property with more different values has no set of them."""

REPEATS: Final = 2
"""Nor one whose values do not repeat at least this often on average."""

MAX_KEYS: Final = 20
"""An object with more keys, each in less than half of its occurrences, is one whose keys are values."""

_SCALARS: Final = {"boolean", "integer", "decimal", "date", "numeric string", "string"}
_NUMBERS: Final = {"integer", "decimal", "numeric string"}
_STRINGS: Final = {"date", "numeric string", "string"}
_ITEMS: Final = {
    PropertyType.STRING: _SCALARS,
    PropertyType.NUMBER: _NUMBERS,
    PropertyType.BOOLEAN: {"boolean"},
    PropertyType.DATE: {"date"},
    PropertyType.OBJECT: {"object"},
    PropertyType.ARRAY: {"array"},
}
"""The kinds of items that an array of each type accepts."""


@dataclass(slots=True)
class _Place:
    """What was found at one path."""

    path: str
    kinds: Counter[str] = field(default_factory=Counter)
    objects: int = 0
    children: dict[str, _Place] = field(default_factory=dict)
    items: _Place | None = None
    texts: Counter[str] | None = field(default_factory=Counter)
    omitted: str = ""

    @property
    def values(self) -> int:
        """The number of values other than null."""
        return self.kinds.total() - self.kinds["null"]

    def has(self, kinds: set[str]) -> int:
        """Return the number of values of some kinds."""
        return sum(self.kinds[kind] for kind in kinds)


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found at one path, and how many values the proposal does not accept."""

    path: str
    kinds: tuple[tuple[str, int], ...]
    conflicts: int
    omitted: str


class Inference:
    """Infers a schema from payloads. `known` is the present one, with the rules for unknown properties and coercion."""

    def __init__(self, known: Schema) -> None:
        self._known = known
        self._root = _Place(ROOT)
        self._paths = 0
        self._full = False

    def take(self, payload: Mapping[str, Any]) -> None:
        """Add a payload to the sample."""
        pending: list[tuple[_Place, Any]] = [(self._root, payload)]
        while pending:
            place, value = pending.pop()
            place.kinds[kind := _kind(value)] += 1
            if kind == "object":
                place.objects += 1
                pending += ((child, item) for name, item in value.items() if (child := self._child(place, name)))
            elif kind == "array" and value and (items := self._items(place)):
                pending += ((items, item) for item in value)
            elif kind in _STRINGS:
                _note_text(place, value)

    def propose(self) -> Schema:
        """Return the proposed schema."""
        properties, closed = _properties(self._root, MAX_PROPERTIES, 1)
        rules = (
            self._known
            if closed and not self._full
            else replace(self._known, unknown_properties=UnknownProperties.KEEP)
        )
        return replace(rules, properties=_with_known(properties, self._known.properties))

    def findings(self, conflicts: Mapping[str, int]) -> tuple[Finding, ...]:
        """Return what was found at each path, in the order of the paths."""
        return tuple(
            Finding(place.path, tuple(place.kinds.most_common()), conflicts.get(place.path, 0), place.omitted)
            for place in _places(self._root)
            if place is not self._root
        )

    def _child(self, place: _Place, name: str) -> _Place | None:
        child = place.children.get(name)
        if child is None and self._room():
            child = place.children[name] = _Place(property_path(place.path, name))
        return child

    def _items(self, place: _Place) -> _Place | None:
        if place.items is None and self._room():
            place.items = _Place(f"{place.path}[]")
        return place.items

    def _room(self) -> bool:
        self._paths += 1
        self._full = self._full or self._paths > MAX_PATHS
        return not self._full


class Check:
    """Counts the payloads, and the values by path, that a schema does not accept."""

    def __init__(self, schema: Schema) -> None:
        self._coerce = compile_schema(schema)
        self.payloads = 0
        self.by_path: Counter[str] = Counter()

    def take(self, payload: dict[str, Any]) -> None:
        """Check a payload."""
        try:
            self._coerce(payload)
        except PayloadRejected as error:
            self.payloads += 1
            self.by_path.update(without_indexes(violation.path) for violation in error.violations)


_KINDS: Final[Mapping[type, str]] = {
    type(None): "null",
    bool: "boolean",
    int: "integer",
    dict: "object",
    list: "array",
}


def _kind(value: Any) -> str:
    if isinstance(value, str):
        return _kind_of_text(value)
    if isinstance(value, float):
        return "integer" if value.is_integer() else "decimal"
    return _KINDS[type(value)]


def _kind_of_text(text: str) -> str:
    if text[:1].isdigit() and date_from_string(text) is not None:
        return "date"
    return "numeric string" if number_from_string(text) is not None else "string"


def _note_text(place: _Place, text: str) -> None:
    """Note a text among the different ones of its property, unless they are too many, long, or may be addresses."""
    if place.texts is None:
        return
    place.texts[text] += 1
    if len(place.texts) > MAX_SUGGESTED or len(text) > MAX_SUGGESTED_VALUE_LENGTH or "@" in text or not text.strip():
        place.texts = None


def _properties(place: _Place, room: int, depth: int) -> tuple[tuple[Property, ...], bool]:
    """Return the properties of an object, at most `room` with nested ones, and whether these are all.

    Properties of this level come first, and of too many, those in most objects. They are in the order of their names.
    """
    found: list[tuple[str, _Place]] = []
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


def _with_known(
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
        properties=_with_known(proposed.properties, known.properties, personal=hidden),
    )


def _nested(declared: Property) -> int:
    return len(declared.properties) + sum(_nested(nested) for nested in declared.properties)


def _property(name: str, place: _Place, objects: int, room: int, depth: int) -> Property:
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


def _nested_properties(place: _Place, room: int, depth: int) -> tuple[Property, ...]:
    """Return the properties of a nested object; none, which accepts every object, if they cannot all be declared."""
    if depth == MAX_DEPTH or _keys_are_values(place):
        return ()
    properties, complete = _properties(place, room, depth + 1)
    return properties if complete else ()


def _keys_are_values(place: _Place) -> bool:
    rare = sum(2 * child.kinds.total() < place.objects for child in place.children.values())
    return rare > MAX_KEYS


def _uniform(place: _Place, kind: PropertyType) -> bool:
    """Return whether all items have a type: arrays of different items are left open."""
    return place.has(_ITEMS[kind]) == place.values


def _type(place: _Place) -> PropertyType:
    """Return the type of most values, `any` if there is none."""
    numbers = place.has({"integer", "decimal"})
    strings = place.has(_STRINGS)
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


def _places(root: _Place) -> Iterator[_Place]:
    """Yield a place and all below it."""
    yield root
    for child in root.children.values():
        yield from _places(child)
    if root.items is not None:
        yield from _places(root.items)
