"""The commands `definition`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import click

from server.cli.arguments.enums import COMPATIBILITY, enum_option
from server.cli.arguments.options import etag_option, force_option, option, validate_only_option
from server.cli.arguments.schema_options import StatedSchema, get_definition, remove_option, schema_options
from server.cli.client.pagination import listed
from server.cli.client.session import client_command
from server.cli.commands.definition_checks import check, dependents, rollback, validate
from server.cli.definitions.backtest import backtest
from server.cli.definitions.case_reports import test
from server.cli.definitions.export import export
from server.cli.definitions.files import apply, plan
from server.cli.output.definitions import show_definition, show_revision, show_revisions
from server.cli.output.tables import moment, print_json, print_table, to_plain
from signalbox.v1 import event_definitions_pb2 as pb

if TYPE_CHECKING:
    from server.cli.client.session import Session


@click.group()
def definition() -> None:
    """Define events and what their properties look like."""


for _command in (rollback, check, backtest, validate, dependents, export, plan, apply, test):
    definition.add_command(_command)


_compatibility_option = enum_option(
    "--compatibility", COMPATIBILITY, help="Which later changes of the schema are allowed."
)


@definition.command()
@click.argument("name")
@option("--description", metavar="TEXT", default="", help="What the event means.")
@schema_options
@_compatibility_option
@validate_only_option
@client_command
async def create(
    session: Session,
    /,
    name: str,
    description: str,
    compatibility: pb.Compatibility.ValueType,
    validate_only: bool,
    **options: Any,
) -> None:
    """Define an event; its schema becomes revision 1."""
    wanted = pb.EventDefinition(
        name=name,
        description=description,
        schema=StatedSchema(**options).whole(),
        compatibility=compatibility,
    )
    request = pb.CreateEventDefinitionRequest(event_definition=wanted, validate_only=validate_only)
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
    show_definition(session, await get_definition(session, name_or_id))


@definition.command()
@click.argument("name_or_id")
@option("--description", metavar="TEXT", help="New description.")
@schema_options
@_compatibility_option
@remove_option
@etag_option
@validate_only_option
@force_option
@client_command
async def update(
    session: Session,
    /,
    name_or_id: str,
    description: str | None,
    compatibility: pb.Compatibility.ValueType,
    removed: tuple[str, ...],
    etag: str,
    validate_only: bool,
    force: bool,
    **options: Any,
) -> None:
    """Change a definition: a --property is added, or replaces the one of its name; what is not named stays."""
    schema, read_etag = await StatedSchema(**options).next_of(session, name_or_id, removed)
    request = pb.UpdateEventDefinitionRequest(
        event_definition=name_or_id,
        description=description,
        schema=schema,
        compatibility=compatibility,
        etag=etag or read_etag,
        validate_only=validate_only,
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
