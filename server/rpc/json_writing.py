"""Messages as JSON, as Protocol Buffers define it: faster than the library's own, and in slices.

The result is what the library's `json_format.MessageToJson` writes: names in lowerCamelCase, 64-bit integers as texts,
enums by name, and no field that has its default. `tests/test_proto_json.py` compares the two.

Like requests, responses are walked breadth first: each message or list is a step of at most CHUNK members.
"""

from __future__ import annotations

import base64
from collections import deque
from functools import cache, lru_cache
from itertools import islice
from math import copysign, isfinite
from time import gmtime
from typing import TYPE_CHECKING, Any, Final

import msgspec
from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from google.protobuf.descriptor import Descriptor, EnumDescriptor
    from google.protobuf.message import Message

    from server.sharing.loop_time import LoopTime

    Write = Callable[[Any, Any, "Pending"], None]
    """Writes a message, or a list of values, into an empty dict or list; what it contains is left pending."""
    Pending = deque[tuple[Write, Any, Any]]
    Convert = Callable[[Any, "Pending"], Any]
    """Returns the JSON value of a field, which may be filled later."""

CHUNK: Final = 500

_EXACT: Final = 2.0**53
_INTEGERS_AS_TEXT = {FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64}
_FLOATS = {FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT}
_encode = msgspec.json.Encoder().encode


def write_json(message: Message) -> bytes:
    """Return the JSON text of a message."""
    value: dict[str, Any] = {}
    for _ in _slices(message, value):
        pass
    return _encode(value)


async def write_json_in_slices(message: Message, loop_time: LoopTime, key: object) -> bytes:
    """Return the JSON text of a large message, as `write_json` does."""
    value: dict[str, Any] = {}
    async with loop_time.slices(key) as slices:
        for _ in _slices(message, value):
            if slices.used_up():
                await slices.pause()
        return _encode(value)


def json_value(message: Message) -> dict[str, Any]:
    """Return a message as plain JSON values."""
    value: dict[str, Any] = {}
    for _ in _slices(message, value):
        pass
    return value


def _slices(message: Message, into: dict[str, Any]) -> Iterator[None]:
    pending: Pending = deque([(_message_writer(message.DESCRIPTOR), message, into)])
    while pending:
        write, value, into = pending.popleft()
        write(value, into, pending)
        yield


@cache
def _message_writer(descriptor: Descriptor) -> Write:
    """Return the function that writes messages of a type without a special JSON form into a dict."""
    if descriptor.is_extendable:
        return _write_listed
    # Compiled with the first message, as types may be nested. Listing the fields that are set takes twice as long.
    fields: list[tuple[str, str, _Presence, Convert]] = []

    def write(message: Any, into: Any, pending: Pending) -> None:
        for name, json_name, presence, convert in fields or _compile(descriptor, fields):
            if presence is _EXPLICIT:
                if message.HasField(name):
                    into[json_name] = convert(getattr(message, name), pending)
            elif value := getattr(message, name):
                into[json_name] = value if presence is _PLAIN else convert(value, pending)
            elif value.__class__ is float and copysign(1.0, value) < 0:
                into[json_name] = value

    return write


_Presence = int
_EXPLICIT, _IMPLICIT, _PLAIN = range(3)
"""How a field is known to be set: by a mark, or by differing from its default. A PLAIN value is its own JSON."""


def _compile(descriptor: Descriptor, fields: list[tuple[str, str, int, Convert]]) -> Any:
    for field in descriptor.fields:
        presence = _EXPLICIT if field.has_presence else _PLAIN if _is_plain(field) else _IMPLICIT
        fields.append((field.name, field.json_name, presence, _field_converter(field)))
    return fields


def _is_plain(field: FieldDescriptor) -> bool:
    return not field.is_repeated and (
        field.cpp_type in {FieldDescriptor.CPPTYPE_BOOL, FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_UINT32}
        or field.type == FieldDescriptor.TYPE_STRING
    )


def _write_listed(message: Any, into: Any, pending: Pending) -> None:
    """Write a message that may have extensions."""
    for field, value in message.ListFields():
        name = f"[{field.full_name}]" if field.is_extension else field.json_name
        into[name] = _field_converter(field)(value, pending)


def _field_converter(field: FieldDescriptor) -> Convert:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return _map_converter(_converter(field.message_type.fields_by_name["value"]))
    convert = _converter(field)
    return _list_converter(convert) if field.is_repeated else convert


def _list_converter(convert: Convert) -> Convert:
    def write_chunk(chunk: Any, into: Any, pending: Pending) -> None:
        into.extend(convert(value, pending) for value in chunk)

    def convert_list(values: Any, pending: Pending) -> list[Any]:
        made: list[Any] = []
        if len(values) <= CHUNK:
            write_chunk(values, made, pending)
        else:
            pending.extend((write_chunk, chunk, made) for chunk in _chunks(values))
        return made

    return convert_list


