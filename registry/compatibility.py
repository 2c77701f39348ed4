"""Whether a change of schema is compatible, decided exactly.

Each property is a partial function from what may stand in a payload (nothing, or a JSON value) to what is
kept of it. What a schema makes of a payload is the product of its properties, and every property takes
something, so one schema contains another if and only if it does so property by property.

Numbers are doubles here: an integer beyond ±2^53 counts as the double nearest to it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import islice
from typing import TYPE_CHECKING, Final, TypeAlias

from registry.coercion_table import TABLE, Convert, JsonKind, as_is
from registry.errors import Violation
from registry.paths import ROOT, property_path
from registry.schema import (
    CoercionMode,
    Compatibility,
    Property,
    PropertyType,
    Schema,
    UnknownProperties,
    without_annotations,
)
from registry.values import canonical_number

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from registry.definitions import Revision


MAX_FOUND: Final = 1_000
"""A verdict is given up at this many reasons against a candidate."""


class Direction(StrEnum):
    """Whose payloads the other schema must take, and coerce to the same."""

    BACKWARD = "backward"
    """The new schema takes what the old one took."""
    FORWARD = "forward"
    """The old schema takes what the new one takes."""


class IncompatibilityKind(StrEnum):
    """What changed about a property, so that a direction no longer holds."""

    PROPERTY_ADDED = "PROPERTY_ADDED"
    PROPERTY_REMOVED = "PROPERTY_REMOVED"
    TYPE_CHANGED = "TYPE_CHANGED"
    ITEM_TYPE_CHANGED = "ITEM_TYPE_CHANGED"
    REQUIRED_ADDED = "REQUIRED_ADDED"
    REQUIRED_REMOVED = "REQUIRED_REMOVED"
    COERCION_CHANGED = "COERCION_CHANGED"


@dataclass(frozen=True, slots=True)
class Incompatibility:
    """One property for which a direction does not hold.

    `path` is like `properties.lines[].sku`; `old` and `new` say in words what the property was and is;
    `revision` is the number of the earlier revision.
    """

    kind: IncompatibilityKind
    path: str
    old: str
    new: str
    direction: Direction
    revision: int

    def violation(self) -> Violation:
        """Return the violation of a schema that has this incompatibility."""
        earlier = f"revision {self.revision}"
        given, taker = (earlier, "the schema") if self.direction is Direction.BACKWARD else ("the schema", earlier)
        message = (
            f'It is "{self.old}" in {earlier} and "{self.new}" in the schema; to be {self.direction} compatible, '
            f"{taker} must accept every payload that {given} accepts, and coerce it to the same values"
        )
        return Violation(self.path, self.kind, message)


def check_compatibility(
    rule: Compatibility, candidate: Schema, earlier: Sequence[Revision]
) -> tuple[Incompatibility, ...]:
    """Return what the rule holds against the candidate, MAX_FOUND at most; nothing if it is allowed.

    `earlier` are the revisions of the definition, newest first; only a transitive rule looks beyond the first. Of
    several that judge alike the newest is compared.
    """
    word = rule.removesuffix("_transitive")
    directions = [each for each in Direction if word in {each, Compatibility.FULL}]
    found = (
        each
        for revision in (earlier[:1] if rule == word else _distinct(earlier))
        for direction in directions
        for each in compare(revision.schema, candidate, direction, revision.number)
    )
    return tuple(islice(found, MAX_FOUND))


def _distinct(revisions: Iterable[Revision]) -> Iterator[Revision]:
    seen: set[Schema] = set()
    for revision in revisions:
        judged = without_annotations(revision.schema)
        if judged not in seen:
            seen.add(judged)
            yield revision


def compare(old: Schema, new: Schema, direction: Direction, revision: int = 0) -> tuple[Incompatibility, ...]:
    """Return each property of two valid schemas for which the direction does not hold, in declared order.

    Judged are the payloads made of properties that either schema declares, at each level.
    """
    return tuple(_differences(old, new, ROOT, direction, revision))


_ABSENT: Final = "absent"
_ITEM: Final = "item "
_OBJECT: Final = JsonKind.OBJECT.value

_Taken: TypeAlias = "dict[str, Convert | None]"
"""What becomes of nothing (_ABSENT), of each JSON kind, and of each kind of item in an array.

