"""Replaces payloads beyond every limit by stand-ins, before they are built as messages.

Building a payload takes seven microseconds for a value of two bytes, so one that is certain to be refused is not built.
Its stand-in has the same number of bytes, or too many values, so the reader of payloads (`messages.structs`) refuses it
with the same error, and only the event concerned, not its whole batch.
"""

from __future__ import annotations

from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Final

from google.protobuf.struct_pb2 import ListValue, Struct, Value

from registry.values.json_values import MAX_BYTES, MAX_VALUES

if TYPE_CHECKING:
    from collections.abc import Iterator

PAYLOAD: Final = Struct.DESCRIPTOR.full_name

LEAST_BYTES: Final = 2 * MAX_VALUES
"""A JSON text has at least two bytes for each value, so a shorter one does not have too many."""

_CHUNK: Final = 500
_CONTAINERS: Final = frozenset({dict, list})

_TOO_MANY: Final = Struct(
    fields={"": Value(list_value=ListValue(values=[Value(null_value=0)] * MAX_VALUES))}  # type: ignore[arg-type]
)


def too_large(size: int) -> bool:
    """Return whether a payload of a number of bytes is beyond every budget."""
    return size > MAX_BYTES


def stand_in_for_large(payload: Struct, size: int) -> None:
    """Make a payload one of a number of bytes, give or take four."""
    payload.Clear()
    value = payload.fields[""]
    value.string_value = " " * size
    # What precedes the text takes a few bytes more or less, by the length of the text.
    while (excess := payload.ByteSize() - size) > 0:
        value.string_value = " " * (len(value.string_value) - excess)


def too_many_values(payload: Any) -> bool:
    """Return whether a JSON object has more values than any budget allows. Return false for what is no object."""
    if payload.__class__ is not dict:
        return False
    level: list[Any] = [payload]
    count = 0
    while level:
        count += sum(map(len, level))
        if count > MAX_VALUES:
            return True
        level = [
            member
            for container in level
            for member in (container.values() if container.__class__ is dict else container)
            if member.__class__ in _CONTAINERS
        ]
    return False


def stand_in_for_many(payload: Struct) -> None:
    """Make a payload one with too many values."""
    payload.CopyFrom(_TOO_MANY)


def name_counts(payload: dict[str, Any]) -> Iterator[int]:
    """Yield the numbers of names in the objects of a JSON object, a few at a time."""
    yield len(payload)
    level: list[Any] = [payload]
    while level:
        members: Iterator[Any] = chain.from_iterable(
            each.values() if each.__class__ is dict else each for each in level
        )
        level = []
        while chunk := [*islice(members, _CHUNK)]:
            inner = [member for member in chunk if member and member.__class__ in _CONTAINERS]
            level += inner
            yield sum(len(each) for each in inner if each.__class__ is dict)
