"""Writes `docs/compatibility.md`: `python -m registry.compatibility_docs > docs/compatibility.md`.

Every verdict on the page is one that `registry.compatibility.compare` gives while the page is made.
"""

from __future__ import annotations

import itertools
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from registry.compatibility import Direction, compare
from registry.schema import CoercionMode, Property, PropertyType, Schema, UnknownProperties

if TYPE_CHECKING:
    from collections.abc import Iterator

_HEAD = """\
# Compatibility

Which changes of a schema a definition allows. This page is written from the verdicts that
`registry/compatibility.py` gives: `python -m registry.compatibility_docs > docs/compatibility.md`.

| rule | a new revision is refused unless |
|---|---|
| NONE | never refused |
| BACKWARD | it accepts every payload that the latest one accepts, and coerces it to the same |
| FORWARD | the latest one accepts every payload that it accepts, and coerces it to the same |
| FULL | both |
| BACKWARD_TRANSITIVE, FORWARD_TRANSITIVE, FULL_TRANSITIVE | the same holds against every earlier revision |

Under BACKWARD senders made for the old revision go on as before: change the schema first, then the senders. Under
FORWARD what is sent for the new revision suits the old one too: change the senders first.

- The verdict is exact. A test compares it with what two schemas make of the same payloads, for every pair of small
  schemas.
- Judged are payloads made of the properties that either schema declares, at each level. What a schema does with
  all other properties may therefore change under any rule; once a property is declared, it counts.
- An object that declares nothing, and an array without item type, hold anything as it is. What another schema
  declares in them compares with "not declared, kept".
- KEEP and DROP took any value before a property was declared, so declaring one is never BACKWARD under them. FULL
  allows no property to come or go.
- Numbers are doubles: an integer beyond ±2^53 counts as the double nearest to it.
- Descriptions, suggested values and the order of properties never matter.
- Two allowed steps make an allowed step as long as `unknown_properties` stays the same. If it changes, or if the
  rule was another one for a while, only the TRANSITIVE rules look back far enough: under BACKWARD a required string
  may be removed from a schema that is KEEP and STRICT, and KEEP may then become REJECT, but the two together refuse
  what the first revision accepted.
"""

_CHANGES_HEAD = """
## Changes

Of one optional string in LENIENT, where the row does not say otherwise.

| change | BACKWARD | FORWARD | FULL |
|---|---|---|---|
"""

_MATRIX_HEAD = """
## One property

`yes` where every payload that the row takes is taken by the column with the same result. A change from the row
to the column is then BACKWARD; one from the column to the row is FORWARD. Properties of two different types never
contain one another, but for `any`, which contains those whose values stay as they are: in STRICT all but dates, in
LENIENT objects and arrays, if the same holds of what is declared in them. What neither schema declares does not
count, `-`.
"""

_KINDS_HEAD = """
## Incompatibilities

A refused change comes with one incompatibility for each property that breaks a direction, at the deepest place that
explains it: its `kind`, its `path` such as `properties.lines[].sku`, the old and the new side in words, the direction,
and the number of the earlier revision.

| kind | says | old, for example | new |
|---|---|---|---|
"""

_STRING, _NUMBER, _DATE, _OBJECT, _ARRAY, _ANY = (
    Property("p", PropertyType(each)) for each in ("string", "number", "date", "object", "array", "any")
)


def _schema(each: Property, mode: CoercionMode = CoercionMode.LENIENT) -> Schema:
    return Schema((each,), coercion=mode)


def _required(each: Property) -> Property:
    return replace(each, required=True)


def _items(target: PropertyType) -> Property:
    return replace(_ARRAY, item_type=target)