def _map_converter(convert: Convert) -> Convert:
    def write_chunk(chunk: Any, into: Any, pending: Pending) -> None:
        for key, value in chunk:
            into[_key_text(key)] = convert(value, pending)

    def convert_map(values: Any, pending: Pending) -> dict[str, Any]:
        made: dict[str, Any] = {}
        pending.extend((write_chunk, chunk, made) for chunk in _chunks(values.items()))
        return made

    return convert_map


def _converter(field: FieldDescriptor) -> Convert:
    """Return the function that converts one value of a field."""
    if field.message_type is not None:
        return _message_converter(field.message_type)
    if field.cpp_type in _INTEGERS_AS_TEXT:
        return lambda value, _: str(value)
    if field.cpp_type in _FLOATS:
        return lambda value, _: value if isfinite(value) else _float_text(value)
    if field.cpp_type == FieldDescriptor.CPPTYPE_ENUM:
        names = {value.number: value.name for value in enum_of(field).values}
        return lambda value, _: names.get(value, value)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return lambda value, _: base64.b64encode(value).decode()
    return lambda value, _: value


def _message_converter(descriptor: Descriptor) -> Convert:
    name = descriptor.full_name
    well_known: dict[str, Convert] = {
        "google.protobuf.Timestamp": lambda value, _: timestamp_text(value.seconds, value.nanos),
        "google.protobuf.Duration": lambda value, _: value.ToJsonString(),
        "google.protobuf.FieldMask": lambda value, _: value.ToJsonString(),
        "google.protobuf.Struct": _convert_struct,
        "google.protobuf.Value": _convert_value,
        "google.protobuf.ListValue": lambda value, pending: _convert_values(value.values, pending),
    }
    if name in well_known:
        return well_known[name]
    if name == "google.protobuf.Any" or descriptor.file.name == "google/protobuf/wrappers.proto":
        return lambda value, _: json_format.MessageToDict(value)
    write = _message_writer(descriptor)

    def convert(message: Any, pending: Pending) -> dict[str, Any]:
        made: dict[str, Any] = {}
        pending.append((write, message, made))
        return made

    return convert


# Well-known types


def timestamp_text(seconds: int, nanos: int) -> str:
    """Return a time as RFC 3339 with 0, 3, 6 or 9 digits of the second."""
    if not nanos:
        return f"{_second_text(seconds)}Z"
    digits = f"{nanos:09}"
    if digits.endswith("000000"):
        return f"{_second_text(seconds)}.{digits[:3]}Z"
    return f"{_second_text(seconds)}.{digits[:6] if digits.endswith('000') else digits}Z"


@lru_cache(1_000)
def _second_text(seconds: int) -> str:
    year, month, day, hour, minute, second, *_ = gmtime(seconds)
    return f"{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}"


def _convert_struct(struct: Any, pending: Pending) -> dict[str, Any]:
    made: dict[str, Any] = {}
    fields = struct.fields
    # Sorted, as they are stored: on the wire they have no order.
    names = sorted(fields)
    pending.extend((_write_members, (fields, chunk), made) for chunk in _chunks(names))
    return made


def _write_members(members: tuple[Any, list[str]], into: Any, pending: Pending) -> None:
    fields, names = members
    for name in names:
        into[name] = _convert_value(fields[name], pending)


def _convert_values(values: Any, pending: Pending) -> list[Any]:
    made: list[Any] = []
    pending.extend((_write_items, chunk, made) for chunk in _chunks(values))
    return made


def _write_items(items: Iterable[Any], into: Any, pending: Pending) -> None:
    into.extend(_convert_value(item, pending) for item in items)


def _convert_value(value: Any, pending: Pending) -> Any:
    if text := value.string_value:
        return text
    kind = value.WhichOneof("kind")
    if kind == "number_value":
        number = value.number_value
        return int(number) if number.is_integer() and -_EXACT <= number <= _EXACT else number
    if kind == "bool_value":
        return value.bool_value
    if kind == "struct_value":
        return _convert_struct(value.struct_value, pending)
    if kind == "list_value":
        return _convert_values(value.list_value.values, pending)
    return "" if kind == "string_value" else None


# Parts


def _chunks(values: Any) -> Iterator[Any]:
    if len(values) <= CHUNK:
        yield values
        return
    rest = iter(values)
    while chunk := list(islice(rest, CHUNK)):
        yield chunk


def enum_of(field: FieldDescriptor) -> EnumDescriptor:
    """Return the type of an enum field."""
    assert field.enum_type is not None
    return field.enum_type


def _key_text(key: Any) -> str:
    if key.__class__ is bool:
        return "true" if key else "false"
    return str(key)


def _float_text(value: float) -> str:
    if value != value:  # noqa: PLR0124 - only NaN differs from itself
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"
