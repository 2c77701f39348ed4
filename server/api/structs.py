"""google.protobuf.Struct to and from plain JSON values, with budgets and without recursion.

A number arrives as a double; an integral one that a double holds exactly becomes an int, as it is in JSON.
"""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING, Any

from google.protobuf.struct_pb2 import NullValue, Struct, Value

from registry.errors import Violation
from registry.names import property_path
from server.contacts import MAX_BYTES as MAX_CONTACT_BYTES
from server.contacts import MAX_PROPERTIES
from server.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_DEPTH = 32
MAX_VALUES = 10_000
MAX_BYTES = 256 * 1024

_EXACT = 2.0**53

# So many values with so many characters are within every budget.
_SMALL, _SMALL_TEXT = 100, 8_000


class PayloadBudget:
    """What one Struct may hold: levels of nesting, values in all, bytes on the wire."""

    def __init__(self, depth: int = MAX_DEPTH, values: int = MAX_VALUES, size: int = MAX_BYTES) -> None:
        self.depth = depth
        self.values = values
        self.size = size


EVENT_BUDGET = PayloadBudget()
CONTACT_BUDGET = PayloadBudget(values=MAX_PROPERTIES, size=MAX_CONTACT_BYTES)
AUTOMATION_BUDGET = PayloadBudget()
RUN_BUDGET = PayloadBudget(values=1_000, size=64 * 1024)


def read_struct(struct: Struct, root: str = "properties", budget: PayloadBudget = EVENT_BUDGET) -> dict[str, Any]:
    """Read a Struct, the properties in the order of their names: on the wire they have none.

    Raises InvalidArgument with the path of a number that is not finite or of a broken budget.
    """
    values: dict[str, Any] = {}
    pending: list[_Pending] = []
    fields = struct.fields
    characters = 0
    for name in sorted(fields):
        value = fields[name]
        text = value.string_value
        characters += len(name) + len(text)
        kind = "string_value" if text else value.WhichOneof("kind")
        if kind == "string_value":
            values[name] = text
        elif kind == "number_value":
            values[name] = _number(value.number_value, root, name)
        elif kind == "bool_value":
            values[name] = value.bool_value
        else:
            values[name] = _branch(value, kind, property_path(root, name), 2, pending)
    # Most payloads are flat and so small that no budget needs a second look.
    if pending or len(values) > _SMALL or characters > _SMALL_TEXT:
        _check_size(struct, root, budget)
        _read_pending(pending, len(values), root, budget)
    return values


def depth_of(value: Any) -> int:
    """Count how many objects and lists are inside each other, empty ones aside."""
    level, depth = [value], 0
    while level := [inner for each in level for inner in _members(each)]:
        depth += 1
    return depth


def write_struct(values: Mapping[str, Any], struct: Struct) -> None:
    """Write plain values into an empty Struct."""
    fields = struct.fields
    for name, value in values.items():
        write_value(value, fields[name])


def write_value(value: Any, into: Value) -> None:
    """Write a plain value into an empty Value. Depth is bounded by the budget it was read with."""
    kind = value.__class__
    if kind is str:
        into.string_value = value
    elif kind is float or kind is int:
        into.number_value = value
    elif kind is bool:
        into.bool_value = value
    elif value is None:
        into.null_value = NullValue.NULL_VALUE
    elif kind is dict:
        into.struct_value.SetInParent()
        write_struct(value, into.struct_value)
    else:
        into.list_value.SetInParent()
        for item in value:
            write_value(item, into.list_value.values.add())


_Pending = tuple[Any, Value, str, int]
"""A list or object to be filled, the Value it comes from, its path and its depth."""


def _read_pending(pending: list[_Pending], count: int, root: str, budget: PayloadBudget) -> None:
    while pending:
        into, value, path, depth = pending.pop()
        if depth > budget.depth:
            raise _broken(path, "TOO_DEEP", f"{root} may be nested {budget.depth} levels deep, not more")
        items = _items(value)
        count += len(items)
        if count > budget.values:
            raise _broken(root, "TOO_MANY_VALUES", f"{root} may hold {budget.values:,} values, not more")
        if isinstance(into, dict):
            for name, inner in items:
                into[name] = _plain(inner, path, name, depth + 1, pending)
        else:
            into.extend(_plain(inner, path, index, depth + 1, pending) for index, inner in items)
    if count > budget.values:
        raise _broken(root, "TOO_MANY_VALUES", f"{root} may hold {budget.values:,} values, not more")


def _items(value: Value) -> list[tuple[str | int, Value]]:
    if value.HasField("struct_value"):
        return sorted(value.struct_value.fields.items())
    return list(enumerate(value.list_value.values))


def _plain(value: Value, parent: str, name: str | int, depth: int, pending: list[_Pending]) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "string_value":
        return value.string_value
    if kind == "number_value":
        return _number(value.number_value, parent, name)
    if kind == "bool_value":
        return value.bool_value
    return _branch(value, kind, _path(parent, name), depth, pending)


def _branch(value: Value, kind: str | None, path: str, depth: int, pending: list[_Pending]) -> Any:
    """Give null, or an empty list or object that is filled later."""
    if kind in (None, "null_value"):
        return None
    into: Any = {} if kind == "struct_value" else []
    pending.append((into, value, path, depth))
    return into


def _members(value: Any) -> Any:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _number(number: float, parent: str, name: str | int) -> float:
    if number.is_integer():
        return int(number) if -_EXACT <= number <= _EXACT else number
    if not isfinite(number):
        shown = "NaN" if number != number else "infinite"  # noqa: PLR0124 - only NaN differs from itself
        path = _path(parent, name)
        raise _broken(path, "INVALID_PROPERTY_VALUE", f"{path} is {shown}; a number must be finite")
    return number


def _path(parent: str, name: str | int) -> str:
    return property_path(parent, name) if isinstance(name, str) else f"{parent}[{name}]"


def _check_size(struct: Struct, root: str, budget: PayloadBudget) -> None:
    size = struct.ByteSize()
    if size > budget.size:
        raise _broken(root, "TOO_LARGE", f"{root} takes {size:,} bytes; at most {budget.size:,} are allowed")


def _broken(path: str, reason: str, message: str) -> InvalidArgument:
    return InvalidArgument(message, violations=[Violation(path, reason, message)])
