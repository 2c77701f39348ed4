"""Schemas: the properties of an event, and the rules by which payloads are validated and coerced."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Final

import msgspec

from registry.errors import InvalidSchema, Violation
from registry.names import name_problem

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_PROPERTIES: Final = 50
"""The most properties of one schema, nested ones included."""
MAX_DEPTH: Final = 10
MAX_DESCRIPTION_LENGTH: Final = 2000
MAX_SUGGESTED_VALUES: Final = 100
MAX_SUGGESTED_VALUE_LENGTH: Final = 255
MAX_BYTES: Final = 512 * 1024
"""The largest schema as JSON, with its descriptions and suggested values."""


class PropertyType(StrEnum):
    """The types of properties; `date` is an instant, `any` is every value except null."""

    STRING = "string"
    NUMBER = "number"
    BOOLEAN = "boolean"
    DATE = "date"
    OBJECT = "object"
    ARRAY = "array"
    ANY = "any"


class UnknownProperties(StrEnum):
    """The policy for undeclared properties, at every level that declares properties."""

    REJECT = "reject"
    KEEP = "keep"
    DROP = "drop"


class CoercionMode(StrEnum):
    """Whether values of another JSON kind are converted or refused."""

    LENIENT = "lenient"
    STRICT = "strict"


class Compatibility(StrEnum):
    """The rule for new revisions: compatible with the latest revision or, where transitive, with every earlier one."""

    NONE = "none"
    BACKWARD = "backward"
    BACKWARD_TRANSITIVE = "backward_transitive"
    FORWARD = "forward"
    FORWARD_TRANSITIVE = "forward_transitive"
    FULL = "full"
    FULL_TRANSITIVE = "full_transitive"


@dataclass(frozen=True, slots=True)
class Property:
    """One declared property.

    `properties` are the nested properties of an object or, with item_type object, of each item of an array; without
    them, every object is accepted. `item_type` is for arrays only; without it, all items are accepted.
    `suggested_values` are hints for string properties and never enforced. Values of a `personal` property are about a
    person: see `registry.personal.marks`.
    """

    name: str
    type: PropertyType
    required: bool = False
    description: str = ""
    suggested_values: tuple[str, ...] = ()
    properties: tuple[Property, ...] = ()
    item_type: PropertyType | None = None
    personal: bool = False

    @property
    def may_nest(self) -> bool:
        """Whether the property holds objects and may therefore have nested properties."""
        return (self.item_type if self.type is PropertyType.ARRAY else self.type) is PropertyType.OBJECT


@dataclass(frozen=True, slots=True)
class Schema:
    """The properties of an event, and the rules for undeclared properties and for coercion."""

    properties: tuple[Property, ...] = ()
    unknown_properties: UnknownProperties = UnknownProperties.REJECT
    coercion: CoercionMode = CoercionMode.LENIENT


_decoder = msgspec.json.Decoder(Schema)


def schema_to_json(schema: Schema) -> str:
    """Return a valid schema as compact JSON, properties in declared order."""
    return msgspec.json.encode(schema).decode()


def schema_from_json(text: str) -> Schema:
    """Return the schema that `schema_to_json` wrote. Raise ValueError for other text."""
    return _decoder.decode(text)


def canonical_schema(schema: Schema) -> Schema:
    """Return a valid schema with the properties of every level sorted by name."""
    return replace(schema, properties=_sorted(schema.properties))


def same_schema(one: Schema, other: Schema) -> bool:
    """Return whether two valid schemas differ at most in the order of their properties."""
    return canonical_schema(one) == canonical_schema(other)


def without_annotations(schema: Schema) -> Schema:
    """Return a valid schema with only its rules: sorted, without descriptions, suggested values and `personal`."""
    return replace(schema, properties=_bare(schema.properties))


def _bare(properties: tuple[Property, ...]) -> tuple[Property, ...]:
    bare = (
        replace(declared, description="", suggested_values=(), properties=_bare(declared.properties), personal=False)
        for declared in properties
    )
    return tuple(sorted(bare, key=lambda declared: declared.name))


def _sorted(properties: tuple[Property, ...]) -> tuple[Property, ...]:
    nested = (replace(declared, properties=_sorted(declared.properties)) for declared in properties)
    return tuple(sorted(nested, key=lambda declared: declared.name))


def check_schema(schema: Schema) -> None:
    """Raise InvalidSchema with every violation, level by level and in document order within a level.

    Checking stops after MAX_PROPERTIES properties. Nesting of any depth is reported as a violation, because nothing
    here recurses.
    """
    if violations := tuple(_violations(schema)):
        raise InvalidSchema(violations)
    size = len(msgspec.json.encode(schema))
    if size > MAX_BYTES:
        message = (
            f"The schema takes {size:,} bytes as JSON; at most {MAX_BYTES:,} are allowed: shorten its descriptions"
        )
        raise InvalidSchema((Violation("schema", "TOO_LARGE", message),))


def _violations(schema: Schema) -> Iterator[Violation]:
    levels = deque([("schema", schema.properties, 1)])
    count = 0
    while levels:
        parent, properties, depth = levels.popleft()
        names: set[str] = set()
        for index, declared in enumerate(properties):
            path = f"{parent}.properties[{index}]"
            count += 1
            if count > MAX_PROPERTIES:
                message = f"A schema may have at most {MAX_PROPERTIES} properties, including nested ones"
                yield Violation(path, "TOO_MANY_PROPERTIES", message)
                return
            if declared.name in names:
                message = f'Property "{declared.name}" is declared twice at this level'
                yield Violation(f"{path}.name", "DUPLICATE_PROPERTY", message)
            names.add(declared.name)
            yield from _property_violations(declared, path)
            if declared.properties and depth == MAX_DEPTH:
                message = f"Properties may be nested at most {MAX_DEPTH} levels deep"
                yield Violation(f"{path}.properties", "SCHEMA_TOO_DEEP", message)
            elif declared.properties:
                levels.append((path, declared.properties, depth + 1))


def _property_violations(declared: Property, path: str) -> Iterator[Violation]:
    if problem := name_problem(declared.name):
        yield Violation(f"{path}.name", "INVALID_PROPERTY_NAME", f"The property name {problem}")
    if len(declared.description) > MAX_DESCRIPTION_LENGTH:
        message = f"A description may have at most {MAX_DESCRIPTION_LENGTH:,} characters"
        yield Violation(f"{path}.description", "DESCRIPTION_TOO_LONG", message)
    if problem := _suggestion_problem(declared):
        yield Violation(f"{path}.suggested_values", "INVALID_SUGGESTED_VALUES", problem)
    if declared.properties and not declared.may_nest:
        message = "Only an object, or an array with item_type object, may have nested properties"
        yield Violation(f"{path}.properties", "NESTED_PROPERTIES_NOT_ALLOWED", message)
    if declared.item_type is not None and declared.type is not PropertyType.ARRAY:
        message = f"Only an array may have an item_type; this property is of type {declared.type}"
        yield Violation(f"{path}.item_type", "ITEM_TYPE_NOT_ALLOWED", message)
    if declared.item_type is PropertyType.ANY:
        message = "item_type any is not allowed; leave item_type out to accept any items"
        yield Violation(f"{path}.item_type", "ITEM_TYPE_NOT_ALLOWED", message)


def _suggestion_problem(declared: Property) -> str | None:
    if declared.suggested_values and declared.type is not PropertyType.STRING:
        return f"Only a string property may have suggested values; this one is of type {declared.type}"
    if len(declared.suggested_values) > MAX_SUGGESTED_VALUES:
        return f"A property may have at most {MAX_SUGGESTED_VALUES} suggested values"
    if any(len(value) > MAX_SUGGESTED_VALUE_LENGTH for value in declared.suggested_values):
        return f"A suggested value may have at most {MAX_SUGGESTED_VALUE_LENGTH} characters"
    return None
