"""Plain JSON values, and the canonical form of numbers."""

from __future__ import annotations

import json
import math
from typing import TypeAlias

import msgspec

JSON: TypeAlias = "bool | int | float | str | list[JSON] | dict[str, JSON] | None"
"""The values that a JSON decoder returns: exactly these types, no subclasses."""

_SHOWN_LENGTH = 40
_LARGEST_INT = 2.0**53


def canonical_number(value: float) -> int | float | None:
    """Return the canonical form of a number: an int where it is integral and exact, else a double.

    5.0 becomes 5 and -0.0 becomes 0. An integer beyond ±2**53 becomes the nearest double. Return None for a number that
    is not a finite double.
    """
    if type(value) is float:
        if value.is_integer():
            return int(value) if -_LARGEST_INT <= value <= _LARGEST_INT else value
        return value if math.isfinite(value) else None
    if is_exact(value):
        return value
    try:
        return canonical_number(float(value))
    except OverflowError:
        return None


def is_exact(value: float) -> bool:
    """Return whether the number is between ±2**53, where no two integers become the same double."""
    return -_LARGEST_INT < value < _LARGEST_INT


def number_text(value: float) -> str | None:
    """Return the number as its shortest JSON text (`5`, not `5.0`); None for a number that is not a finite double.

    An int keeps all its digits, because it arrived exactly and becomes text, not a double.
    """
    number = canonical_number(value)
    if number is None:
        return None
    exact = value if type(value) is int else number
    return str(exact) if type(exact) is int else msgspec.json.encode(exact).decode()


def describe(value: JSON) -> str:
    """Return a description of the value: `the string "abc"`, `the number 5`, `an object`; long text is shortened."""
    match value:
        case None | bool():
            return json.dumps(value)
        case str():
            return f"the string {_quote(value)}"
        case dict():
            return "an object"
        case list():
            return "an array"
        case _:
            return _describe_number(value)


def _quote(text: str) -> str:
    shown = text if len(text) <= _SHOWN_LENGTH else text[:_SHOWN_LENGTH] + "…"
    return json.dumps(shown, ensure_ascii=False)


def _describe_number(value: float) -> str:
    text = number_text(value)
    if text is None:
        return "an integer beyond the range of a double" if type(value) is int else json.dumps(value)
    return f"the number {text}" if len(text) <= _SHOWN_LENGTH else f"the number {text[:_SHOWN_LENGTH]}…"
