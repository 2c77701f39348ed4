"""The compatibility of two schemas, decided exactly and without looking at a payload.

A property is a partial function from its inputs (absence, or a value of one JSON kind) to what is kept of them:

    declared as               absence  null    boolean    number    string    object    array
    optional string, LENIENT  dropped  dropped converted  converted kept      -         -
    required string, STRICT   -        -       -          -         kept      -         -
    undeclared, DROP          dropped  dropped dropped    dropped   dropped   dropped   dropped

A dash means that the payload is rejected. A schema coerces each property of a payload on its own, and every property
accepts some input, so one schema accepts the payloads of another, with the same result, if and only if that holds for
each property. Comparing two rows of this table for each property therefore decides the question: `_inputs` returns a
row, `_differences` compares two.

Numbers are doubles here: an integer beyond ±2^53 counts as the nearest double.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import islice
from typing import TYPE_CHECKING, Final, TypeAlias

from registry.coercion.table import TABLE, Convert, JsonKind, as_is
from registry.definitions.schema import (
    CoercionMode,
    Compatibility,
    Property,
    PropertyType,
    Schema,
    UnknownProperties,
    without_annotations,
)
from registry.errors import Violation
from registry.paths import ROOT, property_path
from registry.values.plain_json import canonical_number

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from registry.definitions.event_definitions import Revision


MAX_FOUND: Final = 1_000
"""The largest number of incompatibilities in one verdict; the comparison stops there."""


class Direction(StrEnum):
    """The direction of a comparison: one schema must accept the payloads of the other, with the same result."""

    BACKWARD = "backward"
    """The new schema accepts the payloads of the old one."""
    FORWARD = "forward"
    """The old schema accepts the payloads of the new one."""


class IncompatibilityKind(StrEnum):
    """The kinds of changes of a property that break a direction."""

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

    `path` is like `properties.lines[].sku`; `old` and `new` describe the property in words before and after the
    change; `revision` is the number of the earlier revision.
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
        sender, receiver = (earlier, "the schema") if self.direction is Direction.BACKWARD else ("the schema", earlier)
        message = (
            f'It is "{self.old}" in {earlier} and "{self.new}" in the schema; to be {self.direction} compatible, '
            f"{receiver} must accept every payload that {sender} accepts, and coerce it to the same values"
        )
        return Violation(self.path, self.kind, message)


def check_compatibility(
    rule: Compatibility, candidate: Schema, earlier: Sequence[Revision]
) -> tuple[Incompatibility, ...]:
    """Return at most MAX_FOUND incompatibilities of a candidate with earlier revisions; none if the rule allows it.

    `earlier` are the revisions of the definition, newest first. Only a transitive rule compares more than the first;
    of several revisions with the same rules for payloads it compares the newest.
    """
    base_rule = rule.removesuffix("_transitive")
    directions = [direction for direction in Direction if base_rule in {direction, Compatibility.FULL}]
    incompatibilities = (
        incompatibility
        for revision in (earlier[:1] if rule == base_rule else _distinct(earlier))
        for direction in directions
        for incompatibility in compare(revision.schema, candidate, direction, revision.number)
    )
    return tuple(islice(incompatibilities, MAX_FOUND))


def _distinct(revisions: Iterable[Revision]) -> Iterator[Revision]:
    seen: set[Schema] = set()
    for revision in revisions:
        bare = without_annotations(revision.schema)
        if bare not in seen:
            seen.add(bare)
            yield revision


def compare(old: Schema, new: Schema, direction: Direction, revision: int = 0) -> tuple[Incompatibility, ...]:
    """Return an incompatibility for each property of two valid schemas that breaks the direction, in declared order.

    Only payloads made of properties that one of the schemas declares count, at each level.
    """
    return tuple(_differences(old, new, ROOT, direction, revision))


_ABSENT: Final = "absent"
_ITEM: Final = "item "
_OBJECT: Final = JsonKind.OBJECT.value

_Inputs: TypeAlias = "dict[str, Convert | None]"
"""The accepted inputs of a property: absence (_ABSENT), JSON kinds, and kinds of array items, each with its converter.

