"""The commands `definition`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import IO, TYPE_CHECKING, Any

import click

from server.cli.definition_views import show_definition, show_revision, show_revisions
from server.cli.enums import COERCION_MODE, COMPATIBILITY, UNKNOWN_PROPERTIES, enum_option
from server.cli.inputs import property_of, read_schema
from server.cli.listing import listed
from server.cli.options import etag_option, option
from server.cli.output import moment, print_json, print_table, to_plain
from server.cli.session import client_command
from signalbox.v1 import event_definitions_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from server.cli.options import F
    from server.cli.session import Session


@click.group()
def definition() -> None:
    """Define events and what their properties look like."""


def _schema_options(command: F) -> F:
    """Give a command `--property`, `--unknown`, `--coercion`, `--schema` and `--compatibility`."""
    options: tuple[Callable[[F], F], ...] = (
        option(
            "--property",
            "properties",
            type=property_of,
            metavar="NAME:TYPE",
            multiple=True,
            help="A property, such as order_total:number, or order_total:number! if it is required, or "
            "tags:array<string>. Again for each.",
        ),
        enum_option("--unknown", UNKNOWN_PROPERTIES, help="What becomes of properties that are not declared."),
        enum_option("--coercion", COERCION_MODE, help="Whether values of another type are converted."),
        option(
            "--schema",
            "file",
            type=click.File(encoding="utf-8"),
            metavar="FILE.json",
            help="The whole schema in the JSON form of signalbox.v1.Schema, nested properties included; - for stdin. "
            'For example {"properties":[{"name":"total","type":"PROPERTY_TYPE_NUMBER","required":true}]}',
        ),
        enum_option(
            "--compatibility",
            COMPATIBILITY,
            help="Which later changes of the schema are allowed; only none is served yet.",
        ),
    )
    for decorate in reversed(options):
        command = decorate(command)
    return command


@dataclass(frozen=True, slots=True)
class _Stated:
    """What `_schema_options` gathered."""

    properties: tuple[pb.Property, ...]
    unknown: pb.UnknownProperties.ValueType
    coercion: pb.CoercionMode.ValueType
    file: IO[str] | None
    compatibility: pb.Compatibility.ValueType

    def in_options(self) -> pb.Schema:
        """Give the schema that the options state."""
        return pb.Schema(properties=self.properties, unknown_properties=self.unknown, coercion=self.coercion)

    def in_file(self, *, removed: bool = False) -> pb.Schema | None:
        """Read the schema of the file, None without one. Raises click.UsageError if options state a schema too."""
        if self.file is None:
            return None
        if removed or self.in_options() != pb.Schema():
            raise click.UsageError(
                "--schema is the whole schema: leave out --property, --remove, --unknown and --coercion"
            )
        return read_schema(self.file)


@definition.command()
@click.argument("name")
@option("--description", metavar="TEXT", default="", help="What the event means.")
@_schema_options
@client_command
async def create(session: Session, /, name: str, description: str, **options: Any) -> None:
    """Define an event; its schema becomes revision 1."""
    stated = _Stated(**options)
    wanted = pb.EventDefinition(
        name=name,
        description=description,
        schema=stated.in_file() or stated.in_options(),
        compatibility=stated.compatibility,
    )
    request = pb.CreateEventDefinitionRequest(event_definition=wanted)
    answer = await session.call(session.definitions.CreateEventDefinition, request)
    show_definition(session, answer.event_definition)


@definition.command("list")
@option("--search", metavar="TEXT", default="", help="Only definitions whose name contains this, in any case.")
@option("--deleted", is_flag=True, help="Deleted definitions too.")
@client_command
async def list_(session: Session, search: str, deleted: bool) -> None:
    """List the definitions, newest first."""
    definitions = await listed(
        partial(session.call, session.definitions.ListEventDefinitions),
        pb.ListEventDefinitionsRequest(search=search, show_deleted=deleted),
        lambda answer: answer.event_definitions,
    )
    if session.json:
        print_json([to_plain(each) for each in definitions])
        return
    print_table(
        ("NAME", "ID", "REVISION", "UPDATED", "DELETED", "DESCRIPTION"),
        [
            (
                each.name,
                each.id,
                str(each.revision),
                moment(each.updated_at),
                moment(each.deleted_at),
                each.description,
            )
            for each in definitions
        ],
    )


@definition.command()
@click.argument("name_or_id")
@client_command
async def show(session: Session, name_or_id: str) -> None:
    """Show one definition; a deleted one by its id."""
    show_definition(session, await _get(session, name_or_id))


@definition.command()
@click.argument("name_or_id")
@option("--description", metavar="TEXT", help="New description.")
@_schema_options
@option("--remove", "removed", metavar="NAME", multiple=True, help="A property to remove. Again for each.")
@etag_option
@option("--force", is_flag=True, help="Change it although it breaks conditions in use.")
@client_command
async def update(
    session: Session,
    /,
    name_or_id: str,
    description: str | None,
    removed: tuple[str, ...],
    etag: str,
    force: bool,
    **options: Any,
) -> None:
    """Change a definition: a --property is added, or replaces the one of its name; what is not named stays."""
    stated = _Stated(**options)
    schema = stated.in_file(removed=bool(removed))
    if schema is None and (removed or stated.in_options() != pb.Schema()):
        current = await _get(session, name_or_id)
        schema, etag = _changed(current.schema, stated.in_options(), removed), etag or current.etag
    request = pb.UpdateEventDefinitionRequest(
        event_definition=name_or_id,
        description=description,
        schema=schema,
        compatibility=stated.compatibility,
        etag=etag,
        force=force,
    )
    answer = await session.call(session.definitions.UpdateEventDefinition, request)
    show_definition(session, answer.event_definition)


@definition.command()
@click.argument("name_or_id")
@etag_option
@client_command
async def delete(session: Session, name_or_id: str, etag: str) -> None:
    """Delete a definition: it takes no more events. Its id, which is shown, brings it back."""
    request = pb.DeleteEventDefinitionRequest(event_definition=name_or_id, etag=etag)
    answer = await session.call(session.definitions.DeleteEventDefinition, request)
    show_definition(session, answer.event_definition)


@definition.command()
@click.argument("definition_id", metavar="ID")
@etag_option
@client_command
async def undelete(session: Session, definition_id: str, etag: str) -> None:
    """Bring a deleted definition back, with all its revisions."""
    request = pb.UndeleteEventDefinitionRequest(id=definition_id, etag=etag)
    answer = await session.call(session.definitions.UndeleteEventDefinition, request)
    show_definition(session, answer.event_definition)


@definition.command()
@click.argument("name_or_id")
@option("--number", type=click.IntRange(min=1, max=2**31 - 1), help="Show this revision alone.")
@client_command
async def revisions(session: Session, name_or_id: str, number: int | None) -> None:
    """List the revisions of a definition, newest first."""
    if number is not None:
        request = pb.GetRevisionRequest(event_definition=name_or_id, number=number)
        show_revision(session, (await session.call(session.definitions.GetRevision, request)).revision)
        return
    found = await listed(
        partial(session.call, session.definitions.ListRevisions),
        pb.ListRevisionsRequest(event_definition=name_or_id),
        lambda answer: answer.revisions,
    )
    show_revisions(session, found)


async def _get(session: Session, name_or_id: str) -> pb.EventDefinition:
    request = pb.GetEventDefinitionRequest(event_definition=name_or_id)
    return (await session.call(session.definitions.GetEventDefinition, request)).event_definition


def _changed(current: pb.Schema, stated: pb.Schema, removed: Iterable[str]) -> pb.Schema:
    properties = {each.name: each for each in current.properties}
    for name in removed:
        if properties.pop(name, None) is None:
            raise click.UsageError(f'There is no property "{name}" to remove')
    properties |= {each.name: each for each in stated.properties}
    return pb.Schema(
        properties=properties.values(),
        unknown_properties=stated.unknown_properties or current.unknown_properties,
        coercion=stated.coercion or current.coercion,
    )
