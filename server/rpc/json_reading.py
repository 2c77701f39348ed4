"""Messages from JSON, as Protocol Buffers define it: faster than the library's own, in slices, with paths in errors.

What the library's `json_format.Parse` accepts gives the same message here, and what it refuses is refused. But these
are refused only here: values that are no JSON (NaN, Infinity), an empty list or text in place of an object, a field
that is given under both of its names, and a time or a duration that the library guesses, such as an offset of +99:99.
`tests/test_proto_json.py` compares the two.

The JSON is read breadth first, without recursion: each object or list is a step of at most CHUNK members, so that a
large request leaves the event loop to others in between.
"""

from __future__ import annotations

import re
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import msgspec
from google.protobuf import json_format

from registry.errors import Violation
from registry.suggestions import Suggestions
from server.errors import InvalidArgument
from server.rpc.json_scalars import converter, form_of, key_converter
from server.status import cut

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable, Iterator

    from google.protobuf.descriptor import Descriptor, FieldDescriptor

    Path = tuple["Path", str | int] | None
    """The way to a value, as the path of its parent and its own name or index. Few are ever written out."""
    Read = Callable[[Any, Any, Path, int, "Pending"], None]
    """Reads a value into a message at a depth; what it contains is left pending."""
    Pending = deque[tuple[Read, Any, Any, Path, int]]

MAX_DEPTH: Final = 100
"""The most messages within each other, where a value in a Struct and the object or list in it are two."""

CHUNK: Final = 500

MAX_SHOWN: Final = 100
"""The most characters of a value or a name in an error."""

_FROM_TEXT = {"google.protobuf.Duration", "google.protobuf.FieldMask", "google.protobuf.Timestamp"}
_FORMS = {
    "google.protobuf.Duration": 'such as "30s"',
    "google.protobuf.FieldMask": 'such as "name,description"',
    "google.protobuf.Timestamp": 'an RFC 3339 time such as "2026-06-01T12:00:00Z"',
}
_PATTERNS = {
    "google.protobuf.Duration": r"-?[0-9]+(\.[0-9]{1,9})?s",
    "google.protobuf.FieldMask": r"(?s).*",
    "google.protobuf.Timestamp": (
        r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
    ),
}
"""The forms of these texts. The library would accept digits of any script, and signs and underscores among them."""


def too_deep(path: Path) -> InvalidArgument:
    """Return the error of a message that is nested too deep."""
    return refused(path, f"is nested more than {MAX_DEPTH} messages deep", "TOO_DEEP")


def refused(path: Path, fault: str, reason: str = "INVALID_FIELD") -> InvalidArgument:
    """Return the error of a value at a path."""
    place = path_text(path)
    return InvalidArgument.of(Violation(place, reason, f"{place or 'The request'} {fault}"))


def path_text(path: Path) -> str:
    """Write a path out, as in `events[3].properties.order_total`."""
    names: list[str] = []
    while path is not None:
        path, name = path
        names.append(f"[{name}]" if isinstance(name, int) else f".{cut(name, MAX_SHOWN)}")
    return "".join(reversed(names)).removeprefix(".")


# Messages


@cache
def message_reader(descriptor: Descriptor) -> Read:
    """Return the function that reads a JSON value into a message of a type."""
    name = descriptor.full_name
    if name in _FROM_TEXT:
        return _text_reader(_FORMS[name], re.compile(_PATTERNS[name]))
    well_known = {
        "google.protobuf.Struct": read_struct,
        "google.protobuf.Value": _read_value,
        "google.protobuf.ListValue": _read_list,
    }.get(name)
    if well_known is not None:
        return well_known
    if name == "google.protobuf.Any" or descriptor.file.name == "google/protobuf/wrappers.proto":
        return _read_by_library
    return _ObjectReader(descriptor)