def _changes() -> Iterator[tuple[str, Schema, Schema]]:
    strict = CoercionMode.STRICT
    optional, required = _schema(_STRING), _schema(_required(_STRING))
    for policy in UnknownProperties:
        nothing = Schema(unknown_properties=policy)
        yield f"add a property, {policy.name}", nothing, optional
        yield f"add a required property, {policy.name}", nothing, required
        yield f"remove a property, {policy.name}", optional, nothing
        yield f"remove a required property, {policy.name}", required, nothing
    kept = Schema(unknown_properties=UnknownProperties.KEEP, coercion=strict)
    yield "add a property, KEEP and STRICT", kept, _schema(_STRING, strict)
    yield "add a date, KEEP and STRICT", kept, _schema(_DATE, strict)
    yield "make a property required", optional, required
    yield "make a property optional", required, optional
    yield "change a type", _schema(_NUMBER), optional
    yield "change a type to `any`", optional, _schema(_ANY)
    yield "change a type to `any`, STRICT", _schema(_STRING, strict), _schema(_ANY, strict)
    yield "change a date to `any`, STRICT", _schema(_DATE, strict), _schema(_ANY, strict)
    yield "change an object to `any`", _schema(_OBJECT), _schema(_ANY)
    yield "LENIENT to STRICT", optional, _schema(_STRING, strict)
    yield "STRICT to LENIENT", _schema(_STRING, strict), optional
    yield "LENIENT to STRICT, an object", _schema(_OBJECT), _schema(_OBJECT, strict)
    yield "LENIENT to STRICT, a required object", _schema(_required(_OBJECT)), _schema(_required(_OBJECT), strict)
    inside = replace(_OBJECT, properties=(_STRING,))
    yield "declare a property in an object that declared none", _schema(_OBJECT), _schema(inside)
    yield "the same in STRICT", _schema(_OBJECT, strict), _schema(inside, strict)
    numbers, dates = _items(PropertyType.NUMBER), _items(PropertyType.DATE)
    yield "declare an array's item type", _schema(_ARRAY), _schema(numbers)
    yield "declare the item type number in STRICT", _schema(_ARRAY, strict), _schema(numbers, strict)
    yield "declare the item type date in STRICT", _schema(_ARRAY, strict), _schema(dates, strict)
    yield "change an item type", _schema(numbers), _schema(dates)
    yield (
        "change `unknown_properties`, REJECT to DROP",
        optional,
        replace(optional, unknown_properties=UnknownProperties.DROP),
    )


_KINDS: Final = (
    ("the new schema declares it, the old one does not", Schema(), _schema(_required(_STRING))),
    ("the old schema declares it, the new one does not", _schema(_STRING), Schema()),
    ("the types differ", _schema(_STRING), _schema(_NUMBER)),
    ("the item types differ", _schema(_ARRAY), _schema(_items(PropertyType.NUMBER))),
    ("it may no longer be absent", _schema(_STRING), _schema(_required(_STRING))),
    ("it may now be absent", _schema(_required(_STRING)), _schema(_STRING)),
    (
        "LENIENT takes other values than STRICT, or null where it is optional",
        _schema(_NUMBER),
        _schema(_NUMBER, CoercionMode.STRICT),
    ),
)


def compatibility_page() -> str:
    """Return the whole page."""
    changes = "".join(_change(*each) for each in _changes())
    kinds = "".join(_kind(*example) for example in _KINDS)
    return _HEAD + _CHANGES_HEAD + changes + _MATRIX_HEAD + _matrices() + _KINDS_HEAD + kinds


def _change(words: str, old: Schema, new: Schema) -> str:
    backward, forward = (not compare(old, new, direction) for direction in Direction)
    return f"| {words} | " + " | ".join(map(_yes, (backward, forward, backward and forward))) + " |\n"


def _matrices() -> str:
    """Make one matrix for all types that have the same one."""
    tables: dict[str, list[PropertyType]] = {}
    for target in PropertyType:
        tables.setdefault(_matrix(Property("p", target)), []).append(target)
    return "".join(f"\n### {', '.join(targets)}\n\n{table}" for table, targets in tables.items())


def _matrix(each: Property) -> str:
    states = {f"undeclared, {policy.name}": Schema(unknown_properties=policy) for policy in UnknownProperties}
    for mode, declared in itertools.product(CoercionMode, (each, _required(each))):
        states[f"{'required' if declared.required else 'optional'}, {mode.name}"] = _schema(declared, mode)
    head = f"| | {' | '.join(states)} |\n|{'---|' * (len(states) + 1)}\n"
    rows = (
        f"| {name} | {' | '.join(_cell(schema, each) for each in states.values())} |\n"
        for name, schema in states.items()
    )
    return head + "".join(rows)


def _cell(row: Schema, column: Schema) -> str:
    return _yes(not compare(row, column, Direction.BACKWARD)) if row.properties or column.properties else "-"


def _kind(words: str, old: Schema, new: Schema) -> str:
    found = next(found for direction in Direction for found in compare(old, new, direction))
    return f"| {found.kind} | {words} | {found.old} | {found.new} |\n"


def _yes(holds: bool) -> str:
    return "yes" if holds else "no"


if __name__ == "__main__":
    sys.stdout.write(compatibility_page())
