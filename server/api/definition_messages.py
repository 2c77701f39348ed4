"""Definitions and schemas between their messages and the registry's values."""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry.errors import InvalidSchema, Violation
from registry.schema import Property, Schema
from server.api.enums import COERCION_MODE, COMPATIBILITY, PROPERTY_TYPE, UNKNOWN_PROPERTIES
from server.api.times import timestamp
from server.errors import InvalidArgument
from signalbox.v1 import event_definitions_pb2 as pb

if TYPE_CHECKING:
    from registry.definitions import EventDefinition, Revision


def read_schema(message: pb.Schema) -> Schema:
    """Read a schema. Raises InvalidSchema where a type is missing or unknown; the registry checks the rest."""
    violations: list[Violation] = []
    schema = Schema(
        properties=tuple(
            _read_property(one, f"schema.properties[{index}]", violations)
            for index, one in enumerate(message.properties)
        ),
        unknown_properties=UNKNOWN_PROPERTIES.read(message.unknown_properties, "schema.unknown_properties"),
        coercion=COERCION_MODE.read(message.coercion, "schema.coercion"),
    )
    if violations:
        raise InvalidSchema(tuple(violations))
    return schema


def write_schema(schema: Schema) -> pb.Schema:
    """Write a schema."""
    return pb.Schema(
        properties=map(_write_property, schema.properties),
        unknown_properties=UNKNOWN_PROPERTIES.write(schema.unknown_properties),
        coercion=COERCION_MODE.write(schema.coercion),
    )


def write_definition(definition: EventDefinition) -> pb.EventDefinition:
    """Write a definition."""
    return pb.EventDefinition(
        id=definition.id,
        name=definition.name,
        description=definition.description,
        schema=write_schema(definition.schema),
        compatibility=COMPATIBILITY.write(definition.compatibility),
        revision=definition.revision,
        etag=definition.etag,
        created_at=timestamp(definition.created_at),
        updated_at=timestamp(definition.updated_at),
        deleted_at=None if definition.deleted_at is None else timestamp(definition.deleted_at),
    )


def write_revision(revision: Revision) -> pb.Revision:
    """Write a revision."""
    return pb.Revision(
        definition_id=revision.definition_id,
        number=revision.number,
        schema=write_schema(revision.schema),
        created_at=timestamp(revision.created_at),
    )


def _read_property(message: pb.Property, path: str, violations: list[Violation]) -> Property:
    # A message is at most 100 levels deep: its parser refuses more.
    try:
        kind = PROPERTY_TYPE.read(message.type, f"{path}.type")
        item_type = PROPERTY_TYPE.read_optional(message.item_type, f"{path}.item_type")
    except InvalidArgument as error:
        violations += error.violations
        kind, item_type = next(iter(PROPERTY_TYPE.members())), None
    return Property(
        name=message.name,
        type=kind,
        required=message.required,
        description=message.description,
        suggested_values=tuple(message.suggested_values),
        properties=tuple(
            _read_property(one, f"{path}.properties[{index}]", violations)
            for index, one in enumerate(message.properties)
        ),
        item_type=item_type,
    )


def _write_property(one: Property) -> pb.Property:
    return pb.Property(
        name=one.name,
        type=PROPERTY_TYPE.write(one.type),
        required=one.required,
        description=one.description,
        suggested_values=one.suggested_values,
        properties=map(_write_property, one.properties),
        item_type=PROPERTY_TYPE.write(one.item_type) if one.item_type else pb.PROPERTY_TYPE_UNSPECIFIED,
    )
