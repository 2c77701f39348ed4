"""Requests from JSON: decoded, read into messages, and explained where they cannot be."""

from __future__ import annotations

import asyncio
import re
from codecs import BOM_UTF8
from collections import deque
from typing import TYPE_CHECKING, Any

import msgspec
from google.protobuf.message_factory import GetMessageClass

from registry.values.decoder_messages import syntax_problem
from registry.values.json_values import json_violation, repeated_name
from server.errors import InvalidArgument, MalformedRequest
from server.rpc.json_reading import MAX_DEPTH, MAX_SHOWN, message_reader, read_struct, too_deep
from server.rpc.payload_bounds import LEAST_BYTES, name_counts, stand_in_for_many, too_many_values
from server.rpc.texts import text_check
from server.status import cut

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from google.protobuf.descriptor import MethodDescriptor
    from google.protobuf.message import Message

    from server.rpc.json_reading import Pending
    from server.sharing.loop_time import LoopTime

_decode = msgspec.json.Decoder().decode
_NAME = re.compile(rb'"\s*:')
_NUL = b"\\u0000"


class JsonParser:
    """Parses the requests of one method. Its methods raise MalformedRequest, InvalidArgument and UnstorableText.

    `read_plain` reads plain requests into something other than a message, and returns None for the rest.
    """

    def __init__(self, method: MethodDescriptor, read_plain: Callable[[bytes], Any] | None = None) -> None:
        self._read_plain = read_plain
        self._class = GetMessageClass(method.input_type)
        self._read = message_reader(method.input_type)
        self._check_texts = text_check(method.input_type)

    def parse(self, data: bytes) -> Any:
        """Parse a request."""
        if self._read_plain is not None and (plain := self._read_plain(data)) is not None:
            return plain
        message = self._class()
        try:
            for _ in self._slices(data, message):
                pass
        except _Unreadable as error:
            raise _explained(data, error) from error
        self._check(data, message)
        return message

    async def parse_in_slices(self, data: bytes, loop_time: LoopTime, key: object) -> Message:
        """Parse a large request, as `parse` does."""
        message = self._class()
        async with loop_time.slices(key) as slices:
            try:
                for _ in self._slices(data, message):
                    if slices.used_up():
                        await slices.pause()
            except _Unreadable as error:
                # All values of a MiB take up to 0.3 s, in which the event loop serves others.
                raise await asyncio.to_thread(_explained, data, error) from error
            self._check(data, message)
        return message

    def _slices(self, data: bytes, message: Message) -> Iterator[None]:
        value = _decoded(data)
        pending: Pending = deque([(self._read, value, message, None, 1)])
        names = 0
        while pending:
            read, value, into, path, depth = pending.popleft()
            if depth > MAX_DEPTH:
                raise too_deep(path)
            if read is read_struct and len(data) > LEAST_BYTES and too_many_values(value):
                stand_in_for_many(into)
                for count in name_counts(value):
                    names += count
                    yield
                continue
            if value.__class__ is dict:
                names += len(value)
            read(value, into, path, depth, pending)
            yield
        # Each name of an object has a quote and a colon after it. So has a text that holds them, which is rare.
        if len(_NAME.findall(data)) != names:
            _check_names(data)

    def _check(self, data: bytes, message: Message) -> None:
        if self._check_texts is not None and _NUL in data:
            self._check_texts(message)


class _Unreadable(Exception):
    """The decoder has rejected a text."""


def _decoded(data: bytes) -> Any:
    """Return the values of a JSON text. Raise _Unreadable."""
    try:
        return _decode(data.removeprefix(BOM_UTF8))
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise _Unreadable from error


def _explained(data: bytes, unreadable: _Unreadable) -> InvalidArgument | MalformedRequest:
    """Return why a text was rejected: for a number or text that cannot be stored, or as no JSON."""
    data = data.removeprefix(BOM_UTF8)
    if fault := json_violation(data):
        return InvalidArgument.of(fault)
    error = unreadable.__cause__
    if isinstance(error, RecursionError):
        return MalformedRequest("The JSON is nested too deeply to be read")
    hint = "" if data else "; a message without fields is {}"
    return MalformedRequest(f"The request is not valid JSON: {cut(syntax_problem(data, error), MAX_SHOWN)}{hint}")


def _check_names(data: bytes) -> None:
    """Raise MalformedRequest if an object has a name twice, which the decoder passes over."""
    if (name := repeated_name(data.removeprefix(BOM_UTF8).decode())) is not None:
        raise MalformedRequest(f"The JSON has the name {cut(name, MAX_SHOWN)} twice in one object")
