"""Messages from encoded fields: an encoded message is the concatenation of its fields, in any order."""

from __future__ import annotations

from typing import Final

_DELIMITED: Final = 2
"""The type of fields that hold a message or a text."""


def encoded_field(number: int, content: bytes) -> bytes:
    """Return a field of a number up to 15, with an encoded message or a text as its content."""
    header = [number << 3 | _DELIMITED]
    size = len(content)
    while size > 0x7F:
        header.append(size & 0x7F | 0x80)
        size >>= 7
    header.append(size)
    return bytes(header) + content
