"""Conversion between OpenSend's schemas, a small part of JSON Schema, and the registry's.

Undeclared properties are kept, and no value is coerced. A property that is required but not declared may have any
value: its type is `any`, and it is shown in `required` only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from registry.definitions.schema import MAX_DEPTH, CoercionMode, Property, PropertyType, Schema, UnknownProperties
from server.bridge.operations import accepts_everything

if TYPE_CHECKING:
    from collections.abc import Iterable

FREE: Final = Schema((), UnknownProperties.KEEP, CoercionMode.STRICT)
"""The schema of a definition without a schema: it accepts every payload."""

_TYPES: Final = ("string", "number", "boolean", "object", "array")
_KEYWORDS: Final = ("type", "properties", "required")

TYPE_WORDS: Final = {"date": "string"}
"""How types are shown that OpenSend does not have."""


def read_schema(value: Any, violations: list[str]) -> Schema:
    """Return the schema of a body's value, and add the messages of its violations; None stands for no schema."""
    if value is None:
        return FREE
    if not isinstance(value, dict):
        violations.append("schema must be an object")
        return FREE
    _check_keywords(value, "schema", violations)
    if value.get("type") != "object":
        violations.append('schema.type must be "object"')
        return FREE
    return Schema(_members(value, "schema", 1, violations), UnknownProperties.KEEP, CoercionMode.STRICT)


def write_schema(schema: Schema) -> dict[str, Any] | None:
    """Return a schema in OpenSend's form; None for one that accepts every payload."""
    return None if accepts_everything(schema) else _object(schema.properties)


def type_word(type_name: str) -> str:
    """Return OpenSend's word for a type."""
    return TYPE_WORDS.get(type_name, type_name)


def _members(value: dict[str, Any], path: str, depth: int, violations: list[str]) -> tuple[Property, ...]:
    declared = value.get("properties", {})
    required = value.get("required", [])
    if not isinstance(declared, dict):
        violations.append(f"{path}.properties must be an object")
        return ()
    if not isinstance(required, list) or not all(isinstance(name, str) and name.strip() for name in required):
        violations.append(f"{path}.required must be an array of non-empty strings")
        return ()
    if depth > MAX_DEPTH:
        violations.append(f"{path}.properties is nested more than {MAX_DEPTH} levels deep")
        return ()
    properties = (
        _property(name, descriptor, path, depth, violations, required) for name, descriptor in declared.items()
    )
    undeclared = dict.fromkeys(name for name in required if name not in declared)
    return (
        *(prop for prop in properties if prop is not None),
        *(Property(name, PropertyType.ANY, required=True) for name in undeclared),
    )


def _property(
    name: str, value: Any, parent: str, depth: int, violations: list[str], required: Iterable[str]
) -> Property | None:
    path = f"{parent}.properties.{name}"
    if not isinstance(value, dict):
        violations.append(f"{path} must be an object")
        return None
    _check_keywords(value, path, violations)
    kind = value.get("type")
    if kind not in _TYPES:
        violations.append(f"{path}.type must be one of: {', '.join(_TYPES)}")
        return None
    inner: tuple[Property, ...] = ()
    if kind == "object":
        inner = _members(value, path, depth + 1, violations)
    else:
        violations += [f"{path}.{key} is only supported for objects" for key in _KEYWORDS[1:] if key in value]
    return Property(name, PropertyType(kind), name in required, properties=inner)


def _check_keywords(value: dict[str, Any], path: str, violations: list[str]) -> None:
    violations += [f"{path}.{key} is not a supported schema keyword" for key in value if key not in _KEYWORDS]


def _object(properties: Iterable[Property]) -> dict[str, Any]:
    written: dict[str, Any] = {"type": "object"}
    if declared := {prop.name: _descriptor(prop) for prop in properties if prop.type is not PropertyType.ANY}:
        written["properties"] = declared
    if required := [prop.name for prop in properties if prop.required]:
        written["required"] = required
    return written


def _descriptor(prop: Property) -> dict[str, Any]:
    if prop.type is PropertyType.OBJECT:
        return _object(prop.properties)
    return {"type": type_word(prop.type)}
