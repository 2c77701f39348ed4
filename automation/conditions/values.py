"""The values of conditions, and the operators of CEL.

The numbers of a payload are doubles, although Python may hold them as int; a CEL int is an `Int`. Nothing here raises:
an operation without a value returns a `Failure`.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec

from registry.times.timestamps import MAX_MICROS, MIN_MICROS, parse_rfc3339

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
    """The result of a condition or of one clause."""

    TRUE = "true"
    FALSE = "false"
    MISSING = "missing"
    """It reads a value that does not exist."""
    ERROR = "error"
    """It failed for another reason."""
    NOT_EVALUATED = "not_evaluated"
    """The verdict of the condition was decided before this clause was reached."""


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
    """The absence of a value, an error in CEL: the verdict is MISSING or ERROR, the message says why."""

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
    """Return the name of the type of a value, with its article."""
    return _KINDS[type(value)]


def error(message: str) -> Failure:
    """Return the failure of an operation."""
    return Failure(Verdict.ERROR, message)


def equal(left: Any, right: Any) -> bool:
    """Return whether two values are equal in CEL.

    An int equals a double of the same value; otherwise values of different types are never equal. Lists and objects are
    compared deeply.
    """
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
    """Return the number of values in a list or object, including itself."""
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
    """Return the result of `<`, `<=`, `>` or `>=`: of two numbers, strings, booleans, timestamps or durations."""
    kind = _ORDERED.get(type(left))
    if kind is None or kind != _ORDERED.get(type(right)):
        return no_overload(symbol, left, right)
    return bool(ORDER[symbol](left, right))


def no_overload(symbol: str, left: Any, right: Any) -> Failure:
    """Return the failure of an operator that is not defined for these two types."""
    message = f"{kind_of(left)} {symbol} {kind_of(right)} is not defined"
    if {Int, float} == {float if type(operand) is int else type(operand) for operand in (left, right)}:
        message += ": arithmetic does not mix integers and doubles, and the numbers of a payload are doubles: write 1.0"
    return error(message[0].upper() + message[1:])


def contains(item: object, container: object) -> bool | Failure:
    """Return the result of `in`: an item of a list, or a name of an object."""
    if type(container) is list:
        return any(equal(item, member) for member in container)
    if type(container) is dict and type(item) in {str, bool, Int, int, float}:
        return item in container if type(item) is str else False
    return no_overload("in", item, container)


def arithmetic(symbol: str, left: Any, right: Any) -> Any:
    """Return the result of `+`, `-`, `*`, `/` or `%`."""
    kinds = _ARITHMETIC_KINDS.get(type(left)), _ARITHMETIC_KINDS.get(type(right))
    operation = _ARITHMETIC.get((symbol, *kinds))
    return no_overload(symbol, left, right) if operation is None else operation(left, right)


def negative(value: Any) -> Any:
    """Return the negative of a number."""
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
    """Return the timestamp of RFC 3339 text, of seconds since 1970 as a CEL int, or of a timestamp."""
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
    """Return the duration of text such as `1h30m`, `1.5s` or `-10ms`, or of a duration."""
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
    """Return the number of characters of a string, of items of a list or of names of an object."""
    return Int(len(value)) if type(value) in {str, list, dict} else error(f"size() does not take {kind_of(value)}")


def starts_with(text: Any, part: Any) -> bool | Failure:
    """Return whether the text begins with the part."""
    return text.startswith(part) if type(text) is str is type(part) else _no_method("startsWith", text, part)


def ends_with(text: Any, part: Any) -> bool | Failure:
    """Return whether the text ends with the part."""
    return text.endswith(part) if type(text) is str is type(part) else _no_method("endsWith", text, part)


def has_part(text: Any, part: Any) -> bool | Failure:
    """Return whether the text contains the part."""
    return part in text if type(text) is str is type(part) else _no_method("contains", text, part)


def _no_method(name: str, text: object, part: object) -> Failure:
    return error(f"{name} takes two strings, not {kind_of(text)} and {kind_of(part)}")
