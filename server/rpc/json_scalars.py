"""Single values of a message's fields, from JSON as Protocol Buffers define it."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from google.protobuf.descriptor import FieldDescriptor

from server.rpc.json_writing import enum_of

if TYPE_CHECKING:
    from collections.abc import Callable

    Convert = Callable[[Any], Any]

_INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32: "-2147483648 to 2147483647",
    FieldDescriptor.CPPTYPE_INT64: "-9223372036854775808 to 9223372036854775807",
    FieldDescriptor.CPPTYPE_UINT32: "0 to 4294967295",
    FieldDescriptor.CPPTYPE_UINT64: "0 to 18446744073709551615",
}
"""The ranges of whole numbers."""
_FLOATS = {FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT}


def converter(field: FieldDescriptor) -> Convert:
    """Return the converter of JSON values for a scalar field, which raises ValueError, TypeError and OverflowError."""
    if field.cpp_type in _INTEGERS:
        return _integer
    if field.cpp_type in _FLOATS:
        return _float
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return _boolean
    if field.cpp_type == FieldDescriptor.CPPTYPE_ENUM:
        return _enum_converter(field)
    return _bytes if field.type == FieldDescriptor.TYPE_BYTES else _text


def key_converter(field: FieldDescriptor) -> Convert:
    """Return the converter of names of a JSON object to keys of a map, which raises ValueError."""
    return _boolean_key if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL else converter(field)


def form_of(field: FieldDescriptor) -> str:
    """Return what a value of a field must be, worded to follow "must be"."""
    if field.cpp_type in _INTEGERS:
        return f"a whole number from {_INTEGERS[field.cpp_type]}"
    if field.cpp_type in _FLOATS:
        return "a number"
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return "true or false"
    if field.cpp_type == FieldDescriptor.CPPTYPE_ENUM:
        names = [value.name for value in enum_of(field).values if value.number]
        return f"one of {', '.join(names)}"
    return "bytes in base64" if field.type == FieldDescriptor.TYPE_BYTES else "a text"


def _text(value: Any) -> str:
    if value.__class__ is not str:
        raise TypeError
    text: str = value
    return text


def _boolean(value: Any) -> bool:
    if value.__class__ is not bool:
        raise TypeError
    return value is True


def _boolean_key(name: Any) -> bool:
    if name not in {"true", "false"}:
        raise ValueError
    return bool(name == "true")


def _integer(value: Any) -> int:
    if value.__class__ is bool:
        raise TypeError
    if value.__class__ is str and " " in value:
        raise ValueError
    if value.__class__ is float and not value.is_integer():
        raise ValueError
    try:
        return int(value)
    except ValueError:
        number = float(value)
        if not number.is_integer():
            raise
        return int(number)


def _float(value: Any) -> float:
    if value == "nan":
        raise ValueError
    return float(value)


def _bytes(value: Any) -> bytes:
    encoded = _text(value).encode()
    return base64.urlsafe_b64decode(encoded + b"=" * (4 - len(encoded) % 4))


def _enum_converter(field: FieldDescriptor) -> Convert:
    kind = enum_of(field)
    numbers = {value.name: value.number for value in kind.values}
    closed = frozenset(numbers.values()) if kind.is_closed else None

    def convert(value: Any) -> int:
        number = numbers.get(value) if value.__class__ is str else None
        if number is None:
            number = int(value)
            if closed is not None and number not in closed:
                raise ValueError
        return number

    return convert
