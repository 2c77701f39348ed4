"""The commands `definition check`, `validate`, `dependents` and `rollback`."""

from __future__ import annotations

from functools import partial
from typing import IO, TYPE_CHECKING, Any

import click

from server.cli.arguments.enums import COMPATIBILITY, DIRECTION, enum_option
from server.cli.arguments.message_parsers import properties as json_object
from server.cli.arguments.message_parsers import read_schema
from server.cli.arguments.options import etag_option, force_option, option, validate_only_option
from server.cli.arguments.schema_options import SchemaOptions, remove_option, schema_file_option, schema_options
from server.cli.arguments.value_parsers import WholeNumber
from server.cli.client.definitions import get_definition
from server.cli.client.pagination import list_all
from server.cli.client.session import client_command
from server.cli.errors import CheckCommand
from server.cli.output.definitions import show_definition
from server.cli.output.events import show_coercions
from server.cli.output.json_text import to_json
from server.cli.output.tables import moment, print_fields, print_json, print_table, printable, to_plain
from signalbox.v1 import event_definitions_pb2 as pb

if TYPE_CHECKING:
    from google.protobuf.struct_pb2 import Struct

    from server.cli.client.session import Session

NEGATIVE = 2
"""Exit code of a check with a negative result."""

_REVISION = WholeNumber(min=1, max=2**31 - 1)


@click.command(cls=CheckCommand)
@click.argument("name_or_id")
@schema_options
@remove_option
@enum_option("--compatibility", COMPATIBILITY, help="Compatibility rule to check; by default that of the definition.")
@client_command
async def check(
    session: Session,
    /,
    name_or_id: str,
    removed: tuple[str, ...],
    compatibility: pb.Compatibility.ValueType,
    **options: Any,
) -> None:
    """Check whether a schema is allowed as the next revision. Changes nothing. Takes the options of `update`.

    Exits with 2 if it is not allowed.
    """
    candidate, _ = await SchemaOptions(**options).next_of(partial(get_definition, session, name_or_id), removed)
    if candidate is None:
        raise click.UsageError("Give the schema with --schema, --property, --remove, --unknown or --coercion.")
    request = pb.CheckCompatibilityRequest(event_definition=name_or_id, schema=candidate, compatibility=compatibility)
    response = await session.call(session.definitions.CheckCompatibility, request)
    _show_verdict(session, response)
    if not response.compatible:
        raise click.exceptions.Exit(NEGATIVE)


@click.command(cls=CheckCommand)
@click.argument("name_or_id", default="")
@option("--properties", type=json_object, metavar="JSON", help="The payload, as a JSON object; empty by default.")
@option("--revision", type=_REVISION, metavar="N", help="Validate against this revision; the latest by default.")
@schema_file_option
@client_command
async def validate(
    session: Session, name_or_id: str, properties: Struct | None, revision: int | None, file: IO[str] | None
) -> None:
    """Validate a payload against a definition, or against a schema that is not saved. Stores nothing.

    Exits with 2 if the payload is invalid.
    """
    if bool(name_or_id) == (file is not None):
        raise click.UsageError("Name a definition, or give --schema.")
    if file is not None and revision is not None:
        raise click.UsageError("--revision needs a definition: leave it out with --schema.")
    request = pb.ValidateEventRequest(revision=revision or 0, properties=properties)
    if file is None:
        request.event_definition = name_or_id
    else:
        request.schema.CopyFrom(read_schema(file))
    response = await session.call(session.definitions.ValidateEvent, request)
    _show_validation(session, response)
    if not response.valid:
        raise click.exceptions.Exit(NEGATIVE)


@click.command()
@click.argument("name_or_id")
@client_command
async def dependents(session: Session, name_or_id: str) -> None:
    """List the automations that read the definition, and the revisions of its 10,000 newest events."""
    found = await list_all(
        partial(session.call, session.definitions.ListDependents),
        pb.ListDependentsRequest(event_definition=name_or_id),
        lambda response: response.dependents,
    )
    if session.json:
        print_json([to_plain(dependent) for dependent in found])
        return
    automations = [dependent.automation for dependent in found if dependent.HasField("automation")]
    if automations:
        rows = [(automation.name, automation.id, ", ".join(automation.paths)) for automation in automations]
        print_table(("AUTOMATION", "ID", "READS"), rows)
        click.echo()
    traffic = [dependent.traffic for dependent in found if dependent.HasField("traffic")]
    rows = [(str(seen.revision), str(seen.event_count), moment(seen.last_seen_at)) for seen in traffic]
    print_table(("REVISION", "EVENTS", "LAST SEEN"), rows)


@click.command()
@click.argument("name_or_id")
@click.argument("revision", type=_REVISION)
@etag_option
@validate_only_option
@force_option
@client_command
async def rollback(
    session: Session, name_or_id: str, revision: int, etag: str, validate_only: bool, force: bool
) -> None:
    """Restore the schema of an earlier revision, as a new revision unless the latest one equals it.

    Properties that are personal stay personal; `update` takes a mark away.
    """
    request = pb.RollbackRevisionRequest(
        event_definition=name_or_id, number=revision, etag=etag, validate_only=validate_only, force=force
    )
    response = await session.call(session.definitions.RollbackRevision, request)
    show_definition(response.event_definition, as_json=session.json)


def _show_verdict(session: Session, response: pb.CheckCompatibilityResponse) -> None:
    if session.json:
        print_json(to_plain(response))
        return
    print_fields(
        (
            ("compatible", _yes(response.compatible)),
            ("rule", COMPATIBILITY.name(response.compatibility)),
            ("new revision", _yes(response.changed)),
        )
    )
    if response.incompatibilities:
        click.echo()
        header = ("PROPERTY", "KIND", "REVISION", "OLD", "NEW", "BREAKS")
        print_table(header, [_incompatibility_row(each) for each in response.incompatibilities])


def _incompatibility_row(found: pb.Incompatibility) -> tuple[str, ...]:
    return found.path, found.kind, str(found.revision), found.old, found.new, DIRECTION.name(found.direction)


def _show_validation(session: Session, response: pb.ValidateEventResponse) -> None:
    plain = to_plain(response)
    if session.json:
        print_json(plain)
        return
    properties = to_json(plain["properties"]) if response.valid else ""
    print_fields((("valid", _yes(response.valid)), ("properties", properties)))
    show_coercions(response.coercions, plain["coercions"])
    for violation in response.violations:
        click.echo(printable(f"{violation.path}: {violation.message}"))


def _yes(truth: bool) -> str:
    return "yes" if truth else "no"
