"""CEL's literals: numbers, and strings with their escapes."""

from __future__ import annotations

import math
import re
from typing import Final

from automation.conditions.values import MAX_INT, Int

_LONGEST_INT = 20
"""One digit more than the largest 64-bit integer has. Longer ones are not read: `int` rejects thousands of digits."""

_ESCAPE = re.compile(
    r"\\(?:x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|([0-3][0-7]{2})|([abfnrtv\\?\"'`])|.)", re.DOTALL
)
_PLAIN: Final = dict(zip("abfnrtv\\?\"'`", "\a\b\f\n\r\t\v\\?\"'`", strict=True))


def read_int(text: str) -> Int:
    """Return the integer of decimal or hexadecimal digits.

    2^63 is accepted, one more than the largest integer, because a minus sign may precede it. Raise ValueError for more.
    """
    base, digits = (16, text[2:]) if text[:2] in {"0x", "0X"} else (10, text)
    digits = digits.lstrip("0") or "0"
    value = int(digits, base) if len(digits) <= _LONGEST_INT else math.inf
    if value > MAX_INT + 1:
        raise ValueError("An integer may be at most 9223372036854775807")
    return Int(value)


def read_double(text: str) -> float:
    """Return the double of a decimal number. Raise ValueError if it is beyond the range of a double."""
    value = float(text)
    if math.isinf(value):
        raise ValueError("The number is beyond the range of a double")
    return value


def read_string(token: str) -> str:
    """Return the text of a string literal: in single, double or triple quotes, raw after an `r`.

    Raise ValueError for an unknown escape, or one that is not a character.
    """
    raw = token[0] in "rR"
    quoted = token[1:] if raw else token
    width = 3 if quoted[:3] in {'"""', "'''"} else 1
    inside = quoted[width:-width]
    return inside if raw or "\\" not in inside else _ESCAPE.sub(_character, inside)


def _character(escape: re.Match[str]) -> str:
    two, four, eight, octal, plain = escape.groups()
    if plain:
        return _PLAIN[plain]
    if octal:
        return chr(int(octal, 8))
    digits = two or four or eight
    if digits is None:
        raise ValueError(f"The escape {escape.group()} is not defined; write a backslash twice")
    code = int(digits, 16)
    if code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
        raise ValueError(f"The escape {escape.group()} is not a valid character")
    return chr(code)
