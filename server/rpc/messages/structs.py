"""google.protobuf.Struct to and from plain JSON values, with budgets and without recursion.

A number arrives as a double; an integral one that a double holds exactly becomes an int, as it is in JSON.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections import deque
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from google.protobuf.struct_pb2 import ListValue, Struct, Value

from registry.paths import property_path
from registry.values.json_values import (
    EVENT_BUDGET,
    number_problem,
    too_deep,
    too_large,
    too_many,
    value_path,
    violation_at,
)
from registry.values.stored_json import clamped
from server.errors import InvalidArgument
from server.rpc.messages.encoding import NAMES, VARINTS, sized_text, tags, to_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from registry.values.json_values import PayloadBudget

NO_KIND: Final = "is a google.protobuf.Value without a kind; for null, set null_value"
"""The fault of a Value that a client left empty, often by a misspelled field, to follow its path."""

_EXACT = 2.0**53
_NESTED = frozenset((dict, list))

# A payload with no more values and characters than these is within every budget.
_SMALL, _SMALL_TEXT = 100, 8_000

_LARGE: Final = 8 * 1024
"""A Struct of this size can have values for a millisecond."""

_SLICE_VALUES: Final = 500
"""Values that are read in one step, in 0.3 ms."""


Later = list["Iterator[object]"]
"""The slices of a large value that is read later by the caller. They raise InvalidArgument as the reader does."""


def read_struct(
    struct: Struct, root: str = "properties", budget: PayloadBudget = EVENT_BUDGET, later: Later | None = None
) -> dict[str, Any]:
    """Read a Struct, the properties in the order of their names: on the wire they have none.

    With `later`, the result of a large one is filled by the slices that are appended to it.

    Raise InvalidArgument with the path of a value without a kind, a number that is not finite, or a broken budget.
    """
    values: dict[str, Any] = {}
    pending: list[Pending] = []
    fields = struct.fields
    if len(fields) > _SMALL:
        _check_size(struct, root, budget)
        _check_count(len(fields), root, budget)
        if later is not None:
            later.append(_pending_slices([(values, struct, root, 1)], 0, root, budget))
            return values
    characters = 0
    for name in sorted(fields):
        value = fields[name]
        text = value.string_value
        characters += len(name) + len(text)
        kind = "string_value" if text else value.WhichOneof("kind")
        if kind == "string_value":
            values[name] = text
        elif kind == "number_value":
            values[name] = read_number(value.number_value, root, name)
        elif kind == "bool_value":
            values[name] = value.bool_value
        else:
            values[name] = _branch(value, kind, property_path(root, name), 2, pending)
    # Most payloads are flat and so small that no budget needs a second look.
    if pending or len(values) > _SMALL or characters > _SMALL_TEXT:
        size = _check_size(struct, root, budget)
        slices = _pending_slices(pending, len(values), root, budget)
        if later is not None and size > _LARGE:
            later.append(slices)
        else:
            deque(slices, 0)
    return values


def is_flat(values: Mapping[str, Any]) -> bool:
    """Return whether an object has neither objects nor lists in it."""
    return _NESTED.isdisjoint(map(type, values.values()))


def depth_of(value: Any) -> int:
    """Return how many objects and lists are nested in each other, without empty ones."""
    level, depth = [value], 0
    while level := [
        inner
        for each in level
        if each.__class__ in _NESTED
        for inner in (each.values() if each.__class__ is dict else each)
    ]:
        depth += 1
    return depth


def write_struct(values: Mapping[str, Any], struct: Struct) -> None:
    """Write plain values into an empty Struct."""
    struct.MergeFromString(to_bytes(encoded_struct(values)))


def write_value(value: Any, into: Value) -> None:
    """Write a plain value into an empty Value. Depth is bounded by the budget it was read with."""
    into.MergeFromString(to_bytes(encoded_value(value)))


_FIELDS, _KEY, _VALUE = *tags(Struct, "fields"), *tags(Struct.FieldsEntry, "key", "value")
_STRING, _NUMBER, _BOOL, _NULL, _STRUCT, _LIST = tags(
    Value, "string_value", "number_value", "bool_value", "null_value", "struct_value", "list_value"
)
(_ITEM,) = tags(ListValue, "values")
_TRUE, _FALSE, _NONE = f"{_BOOL}\x01", f"{_BOOL}\0", f"{_NULL}\0"
_pack_double = struct.Struct("<d").pack


def encoded_struct(values: Mapping[str, Any]) -> str:
    """Return plain values as an encoded Struct."""
    fields = []
    for name, value in values.items():
        content = encoded_value(value)
        entry = f"{_KEY}{NAMES[name]}{_VALUE}{VARINTS[len(content)]}{content}"
        fields.append(f"{_FIELDS}{VARINTS[len(entry)]}{entry}")
    return "".join(fields)


def encoded_value(value: Any) -> str:
    """Return a plain value as an encoded Value."""
    kind = value.__class__
    if kind is str:
        return f"{_STRING}{sized_text(value)}"
    if kind is float or kind is int:
        return f"{_NUMBER}{_encoded_number(value)}"
    if kind is bool:
        return _TRUE if value else _FALSE
    if value is None:
        return _NONE
    if kind is dict:
        content, tag = encoded_struct(value), _STRUCT
    else:
        content, tag = _encoded_items(value), _LIST
    return f"{tag}{VARINTS[len(content)]}{content}"


def _encoded_number(number: float) -> str:
    try:
        return _pack_double(number).decode("latin-1")
    except struct.error:  # an integer beyond the range of a double
        return _pack_double(clamped(number)).decode("latin-1")


_FEW = 16
_NUMBERS = {int, float}
_ENCODED_NUMBER = b"\x0a\x09\x11" + bytes(8)
"""An item of a ListValue: its field 1 of 9 bytes: the tag of `number_value`, field 2 of Value, and a double."""


def _encoded_items(items: Sequence[Any]) -> str:
    """Return the items of a list as an encoded ListValue."""
    if len(items) >= _FEW and {*map(type, items)} <= _NUMBERS:
        with suppress(OverflowError):
            return _encoded_numbers(items)
    contents = map(encoded_value, items)
    return "".join([f"{_ITEM}{VARINTS[len(content)]}{content}" for content in contents])


def _encoded_numbers(numbers: Sequence[float]) -> str:
    """Return numbers as an encoded ListValue, at once. Raise OverflowError for one beyond the range of a double.

    They are encoded in columns, as byte 0 of each, byte 1 and so on: 9,900 take 0.8 ms, one by one 6.3.
    """
    doubles = array("d", numbers)
    if sys.byteorder == "big":
        doubles.byteswap()
    columns, size = doubles.tobytes(), len(_ENCODED_NUMBER)
    encoded = bytearray(_ENCODED_NUMBER * len(numbers))
    for byte in range(8):
        encoded[size - 8 + byte :: size] = columns[byte::8]
    return encoded.decode("latin-1")


def _numbers(container: ListValue) -> array[float] | None:
    """Return the numbers of a ListValue as they are encoded, see `_encoded_numbers`; None if it has other values."""
    values = container.values
    if not (values[0].HasField("number_value") and values[-1].HasField("number_value")):
        return None  # a list of large texts is not encoded in vain
    encoded, count, size = container.SerializeToString(), len(values), len(_ENCODED_NUMBER)
    if len(encoded) != size * count or any(
        encoded[at::size] != _ENCODED_NUMBER[at : at + 1] * count for at in range(3)
    ):
        return None
    columns = bytearray(8 * count)
    for byte in range(8):
        columns[byte::8] = encoded[size - 8 + byte :: size]
    doubles = array("d", bytes(columns))
    if sys.byteorder == "big":
        doubles.byteswap()
    return doubles


Pending = tuple[Any, Any, str, int]
"""A list or object to be filled, the ListValue or Struct it comes from, its path and its depth."""


def read_pending(pending: list[Pending], count: int, root: str) -> None:
    """Fill the pending containers of an event, after `count` values were read. Raise as `read_struct` does."""
    deque(_pending_slices(pending, count, root, EVENT_BUDGET), 0)


def _pending_slices(pending: list[Pending], count: int, root: str, budget: PayloadBudget) -> Iterator[None]:
    unpaused = 0
    while pending:
        into, container, path, depth = pending.pop()
        if depth > budget.depth:
            raise InvalidArgument.of(too_deep(path, root, budget))
        inside = container.fields if isinstance(into, dict) else container.values
        count += len(inside)
        _check_count(count, root, budget)
        numbers = _numbers(container) if isinstance(into, list) and len(inside) >= _FEW else None
        members = iter(sorted(inside.items()) if isinstance(into, dict) else enumerate(numbers or inside))
        while step := [*islice(members, _SLICE_VALUES)]:
            if numbers:
                read = [(name, read_number(inner, path, name)) for name, inner in step]
            else:
                read = [(name, read_value(inner, path, name, depth + 1, pending)) for name, inner in step]
            if isinstance(into, dict):
                into.update(read)
            else:
                into.extend(value for _, value in read)
            unpaused += len(step)
            if unpaused >= _SLICE_VALUES:
                unpaused = 0
                yield
    _check_count(count, root, budget)


def read_value(value: Value, parent: str, name: str | int, depth: int, pending: list[Pending]) -> Any:
    """Read a member of an object or list at this depth; nested containers are left pending."""
    kind = value.WhichOneof("kind")
    if kind == "string_value":
        return value.string_value
    if kind == "number_value":
        return read_number(value.number_value, parent, name)
    if kind == "bool_value":
        return value.bool_value
    return _branch(value, kind, value_path(parent, name), depth, pending)


def _branch(value: Value, kind: str | None, path: str, depth: int, pending: list[Pending]) -> Any:
    """Return null, or an empty list or object that is filled later. Raise InvalidArgument for a value of no kind."""
    if kind == "null_value":
        return None
    if kind is None:
        raise InvalidArgument.of(violation_at(path, "INVALID_PROPERTY_VALUE", NO_KIND))
    into: Any = {} if kind == "struct_value" else []
    pending.append((into, getattr(value, kind), path, depth))
    return into


def read_number(number: float, parent: str, name: str | int) -> float:
    """Read a number as JSON has it. Raise InvalidArgument with its path for one that is not finite."""
    if number.is_integer():
        return int(number) if -_EXACT <= number <= _EXACT else number
    if problem := number_problem(number):
        raise InvalidArgument.of(violation_at(value_path(parent, name), "INVALID_PROPERTY_VALUE", problem))
    return number


def _check_size(struct: Struct, root: str, budget: PayloadBudget) -> int:
    size: int = struct.ByteSize()
    if size > budget.size:
        raise InvalidArgument.of(too_large(root, size, budget))
    return size


def _check_count(count: int, root: str, budget: PayloadBudget) -> None:
    """Raise InvalidArgument for more values than a budget allows."""
    if count > budget.values:
        raise InvalidArgument.of(too_many(root, budget))
