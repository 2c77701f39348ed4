"""Generate `docs/coercion.md` from the coercion table: `make docs`.

The results shown are those of the engine, which runs every example of the table while the page is made.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from registry.coercion.table import TABLE
from registry.coercion.validation import compile_schema
from registry.definitions.schema import CoercionMode, Property, PropertyType, Schema
from registry.errors import PayloadRejected

if TYPE_CHECKING:
    from registry.coercion.table import Conversion, Target
    from registry.values.plain_json import JSON

_HEAD = """\
# Coercion

What becomes of a value that is sent for a declared property. This page is generated from the table in
`registry/coercion/table.py`, by running its examples: `make docs`.

A schema's `coercion` is LENIENT or STRICT. LENIENT converts values whose meaning is unambiguous. STRICT accepts only
the JSON type itself, and for a date only an RFC 3339 date-time. In both:

- Every coercion is reported with its path, kind, and the value before and after.
- Coercing a coerced payload changes nothing.
- A payload is accepted as a whole, or rejected with every violation, up to 100.
"""

_TAIL = """
## Numbers

Numbers are doubles. An integral number of magnitude up to 2^53 is kept as an integer (`5.0` is `5`, `-0.0` is `0`),
which is not reported. Beyond 2^53 a double cannot tell neighbouring integers apart, so such a number is reported as
ROUNDED even if it did not change here: it may have been rounded before it arrived. This holds at any depth, also where
nothing is declared. If the property is a string, an integer that arrives with all its digits keeps them. NaN and the
infinities are rejected.

## Values

The values of events, contacts, automations and runs, whether they are sent by REST, gRPC, generated types, the command
line, JSON lines or YAML files. `registry/values/json_values.py` defines them.

| value | accepted | refused |
|---|---|---|
| number | a finite double; for an integer beyond 2^53 the nearest one | NaN; out of the range of a double: `1e400` |
| text, name of a property | any Unicode text, including U+0000 | half a surrogate pair |
| `google.protobuf.Value` | one with a kind; `null_value` is null | one without a kind |
| payload of an event, attributes of an automation | 32 levels, 10,000 values, 262,144 bytes | more |
| properties of a contact, attributes of a run | 32 levels, 1,000 values, 65,536 bytes | more |

Every API reports an error with the same path, reason and message. Texts outside payloads (names, descriptions, reasons,
ids, addresses) must not contain U+0000: UNSTORABLE_TEXT. Rounding is reported for events only; contacts, automations
and runs have no field for reports.

Earlier releases stored integers beyond the range of a double. They are read as the largest double of their sign,
about 1.8e308, which is logged once.

## null

| schema | property | result |
|---|---|---|
| LENIENT | optional | dropped, reported as NULL_DROPPED |
| LENIENT | required | rejected, REQUIRED_PROPERTY_MISSING |
| STRICT | either | rejected, INVALID_PROPERTY_VALUE |

null is never an item of a typed array: dropping it would move the others. A payload without a required property is
rejected with REQUIRED_PROPERTY_MISSING; a nested property is required only if the object that holds it is present.

## Undeclared properties

`unknown_properties` applies to the payload and to every object that declares nested properties.

| policy | result |
|---|---|
| REJECT | rejected, UNKNOWN_PROPERTY |
| DROP | left out, reported as UNKNOWN_DROPPED |
| KEEP | kept as sent, with numbers as described above, and null as null |

Objects that declare no properties, arrays that declare no item type, and the values of properties of type `any` are
kept as sent, except for their numbers.
"""


def coercion_page() -> str:
    """Return the whole page."""
    return _HEAD + "".join(_section(each, target) for each, target in TABLE.items()) + _TAIL


def _section(each: PropertyType, target: Target) -> str:
    lines = [
        "",
        f"## {each}",
        "",
        f"Becomes {target.becomes}.",
        "",
        "| given | accepted | by |",
        "|---|---|---|",
        *(_rule(conversion) for conversion in target.conversions),
        "",
        "| example | LENIENT | STRICT |",
        "|---|---|---|",
        *(_outcomes(each, example.given) for example in target.examples),
    ]
    return "\n".join(lines) + "\n"


def _rule(conversion: Conversion) -> str:
    modes = ", ".join(mode.name for mode in CoercionMode if conversion.under(mode))
    return f"| {conversion.given} | {conversion.takes} | {modes} |"


def _outcomes(each: PropertyType, given: JSON) -> str:
    return f"| {_code(given)} | " + " | ".join(_outcome(each, mode, given) for mode in CoercionMode) + " |"


def _outcome(each: PropertyType, mode: CoercionMode, given: JSON) -> str:
    coerce = compile_schema(Schema((Property("value", each),), coercion=mode))
    try:
        return _code(coerce({"value": given}).properties["value"])
    except PayloadRejected:
        return "rejected"


def _code(value: JSON) -> str:
    text = json.dumps(value, ensure_ascii=False).replace("\u00a0", "\\u00a0")
    return f"`{text}`" if len(text) <= 60 else f"`{text[:20]}…` ({len(text)} digits)"


if __name__ == "__main__":
    sys.stdout.write(coercion_page())
