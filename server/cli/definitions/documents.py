"""Definitions in YAML files. docs/definitions.md describes the format."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from click import BadParameter
from yaml import ScalarNode

from registry.definitions.schema import (
    CoercionMode,
    Compatibility,
    Property,
    PropertyType,
    Schema,
    UnknownProperties,
    check_schema,
)
from registry.errors import InvalidName, InvalidSchema
from registry.names import check_event_name
from server.cli.arguments.message_parsers import definition_retention
from server.cli.definitions.yaml_files import (
    Entry,
    FileError,
    FileErrors,
    did_you_mean,
    error_at,
    files_in,
    flag_of,
    load,
    mapping,
    members,
    place_of,
    quoted,
    read_all,
    sequence,
    text_of,
    word_of,
)
from signalbox.v1 import event_definitions_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from yaml import Node

_DEFINITION: Final = ("description", "compatibility", "unknown_properties", "coercion", "event_retention", "properties")
_PROPERTY: Final = ("type", "required", "personal", "description", "suggested_values", "properties")
_TYPES: Final = tuple(PropertyType)
_TYPE = re.compile(r"([^<>!]*)(?:<([^<>!]*)>)?")
_FORMS: Final = f"{', '.join(_TYPES)} or array<TYPE>"


@dataclass(frozen=True, slots=True)
class DefinitionDocument:
    """A definition of a file; `place` is FILE:LINE:COLUMN of its name."""

    name: str
    description: str
    schema: Schema
    compatibility: Compatibility
    event_retention: pb.EventRetention
    place: str


def read_definitions(paths: Iterable[Path]) -> list[DefinitionDocument]:
    """Read the definitions of files and folders, in order. Raise Failure with all errors of the files."""
    found: dict[str, DefinitionDocument] = {}
    errors = FileErrors()
    with errors.gathered():
        for path in files_in(paths):
            with errors.gathered():
                for entry in _entries(path):
                    with errors.gathered():
                        _add(_read_definition(entry), found)
    errors.stop()
    return list(found.values())


def _add(document: DefinitionDocument, found: dict[str, DefinitionDocument]) -> None:
    if first := found.get(document.name):
        raise FileError(f"{document.place}: {quoted(document.name)} is defined already, at {first.place}")
    found[document.name] = document


def _entries(path: Path) -> list[Entry]:
    root = load(path)
    fields = members(root, "a file of definitions", ("definitions",))
    if "definitions" not in fields:
        raise error_at(root, "definitions are missing: list them under definitions:")
    entries = mapping(fields["definitions"], "definitions")
    if not entries:
        raise error_at(fields["definitions"], "definitions is empty: add at least one")
    return entries


def _read_definition(entry: Entry) -> DefinitionDocument:
    try:
        check_event_name(entry.name)
    except InvalidName as error:
        raise error_at(entry.key, error.message) from None
    fields = members(entry.value, f"definition {quoted(entry.name)}", _DEFINITION)
    places: dict[str, str] = {}
    properties: tuple[Property, ...] = ()
    errors = FileErrors()
    with errors.gathered():
        description = _description(fields)
    with errors.gathered():
        compatibility = Compatibility(_word(fields, "compatibility", tuple(Compatibility), "none"))
    with errors.gathered():
        unknown = UnknownProperties(_word(fields, "unknown_properties", tuple(UnknownProperties), "reject"))
    with errors.gathered():
        coercion = CoercionMode(_word(fields, "coercion", tuple(CoercionMode), "lenient"))
    with errors.gathered():
        retention = _retention(fields)
    with errors.gathered():
        if "properties" in fields:
            properties = _properties(fields["properties"], "schema", places)
            _check(Schema(properties=properties), places)
    errors.raise_all()
    schema = Schema(properties=properties, unknown_properties=unknown, coercion=coercion)
    return DefinitionDocument(
        name=entry.name,
        description=description,
        schema=schema,
        compatibility=compatibility,
        event_retention=retention,
        place=place_of(entry.key),
    )


def _check(schema: Schema, places: dict[str, str]) -> None:
    """Check the schema. Raise FileError with the place in the file for each violation."""
    try:
        check_schema(schema)
    except InvalidSchema as error:
        lines = (
            f"{places.get(one.path) or places[one.path.rpartition('.')[0]]}: {one.message}" for one in error.violations
        )
        raise FileError(*lines) from None


def _properties(node: Node, parent: str, places: dict[str, str]) -> tuple[Property, ...]:
    def read(numbered: tuple[int, Entry]) -> Property:
        return _property(numbered[1], f"{parent}.properties[{numbered[0]}]", places)

    return tuple(read_all(read, enumerate(mapping(node, "properties"))))


def _property(entry: Entry, path: str, places: dict[str, str]) -> Property:
    """Read a property in its short form, a type, or in its long form; add the places of its parts to `places`."""
    places[path] = place_of(entry.key)
    if isinstance(entry.value, ScalarNode):
        short = text_of(entry.value, f"property {quoted(entry.name)}")
        kind, item_type = _type(entry.value, short.removesuffix("!"), ", followed by ! if it is required")
        return Property(entry.name, kind, required=short.endswith("!"), item_type=item_type)
    fields = members(entry.value, f"property {quoted(entry.name)}", _PROPERTY)
    places |= {f"{path}.{name}": place_of(value) for name, value in fields.items()}
    if "type" not in fields:
        raise error_at(entry.key, f"property {quoted(entry.name)} has no type, such as type: number")
    kind, item_type = _type(fields["type"], text_of(fields["type"], "type"), "; required is an entry of its own")
    suggested = sequence(fields["suggested_values"], "suggested_values") if "suggested_values" in fields else ()
    return Property(
        name=entry.name,
        type=kind,
        required="required" in fields and flag_of(fields["required"], "required"),
        personal="personal" in fields and flag_of(fields["personal"], "personal"),
        description=_description(fields),
        suggested_values=tuple(text_of(node, "a suggested value") for node in suggested),
        properties=_properties(fields["properties"], path, places) if "properties" in fields else (),
        item_type=item_type,
    )


def _type(node: Node, text: str, more: str) -> tuple[PropertyType, PropertyType | None]:
    """Read TYPE or array<TYPE>; `more` completes the message of an error."""
    match = _TYPE.fullmatch(text)
    outer, inner = match.groups() if match else (text, None)
    wrong = next((name for name in (outer, inner) if name is not None and name not in _TYPES), None)
    if wrong is not None:
        meant = did_you_mean(wrong, _TYPES) if match else ""
        raise error_at(node, f"{quoted(node.value)} is not a type{meant or f': a type is {_FORMS}{more}'}")
    if inner is not None and outer != PropertyType.ARRAY:
        raise error_at(
            node, f"{quoted(node.value)} is not a type: only an array has an item type, as in array<{inner}>"
        )
    return PropertyType(outer), PropertyType(inner) if inner else None


def _word(fields: dict[str, Node], name: str, words: tuple[str, ...], default: str) -> str:
    return word_of(fields[name], name, words) if name in fields else default


def _retention(fields: dict[str, Node]) -> pb.EventRetention:
    if (node := fields.get("event_retention")) is None:
        return pb.EventRetention()
    text = text_of(node, "event_retention")
    try:
        return definition_retention(text)
    except BadParameter:
        message = f"event_retention is {quoted(text)}; it must be a time such as 90d, or forever, or project"
        raise error_at(node, message) from None


def _description(fields: dict[str, Node]) -> str:
    return text_of(fields["description"], "description") if "description" in fields else ""
