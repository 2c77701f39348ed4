"""Definitions and schemas between their messages and the registry's values."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Final

from registry.coercion.validation import compile_schema
from registry.definitions.schema import MAX_PROPERTIES, MAX_SUGGESTED_VALUES, Property, Schema
from registry.errors import InvalidSchema, PayloadRejected, Violation
from server.current_call.personal_access import shown_violations
from server.errors import InvalidArgument
from server.rpc.messages.enums import COERCION_MODE, COMPATIBILITY, DIRECTION, PROPERTY_TYPE, UNKNOWN_PROPERTIES
from server.rpc.messages.events import write_coercion, write_violation
from server.rpc.messages.response_size import write_details
from server.rpc.messages.retention import write_definition_retention
from server.rpc.messages.structs import read_struct, write_struct
from server.rpc.messages.times import timestamp
from server.services.dependents import ReadingAutomation
from signalbox.v1 import event_definitions_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from google.protobuf.struct_pb2 import Struct

    from registry.compatibility.comparison import Incompatibility
    from registry.definitions.event_definitions import EventDefinition, Revision
    from server.services.definitions import CompatibilityVerdict, Dependent


def read_schema(message: pb.Schema) -> Schema:
    """Read a schema. Raise InvalidSchema where a type is missing or unknown; the registry checks the rest."""
    violations: list[Violation] = []
    schema = Schema(
        properties=_read_properties(message.properties, "schema", violations, count()),
        unknown_properties=UNKNOWN_PROPERTIES.read(message.unknown_properties, "schema.unknown_properties"),
        coercion=COERCION_MODE.read(message.coercion, "schema.coercion"),
    )
    if violations:
        raise InvalidSchema(tuple(violations))
    return schema


def read_candidate(request: pb.CheckCompatibilityRequest | pb.BacktestSchemaRequest) -> Schema:
    """Read the candidate. Raise InvalidArgument without one, and InvalidSchema."""
    if not request.HasField("schema"):
        message = "schema is missing; it must be the candidate schema"
        raise InvalidArgument.at("schema", "INVALID_ARGUMENT", message)
    return read_schema(request.schema)


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
        event_retention=write_definition_retention(definition.event_retention),
    )


def write_revision(revision: Revision) -> pb.Revision:
    """Write a revision."""
    return pb.Revision(
        definition_id=revision.definition_id,
        number=revision.number,
        schema=write_schema(revision.schema),
        created_at=timestamp(revision.created_at),
    )


def write_verdict(verdict: CompatibilityVerdict) -> pb.CheckCompatibilityResponse:
    """Write the verdict of a compatibility rule on a candidate."""
    message = pb.CheckCompatibilityResponse(
        compatible=not verdict.incompatibilities,
        compatibility=COMPATIBILITY.write(verdict.rule),
        changed=verdict.changed,
    )
    message.omitted_incompatibility_count = write_details(
        verdict.incompatibilities, _write_incompatibility, message.incompatibilities
    )
    return message


def write_validation(schema: Schema, payload: Struct) -> pb.ValidateEventResponse:
    """Write the validation result of a payload under a valid schema."""
    try:
        coerced = compile_schema(schema)(read_struct(payload))
    except (InvalidArgument, PayloadRejected) as error:
        return pb.ValidateEventResponse(violations=map(write_violation, shown_violations(error.violations)))
    response = pb.ValidateEventResponse(valid=True)
    response.properties.SetInParent()
    write_struct(coerced.properties, response.properties)
    unwritten = write_details(coerced.coercions, write_coercion, response.coercions)
    response.omitted_coercion_count = coerced.omitted + unwritten
    return response


def write_dependent(dependent: Dependent) -> pb.Dependent:
    """Write a dependent of a definition: an automation, or the senders of a revision's recent events."""
    if isinstance(dependent, ReadingAutomation):
        reads, paths = dependent.automation, dependent.paths
        return pb.Dependent(automation=pb.Dependent.Automation(id=reads.id, name=reads.name, paths=paths))
    return pb.Dependent(
        traffic=pb.Dependent.Traffic(
            revision=dependent.revision,
            event_count=dependent.event_count,
            last_seen_at=timestamp(dependent.last_seen_at),
        )
    )


def _write_incompatibility(one: Incompatibility, into: pb.Incompatibility) -> None:
    into.kind = one.kind
    into.path = one.path
    into.old = one.old
    into.new = one.new
    into.direction = DIRECTION.write(one.direction)
    into.revision = one.revision


_MAX_READ: Final = 2 * MAX_PROPERTIES**2
"""All of two levels, each with one more than is allowed."""


def _read_properties(
    messages: Sequence[pb.Property], parent: str, violations: list[Violation], read: Iterator[int]
) -> tuple[Property, ...]:
    """Read the properties of a level; of too many, enough for the registry to refuse them. `read` counts them all."""
    return tuple(
        _read_property(each, f"{parent}.properties[{index}]", violations, read)
        for index, each in enumerate(messages[: MAX_PROPERTIES + 1])
        if next(read) < _MAX_READ
    )


def _read_property(message: pb.Property, path: str, violations: list[Violation], read: Iterator[int]) -> Property:
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
        suggested_values=tuple(message.suggested_values[: MAX_SUGGESTED_VALUES + 1]),
        properties=_read_properties(message.properties, path, violations, read),
        item_type=item_type,
        personal=message.personal,
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
        personal=one.personal,
    )
