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
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from registry.coercion.validation import compile_schema
from registry.definitions.schema import MAX_PROPERTIES, Schema, UnknownProperties
from registry.errors import PayloadRejected
from registry.inference.places import STRINGS, Place, all_places, kind_of, note_text
from registry.inference.proposal import object_properties, with_known
from registry.paths import ROOT, property_path, without_indexes

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_PATHS: Final = 2_000
"""The most paths that are examined; the proposal leaves out properties beyond them."""


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
        self._root = Place(ROOT)
        self._paths = 0
        self._full = False

    def take(self, payload: Mapping[str, Any]) -> None:
        """Add a payload to the sample."""
        pending: list[tuple[Place, Any]] = [(self._root, payload)]
        while pending:
            place, value = pending.pop()
            place.kinds[kind := kind_of(value)] += 1
            if kind == "object":
                place.objects += 1
                pending += ((child, item) for name, item in value.items() if (child := self._child(place, name)))
            elif kind == "array" and value and (items := self._items(place)):
                pending += ((items, item) for item in value)
            elif kind in STRINGS:
                note_text(place, value)

    def propose(self) -> Schema:
        """Return the proposed schema."""
        properties, closed = object_properties(self._root, MAX_PROPERTIES, 1)
        rules = (
            self._known
            if closed and not self._full
            else replace(self._known, unknown_properties=UnknownProperties.KEEP)
        )
        return replace(rules, properties=with_known(properties, self._known.properties))

    def findings(self, conflicts: Mapping[str, int]) -> tuple[Finding, ...]:
        """Return what was found at each path, in the order of the paths."""
        return tuple(
            Finding(place.path, tuple(place.kinds.most_common()), conflicts.get(place.path, 0), place.omitted)
            for place in all_places(self._root)
            if place is not self._root
        )

    def _child(self, place: Place, name: str) -> Place | None:
        child = place.children.get(name)
        if child is None and self._room():
            child = place.children[name] = Place(property_path(place.path, name))
        return child

    def _items(self, place: Place) -> Place | None:
        if place.items is None and self._room():
            place.items = Place(f"{place.path}[]")
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
