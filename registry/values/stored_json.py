"""Reading stored JSON, which an earlier release may have stored by looser rules than those of `json_values.py`."""

from __future__ import annotations

import logging
import sys
from functools import cache
from math import copysign
from typing import TYPE_CHECKING, Any, Final

import msgspec

from registry.values.json_values import INTEGER_DIGITS, MAX_DEPTH, all_exact, number_problem, with_numbers

if TYPE_CHECKING:
    from collections.abc import Callable

LARGEST: Final = sys.float_info.max

_log = logging.getLogger("signalbox.values")
_decode = msgspec.json.Decoder().decode


class DamagedObject(str):
    """The text of a stored object, with U+FFFD in place of bytes that are not UTF-8."""

    __slots__ = ()


def load_stored(text: str) -> Any:
    """Return a stored object or array; numbers beyond the range of a double, from earlier releases, are clamped.

    Raise ValueError if it is nested deeper than MAX_DEPTH: a gRPC client could not read it.
    """
    value = load_nested(text, MAX_DEPTH)
    if len(text) < INTEGER_DIGITS or all_exact(value):
        return value
    return with_numbers(value, "", lambda _, number: clamped(number) if number_problem(number) else number)


def load_nested(text: str, depth: int, decode: Callable[[str], Any] = _decode) -> Any:
    """Return stored JSON. Raise ValueError if it is damaged, or nested more than `depth` levels deep.

    `decode` is that of a decoder for a type, whose errors it raises.
    """
    if isinstance(text, DamagedObject):
        raise ValueError("its text is not UTF-8")  # noqa: TRY004
    value = decode(text)
    if text.count("[") + text.count("{") > depth and _is_deeper(value, depth):
        raise ValueError(f"it is nested more than {depth} levels deep")
    return value


def clamped(number: float) -> float:
    """Return the largest double with the sign of a stored number beyond the range of doubles, and log a warning."""
    _warn_of_clamping()
    return copysign(LARGEST, -1 if number < 0 else 1)


@cache
def _warn_of_clamping() -> None:
    """Log only once in a process: a page of old rows would fill the log."""
    _log.warning(
        "a stored number is beyond the range of a double and is read as the largest one: an earlier release stored it"
    )


def _is_deeper(container: Any, depth: int) -> bool:
    """Return whether objects and arrays are nested more than `depth` levels deep."""
    level = [container]
    for _ in range(depth):
        level = [
            value
            for nested in level
            for value in (nested.values() if type(nested) is dict else nested)
            if type(value) is dict or type(value) is list
        ]
        if not level:
            return False
    return True
