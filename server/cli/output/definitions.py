"""Views of definitions and revisions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from server.cli.arguments.enums import COERCION_MODE, COMPATIBILITY, UNKNOWN_PROPERTIES
from server.cli.arguments.message_parsers import property_text
from server.cli.output.tables import moment, own_retention, print_table
from server.cli.output.views import show_list, show_one

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from signalbox.v1 import event_definitions_pb2 as pb


def show_definition(definition: pb.EventDefinition, *, as_json: bool) -> None:
    """Print one definition with its schema."""
    show_one(definition, _definition_fields, as_json=as_json)
    if not as_json:
        _show_properties(definition.schema)


def show_revision(revision: pb.Revision, *, as_json: bool) -> None:
    """Print one revision with its schema."""
    show_one(revision, _revision_fields, as_json=as_json)
    if not as_json:
        _show_properties(revision.schema)


def show_revisions(revisions: Iterable[pb.Revision], *, as_json: bool) -> None:
    """Print revisions, one a line."""
    show_list(revisions, ("REVISION", "CREATED", "PROPERTIES"), _revision_row, as_json=as_json)


def _definition_fields(definition: pb.EventDefinition) -> tuple[tuple[str, str], ...]:
    return (
        ("name", definition.name),
        ("id", definition.id),
        ("description", definition.description),
        ("revision", str(definition.revision)),
        ("compatibility", COMPATIBILITY.name(definition.compatibility)),
        ("unknown properties", UNKNOWN_PROPERTIES.name(definition.schema.unknown_properties)),
        ("coercion", COERCION_MODE.name(definition.schema.coercion)),
        ("event retention", own_retention(definition.event_retention) or "project"),
        ("created", moment(definition.created_at)),
        ("updated", moment(definition.updated_at)),
        ("deleted", moment(definition.deleted_at)),
        ("etag", definition.etag),
    )


def _revision_fields(revision: pb.Revision) -> tuple[tuple[str, str], ...]:
    return (
        ("revision", str(revision.number)),
        ("definition id", revision.definition_id),
        ("unknown properties", UNKNOWN_PROPERTIES.name(revision.schema.unknown_properties)),
        ("coercion", COERCION_MODE.name(revision.schema.coercion)),
        ("created", moment(revision.created_at)),
    )


def _revision_row(revision: pb.Revision) -> tuple[str, ...]:
    properties = ", ".join(f"{path}:{kind}" for path, kind, _ in _rows(revision.schema))
    return str(revision.number), moment(revision.created_at), properties


def _show_properties(schema: pb.Schema) -> None:
    if schema.properties:
        click.echo()
        print_table(("PROPERTY", "TYPE", "DESCRIPTION"), _rows(schema))


def _rows(schema: pb.Schema) -> list[tuple[str, str, str]]:
    return [row for property_ in schema.properties for row in _property_rows(property_, "")]


def _property_rows(property_: pb.Property, parent: str) -> Iterator[tuple[str, str, str]]:
    """Yield the rows of a property and of its nested properties: `lines`, `lines[].sku`."""
    path = parent + property_.name
    kind = f"{property_text(property_)} (personal)" if property_.personal else property_text(property_)
    yield path, kind, property_.description
    inside = f"{path}[]." if property_.item_type else f"{path}."
    for inner in property_.properties:
        yield from _property_rows(inner, inside)
