"""The properties of events as messages of generated code."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError

from registry.codegen.field_numbers import WireType
from registry.paths import ROOT
from registry.values.json_values import EVENT_BUDGET, too_large, too_many, value_path
from server.errors import InvalidArgument
from server.rpc.messages.descriptors import message_class
from server.rpc.messages.structs import read_number, read_pending, read_value

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from registry.codegen.field_numbers import Field, MessageLayout
    from registry.definitions.schema import Property, Schema
    from server.rpc.messages.structs import Pending
    from server.services.generated_types import GeneratedTypes, RevisionKey
    from signalbox.v1 import event_ingest_pb2 as pb

MAX_READERS = 256
"""How many readers are kept; each takes 10 KiB and more."""

_MESSAGE = "typed_properties.message"


class TypedReader:
    """Reads the messages of one revision."""

    def __init__(self, event_name: str, schema: Schema, layout: MessageLayout) -> None:
        self._class = message_class(event_name, layout)
        self._fields = _MessageFields(layout, schema.properties)

    def read(self, data: bytes) -> dict[str, Any]:
        """Read the properties that a serialized message stands for, in the order of their names, as `read_struct` does.

        An empty array is read only where it is required. Raise InvalidArgument.
        """
        if len(data) > EVENT_BUDGET.size:
            raise InvalidArgument.of(too_large(_MESSAGE, len(data), EVENT_BUDGET))
        try:
            message = self._class.FromString(data)
        except DecodeError:
            raise InvalidArgument.at(
                _MESSAGE, "INVALID_ARGUMENT", f"{_MESSAGE} is not a valid message of the revision"
            ) from None
        size = message.ByteSize()
        message.DiscardUnknownFields()
        if message.ByteSize() != size:
            raise InvalidArgument.at(
                _MESSAGE, "UNKNOWN_FIELD", f"{_MESSAGE} has a field that the revision does not have"
            )
        walk = _Walk()
        values = self._fields.read(message, ROOT, 1, walk)
        read_pending(walk.pending, walk.count, ROOT)
        return values


Readers = dict[tuple[str, int], TypedReader | Exception]
"""By name of the event and number of the revision: how to read its messages, or why they cannot be read."""


class TypedReaders:
    """Manages the readers of revisions that are in use."""

    def __init__(self, types: GeneratedTypes) -> None:
        self._types = types
        self._kept: dict[RevisionKey, TypedReader] = {}
        self._epoch = types.epoch

    async def needed(self, project_pk: int, events: Sequence[pb.EventInput]) -> Readers:
        """Return the readers that these events need; none for events without typed properties."""
        named = {
            (event.name, event.typed_properties.revision) for event in events if event.HasField("typed_properties")
        }
        if not named:
            return {}
        identified = await self._types.identify(project_pk, named)
        keys = {each for each in identified.values() if not isinstance(each, Exception)}
        readers = await self._readers(keys)
        return {each: found if isinstance(found, Exception) else readers[found] for each, found in identified.items()}

    async def _readers(self, keys: set[RevisionKey]) -> dict[RevisionKey, TypedReader]:
        if self._epoch != self._types.epoch:
            self._epoch = self._types.epoch
            self._kept.clear()
        # Those that were used last are at the end.
        readers = {key: self._kept.pop(key) for key in keys if key in self._kept}
        self._kept |= readers
        if missing := keys - readers.keys():
            read = await self._types.revisions(missing)
            for key, revision in read.items():
                readers[key] = self._kept[key] = TypedReader(key.event_name, *revision)
                # A batch may need many, and making one takes as long as several calls of others.
                await asyncio.sleep(0)
        for key in list(self._kept)[:-MAX_READERS]:
            del self._kept[key]
        return readers


def read_typed(event: pb.EventInput, readers: Readers) -> dict[str, Any]:
    """Read the typed properties of an event. Raise the error of their revision, and InvalidArgument."""
    if event.HasField("properties"):
        message = "properties and typed_properties are both set; set only one of them"
        raise InvalidArgument.at("typed_properties", "INVALID_ARGUMENT", message)
    reader = readers[event.name, event.typed_properties.revision]
    if isinstance(reader, Exception):
        raise reader
    return reader.read(event.typed_properties.message)


class _Walk:
    """The values counted, and the containers left pending, in one message."""

    def __init__(self) -> None:
        self.count = 0
        self.pending: list[Pending] = []

    def add(self, count: int) -> None:
        self.count += count
        if self.count > EVENT_BUDGET.values:
            raise InvalidArgument.of(too_many(ROOT, EVENT_BUDGET))


class _MessageFields:
    """The fields of a message, in the order of their properties' names."""

    def __init__(self, layout: MessageLayout, properties: Sequence[Property]) -> None:
        declared = {each.name: each for each in properties}
        self._fields = [
            (field, _inner(field, layout, declared), declared[field.property].required)
            for field in sorted(layout.fields, key=lambda field: field.property)
        ]

    def read(self, message: Any, path: str, depth: int, walk: _Walk) -> dict[str, Any]:
        """Read the fields that are set, and the required lists."""
        values: dict[str, Any] = {}
        for field, inner, required in self._fields:
            name = field.property
            if not field.repeated:
                if message.HasField(field.name):
                    values[name] = _read(field, inner, getattr(message, field.name), path, name, depth, walk)
                continue
            items = getattr(message, field.name)
            if items or required:
                walk.add(len(items))
                inside = value_path(path, name)
                values[name] = [
                    _read(field, inner, item, inside, index, depth + 1, walk) for index, item in enumerate(items)
                ]
        walk.add(len(values))
        return values


def _inner(field: Field, layout: MessageLayout, declared: Mapping[str, Property]) -> _MessageFields | None:
    if field.type is not WireType.MESSAGE:
        return None
    return _MessageFields(layout.message(field).layout, declared[field.property].properties)


def _read(
    field: Field, inner: _MessageFields | None, value: Any, parent: str, name: str | int, depth: int, walk: _Walk
) -> Any:
    """Read one value, which the object or list `parent` holds."""
    if inner is not None:
        return inner.read(value, value_path(parent, name), depth + 1, walk)
    if field.type is WireType.NUMBER:
        return read_number(value, parent, name)
    if field.type is WireType.DATE:
        return _instant(value, value_path(parent, name))
    if field.type in (WireType.OPEN_OBJECT, WireType.OPEN_LIST):
        into: Any = {} if field.type is WireType.OPEN_OBJECT else []
        walk.pending.append((into, value, value_path(parent, name), depth + 1))
        return into
    if field.type is WireType.OPEN_VALUE:
        return read_value(value, parent, name, depth + 1, walk.pending)
    return value


def _instant(value: Any, path: str) -> str:
    try:
        return str(value.ToJsonString())
    except ValueError:
        text = f"{path} is not a time in the years 1 to 9999: {value.seconds} s and {value.nanos} ns"
        raise InvalidArgument.at(path, "INVALID_TIMESTAMP", text) from None
