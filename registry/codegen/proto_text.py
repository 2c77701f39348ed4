"""Revisions as .proto text."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from registry.codegen.field_numbers import WireType
from registry.codegen.proto_names import LANGUAGE_OPTIONS, PACKAGE, message_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from registry.codegen.field_numbers import Field, MessageLayout
    from registry.definitions.schema import Property, Schema

_TYPES = {
    WireType.STRING: "string",
    WireType.NUMBER: "double",
    WireType.BOOLEAN: "bool",
    WireType.DATE: "google.protobuf.Timestamp",
    WireType.OPEN_OBJECT: "google.protobuf.Struct",
    WireType.OPEN_LIST: "google.protobuf.ListValue",
    WireType.OPEN_VALUE: "google.protobuf.Value",
}

_IMPORTS = {
    WireType.DATE: "google/protobuf/timestamp.proto",
    WireType.OPEN_OBJECT: "google/protobuf/struct.proto",
    WireType.OPEN_LIST: "google/protobuf/struct.proto",
    WireType.OPEN_VALUE: "google/protobuf/struct.proto",
}


def proto_text(event_name: str, description: str, schema: Schema, layout: MessageLayout) -> str:
    """Return the text of the .proto file of a revision with its layout."""
    lines = ['syntax = "proto3";', "", f"package {PACKAGE};", ""]
    lines += [f'import "{file}";' for file in imports(layout)]
    lines += [""] * (lines[-1] != "")
    lines += [f"option {name} = {json.dumps(value)};" for name, value in LANGUAGE_OPTIONS.items()]
    lines += [""]
    lines += _comment(description or f"The properties of the event {event_name}.")
    lines += _message(message_name(event_name), layout, schema.properties)
    return "\n".join(lines) + "\n"


def imports(layout: MessageLayout) -> list[str]:
    """Return the files of google.protobuf that the messages of a layout import, sorted."""
    return sorted(set(_imports(layout)))


def _imports(layout: MessageLayout) -> Iterator[str]:
    yield from (_IMPORTS[field.type] for field in layout.fields if field.type in _IMPORTS)
    for nested in layout.messages():
        yield from _imports(nested.layout)


def _message(name: str, layout: MessageLayout, properties: tuple[Property, ...]) -> Iterator[str]:
    declared = {prop.name: prop for prop in properties}
    yield f"message {name} {{"
    yield from _indented(_body(layout, declared))
    yield "}"


def _body(layout: MessageLayout, declared: dict[str, Property]) -> Iterator[str]:
    if ranges := [str(low) if low == high else f"{low} to {high}" for low, high in layout.reserved_numbers()]:
        yield f"reserved {', '.join(ranges)};"
    if layout.retired:
        yield f"reserved {', '.join(map(_literal, layout.retired))};"
    for field in layout.fields:
        if field.type is WireType.MESSAGE:
            nested = layout.message(field)
            yield from _message(nested.name, nested.layout, declared[field.property].properties)
    for field in layout.fields:
        yield from _field(field, layout, declared[field.property])


def _field(field: Field, layout: MessageLayout, declared: Property) -> Iterator[str]:
    notes = ("Required." if declared.required else "Optional.", *(["Personal."] if declared.personal else []))
    yield from _comment(" ".join((*notes, declared.description)))
    kind = layout.message(field).name if field.type is WireType.MESSAGE else _TYPES[field.type]
    label = "repeated " if field.repeated else "optional " if field.oneof() else ""
    yield f"{label}{kind} {field.name} = {field.number} [json_name = {_literal(field.json_name)}];"


def _comment(text: str) -> Iterator[str]:
    """Yield a comment, one line for each line of the text that is not blank; unprintable characters become spaces."""
    for line in text.splitlines():
        shown = "".join(character if character.isprintable() else " " for character in line).rstrip()
        if shown:
            yield f"// {shown}"


def _indented(lines: Iterable[str]) -> Iterator[str]:
    return (f"  {line}" for line in lines)


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
