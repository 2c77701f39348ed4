"""The coercion table: the result of each JSON kind in a property of each type.

`TABLE` is the only definition of these rules: `registry.coercion.validation` compiles it,
`registry.compatibility.comparison` compares its converters, `docs/coercion.md` is generated from it and the tests run
its examples. A kind of value without a `Conversion` is rejected.

In every converter and example None means rejected: no declared property ever becomes null.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from math import isfinite
from types import NoneType
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from registry.definitions.schema import CoercionMode, PropertyType
from registry.times.timestamps import MAX_MICROS, MIN_MICROS, format_millis, parse_date, parse_rfc3339
from registry.values.plain_json import JSON, canonical_number, number_text

if TYPE_CHECKING:
    from collections.abc import Mapping

_MAX_NUMBER_LENGTH = 400
_DECIMAL = re.compile(r"[ \t\n\v\f\r]*[+-]?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?[ \t\n\v\f\r]*")
_BOOLEANS = {"true": True, "false": False}


class JsonKind(StrEnum):
    """The kinds of JSON values."""

    NULL = "null"
    BOOLEAN = "boolean"
    NUMBER = "number"
    STRING = "string"
    OBJECT = "object"
    ARRAY = "array"


PYTHON_TYPES: Final[Mapping[JsonKind, tuple[type, ...]]] = {
    JsonKind.NULL: (NoneType,),
    JsonKind.BOOLEAN: (bool,),
    JsonKind.NUMBER: (int, float),
    JsonKind.STRING: (str,),
    JsonKind.OBJECT: (dict,),
    JsonKind.ARRAY: (list,),
}

Convert: TypeAlias = Callable[[Any], JSON]
"""Converts a value of one kind. Returns the very same object where nothing changes."""


def as_is(value: JSON) -> JSON:
    """Return the value unchanged."""
    return value


def number_from_string(text: str) -> JSON:
    """Return the number of a text that is one decimal number, with ASCII blanks around it."""
    if len(text) > _MAX_NUMBER_LENGTH or not _DECIMAL.fullmatch(text):
        return None
    number = float(text)
    # Most texts have decimals: they need no second look.
    return number if not number.is_integer() and isfinite(number) else canonical_number(number)


def boolean_from_string(text: str) -> JSON:
    """Return the boolean of `true` or `false` in any case."""
    return _BOOLEANS.get(text.lower()) if len(text) <= len("false") else None


def boolean_from_number(value: float) -> JSON:
    """Return False for 0 and True for 1."""
    return bool(value) if value in {0, 1} else None


def string_from_boolean(value: bool) -> JSON:
    """Return `true` or `false`."""
    return "true" if value else "false"


def date_from_string(text: str) -> JSON:
    """Return the canonical form of an RFC 3339 date-time, or of a date, which is its midnight in UTC."""
    return _date(text, parse_date)


def date_from_date_time(text: str) -> JSON:
    """Return the canonical form of an RFC 3339 date-time."""
    return _date(text, parse_rfc3339)


def _date(text: str, parse: Callable[[str], int]) -> JSON:
    try:
        micros = parse(text)
    except ValueError:
        return None
    canonical = len(text) == 24 and text[10] == "T" and text[19] == "." and text[23] == "Z"
    return text if canonical else format_millis(micros)


def date_from_number(value: float) -> JSON:
    """Return the canonical form of an instant in milliseconds since 1970-01-01T00:00:00Z."""
    number = canonical_number(value)
    if type(number) is not int or not MIN_MICROS <= number * 1000 <= MAX_MICROS:
        return None
    return format_millis(number * 1000)


@dataclass(frozen=True, slots=True)
class Conversion:
    """The conversion of one JSON kind.

    `takes` describes the accepted values of the kind. Without `strict`, STRICT rejects the kind.
    """

    given: JsonKind
    takes: str
    lenient: Convert
    strict: Convert | None = None

    def under(self, mode: CoercionMode) -> Convert | None:
        """Return the converter of a mode; None if the mode rejects the kind."""
        return self.lenient if mode is CoercionMode.LENIENT else self.strict


@dataclass(frozen=True, slots=True)
class Example:
    """One value with its result in each mode; None where it is rejected."""

    given: JSON
    lenient: JSON = None
    strict: JSON = None


@dataclass(frozen=True, slots=True)
class Target:
    """The row of one property type. `wanted` completes "must be ..."."""

    wanted: str
    becomes: str
    conversions: tuple[Conversion, ...]
    examples: tuple[Example, ...]
    wanted_strictly: str = ""

    def wanted_under(self, mode: CoercionMode) -> str:
        """Return the words for the accepted values in a mode, to follow "must be"."""
        return self.wanted_strictly or self.wanted if mode is CoercionMode.STRICT else self.wanted


TABLE: Final[Mapping[PropertyType, Target]] = {
    PropertyType.STRING: Target(
        wanted="a string",
        becomes="a string",
        conversions=(
            Conversion(JsonKind.STRING, "any", as_is, as_is),
            Conversion(JsonKind.NUMBER, "any finite number, as its shortest JSON text", number_text),
            Conversion(JsonKind.BOOLEAN, "as `true` or `false`", string_from_boolean),
        ),
        examples=(
            Example("EUR", "EUR", "EUR"),
            Example("", "", ""),
            Example(5, "5"),
            Example(5.0, "5"),
            Example(-0.0, "0"),
            Example(12.5, "12.5"),
            Example(1e300, "1e300"),
            Example(12345678901234567890, "12345678901234567890"),
            Example(10**400),
            Example(True, "true"),
            Example(False, "false"),
            Example({"a": 1}),
            Example(["a"]),
        ),
    ),
    PropertyType.NUMBER: Target(
        wanted="a number",
        becomes="a finite double, written as an integer where it is one up to ±2^53",
        conversions=(
            Conversion(JsonKind.NUMBER, "any finite number", canonical_number, canonical_number),
            Conversion(
                JsonKind.STRING,
                "wholly one finite decimal number, ASCII blanks around it aside, "
                f"at most {_MAX_NUMBER_LENGTH} characters",
                number_from_string,
            ),
        ),
        examples=(
            Example(12.5, 12.5, 12.5),
            Example(5.0, 5, 5),
            Example(-0.0, 0, 0),
            Example(2**53, 2**53, 2**53),
            Example(2**53 + 1, 2**53, 2**53),
            Example(2**63, 2.0**63, 2.0**63),
            Example(10**400),
            Example("12.50", 12.5),
            Example(" 12\t", 12),
            Example("+5", 5),
            Example("-0", 0),
            Example("007", 7),
            Example("1e3", 1000),
            Example("1e400"),
            Example(""),
            Example("abc"),
            Example("NaN"),
            Example("Infinity"),
            Example("0x10"),
            Example("1_000"),
            Example("1,5"),
            Example(".5"),
            Example("5."),
            Example("٣"),
            Example("\u00a05"),
            Example(True),
            Example({}),
            Example([1]),
        ),
    ),
    PropertyType.BOOLEAN: Target(
        wanted="a boolean",
        becomes="`true` or `false`",
        conversions=(
            Conversion(JsonKind.BOOLEAN, "any", as_is, as_is),
            Conversion(JsonKind.STRING, "`true` or `false` in any case, without blanks", boolean_from_string),
            Conversion(JsonKind.NUMBER, "0 as `false` and 1 as `true`", boolean_from_number),
        ),
        examples=(
            Example(True, True, True),
            Example(False, False, False),
            Example("true", True),
            Example("FALSE", False),
            Example(" true"),
            Example("yes"),
            Example("1"),
            Example(""),
            Example(1, True),
            Example(0.0, False),
            Example(2),
            Example({}),
            Example([]),
        ),
    ),
    PropertyType.DATE: Target(
        wanted="a date (2026-06-01T12:00:00Z, 2026-06-01, or whole milliseconds since 1970)",
        wanted_strictly="a date (an RFC 3339 date-time with offset, such as 2026-06-01T12:00:00Z)",
        becomes="the instant in UTC, cut to the millisecond",
        conversions=(
            Conversion(
                JsonKind.STRING,
                "an RFC 3339 date-time with offset or, in LENIENT, `YYYY-MM-DD` (midnight UTC); years 0001 to 9999",
                date_from_string,
                date_from_date_time,
            ),
            Conversion(
                JsonKind.NUMBER,
                "an integral number of milliseconds since 1970-01-01T00:00:00Z; years 0001 to 9999",
                date_from_number,
            ),
        ),
        examples=(
            Example("2026-06-01T12:00:00.000Z", "2026-06-01T12:00:00.000Z", "2026-06-01T12:00:00.000Z"),
            Example("2026-06-01T14:00:00+02:00", "2026-06-01T12:00:00.000Z", "2026-06-01T12:00:00.000Z"),
            Example("2026-06-01t12:00:00.123987z", "2026-06-01T12:00:00.123Z", "2026-06-01T12:00:00.123Z"),
            Example("2026-06-01", "2026-06-01T00:00:00.000Z"),
            Example(1780315200000, "2026-06-01T12:00:00.000Z"),
            Example(-1, "1969-12-31T23:59:59.999Z"),
            Example(0.5),
            Example(10**15),
            Example("1780315200000"),
            Example("2026-06-01T12:00:00"),
            Example("2026-06-01 12:00:00Z"),
            Example("2026-02-30"),
            Example("2026-06-01T23:59:60Z"),
            Example("0001-01-01T00:00:00+01:00"),
            Example("tomorrow"),
            Example(""),
            Example(True),
            Example({}),
            Example([]),
        ),
    ),
    PropertyType.OBJECT: Target(
        wanted="an object",
        becomes="an object, its nested properties coerced in turn",
        conversions=(Conversion(JsonKind.OBJECT, "any; what is in it by the nested properties", as_is, as_is),),
        examples=(
            Example({"a": 1}, {"a": 1}, {"a": 1}),
            Example({}, {}, {}),
            Example([]),
            Example("{}"),
            Example(5),
            Example(True),
        ),
    ),
    PropertyType.ARRAY: Target(
        wanted="an array",
        becomes="an array, its items coerced in turn where an item type is declared",
        conversions=(Conversion(JsonKind.ARRAY, "any; each item by the item type", as_is, as_is),),
        examples=(
            Example([1, "a", None], [1, "a", None], [1, "a", None]),
            Example([], [], []),
            Example({}),
            Example("a,b"),
            Example(5),
            Example(False),
        ),
    ),
    PropertyType.ANY: Target(
        wanted="a value other than null",
        becomes="the value as it is, a number in the one form of numbers",
        conversions=(
            Conversion(JsonKind.BOOLEAN, "any", as_is, as_is),
            Conversion(JsonKind.NUMBER, "any finite number", canonical_number, canonical_number),
            Conversion(JsonKind.STRING, "any", as_is, as_is),
            Conversion(JsonKind.OBJECT, "any", as_is, as_is),
            Conversion(JsonKind.ARRAY, "any", as_is, as_is),
        ),
        examples=(
            Example("5", "5", "5"),
            Example(5.0, 5, 5),
            Example(True, True, True),
            Example({"a": None}, {"a": None}, {"a": None}),
            Example([1, None], [1, None], [1, None]),
            Example(10**400),
        ),
    ),
}
