"""The texts of requests that are stored or looked for as they are: none may hold U+0000, which PostgreSQL refuses.

Payloads are left out: they are stored as JSON, which writes that character as an escape.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.struct_pb2 import Struct, Value

from server.errors import UnstorableText

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from google.protobuf.descriptor import Descriptor
    from google.protobuf.message import Message

_FREE_FORM: Final = {Struct.DESCRIPTOR.full_name, Value.DESCRIPTOR.full_name}

# The texts of an event have rules of their own, which exclude U+0000; a second check would cost each event time.
_CHECKED_ELSEWHERE: Final = {"signalbox.v1.EventInput"}

_Check: TypeAlias = "Callable[[Any, str], None]"
"""Checks the value of one field of a message, whose path ends with the prefix. Raise UnstorableText."""


def text_check(descriptor: Descriptor) -> Callable[[Message], None] | None:
    """Return a check of a request's texts that raises UnstorableText, or None for a request without texts."""
    checks = _checks(descriptor)

    def check_texts(message: Message) -> None:
        for check in checks:
            check(message, "")

    return check_texts if checks else None


def text_slices(message: Any, prefix: str = "") -> Iterator[None]:
    """Check the texts of a request as `text_check` does, one at a time; the iteration may be left and continued."""
    for field in message.DESCRIPTOR.fields:
        if not _is_checked_once(field):
            continue
        value, path = getattr(message, field.name), prefix + field.name
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            for item in value.items():
                _check_all([item], path)
                yield
        elif not field.is_repeated:
            if field.message_type is None:
                _check_text(value, path)
            elif message.HasField(field.name):
                yield from text_slices(value, f"{path}.")
        else:
            for index, each in enumerate(value):
                if field.message_type is None:
                    _check_text(each, f"{path}[{index}]")
                else:
                    yield from text_slices(each, f"{path}[{index}].")
                yield


@cache
def _is_checked_once(field: FieldDescriptor) -> bool:
    return _is_checked(field, set())


@cache
def _checks(descriptor: Descriptor) -> tuple[_Check, ...]:
    if not _holds_text(descriptor, set()):
        return ()
    return tuple(_check_of(field) for field in descriptor.fields if _is_checked(field, set()))


def _holds_text(descriptor: Descriptor, seen: set[str]) -> bool:
    if descriptor.full_name in _FREE_FORM | _CHECKED_ELSEWHERE | seen:
        return False
    seen = seen | {descriptor.full_name}
    return any(_is_checked(field, seen) for field in descriptor.fields)


def _is_checked(field: FieldDescriptor, seen: set[str]) -> bool:
    if field.message_type is not None:
        return _holds_text(field.message_type, seen)
    return bool(field.type == FieldDescriptor.TYPE_STRING)


def _check_of(field: FieldDescriptor) -> _Check:
    name, repeated = field.name, field.is_repeated
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return lambda message, prefix: _check_all(getattr(message, name).items(), prefix + name)
    if field.message_type is None:
        if repeated:
            return lambda message, prefix: _check_each(getattr(message, name), prefix + name)
        return lambda message, prefix: _check_text(getattr(message, name), prefix + name)
    inner = field.message_type

    def check(message: Any, prefix: str) -> None:
        if repeated:
            found: Iterator[tuple[str, Any]] = (
                (f"{prefix}{name}[{index}].", each) for index, each in enumerate(getattr(message, name))
            )
        elif message.HasField(name):
            found = iter([(f"{prefix}{name}.", getattr(message, name))])
        else:
            return
        for place, each in found:
            for check_field in _checks(inner):
                check_field(each, place)

    return check


def _check_all(items: Any, path: str) -> None:
    for key, value in items:
        _check_text(key, path)
        if isinstance(value, str):
            _check_text(value, path)


def _check_each(texts: Any, path: str) -> None:
    for index, text in enumerate(texts):
        _check_text(text, f"{path}[{index}]")


def _check_text(text: str, path: str) -> None:
    if "\0" in text:
        raise UnstorableText(path)
