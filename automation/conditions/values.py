"""The values of a condition and what CEL's operators make of them.

A payload's numbers are doubles, whether Python holds them as int or float; a CEL int is an `Int`. Nothing here
raises: what has no value is a `Failure`.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec

from registry.timestamps import MAX_MICROS, MIN_MICROS, parse_rfc3339

if TYPE_CHECKING:
    from collections.abc import Mapping

MIN_INT: Final = -(2**63)
MAX_INT: Final = 2**63 - 1
SECOND: Final = 10**9
MIN_NANOS: Final = MIN_MICROS * 1000
MAX_NANOS: Final = MAX_MICROS * 1000 + 999

_UNITS: Final = {"ns": 1, "us": 10**3, "ms": 10**6, "s": SECOND, "m": 60 * SECOND, "h": 3600 * SECOND}
_LONGEST_DURATION = 100
_DURATION = re.compile(r"[+-]?(?:0|(?:(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:ns|us|ms|s|m|h))+)")
_DURATION_PART = re.compile(r"([0-9]*)(?:\.([0-9]*))?(ns|us|ms|s|m|h)")
_BEYOND_MICROS = re.compile(r"\.[0-9]{6}([0-9]{1,3})")


class Verdict(StrEnum):
    """What a condition, or one clause of it, came to."""

    TRUE = "true"
    FALSE = "false"
    MISSING = "missing"
    """It reads something that is not there."""
    ERROR = "error"
    """It failed for another reason."""
    NOT_EVALUATED = "not_evaluated"
    """The verdict was settled before it was reached."""


class Int(int):
    """A CEL int: 64 bits, from a literal, `size()` or `event.revision`; never from a payload."""

    __slots__ = ()


class Timestamp(msgspec.Struct, frozen=True, order=True):
    """An instant: nanoseconds since 1970-01-01T00:00:00Z, within the years 0001 to 9999."""

    nanos: int


class Duration(msgspec.Struct, frozen=True, order=True):
    """A length of time: 64 bits of nanoseconds, up to 292 years either way."""

    nanos: int


class Failure(msgspec.Struct, frozen=True):
    """Why there is no value: CEL's error, MISSING or ERROR, with the reason in words."""

    verdict: Verdict
    message: str


_KINDS: Final[Mapping[type, str]] = {
    type(None): "null",
    bool: "a boolean",
    Int: "an integer",
    int: "a double",
    float: "a double",
    str: "a string",
    list: "a list",
    dict: "an object",
    Timestamp: "a timestamp",
    Duration: "a duration",
}
_ORDERED: Final[Mapping[type, str]] = {
    kind: "number" if kind in {Int, int, float} else name
    for kind, name in _KINDS.items()
    if kind not in {type(None), list, dict}
}

Operation: TypeAlias = Callable[[Any, Any], Any]


def kind_of(value: object) -> str:
    """Name the type of a value, with its article."""
    return _KINDS[type(value)]


def error(message: str) -> Failure:
    """Make the failure of an operation."""
    return Failure(Verdict.ERROR, message)


def equal(left: Any, right: Any) -> bool:
    """Compare by CEL: numbers across int and double, false between other types, deep in lists and objects."""
    kind = type(left)
    if kind is bool or type(right) is bool:
        return left is right
    if kind is list:
        return type(right) is list and len(left) == len(right) and all(map(equal, left, right))
    if kind is dict:
        return (
            type(right) is dict
            and left.keys() == right.keys()
            and all(equal(value, right[name]) for name, value in left.items())
        )
    return bool(left == right)


def weight(value: object) -> int:
    """Count the values in a list or object, itself included."""
    if type(value) is list:
        return 1 + sum(map(weight, value))
    if type(value) is dict:
        return 1 + sum(map(weight, value.values()))
    return 1


