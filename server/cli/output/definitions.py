"""How definitions and revisions are printed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from server.cli.arguments.enums import COERCION_MODE, COMPATIBILITY, UNKNOWN_PROPERTIES
from server.cli.arguments.inputs import property_text
from server.cli.output.tables import moment, print_fields, print_json, print_table, to_plain

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from server.cli.client.session import Session
    from signalbox.v1 import event_definitions_pb2 as pb


def show_definition(session: Session, each: pb.EventDefinition) -> None:
    """Print one definition with its schema."""
    if session.json:
        print_json(to_plain(each))
        return
    print_fields(
        (
            ("name", each.name),
            ("id", each.id),
            ("description", each.description),
            ("revision", str(each.revision)),
            ("compatibility", COMPATIBILITY.name(each.compatibility)),
            ("unknown properties", UNKNOWN_PROPERTIES.name(each.schema.unknown_properties)),
            ("coercion", COERCION_MODE.name(each.schema.coercion)),
            ("created", moment(each.created_at)),
            ("updated", moment(each.updated_at)),
            ("deleted", moment(each.deleted_at)),
            ("etag", each.etag),
        )
    )
    _show_properties(each.schema)


def show_revision(session: Session, each: pb.Revision) -> None:
    """Print one revision with its schema."""
    if session.json:
        print_json(to_plain(each))
        return
    print_fields(
        (
            ("revision", str(each.number)),
            ("definition id", each.definition_id),
            ("unknown properties", UNKNOWN_PROPERTIES.name(each.schema.unknown_properties)),
            ("coercion", COERCION_MODE.name(each.schema.coercion)),
            ("created", moment(each.created_at)),
        )
    )
    _show_properties(each.schema)


def show_revisions(session: Session, revisions: Iterable[pb.Revision]) -> None:
    """Print revisions, one a line."""
    if session.json:
        print_json([to_plain(each) for each in revisions])
        return
    print_table(
        ("REVISION", "CREATED", "PROPERTIES"),
        [
            (
                str(each.number),
                moment(each.created_at),
                ", ".join(f"{path}:{kind}" for path, kind, _ in _rows(each.schema)),
            )
            for each in revisions
        ],
    )


def _show_properties(schema: pb.Schema) -> None:
    if schema.properties:
        click.echo()
        print_table(("PROPERTY", "TYPE", "DESCRIPTION"), _rows(schema))


def _rows(schema: pb.Schema) -> list[tuple[str, str, str]]:
    return [row for each in schema.properties for row in _property_rows(each, "")]


def _property_rows(each: pb.Property, parent: str) -> Iterator[tuple[str, str, str]]:
    """Give the rows of a property and of those inside it: `lines`, `lines[].sku`."""
    path = parent + each.name
    yield path, property_text(each), each.description
    inside = f"{path}[]." if each.item_type else f"{path}."
    for inner in each.properties:
        yield from _property_rows(inner, inside)
