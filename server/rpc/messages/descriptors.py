"""Generated types as descriptors: equal to those that protoc makes of their .proto text, without the comments."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from google.protobuf import struct_pb2, timestamp_pb2
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

from registry.codegen.field_numbers import WireType
from registry.codegen.proto_names import LANGUAGE_OPTIONS, PACKAGE, file_name, message_name
from registry.codegen.proto_text import imports, proto_text
from server.paging import MAX_RESPONSE_BYTES
from server.rpc.messages.response_size import size_of
from signalbox.v1 import event_definitions_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Sequence

    from google.protobuf.message import Message

    from registry.codegen.field_numbers import Field, MessageLayout
    from server.paging import Page
    from server.services.generated_types import GeneratedType

_IMPORTED = {each.DESCRIPTOR.name: each.DESCRIPTOR for each in (struct_pb2, timestamp_pb2)}

_TYPES = {
    WireType.STRING: FieldDescriptorProto.TYPE_STRING,
    WireType.NUMBER: FieldDescriptorProto.TYPE_DOUBLE,
    WireType.BOOLEAN: FieldDescriptorProto.TYPE_BOOL,
}

_MESSAGES = {
    WireType.DATE: ".google.protobuf.Timestamp",
    WireType.OPEN_OBJECT: ".google.protobuf.Struct",
    WireType.OPEN_LIST: ".google.protobuf.ListValue",
    WireType.OPEN_VALUE: ".google.protobuf.Value",
}


def descriptor_set(files: Sequence[FileDescriptorProto]) -> FileDescriptorSet:
    """Return the set of the files, each after those that it imports."""
    needed = sorted({name for file in files for name in file.dependency})
    made = FileDescriptorSet()
    for name in needed:
        _IMPORTED[name].CopyToProto(made.file.add())
    made.file.extend(files)
    return made


async def write_types(page: Page[GeneratedType]) -> pb.GetDescriptorSetResponse:
    """Write the generated types of a page that fit a response, at least one."""
    files: list[FileDescriptorProto] = []
    texts: dict[str, str] = {}
    room = MAX_RESPONSE_BYTES
    for generated in page.items:
        file = file_descriptor(generated.event_name, generated.layout)
        text = proto_text(generated.event_name, generated.description, generated.schema, generated.layout)
        room -= size_of(file) + len(text.encode()) + 2 * len(file.name)
        if files and room < 0:
            break
        files.append(file)
        texts[file.name] = text
        # Writing a large one takes as long as several calls of others.
        await asyncio.sleep(0)
    return pb.GetDescriptorSetResponse(
        file_descriptor_set=descriptor_set(files), files=texts, next_page_token=page.first(len(files)).next_token
    )


def file_descriptor(event_name: str, layout: MessageLayout) -> FileDescriptorProto:
    """Describe the file of one event."""
    file = FileDescriptorProto(name=file_name(event_name), package=PACKAGE, dependency=imports(layout), syntax="proto3")
    for name, value in LANGUAGE_OPTIONS.items():
        setattr(file.options, name, value)
    _write_message(message_name(event_name), layout, f".{PACKAGE}", file.message_type.add())
    return file


def message_class(event_name: str, layout: MessageLayout) -> type[Message]:
    """Return the class of an event's messages, in a pool of its own: projects may use the same names."""
    pool = DescriptorPool()
    for file in descriptor_set([file_descriptor(event_name, layout)]).file:
        pool.AddSerializedFile(file.SerializeToString())
    return GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{message_name(event_name)}"))


def _write_message(name: str, layout: MessageLayout, scope: str, into: DescriptorProto) -> None:
    into.name = name
    scope = f"{scope}.{name}"
    for low, high in layout.reserved_numbers():
        into.reserved_range.add(start=low, end=high + 1)
    into.reserved_name.extend(layout.retired)
    for nested in layout.messages():
        _write_message(nested.name, nested.layout, scope, into.nested_type.add())
    for field in layout.fields:
        _write_field(field, layout, scope, into)


def _write_field(field: Field, layout: MessageLayout, scope: str, into: DescriptorProto) -> None:
    made = into.field.add(
        name=field.name,
        number=field.number,
        label=FieldDescriptorProto.LABEL_REPEATED if field.repeated else FieldDescriptorProto.LABEL_OPTIONAL,
        type=_TYPES.get(field.type, FieldDescriptorProto.TYPE_MESSAGE),
        json_name=field.json_name,
    )
    if field.type is WireType.MESSAGE:
        made.type_name = f"{scope}.{layout.message(field).name}"
    elif field.type in _MESSAGES:
        made.type_name = _MESSAGES[field.type]
    elif oneof := field.oneof():
        made.proto3_optional = True
        made.oneof_index = len(into.oneof_decl)
        into.oneof_decl.add(name=oneof)