What is not in it is refused; None is left out.
"""

_SETTLED: Final = frozenset(
    {
        IncompatibilityKind.PROPERTY_ADDED,
        IncompatibilityKind.PROPERTY_REMOVED,
        IncompatibilityKind.TYPE_CHANGED,
        IncompatibilityKind.ITEM_TYPE_CHANGED,
    }
)
"""Where these hold, what is inside the property explains nothing more."""


def _differences(
    old: Schema, new: Schema, parent: str, direction: Direction, revision: int
) -> Iterator[Incompatibility]:
    before, after = ({each.name: each for each in schema.properties} for schema in (old, new))
    for name in before | after:
        was, now, path = before.get(name), after.get(name), property_path(parent, name)
        given, taker = _taken(was, old), _taken(now, new)
        if direction is Direction.FORWARD:
            given, taker = taker, given
        if broken := {key for key, convert in given.items() if key not in taker or not _within(convert, taker[key])}:
            kind = _kind(was, now, broken)
            yield Incompatibility(kind, path, _words(was, old, kind), _words(now, new, kind), direction, revision)
            if kind in _SETTLED:
                continue
        for key, place, holder in (
            (_OBJECT, path, PropertyType.OBJECT),
            (_ITEM + _OBJECT, f"{path}[]", PropertyType.ARRAY),
        ):
            if key in given:
                inside = _inside(was, old, holder), _inside(now, new, holder)
                yield from _differences(*inside, place, direction, revision)


def _inside(each: Property | None, schema: Schema, holder: PropertyType) -> Schema:
    """Return the rules for what is in an object, or in an array's objects: without properties all is kept."""
    if each and each.type is holder and each.properties:
        return replace(schema, properties=each.properties)
    return Schema(unknown_properties=UnknownProperties.KEEP)


def _taken(each: Property | None, schema: Schema) -> _Taken:
    if each is None:
        return _UNDECLARED[schema.unknown_properties]
    taken = _converted(each.type, schema.coercion)
    if not each.required:
        taken[_ABSENT] = None
        if schema.coercion is CoercionMode.LENIENT:
            taken[JsonKind.NULL] = None
    if each.type is PropertyType.ARRAY:
        taken |= _of_items(_converted(each.item_type, schema.coercion) if each.item_type else _ANYTHING)
    if each.type is PropertyType.ANY:
        taken |= _of_items(_ANYTHING)
    return taken


def _converted(target: PropertyType, mode: CoercionMode) -> _Taken:
    converters = {each.given: each.under(mode) for each in TABLE[target].conversions}
    return {kind: as_is if found is canonical_number else found for kind, found in converters.items() if found}


def _of_items(taken: _Taken) -> _Taken:
    return {_ITEM + kind: convert for kind, convert in taken.items()}


_ANYTHING: Final[_Taken] = dict.fromkeys(JsonKind, as_is)
_UNDECLARED: Final[Mapping[UnknownProperties, _Taken]] = {
    UnknownProperties.REJECT: {_ABSENT: None},
    UnknownProperties.KEEP: {_ABSENT: None, **_ANYTHING, **_of_items(_ANYTHING)},
    UnknownProperties.DROP: {_ABSENT: None, **dict.fromkeys(JsonKind, None)},
}

# STRICT takes nothing that LENIENT does not take to the same result; no other two converters of one kind agree.
_NARROWED: Final = frozenset(
    (each.strict, each.lenient) for target in TABLE.values() for each in target.conversions if each.strict
)


def _within(one: Convert | None, other: Convert | None) -> bool:
    return one is other or (one, other) in _NARROWED


def _kind(was: Property | None, now: Property | None, broken: Collection[str]) -> IncompatibilityKind:
    if was is None:
        return IncompatibilityKind.PROPERTY_ADDED
    if now is None:
        return IncompatibilityKind.PROPERTY_REMOVED
    if was.type is not now.type:
        return IncompatibilityKind.TYPE_CHANGED
    if was.item_type is not now.item_type and any(key.startswith(_ITEM) for key in broken):
        return IncompatibilityKind.ITEM_TYPE_CHANGED
    if _ABSENT in broken:
        return IncompatibilityKind.REQUIRED_ADDED if now.required else IncompatibilityKind.REQUIRED_REMOVED
    return IncompatibilityKind.COERCION_CHANGED


_FATES: Final[Mapping[UnknownProperties, str]] = {
    UnknownProperties.REJECT: "rejected",
    UnknownProperties.KEEP: "kept",
    UnknownProperties.DROP: "dropped",
}


def _words(each: Property | None, schema: Schema, kind: IncompatibilityKind) -> str:
    if each is None:
        return f"not declared, {_FATES[schema.unknown_properties]}"
    required = "required " if each.required else ""
    items = f" of {each.item_type}" if each.item_type else ""
    mode = f", {schema.coercion.name}" if kind is IncompatibilityKind.COERCION_CHANGED else ""
    return f"{required}{each.type}{items}{mode}"
