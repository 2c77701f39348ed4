"""The values that Signalbox can store: one definition, which every API applies before anything is stored.

A value is JSON. A number is a finite double: an integer beyond ±2^53 becomes the nearest double, one beyond the range
of a double is rejected. A text must not contain half a surrogate pair. A payload is limited in depth, values and bytes.
A rejected value is a `Violation` with the same message in every API; each API raises its own exception.

Nothing here recurses, because a decoder may return values that are nested more deeply than Python can recurse.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import partial
from math import copysign, inf, isfinite
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeAlias

import msgspec

from registry.errors import Violation
from registry.paths import property_path
from registry.values.plain_json import canonical_number

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from registry.values.plain_json import JSON

MAX_DEPTH: Final = 32
MAX_VALUES: Final = 10_000
MAX_BYTES: Final = 256 * 1024
MAX_CONTACT_VALUES: Final = 1_000
MAX_CONTACT_BYTES: Final = 64 * 1024

MAX_PATH: Final = 400
"""The longest path in a report, in characters: a path may have MAX_DEPTH names, and names may be long."""


_EXACT: Final = 2.0**53
INTEGER_DIGITS: Final = 309
"""Every integer with more digits is beyond the range of a double; some with exactly this many are."""

# Encoded again, a number has at most four times as many characters as were sent: 1e15 becomes 1000000000000000.0.
_GROWTH: Final = 4

_LONG_INTEGER = re.compile(rf"(?<![0-9])[0-9]{{{INTEGER_DIGITS + 1}}}")
_DIGITS_AS_ZEROS = bytes.maketrans(b"123456789", b"000000000")
_LARGE_EXPONENT = re.compile(rb"[eE]\+?[0-9]{2}")

_SURROGATE = re.compile("[\ud800-\udfff]")

_encode = msgspec.json.Encoder().encode

OUT_OF_RANGE: Final = "is beyond the range of a double; a number must be finite"
"""The problem with a number such as 1e400, worded to follow its path."""
NOT_A_NUMBER: Final = "is NaN; a number must be finite"
HALF_A_PAIR: Final = "contains half a surrogate pair, which is not a character"


@dataclass(frozen=True, slots=True)
class PayloadBudget:
    """Limits of one payload: levels of nesting, number of values, and bytes as sent."""

    depth: int = MAX_DEPTH
    values: int = MAX_VALUES
    size: int = MAX_BYTES


EVENT_BUDGET: Final = PayloadBudget()
CONTACT_BUDGET: Final = PayloadBudget(values=MAX_CONTACT_VALUES, size=MAX_CONTACT_BYTES)
AUTOMATION_BUDGET: Final = PayloadBudget()
RUN_BUDGET: Final = PayloadBudget(values=1_000, size=64 * 1024)


def payload_violation(
    values: Mapping[str, Any], root: str, budget: PayloadBudget, received: int | None = None
) -> Violation | None:
    """Return the first violation of a payload, whose path is `root`; None if it can be stored.

    `received` is the size in bytes of the JSON text, if the payload came as one.
    """
    level: list[Any] = [values]
    count = depth = 0
    while level:
        depth += 1
        if depth > budget.depth:
            return too_deep(_first_container(values, root, depth), root, budget)
        count += sum(map(len, level))
        if count > budget.values:
            return too_many(root, budget)
        below: list[Any] = []
        for container in level:
            if not _is_storable(container, below):
                return value_violation(values, root)
        level = below
    if received is None or received * _GROWTH > budget.size:
        size = len(_encode(values))
        if size > budget.size:
            return too_large(root, size, budget)
    return None


def value_violation(value: Any, path: str) -> Violation | None:
    """Return the violation of the first number or text in a JSON value that cannot be stored; None if all can."""
    for place, scalar in _scalars(value, path):
        problem = text_problem(scalar) if type(scalar) is str else number_problem(scalar)
        if problem:
            return violation_at(_path_to(place, value_path), "INVALID_PROPERTY_VALUE", problem)
    return None


def number_problem(number: float) -> str:
    """Return the problem with a number, to follow its path; empty if it can be stored."""
    if type(number) is float:
        if isfinite(number):
            return ""
        return NOT_A_NUMBER if number != number else OUT_OF_RANGE  # noqa: PLR0124 - only NaN differs from itself
    try:
        float(number)
    except OverflowError:
        return OUT_OF_RANGE
    return ""


def text_problem(text: str) -> str:
    """Return the problem with a text, to follow its path; empty if it can be stored."""
    return HALF_A_PAIR if not text.isascii() and _SURROGATE.search(text) else ""


def violation_at(path: str, reason: str, problem: str) -> Violation:
    """Return the violation at a path, empty for the whole body; its message is the path followed by the problem."""
    path = _bounded(path)
    return Violation(path, reason, f"{path or 'The body'} {problem}")


def too_deep(path: str, root: str, budget: PayloadBudget) -> Violation:
    """Return the violation of a container that is nested too deep."""
    message = f"{root or 'The body'} is nested too deep; at most {budget.depth} levels are allowed"
    return Violation(_bounded(path), "TOO_DEEP", message)


def too_many(root: str, budget: PayloadBudget) -> Violation:
    """Return the violation of a payload with too many values."""
    return violation_at(root, "TOO_MANY_VALUES", f"may hold {budget.values:,} values, not more")


def too_large(root: str, size: int, budget: PayloadBudget) -> Violation:
    """Return the violation of a payload with too many bytes."""
    return violation_at(root, "TOO_LARGE", f"takes {size:,} bytes; at most {budget.size:,} are allowed")


def all_exact(container: Any) -> bool:
    """Return whether every number inside an object or array is within ±2^53, where doubles are exact."""
    level = [container]
    while level:
        below: list[Any] = []
        for nested in level:
            for value in nested.values() if type(nested) is dict else nested:
                kind = type(value)
                if kind is dict or kind is list:
                    below.append(value)
                elif (kind is int or kind is float) and not -_EXACT < value < _EXACT:
                    return False
        level = below
    return True


_Place: TypeAlias = "tuple[_Place | None, str | int]"
"""The place of the enclosing container, and the name or index in it; for the outermost container, None and its path.