The converter is None for inputs that are dropped. All other inputs are rejected.
"""

_FINAL: Final = frozenset(
    {
        IncompatibilityKind.PROPERTY_ADDED,
        IncompatibilityKind.PROPERTY_REMOVED,
        IncompatibilityKind.TYPE_CHANGED,
        IncompatibilityKind.ITEM_TYPE_CHANGED,
    }
)
"""After these kinds, the nested properties are not compared: they would explain nothing more."""


def _differences(
    old: Schema, new: Schema, parent: str, direction: Direction, revision: int
) -> Iterator[Incompatibility]:
    before, after = ({declared.name: declared for declared in schema.properties} for schema in (old, new))
    for name in before | after:
        was, now, path = before.get(name), after.get(name), property_path(parent, name)
        sent, accepted = _inputs(was, old), _inputs(now, new)
        if direction is Direction.FORWARD:
            sent, accepted = accepted, sent
        if lost := {key for key, convert in sent.items() if key not in accepted or not _agree(convert, accepted[key])}:
            kind = _kind(was, now, lost)
            yield Incompatibility(kind, path, _words(was, old, kind), _words(now, new, kind), direction, revision)
            if kind in _FINAL:
                continue
        for key, nested_path, container in (
            (_OBJECT, path, PropertyType.OBJECT),
            (_ITEM + _OBJECT, f"{path}[]", PropertyType.ARRAY),
        ):
            if key in sent:
                nested = _nested_schema(was, old, container), _nested_schema(now, new, container)
                yield from _differences(*nested, nested_path, direction, revision)


def _nested_schema(declared: Property | None, schema: Schema, container: PropertyType) -> Schema:
    """Return the schema of a nested object, or of an array's objects; without declared properties, all are kept."""
    if declared and declared.type is container and declared.properties:
        return replace(schema, properties=declared.properties)
    return Schema(unknown_properties=UnknownProperties.KEEP)


def _inputs(declared: Property | None, schema: Schema) -> _Inputs:
    if declared is None:
        return _UNDECLARED[schema.unknown_properties]
    inputs = _converted(declared.type, schema.coercion)
    if not declared.required:
        inputs[_ABSENT] = None
        if schema.coercion is CoercionMode.LENIENT:
            inputs[JsonKind.NULL] = None
    if declared.type is PropertyType.ARRAY:
        inputs |= _of_items(_converted(declared.item_type, schema.coercion) if declared.item_type else _ANYTHING)
    if declared.type is PropertyType.ANY:
        inputs |= _of_items(_ANYTHING)
    return inputs


def _converted(target: PropertyType, mode: CoercionMode) -> _Inputs:
    # The canonical form of a number is the same number, so it counts as kept.
    converters = {conversion.given: conversion.under(mode) for conversion in TABLE[target].conversions}
    return {kind: as_is if convert is canonical_number else convert for kind, convert in converters.items() if convert}


def _of_items(inputs: _Inputs) -> _Inputs:
    return {_ITEM + kind: convert for kind, convert in inputs.items()}


_ANYTHING: Final[_Inputs] = dict.fromkeys(JsonKind, as_is)
_UNDECLARED: Final[Mapping[UnknownProperties, _Inputs]] = {
    UnknownProperties.REJECT: {_ABSENT: None},
    UnknownProperties.KEEP: {_ABSENT: None, **_ANYTHING, **_of_items(_ANYTHING)},
    UnknownProperties.DROP: {_ABSENT: None, **dict.fromkeys(JsonKind, None)},
}

# LENIENT accepts all values that STRICT accepts, with the same result; no other two converters of one kind agree.
_STRICT_AND_LENIENT: Final = frozenset(
    (conversion.strict, conversion.lenient)
    for target in TABLE.values()
    for conversion in target.conversions
    if conversion.strict
)


def _agree(sent: Convert | None, accepted: Convert | None) -> bool:
    """Return whether the second converter accepts all values that the first accepts, with the same result."""
    return sent is accepted or (sent, accepted) in _STRICT_AND_LENIENT


def _kind(was: Property | None, now: Property | None, lost: Collection[str]) -> IncompatibilityKind:
    if was is None:
        return IncompatibilityKind.PROPERTY_ADDED
    if now is None:
        return IncompatibilityKind.PROPERTY_REMOVED
    if was.type is not now.type:
        return IncompatibilityKind.TYPE_CHANGED
    if was.item_type is not now.item_type and any(key.startswith(_ITEM) for key in lost):
        return IncompatibilityKind.ITEM_TYPE_CHANGED
    if _ABSENT in lost:
        return IncompatibilityKind.REQUIRED_ADDED if now.required else IncompatibilityKind.REQUIRED_REMOVED
    return IncompatibilityKind.COERCION_CHANGED


_FATES: Final[Mapping[UnknownProperties, str]] = {
    UnknownProperties.REJECT: "rejected",
    UnknownProperties.KEEP: "kept",
    UnknownProperties.DROP: "dropped",
}


def _words(declared: Property | None, schema: Schema, kind: IncompatibilityKind) -> str:
    if declared is None:
        return f"not declared, {_FATES[schema.unknown_properties]}"
    required = "required " if declared.required else ""
    items = f" of {declared.item_type}" if declared.item_type else ""
    mode = f", {schema.coercion.name}" if kind is IncompatibilityKind.COERCION_CHANGED else ""
    return f"{required}{declared.type}{items}{mode}"