ORDER: Final[Mapping[str, Operation]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def ordered(symbol: str, left: Any, right: Any) -> bool | Failure:
    """Apply `<`, `<=`, `>` or `>=`: two numbers, strings, booleans, timestamps or durations."""
    kind = _ORDERED.get(type(left))
    if kind is None or kind != _ORDERED.get(type(right)):
        return no_overload(symbol, left, right)
    return bool(ORDER[symbol](left, right))


def no_overload(symbol: str, left: Any, right: Any) -> Failure:
    """Say that an operator does not take these two types."""
    message = f"{kind_of(left)} {symbol} {kind_of(right)} is not defined"
    if {Int, float} == {float if type(each) is int else type(each) for each in (left, right)}:
        message += ": arithmetic does not mix integers and doubles, and the numbers of a payload are doubles: write 1.0"
    return error(message[0].upper() + message[1:])


def contains(item: object, container: object) -> bool | Failure:
    """Apply `in` to a list, or to an object for one of its names."""
    if type(container) is list:
        return any(equal(item, each) for each in container)
    if type(container) is dict and type(item) in {str, bool, Int, int, float}:
        return item in container if type(item) is str else False
    return no_overload("in", item, container)


def arithmetic(symbol: str, left: Any, right: Any) -> Any:
    """Apply `+`, `-`, `*`, `/` or `%`."""
    kinds = _ARITHMETIC_KINDS.get(type(left)), _ARITHMETIC_KINDS.get(type(right))
    operation = _ARITHMETIC.get((symbol, *kinds))
    return no_overload(symbol, left, right) if operation is None else operation(left, right)


def negative(value: Any) -> Any:
    """Apply unary minus to a number."""
    if type(value) is Int:
        return _int(-value)
    if type(value) is float or type(value) is int:
        return -float(value)
    return error(f"-{kind_of(value)} is not defined")


def _int(value: int) -> Int | Failure:
    return Int(value) if MIN_INT <= value <= MAX_INT else error("The integer is beyond 64 bits")


def _divide(left: int, right: int) -> Int | Failure:
    if right == 0:
        return error("An integer is divided by zero")
    quotient = abs(left) // abs(right)
    return _int(quotient if (left < 0) == (right < 0) else -quotient)


def _modulo(left: int, right: int) -> Int | Failure:
    quotient = _divide(left, right)
    return quotient if isinstance(quotient, Failure) else Int(left - quotient * right)


def _divide_doubles(left: float, right: float) -> float:
    left, right = float(left), float(right)
    if right:
        return left / right
    return math.nan if left == 0 or math.isnan(left) else math.copysign(math.inf, left) * math.copysign(1, right)


def _timestamp(nanos: int) -> Timestamp | Failure:
    return Timestamp(nanos) if MIN_NANOS <= nanos <= MAX_NANOS else error("The time is outside the years 0001 to 9999")


def _duration(nanos: int) -> Duration | Failure:
    return Duration(nanos) if MIN_INT <= nanos <= MAX_INT else error("The duration is beyond 292 years")


_ARITHMETIC_KINDS: Final[Mapping[type, type]] = {
    kind: float if kind is int else kind for kind in (Int, int, float, str, list, Timestamp, Duration)
}
_ARITHMETIC: Final[Mapping[tuple[str, type | None, type | None], Operation]] = {
    ("+", Int, Int): lambda a, b: _int(int(a) + int(b)),
    ("-", Int, Int): lambda a, b: _int(int(a) - int(b)),
    ("*", Int, Int): lambda a, b: _int(int(a) * int(b)),
    ("/", Int, Int): lambda a, b: _divide(int(a), int(b)),
    ("%", Int, Int): lambda a, b: _modulo(int(a), int(b)),
    ("+", float, float): lambda a, b: float(a) + float(b),
    ("-", float, float): lambda a, b: float(a) - float(b),
    ("*", float, float): lambda a, b: float(a) * float(b),
    ("/", float, float): _divide_doubles,
    ("+", str, str): operator.add,
    ("+", list, list): operator.add,
    ("+", Timestamp, Duration): lambda a, b: _timestamp(a.nanos + b.nanos),
    ("+", Duration, Timestamp): lambda a, b: _timestamp(a.nanos + b.nanos),
    ("-", Timestamp, Duration): lambda a, b: _timestamp(a.nanos - b.nanos),
    ("-", Timestamp, Timestamp): lambda a, b: _duration(a.nanos - b.nanos),
    ("+", Duration, Duration): lambda a, b: _duration(a.nanos + b.nanos),
    ("-", Duration, Duration): lambda a, b: _duration(a.nanos - b.nanos),
}


def timestamp(value: object) -> Timestamp | Failure:
    """Read RFC 3339 text, or seconds since 1970 given as a CEL int; a timestamp stays as it is."""
    if type(value) is Timestamp:
        return value
    if type(value) is Int:
        return _timestamp(int(value) * SECOND)
    if type(value) is not str:
        return error(f"timestamp() takes RFC 3339 text, not {kind_of(value)}")
    try:
        micros = parse_rfc3339(value)
    except ValueError:
        return error("timestamp() takes RFC 3339 text such as 2026-06-01T12:00:00Z")
    beyond = _BEYOND_MICROS.search(value)
    return Timestamp(micros * 1000 + (int(beyond.group(1).ljust(3, "0")) if beyond else 0))


def duration(value: object) -> Duration | Failure:
    """Read text such as `1h30m`, `1.5s` or `-10ms`; a duration stays as it is."""
    if type(value) is Duration:
        return value
    if type(value) is not str:
        return error(f"duration() takes text such as 1h30m, not {kind_of(value)}")
    if len(value) > _LONGEST_DURATION or not _DURATION.fullmatch(value):
        return error("duration() takes text such as 1h30m, 1.5s or -10ms")
    nanos = 0
    for whole, fraction, unit in _DURATION_PART.findall(value):
        nanos += int(whole or 0) * _UNITS[unit] + int(fraction or 0) * _UNITS[unit] // 10 ** len(fraction)
    return _duration(-nanos if value[0] == "-" else nanos)


def size(value: Any) -> Int | Failure:
    """Count the characters of a string, the items of a list or the names of an object."""
    return Int(len(value)) if type(value) in {str, list, dict} else error(f"size() does not take {kind_of(value)}")


def starts_with(text: Any, part: Any) -> bool | Failure:
    """Whether the text begins with the part."""
    return text.startswith(part) if type(text) is str is type(part) else _no_method("startsWith", text, part)


def ends_with(text: Any, part: Any) -> bool | Failure:
    """Whether the text ends with the part."""
    return text.endswith(part) if type(text) is str is type(part) else _no_method("endsWith", text, part)


def has_part(text: Any, part: Any) -> bool | Failure:
    """Whether the part is somewhere in the text."""
    return part in text if type(text) is str is type(part) else _no_method("contains", text, part)


def _no_method(name: str, text: object, part: object) -> Failure:
    return error(f"{name} takes two strings, not {kind_of(text)} and {kind_of(part)}")