Paths are made from places only where they are needed: together they can be far larger than the payload.
"""


def with_numbers(container: Any, path: str, convert: Callable[[Callable[[], str], float], JSON]) -> Any:
    """Return a copy of an object or array in which each number not within ±2^53 is `convert(path, number)`.

    `path` is that of the container: for an item of a typed array the empty one, to which the paths of its numbers are
    relative (`.sku`). `convert` gets a function that makes the path of the number.
    """
    copy = container.copy()
    pending: list[tuple[Any, _Place]] = [(copy, (None, path))]
    while pending:
        into, parent = pending.pop()
        for name, value in into.items() if type(into) is dict else enumerate(into):
            kind = type(value)
            if kind is dict or kind is list:
                into[name] = value.copy()
                pending.append((into[name], (parent, name)))
            elif (kind is int or kind is float) and not -_EXACT < value < _EXACT:
                into[name] = convert(partial(_path_to, (parent, name), _inner_path), value)
    return copy


def _path_to(place: _Place, member_path: Callable[[str, str | int], str]) -> str:
    names: list[str | int] = []
    parent, name = place
    while parent is not None:
        names.append(name)
        parent, name = parent
    path = str(name)
    for inner in reversed(names):
        path = member_path(path, inner)
    return path


def with_doubles(container: Any) -> Any:
    """Return a valid object or array as it is stored: each integer beyond ±2^53 as the nearest double."""
    if all_exact(container):
        return container
    return with_numbers(container, "", lambda _, number: canonical_number(number))


def value_path(parent: str, name: str | int) -> str:
    """Return the path of a member of an object or an array for a violation, which has no more than MAX_PATH of it.

    A path that is longer leads no further: 10,000 members of one object would have as many copies of it.
    """
    return _member_path(parent, name) if len(parent) <= MAX_PATH else parent


def _inner_path(parent: str, name: str | int) -> str:
    return f"{parent}[{name}]" if isinstance(name, int) else property_path(parent, name)


def _member_path(parent: str, name: str | int) -> str:
    path = _inner_path(parent, name)
    return path if parent else path.removeprefix(".")


def read_json(text: str) -> JSON:
    """Return the value of a JSON text in which violations are to be found.

    It accepts halves of surrogate pairs and huge numbers, which become infinite, so that `value_violation` can locate
    them. Raise ValueError for text that is not JSON, RecursionError for text that is nested too deep.
    """
    value: JSON = _read(text)
    return value


def repeated_name(text: str) -> str | None:
    """Return a name that an object in a JSON text has twice, None if there is none: decoders take its last value.

    Raise ValueError for text that is not JSON, RecursionError for text that is nested too deep.
    """
    repeated: list[str] = []

    def check(members: list[tuple[str, Any]]) -> None:
        seen: set[str] = set()
        for name, _ in members:
            if name in seen:
                repeated.append(name)
            seen.add(name)

    _read(text, check)
    return repeated[0] if repeated else None


def json_violation(content: bytes) -> Violation | None:
    """Return the violation for which a decoder rejected a JSON text.

    None if all its values can be stored: then the text is not JSON or does not have the expected form. Of a name that
    an object has twice, both values count: the decoder has read both.
    """
    if not _may_hold_violations(content):
        return None
    try:
        return value_violation(_read(content.decode("utf-8", "surrogatepass"), _Members), "")
    except (ValueError, RecursionError):
        return None


def overridden_violation(content: bytes) -> Violation | None:
    """Return the violation of a value in a JSON text that a decoder accepted because a later one of its name counts.

    A decoder rejects all that cannot be stored, even if it is overridden, but an integer beyond the range of a double.
    """
    if not _may_hold_long_integer(content):
        return None
    fault = json_violation(content)
    return fault if fault is not None and value_violation(_read(content.decode()), "") is None else None


def _read(text: str, read_object: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    # To be called for each number takes longer than all the rest.
    read_integer = _read_integer if _LONG_INTEGER.search(text) else None
    return json.loads(text, parse_constant=_no_constant, parse_int=read_integer, object_pairs_hook=read_object)


def _may_hold_violations(content: bytes) -> bool:
    """Return whether a JSON text may have half a surrogate pair, or a number beyond the range of a double.

    To look at each value of a MiB takes up to 0.1 s, in which nothing else could happen, and most texts are rejected
    for other reasons.
    """
    return (
        b"\\ud" in content
        or b"\\uD" in content
        or b"\xed" in content
        or _may_hold_long_integer(content)
        or _LARGE_EXPONENT.search(content) is not None
    )


def _may_hold_long_integer(content: bytes) -> bool:
    return len(content) >= INTEGER_DIGITS and b"0" * INTEGER_DIGITS in content.translate(_DIGITS_AS_ZEROS)


class _Members(list[tuple[str, Any]]):
    """The members of an object as they were written, names that are repeated too."""


def _bounded(path: str) -> str:
    return path if len(path) <= MAX_PATH else path[:MAX_PATH] + "…"


def _is_storable(container: Any, below: list[Any]) -> bool:
    """Return whether all numbers and texts of an object or array can be stored; append its containers to `below`."""
    if type(container) is dict:
        for name in container:
            if not name.isascii() and _SURROGATE.search(name):
                return False
        members = container.values()
    else:
        members = container
    for value in members:
        kind = type(value)
        if kind is str:
            if not value.isascii() and _SURROGATE.search(value):
                return False
        elif kind is int or kind is float:
            if not -_EXACT < value < _EXACT and number_problem(value):
                return False
        elif kind is dict or kind is list:
            below.append(value)
    return True


def _scalars(value: Any, path: str) -> Iterator[tuple[_Place, Any]]:
    """Yield numbers, texts and names in document order, each with its place; of a name, that of its value."""
    pending: list[tuple[_Place | None, Iterator[tuple[str | int, Any]]]] = [(None, iter([(path, value)]))]
    while pending:
        parent, members = pending[-1]
        for name, member in members:
            place = parent, name
            if parent is not None and type(name) is str:
                yield place, name
            kind = type(member)
            if kind is str or kind is int or kind is float:
                yield place, member
            elif kind is dict or kind is list or kind is _Members:
                pending.append((place, _members(member)))
                break
        else:
            pending.pop()


def _members(container: Any) -> Iterator[tuple[str | int, Any]]:
    if type(container) is dict:
        return iter(container.items())
    return iter(container) if type(container) is _Members else enumerate(container)


def _first_container(values: Any, root: str, depth: int) -> str:
    """Return the path of the first object or array at a depth, the payload being at 1."""
    pending = [(root, values, 1)]
    while pending:
        here, container, level = pending.pop()
        if level == depth:
            return here
        members = list(container.items() if type(container) is dict else enumerate(container))
        pending += [
            (value_path(here, name), member, level + 1)
            for name, member in reversed(members)
            if type(member) is dict or type(member) is list
        ]
    return root


def _read_integer(text: str) -> float:
    return int(text) if len(text) <= INTEGER_DIGITS + 1 else copysign(inf, -1 if text[0] == "-" else 1)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON value")
