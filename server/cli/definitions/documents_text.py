"""Definitions as YAML text: all that `server.cli.definitions.documents` reads, without what has its default value."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

from server.cli.arguments.enums import COERCION_MODE, COMPATIBILITY, PROPERTY_TYPE, UNKNOWN_PROPERTIES
from server.cli.output.tables import own_retention

if TYPE_CHECKING:
    from collections.abc import Iterable

    from signalbox.v1 import event_definitions_pb2 as pb


def definitions_text(definitions: Iterable[pb.EventDefinition]) -> str:
    """Return definitions as the text of one file; read back, they are equal."""
    document = {"definitions": {definition.name: _definition(definition) for definition in definitions}}
    text: str = yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
    return text


class _Dumper(yaml.SafeDumper):
    """Escapes characters that do not print, such as U+0085: unescaped, some of them are read as line breaks."""


def _write_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = None if text.replace("\n", "").isprintable() else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _write_text)


def _definition(definition: pb.EventDefinition) -> dict[str, Any]:
    schema = definition.schema
    rules = {
        "description": definition.description,
        "compatibility": _word(COMPATIBILITY.name(definition.compatibility), "none"),
        "unknown_properties": _word(UNKNOWN_PROPERTIES.name(schema.unknown_properties), "reject"),
        "coercion": _word(COERCION_MODE.name(schema.coercion), "lenient"),
        "event_retention": own_retention(definition.event_retention),
    }
    return {name: value for name, value in rules.items() if value} | {"properties": _properties(schema.properties)}


def _word(word: str, default: str) -> str:
    return "" if word == default else word


def _properties(properties: Iterable[pb.Property]) -> dict[str, Any]:
    return {declared.name: _property(declared) for declared in properties}


def _property(declared: pb.Property) -> Any:
    """Return a property in its short form, a type, if it needs no other."""
    kind = PROPERTY_TYPE.name(declared.type)
    if declared.item_type:
        kind = f"{kind}<{PROPERTY_TYPE.name(declared.item_type)}>"
    if not (declared.description or declared.suggested_values or declared.personal or declared.properties):
        return f"{kind}!" if declared.required else kind
    form: dict[str, Any] = {"type": kind}
    if declared.required:
        form["required"] = True
    if declared.description:
        form["description"] = declared.description
    if declared.suggested_values:
        form["suggested_values"] = list(declared.suggested_values)
    if declared.personal:
        form["personal"] = True
    if declared.properties:
        form["properties"] = _properties(declared.properties)
    return form