class _ObjectReader:
    """Reads objects into messages of one type. The fields are compiled with the first object: types may be nested."""

    def __init__(self, descriptor: Descriptor) -> None:
        self._descriptor = descriptor
        self._fields: dict[str, _Field] = {}

    def __call__(self, value: Any, message: Any, path: Path, depth: int, pending: Pending) -> None:
        if value.__class__ is not dict:
            raise refused(path, f"must be an object, not {_shown(value)}")
        fields = self._fields or self._compile()
        seen: set[str] = set()
        for name, inner in value.items():
            field = fields.get(name)
            place = (path, name)
            if field is None:
                raise self._unknown(path, name)
            if field.name in seen:
                raise refused(place, f"is given twice, as {field.json_name} and as {field.name}", "DUPLICATE_FIELD")
            seen.add(field.name)
            if inner is None:
                field.read_null(message)
                continue
            if field.oneof:
                if field.oneof in seen:
                    raise refused(
                        place, f"is the second field of {field.oneof.strip(' _')}; set one", "DUPLICATE_FIELD"
                    )
                seen.add(field.oneof)
            field.read(inner, message, place, depth, pending)

    def _compile(self) -> dict[str, _Field]:
        fields = [_Field(field) for field in self._descriptor.fields]
        self._fields = {field.name: field for field in fields} | {field.json_name: field for field in fields}
        return self._fields

    def _unknown(self, path: Path, name: str) -> InvalidArgument:
        known = [field.json_name for field in self._descriptor.fields]
        meant = Suggestions(known).closest(name)
        hint = f"; did you mean {meant}?" if meant else f"; it has {', '.join(known)}" if known else ""
        return refused((path, name), f"is not a field of {self._descriptor.name}{hint}", "UNKNOWN_FIELD")


class _Field:
    """One field of a message."""

    __slots__ = ("_clears", "json_name", "name", "oneof", "read")

    def __init__(self, field: FieldDescriptor) -> None:
        self.name = field.name
        self.json_name = field.json_name
        # With a blank, no name of a field is equal to it.
        self.oneof = f" {field.containing_oneof.name}" if field.containing_oneof is not None else ""
        self.read = _field_reader(field)
        kind = field.message_type
        self._clears = kind is None or kind.full_name != "google.protobuf.Value" or field.is_repeated

    def read_null(self, message: Any) -> None:
        """Read null: the field is not set, except for a Value, which is null."""
        if self._clears:
            message.ClearField(self.name)
        else:
            getattr(message, self.name).null_value = 0


def _field_reader(field: FieldDescriptor) -> Read:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return _map_reader(field)
    if field.message_type is None:
        return _repeated_scalar_reader(field) if field.is_repeated else _scalar_reader(field)
    return _repeated_message_reader(field) if field.is_repeated else _message_field_reader(field)


def _scalar_reader(field: FieldDescriptor) -> Read:
    name, convert, form = field.name, converter(field), form_of(field)

    def read(value: Any, message: Any, path: Path, _depth: int, _pending: Pending) -> None:
        try:
            setattr(message, name, convert(value))
        except (ValueError, TypeError, OverflowError):
            raise refused(path, f"must be {form}, not {_shown(value)}") from None

    return read


def _repeated_scalar_reader(field: FieldDescriptor) -> Read:
    name, convert, form = field.name, converter(field), form_of(field)

    def read_chunk(chunk: Any, values: Any, path: Path, _depth: int, _pending: Pending) -> None:
        start, items = chunk
        for index, item in enumerate(items, start):
            try:
                values.append(convert(item))
            except (ValueError, TypeError, OverflowError):
                raise refused((path, index), f"must be {form}, not {_shown(item)}") from None

    def read(value: Any, message: Any, path: Path, depth: int, pending: Pending) -> None:
        _check_list(value, path)
        message.ClearField(name)
        pending.extend((read_chunk, chunk, getattr(message, name), path, depth) for chunk in _chunks(value))

    return read


def _message_field_reader(field: FieldDescriptor) -> Read:
    name, read_message = field.name, message_reader(field.message_type)

    def read(value: Any, message: Any, path: Path, depth: int, pending: Pending) -> None:
        inner = getattr(message, name)
        inner.SetInParent()
        pending.append((read_message, value, inner, path, depth + 1))

    return read


def _repeated_message_reader(field: FieldDescriptor) -> Read:
    assert field.message_type is not None
    name, read_message = field.name, message_reader(field.message_type)
    takes_null = field.message_type.full_name == "google.protobuf.Value"

    def read_chunk(chunk: Any, values: Any, path: Path, depth: int, pending: Pending) -> None:
        start, items = chunk
        for index, item in enumerate(items, start):
            if item is None and not takes_null:
                raise refused((path, index), "must not be null")
            pending.append((read_message, item, values.add(), (path, index), depth + 1))

    def read(value: Any, message: Any, path: Path, depth: int, pending: Pending) -> None:
        _check_list(value, path)
        message.ClearField(name)
        pending.extend((read_chunk, chunk, getattr(message, name), path, depth) for chunk in _chunks(value))

    return read


