"""Messages in their encoded form, which is written as a text of Latin-1: each character is a byte.

An encoded message is the concatenation of its fields, in any order; a field is a tag and its content, preceded by its
size if it is a text or a message. A text is written by one f-string, where bytes would be joined part by part.
Deliveries are encoded so: it takes half of the time of setting the fields of messages and having the library serialize
them, because each of a delivery's 60 fields is one call into the library, and 15 of them make an object.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from google.protobuf.message import Message

_VARINT, _DOUBLE, _DELIMITED = 0, 1, 2
"""The types of fields on the wire, as they are part of their tags."""


class _Varints(dict[int, str]):
    """Encoded integers of up to 64 bits. Small ones, such as sizes, are looked up."""

    def __missing__(self, number: int) -> str:
        if number < 0:
            number += 1 << 64
        return f"{chr(number & 0x7F | 0x80)}{self[number >> 7]}"


VARINTS: Final = _Varints((number, chr(number)) for number in range(0x80))
VARINTS.update([(number, VARINTS[number]) for number in range(0x80, 0x4000)])


def sized_text(text: str) -> str:
    """Return a text with its size. Raise UnicodeEncodeError for a text that is not UTF-8."""
    if not text.isascii():
        text = text.encode().decode("latin-1")
    return f"{VARINTS[len(text)]}{text}"


class _Names(dict[str, str]):
    """Texts with their sizes that many messages share: looked up in a fifth of the time of `sized_text`."""

    def __missing__(self, name: str) -> str:
        made = sized_text(name)
        if len(name) <= _MAX_NAME:
            if len(self) == _MAX_NAMES:
                self.clear()
            self[name] = made
        return made


_MAX_NAME, _MAX_NAMES = 100, 4_096

NAMES: Final = _Names()


@lru_cache(1_024)
def sized_time(micros: int) -> str:
    """Return a Timestamp or a Duration of `micros`, encoded after its size.

    Most are those of a commit, and shared by its events and matches.
    """
    seconds, rest = divmod(micros, 1_000_000)
    encoded = f"\x08{VARINTS[seconds]}\x10{VARINTS[rest * 1_000]}"
    return f"{VARINTS[len(encoded)]}{encoded}"


def tags(message: type[Message], *names: str) -> tuple[str, ...]:
    """Return the tags of fields of a message: of texts and messages, doubles, or integers of any kind."""
    return tuple(_tag(message, name) for name in names)


def _tag(message: type[Message], name: str) -> str:
    field = message.DESCRIPTOR.fields_by_name[name]
    kinds = {field.TYPE_STRING: _DELIMITED, field.TYPE_MESSAGE: _DELIMITED, field.TYPE_DOUBLE: _DOUBLE}
    return VARINTS[field.number << 3 | kinds.get(field.type, _VARINT)]


def to_bytes(encoded: str) -> bytes:
    """Return an encoded message as it is sent."""
    return encoded.encode("latin-1")
