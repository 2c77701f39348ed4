"""The commands `definition`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import click

from server.cli.arguments.confirmation import confirmed
from server.cli.arguments.enums import COMPATIBILITY, enum_option
from server.cli.arguments.message_parsers import definition_retention
from server.cli.arguments.options import etag_option, force_option, option, validate_only_option
from server.cli.arguments.schema_options import SchemaOptions, remove_option, schema_options
from server.cli.arguments.value_parsers import WholeNumber
from server.cli.client.definitions import get_definition
from server.cli.client.pagination import list_all
from server.cli.client.session import client_command
from server.cli.commands.definition_checks import check, dependents, rollback, validate
from server.cli.definitions.backtest import backtest
from server.cli.definitions.case_reports import test
from server.cli.definitions.export import export
from server.cli.definitions.files import apply, plan
from server.cli.definitions.infer import infer
from server.cli.output.definitions import show_definition, show_revision, show_revisions
from server.cli.output.tables import moment
from server.cli.output.views import show_list
from signalbox.v1 import event_definitions_pb2 as pb

if TYPE_CHECKING:
    from server.cli.client.session import Session


@click.group()
def definition() -> None:
    """Manage event definitions, their schemas and revisions."""


for _command in (rollback, check, backtest, validate, dependents, export, plan, apply, test, infer):
    definition.add_command(_command)


_compatibility_option = enum_option(
    "--compatibility", COMPATIBILITY, help="Which changes of the schema are allowed later."
)


_retention_option = option(
    "--event-retention",
    type=definition_retention,
    metavar="TIME",
    help="How long events of this name are kept: such as 90d, forever, or project for the rule of the project.",
)


@definition.command()
@click.argument("name")
@option("--description", metavar="TEXT", default="", help="What the event means.")
@schema_options
@_compatibility_option
@_retention_option
@validate_only_option
@client_command
async def create(
    session: Session,
    /,
    name: str,
    description: str,
    compatibility: pb.Compatibility.ValueType,
    event_retention: pb.EventRetention | None,
    validate_only: bool,
    **options: Any,
) -> None:
    """Define an event; its schema becomes revision 1."""
    new = pb.EventDefinition(
        name=name,
        description=description,
        schema=SchemaOptions(**options).whole(),
        compatibility=compatibility,
        event_retention=event_retention,
    )
    request = pb.CreateEventDefinitionRequest(event_definition=new, validate_only=validate_only)
    response = await session.call(session.definitions.CreateEventDefinition, request)
    show_definition(response.event_definition, as_json=session.json)


@definition.command("list")
@option("--search", metavar="TEXT", default="", help="Only definitions whose name contains this text, ignoring case.")
@option("--deleted", is_flag=True, help="Include deleted definitions.")
@client_command
async def list_(session: Session, search: str, deleted: bool) -> None:
    """List the definitions, newest first."""
    definitions = await list_all(
        partial(session.call, session.definitions.ListEventDefinitions),
        pb.ListEventDefinitionsRequest(search=search, show_deleted=deleted),
        lambda response: response.event_definitions,
    )
    header = ("NAME", "ID", "REVISION", "UPDATED", "DELETED", "DESCRIPTION")
    show_list(definitions, header, _row, as_json=session.json)


@definition.command()
@click.argument("name_or_id")
@client_command
async def show(session: Session, name_or_id: str) -> None:
    """Show one definition. A deleted one is named by its id."""
    show_definition(await get_definition(session, name_or_id), as_json=session.json)


_UPDATED = ("description", "compatibility", "event_retention", "validate_only", "force")
"""The options of an update that are fields of its request."""


@definition.command()
@click.argument("name_or_id")
@option("--description", metavar="TEXT", help="New description.")
@schema_options
@_compatibility_option
@_retention_option
@remove_option
@etag_option
@validate_only_option
@force_option
@client_command
async def update(session: Session, /, name_or_id: str, removed: tuple[str, ...], etag: str, **options: Any) -> None:
    """Update a definition. A --property is added or replaces the one of its name; the rest stays as it is."""
    given = {field: options.pop(field) for field in _UPDATED}
    schema, read_etag = await SchemaOptions(**options).next_of(partial(get_definition, session, name_or_id), removed)
    request = pb.UpdateEventDefinitionRequest(
        event_definition=name_or_id, schema=schema, etag=etag or read_etag, **given
    )
    response = await session.call(session.definitions.UpdateEventDefinition, request)
    show_definition(response.event_definition, as_json=session.json)


@definition.command()
@click.argument("name_or_id")
@etag_option
@confirmed("deletes the definition {name_or_id}, whose events are rejected from then on")
@client_command
async def delete(session: Session, name_or_id: str, etag: str) -> None:
    """Delete a definition: its events are rejected from now on. Undelete it by the id that is shown."""
    request = pb.DeleteEventDefinitionRequest(event_definition=name_or_id, etag=etag)
    response = await session.call(session.definitions.DeleteEventDefinition, request)
    show_definition(response.event_definition, as_json=session.json)


@definition.command()
@click.argument("definition_id", metavar="ID")
@etag_option
@client_command
async def undelete(session: Session, definition_id: str, etag: str) -> None:
    """Restore a deleted definition with all its revisions."""
    request = pb.UndeleteEventDefinitionRequest(id=definition_id, etag=etag)
    response = await session.call(session.definitions.UndeleteEventDefinition, request)
    show_definition(response.event_definition, as_json=session.json)


@definition.command()
@click.argument("name_or_id")
@option("--number", type=WholeNumber(min=1, max=2**31 - 1), help="Show only this revision.")
@client_command
async def revisions(session: Session, name_or_id: str, number: int | None) -> None:
    """List the revisions of a definition, newest first."""
    if number is not None:
        request = pb.GetRevisionRequest(event_definition=name_or_id, number=number)
        show_revision((await session.call(session.definitions.GetRevision, request)).revision, as_json=session.json)
        return
    found_revisions = await list_all(
        partial(session.call, session.definitions.ListRevisions),
        pb.ListRevisionsRequest(event_definition=name_or_id),
        lambda response: response.revisions,
    )
    show_revisions(found_revisions, as_json=session.json)


def _row(definition: pb.EventDefinition) -> tuple[str, ...]:
    return (
        definition.name,
        definition.id,
        str(definition.revision),
        moment(definition.updated_at),
        moment(definition.deleted_at),
        definition.description,
    )
