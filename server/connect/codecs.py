"""The two forms of messages over HTTP: Protocol Buffers and JSON."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from google.protobuf.message_factory import GetMessageClass

from server.rpc.json_parsing import JsonParser
from server.rpc.json_writing import write_json, write_json_in_slices
from server.rpc.messages.send_event_json import SentEvent, plain_draft
from server.rpc.parsing import parser
from server.sharing.current_project import current_project

if TYPE_CHECKING:
    from collections.abc import Mapping

    from google.protobuf.descriptor import MethodDescriptor
    from google.protobuf.message import Message

    from server.rpc.method import RequestParser
    from server.sharing.loop_time import LoopTime

_PLAIN_READERS: Final = {"signalbox.v1.EventIngest.SendEvent": plain_draft}

LARGE_BYTES: Final = 32 * 1024
"""Responses above this size, as Protocol Buffers, are written as JSON in slices: 4 MB would hold the loop for long."""


class ProtoWriter:
    """Writes responses as Protocol Buffers."""

    def write(self, response: Any) -> bytes:
        """Return the bytes of a response, which its servicer may have encoded already."""
        encoded: bytes = response if isinstance(response, bytes) else response.SerializeToString()
        return encoded

    async def write_in_slices(self, response: Any, _loop_time: LoopTime, _key: object) -> bytes:
        """Return the bytes of a large response, which are written fast."""
        return self.write(response)


class JsonWriter:
    """Writes the responses of a method as JSON."""

    def __init__(self, method: MethodDescriptor) -> None:
        self._class = GetMessageClass(method.output_type)

    def write(self, response: Any) -> bytes:
        """Return the JSON text of a response."""
        return response.json() if response.__class__ is SentEvent else write_json(self._message(response))

    async def write_in_slices(self, response: Any, loop_time: LoopTime, key: object) -> bytes:
        """Return the JSON text of a large response."""
        return await write_json_in_slices(self._message(response), loop_time, key)

    def _message(self, response: Any) -> Message:
        message: Message = self._class.FromString(response) if isinstance(response, bytes) else response
        return message


@dataclass(frozen=True, slots=True)
class Codec:
    """Reads requests and writes responses of one method, of up to `max_bytes` as they were before compression."""

    media_type: bytes
    parser: RequestParser
    writer: ProtoWriter | JsonWriter
    max_bytes: int

    def is_small(self, response: Any) -> bool:
        """Return whether a response is small enough for `write`; larger ones need `write_large`."""
        if response.__class__ is SentEvent:
            return True
        return (len(response) if isinstance(response, bytes) else response.ByteSize()) <= LARGE_BYTES

    def write(self, response: Any) -> bytes:
        """Return a response in this form."""
        return self.writer.write(response)

    async def write_large(self, response: Any, loop_time: LoopTime) -> bytes:
        """Return a large response in this form, as `write` does."""
        return await self.writer.write_in_slices(response, loop_time, current_project())


@cache
def codecs(method: MethodDescriptor, max_proto: int, max_json: int) -> Mapping[bytes, Codec]:
    """Return the codecs of a method by media type, which take long to make."""
    prefix = b"application/connect+" if method.server_streaming else b"application/"
    forms = (
        Codec(prefix + b"json", JsonParser(method, _PLAIN_READERS.get(method.full_name)), JsonWriter(method), max_json),
        Codec(prefix + b"proto", parser(method), ProtoWriter(), max_proto),
    )
    return {codec.media_type: codec for codec in forms}
