"""Schemas between OpenSend's form, a small part of JSON Schema, and the registry's.

A schema declares and demands; what it does not declare is kept, and nothing is converted. What it demands without
declaring it may be anything: a property of type `any`, which is shown as demanded alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from registry.schema import MAX_DEPTH, CoercionMode, Property, PropertyType, Schema, UnknownProperties

if TYPE_CHECKING:
    from collections.abc import Iterable

FREE: Final = Schema((), UnknownProperties.KEEP, CoercionMode.STRICT)
"""What an event without a schema is judged by: nothing."""

_TYPES: Final = ("string", "number", "boolean", "object", "array")
_KEYWORDS: Final = ("type", "properties", "required")

WORDS: Final = {"date": "string"}
"""What OpenSend calls a type that it has no word for."""


def read_schema(given: Any, faults: list[str]) -> Schema:
    """Read a schema, None for none, noting what is wrong with it."""
    if given is None:
        return FREE
    if not isinstance(given, dict):
        faults.append("schema must be an object")
        return FREE
    _check_keywords(given, "schema", faults)
    if given.get("type") != "object":
        faults.append('schema.type must be "object"')
        return FREE
    return Schema(_members(given, "schema", 1, faults), UnknownProperties.KEEP, CoercionMode.STRICT)


def write_schema(schema: Schema) -> dict[str, Any] | None:
    """Write a schema; None for one that takes anything."""
    free = not schema.properties and schema.unknown_properties is UnknownProperties.KEEP
    return None if free else _object(schema.properties)


def word(type_name: str) -> str:
    """Give OpenSend's word for a type."""
    return WORDS.get(type_name, type_name)


def _members(given: dict[str, Any], path: str, depth: int, faults: list[str]) -> tuple[Property, ...]:
    declared = given.get("properties", {})
    required = given.get("required", [])
    if not isinstance(declared, dict):
        faults.append(f"{path}.properties must be an object")
        return ()
    if not isinstance(required, list) or not all(isinstance(each, str) and each.strip() for each in required):
        faults.append(f"{path}.required must be an array of non-empty strings")
        return ()
    if depth > MAX_DEPTH:
        faults.append(f"{path}.properties is nested more than {MAX_DEPTH} levels deep")
        return ()
    found = (_property(name, each, path, depth, faults, required) for name, each in declared.items())
    undeclared = dict.fromkeys(each for each in required if each not in declared)
    return (
        *(each for each in found if each is not None),
        *(Property(name, PropertyType.ANY, required=True) for name in undeclared),
    )


def _property(
    name: str, given: Any, parent: str, depth: int, faults: list[str], required: Iterable[str]
) -> Property | None:
    path = f"{parent}.properties.{name}"
    if not isinstance(given, dict):
        faults.append(f"{path} must be an object")
        return None
    _check_keywords(given, path, faults)
    kind = given.get("type")
    if kind not in _TYPES:
        faults.append(f"{path}.type must be one of: {', '.join(_TYPES)}")
        return None
    inner: tuple[Property, ...] = ()
    if kind == "object":
        inner = _members(given, path, depth + 1, faults)
    else:
        faults += [f"{path}.{each} is only supported for objects" for each in _KEYWORDS[1:] if each in given]
    return Property(name, PropertyType(kind), name in required, properties=inner)


def _check_keywords(given: dict[str, Any], path: str, faults: list[str]) -> None:
    faults += [f"{path}.{each} is not a supported schema keyword" for each in given if each not in _KEYWORDS]


def _object(properties: Iterable[Property]) -> dict[str, Any]:
    written: dict[str, Any] = {"type": "object"}
    if declared := {each.name: _descriptor(each) for each in properties if each.type is not PropertyType.ANY}:
        written["properties"] = declared
    if required := [each.name for each in properties if each.required]:
        written["required"] = required
    return written


def _descriptor(each: Property) -> dict[str, Any]:
    if each.type is PropertyType.OBJECT:
        return _object(each.properties)
    return {"type": word(each.type)}