def _map_reader(field: FieldDescriptor) -> Read:
    assert field.message_type is not None
    name = field.name
    key_field, value_field = field.message_type.fields_by_name["key"], field.message_type.fields_by_name["value"]
    convert_key = key_converter(key_field)
    read_message = None if value_field.message_type is None else message_reader(value_field.message_type)
    convert, form = converter(value_field), form_of(value_field)

    def read_chunk(chunk: Any, entries: Any, path: Path, depth: int, pending: Pending) -> None:
        for name, value in chunk[1]:
            try:
                key = convert_key(name)
                if read_message is not None:
                    pending.append((read_message, value, entries[key], (path, name), depth + 1))
                else:
                    entries[key] = convert(value)
            except (ValueError, TypeError, OverflowError):
                raise refused((path, name), f"must be {form}, not {_shown(value)}") from None

    def read_entries(value: Any, entries: Any, path: Path, depth: int, pending: Pending) -> None:
        pending.extend((read_chunk, chunk, entries, path, depth) for chunk in _chunks(value.items()))

    def read(value: Any, message: Any, path: Path, depth: int, pending: Pending) -> None:
        if value.__class__ is not dict:
            raise refused(path, f"must be an object, not {_shown(value)}")
        message.ClearField(name)
        pending.append((read_entries, value, getattr(message, name), path, depth))

    return read


# Well-known types


def _text_reader(form: str, pattern: re.Pattern[str]) -> Read:
    def read(value: Any, message: Any, path: Path, _depth: int, _pending: Pending) -> None:
        try:
            if pattern.fullmatch(value) is None:
                raise ValueError
            message.FromJsonString(value)
        except (ValueError, TypeError, AttributeError, OverflowError):
            raise refused(path, f"must be a text, {form}, not {_shown(value)}") from None

    return read


def read_struct(value: Any, struct: Any, path: Path, depth: int, pending: Pending) -> None:
    """Read a Struct; what its members contain is left pending."""
    if value.__class__ is not dict:
        raise refused(path, f"must be an object, not {_shown(value)}")
    struct.Clear()
    if len(value) <= CHUNK:
        _read_members((0, value.items()), struct.fields, path, depth, pending)
    else:
        pending.extend((_read_members, chunk, struct.fields, path, depth) for chunk in _chunks(value.items()))


def _read_inner_struct(value: Any, struct: Any, path: Path, depth: int, pending: Pending) -> None:
    """Read an object within a payload, which is known not to have too many values."""
    read_struct(value, struct, path, depth, pending)


def _read_members(chunk: Any, fields: Any, path: Path, depth: int, pending: Pending) -> None:
    for name, value in chunk[1]:
        _read_value(value, fields[name], (path, name), depth + 1, pending)


def _read_list(value: Any, list_value: Any, path: Path, depth: int, pending: Pending) -> None:
    _check_list(value, path)
    list_value.ClearField("values")
    pending.extend((_read_items, chunk, list_value.values, path, depth) for chunk in _chunks(value))


def _read_items(chunk: Any, values: Any, path: Path, depth: int, pending: Pending) -> None:
    start, items = chunk
    for index, item in enumerate(items, start):
        _read_value(item, values.add(), (path, index), depth + 1, pending)


def _read_value(value: Any, into: Any, path: Path, depth: int, pending: Pending) -> None:
    kind = value.__class__
    if depth > MAX_DEPTH:
        raise too_deep(path)
    if kind is str:
        into.string_value = value
    elif kind is float:
        into.number_value = value
    elif kind is bool:
        into.bool_value = value
    elif kind is int:
        try:
            into.number_value = value
        except OverflowError:
            raise refused(path, "is beyond the range of a double") from None
    elif value is None:
        into.null_value = 0
    elif kind is dict:
        into.struct_value.SetInParent()
        pending.append((_read_inner_struct, value, into.struct_value, path, depth + 1))
    else:
        into.list_value.SetInParent()
        pending.append((_read_list, value, into.list_value, path, depth + 1))


def _read_by_library(value: Any, message: Any, path: Path, _depth: int, _pending: Pending) -> None:
    try:
        json_format.ParseDict(value, message)
    except (json_format.Error, ValueError, TypeError, KeyError, AttributeError) as error:
        raise refused(path, f"is not valid: {cut(str(error), MAX_SHOWN)}") from error


# Parts


def _chunks(members: Any) -> Iterator[tuple[int, Any]]:
    """Yield the members of an object or list in chunks, each with the index of its first one."""
    if len(members) <= CHUNK:
        yield 0, members
        return
    rest = iter(members)
    for start in range(0, len(members), CHUNK):
        yield start, list(islice(rest, CHUNK))


def _check_list(value: Any, path: Path) -> None:
    if value.__class__ is not list:
        raise refused(path, f"must be a list, not {_shown(value)}")


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    return cut(msgspec.json.encode(value).decode(), MAX_SHOWN)
