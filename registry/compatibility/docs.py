"""Generate `docs/compatibility.md`: `make docs`.

Every verdict on the page is one that `registry.compatibility.comparison.compare` gives while the page is made.
"""

from __future__ import annotations

import itertools
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from registry.compatibility.comparison import Direction, compare
from registry.definitions.schema import CoercionMode, Property, PropertyType, Schema, UnknownProperties

if TYPE_CHECKING:
    from collections.abc import Iterator

_HEAD = """\
# Compatibility

Which changes of a schema a definition allows. This page is generated from the verdicts of
`registry/compatibility/comparison.py` by `make docs`.

| rule | a new revision is accepted if |
|---|---|
| NONE | always |
| BACKWARD | it accepts every payload that the latest one accepts, and coerces it to the same |
| FORWARD | the latest one accepts every payload that it accepts, and coerces it to the same |
| FULL | both |
| BACKWARD_TRANSITIVE, FORWARD_TRANSITIVE, FULL_TRANSITIVE | the same holds against every earlier revision |

Under BACKWARD, senders built for the old revision keep working: change the schema first, then the senders. Under
FORWARD, events built for the new revision are accepted by the old one too: change the senders first.

- The verdict is exact. A test compares it with the results of both schemas on the same payloads, for every pair of
  small schemas.
- The verdict covers payloads made of the properties that either schema declares, at each level. How a schema treats all
  other properties may therefore change under any rule; once a property is declared, it counts.
- An object that declares no properties, and an array without item type, keep any content. What another schema declares
  in them is compared with "not declared, kept".
- KEEP and DROP accept any value of an undeclared property, so declaring one is never BACKWARD under them. Under FULL no
  property can be added or removed.
- Numbers are doubles: an integer beyond ±2^53 counts as the double nearest to it.
- Descriptions, suggested values and the order of properties never matter.
- Two allowed changes together are an allowed change as long as `unknown_properties` stays the same. If it changes, or
  if another rule applied for a while, only the TRANSITIVE rules look back far enough. Example: under BACKWARD a
  required string may be removed from a schema with KEEP and STRICT, and KEEP may then become REJECT; but the result
  refuses what the first revision accepted. """

_CHANGES_HEAD = """
## Changes

The examples have one optional string in LENIENT unless the row says otherwise.

| change | BACKWARD | FORWARD | FULL |
|---|---|---|---|
"""

_MATRIX_HEAD = """
## One property

`yes` means that every payload which the row accepts is accepted by the column with the same result. A change from the
row to the column is then BACKWARD; one from the column to the row is FORWARD. Between two different types the answer is
no, except from a type to `any` if its values stay as they are: in STRICT for all types but dates, in LENIENT for
objects and arrays, if the same holds for what they declare. `-`: neither schema declares the property, so it does not
count. """

_KINDS_HEAD = """
## Incompatibilities

A refused change is reported with one incompatibility for each property that breaks a direction, at the deepest path
that explains it: its `kind`, its `path` such as `properties.lines[].sku`, the old and the new side in words, the
direction, and the number of the earlier revision.

| kind | meaning | old, for example | new |
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
        "LENIENT accepts other values than STRICT, and null for an optional property",
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
    """Return a matrix for each set of types that share it."""
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
