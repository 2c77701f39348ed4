"""Schemas as JSON Schema."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from registry.definitions.schema import PropertyType, UnknownProperties

if TYPE_CHECKING:
    from registry.definitions.schema import Property, Schema

_NATIVE: dict[PropertyType, dict[str, Any]] = {
    PropertyType.STRING: {"type": "string"},
    PropertyType.NUMBER: {"type": "number"},
    PropertyType.BOOLEAN: {"type": "boolean"},
    PropertyType.DATE: {"type": "string", "format": "date-time"},
    PropertyType.OBJECT: {"type": "object"},
    PropertyType.ARRAY: {"type": "array"},
    PropertyType.ANY: {"not": {"type": "null"}},
}


def json_schema(event_name: str, description: str, schema: Schema) -> dict[str, Any]:
    """Return the JSON Schema, draft 2020-12, of the payloads that a schema accepts without coercion.

    It does not allow the other values that LENIENT coercion accepts, such as "5" for a number or null for an absent
    property. If undeclared properties are dropped, it allows them. Personal properties have `x-personal`.
    """
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": event_name}
    described = {"description": description} if description else {}
    return head | described | _members(schema.properties, schema.unknown_properties)


def _members(properties: tuple[Property, ...], unknown: UnknownProperties) -> dict[str, Any]:
    described: dict[str, Any] = {"type": "object"}
    if properties:
        described["properties"] = {declared.name: _property(declared, unknown) for declared in properties}
    if required := [declared.name for declared in properties if declared.required]:
        described["required"] = required
    return described | {"additionalProperties": unknown is not UnknownProperties.REJECT}


def _property(declared: Property, unknown: UnknownProperties) -> dict[str, Any]:
    described = dict(_NATIVE[declared.type])
    inner = _members(declared.properties, unknown) if declared.properties else {}
    if declared.type is PropertyType.ARRAY and declared.item_type is not None:
        described["items"] = inner or dict(_NATIVE[declared.item_type])
    else:
        described |= inner
    if declared.description:
        described["description"] = declared.description
    if declared.personal:
        described["x-personal"] = True
    if declared.suggested_values:
        described["examples"] = list(declared.suggested_values)
    return described
