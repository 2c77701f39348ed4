"""Requests from bytes: small ones at once, large ones in pieces, so that the event loop serves others in between.

Bytes of a message that follow each other may be merged into it piece by piece, if they are cut between its fields: that
is how Protocol Buffers define the encoding. A field that is a large message itself is entered and cut in the same way.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final

from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from server.errors import MalformedRequest
from server.rpc.payload_bounds import PAYLOAD, stand_in_for_large, too_large
from server.rpc.texts import text_check, text_slices

if TYPE_CHECKING:
    from google.protobuf.descriptor import MethodDescriptor
    from google.protobuf.message import Message

    from server.sharing.loop_time import LoopTime, Slices

LARGE_BYTES: Final = 128 * 1024
"""Messages above this size are parsed in slices: 16 MiB would hold the loop for 100 ms to a second."""

PIECE_BYTES: Final = 128 * 1024
"""The size of a piece, which takes 0.3 ms if it is numbers, and 3 ms if it is empty messages. Smaller fields are not
divided: finding the ends of their fields takes seven times as long as parsing them."""

_SLICE_TEXTS: Final = 500
"""Fields and texts that are passed between two looks at the clock."""

_MAX_DEPTH: Final = 64
"""Messages that are nested deeper are not entered: the library parses no more than 100 levels, and counts them anew."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class Parser:
    """Parses the requests of one method. Its methods raise MalformedRequest and UnstorableText."""

    def __init__(self, method: MethodDescriptor) -> None:
        self._name = method.input_type.full_name
        self._class = GetMessageClass(method.input_type)
        self._check_texts = text_check(method.input_type)

    def parse(self, data: bytes) -> Message:
        """Parse a request."""
        try:
            message = self._class.FromString(data)
        except DecodeError as error:
            raise self._malformed() from error
        # In UTF-8 no other character has this byte.
        if self._check_texts is not None and b"\0" in data:
            self._check_texts(message)
        return message

    async def parse_in_slices(self, data: bytes, loop_time: LoopTime, key: object) -> Message:
        """Parse a large request, as `parse` does."""
        message = self._class()
        async with loop_time.slices(key) as slices:
            try:
                await _Merging(data, slices).merge_into(message)
            except DecodeError as error:
                raise self._malformed() from error
            if self._check_texts is not None and b"\0" in data:
                for index, _ in enumerate(text_slices(message)):
                    if index % _SLICE_TEXTS == 0:
                        await slices.pause()
        return message

    def _malformed(self) -> MalformedRequest:
        return MalformedRequest(f"The request is not a valid {self._name}, or is nested more than 100 messages deep")


@cache
def parser(method: MethodDescriptor) -> Parser:
    """Return the parser of a method of the contract, which takes long to make."""
    return Parser(method)


class _Merging:
    """Merges data into a message in slices, but for payloads that are too large, which it only counts."""

    def __init__(self, data: bytes, slices: Slices) -> None:
        self._data = data
        self._slices = slices
        self._too_large: list[tuple[Any, int]] = []

    async def merge_into(self, message: Message) -> None:
        """Merge the data into a message. Raise DecodeError."""
        await self._merge(message, 0, len(self._data), 0)
        # Last, because a payload may have been sent in several parts.
        for payload, size in self._too_large:
            stand_in_for_large(payload, size)

    async def _merge(self, message: Message, start: int, end: int, depth: int) -> None:
        """Merge the fields between two places of the data."""
        data, slices = self._data, self._slices
        fields = message.DESCRIPTOR.fields_by_number
        place, passed = start, 0
        while place < end:
            number, body, after = _field(data, place, end)
            field = fields.get(number)
            if after - body > PIECE_BYTES and depth < _MAX_DEPTH and _is_entered(field, after - body):
                message.MergeFromString(data[start:place])
                await slices.pause()
                start = await self._enter(message, field, place, body, after, depth)
            elif after - start > PIECE_BYTES:
                message.MergeFromString(data[start:after])
                await slices.pause()
                start = after
            place = after
            passed += 1
            if passed % _SLICE_TEXTS == 0:
                await slices.pause()
        message.MergeFromString(data[start:end])

    async def _enter(self, message: Any, field: Any, place: int, body: int, after: int, depth: int) -> int:
        """Merge a field that is a large message. Return where the data continues that is not merged."""
        if field.message_type.GetOptions().map_entry:
            entry = _map_entry(field, self._data, body, after)
            if entry is None:
                return place
            key, body = entry
            values = getattr(message, field.name)
            # A later entry of a key replaces the earlier one.
            values.pop(key, None)
            inner = values[key]
        elif field.is_repeated:
            inner = getattr(message, field.name).add()
        else:
            inner = getattr(message, field.name)
            inner.SetInParent()
        if _is_payload(field):
            self._too_large.append((inner, after - body))
        else:
            await self._merge(inner, body, after, depth + 1)
        return after


def _is_payload(field: Any) -> bool:
    return bool(field.message_type.full_name == PAYLOAD)


def _is_entered(field: Any, size: int) -> bool:
    """Return whether a large field is not merged in one piece. A payload is, unless it is too large."""
    if field is None or field.message_type is None:
        return False
    return not _is_payload(field) or too_large(size)


def _map_entry(field: Any, data: bytes, start: int, end: int) -> tuple[str, int] | None:
    """Return the key of a map entry and where its value begins, if it is a text and then a message as usual."""
    key_field, value_field = field.message_type.fields_by_number[1], field.message_type.fields_by_number[2]
    if (
        key_field.type != key_field.TYPE_STRING
        or value_field.message_type is None
        or data[start : start + 1] != b"\x0a"
    ):
        return None
    _, key_at, key_end = _field(data, start, end)
    if data[key_end : key_end + 1] != b"\x12":
        return None
    _, value_at, value_end = _field(data, key_end, end)
    if value_end != end:
        return None
    try:
        return data[key_at:key_end].decode(), value_at
    except UnicodeDecodeError as error:
        raise DecodeError("A key is not UTF-8") from error


def _field(data: bytes, place: int, end: int) -> tuple[int, int, int]:
    """Return the number of a field, and where its content begins and ends.

    What is not well-formed, and groups, which no message of the contract has, extend to the end: the library decides.
    """
    tag, body = _varint(data, place, end)
    kind = tag & 7
    if kind == _BYTES:
        length, body = _varint(data, body, end)
        after = body + length
    elif kind == _VARINT:
        after = _varint(data, body, end)[1]
    elif kind == _FIXED64:
        after = body + 8
    elif kind == _FIXED32:
        after = body + 4
    else:
        after = end + 1
    if after > end:
        return 0, body, end
    return tag >> 3 if kind == _BYTES else 0, body, after


def _varint(data: bytes, place: int, end: int) -> tuple[int, int]:
    """Return the number at a place and the place after it, which is beyond the end if it is cut off or too long."""
    first = data[place] if place < end else 128
    if first < 128:
        return first, place + 1
    number = shift = 0
    for index in range(place, min(end, place + 10)):
        byte = data[index]
        number |= (byte & 127) << shift
        if byte < 128:
            return number, index + 1
        shift += 7
    return 0, end + 1
