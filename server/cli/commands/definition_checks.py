"""The commands `definition` that judge and compare: `check`, `validate`, `dependents` and `rollback`."""

from __future__ import annotations

from functools import partial
from typing import IO, TYPE_CHECKING, Any

import click

from server.cli.arguments.enums import COMPATIBILITY, DIRECTION, enum_option
from server.cli.arguments.inputs import properties as json_object
from server.cli.arguments.inputs import read_schema
from server.cli.arguments.options import etag_option, force_option, option, validate_only_option
from server.cli.arguments.schema_options import StatedSchema, remove_option, schema_file_option, schema_options
from server.cli.client.errors import JudgingCommand
from server.cli.client.pagination import listed
from server.cli.client.session import client_command
from server.cli.output.definitions import show_definition
from server.cli.output.events import show_coercions
from server.cli.output.tables import moment, print_fields, print_json, print_table, printable, to_json, to_plain
from signalbox.v1 import event_definitions_pb2 as pb

if TYPE_CHECKING:
    from google.protobuf.struct_pb2 import Struct

    from server.cli.client.session import Session

REFUSED = 2
"""Exit code of a check whose answer is no."""

_REVISION = click.IntRange(min=1, max=2**31 - 1)


@click.command(cls=JudgingCommand)
@click.argument("name_or_id")
@schema_options
@remove_option
@enum_option("--compatibility", COMPATIBILITY, help="The rule to judge by; the definition's own by default.")
@client_command
async def check(
    session: Session,
    /,
    name_or_id: str,
    removed: tuple[str, ...],
    compatibility: pb.Compatibility.ValueType,
    **options: Any,
) -> None:
    """Say whether a rule allows a schema as the next revision; nothing is changed. The options are those of `update`.

    Exits with 2 if it does not.
    """
    candidate, _ = await StatedSchema(**options).next_of(session, name_or_id, removed)
    if candidate is None:
        raise click.UsageError("State the candidate with --schema, --property, --remove, --unknown or --coercion.")
    request = pb.CheckCompatibilityRequest(event_definition=name_or_id, schema=candidate, compatibility=compatibility)
    answer = await session.call(session.definitions.CheckCompatibility, request)
    _show_verdict(session, answer)
    if not answer.compatible:
        raise click.exceptions.Exit(REFUSED)


@click.command(cls=JudgingCommand)
@click.argument("name_or_id", default="")
@option("--properties", type=json_object, metavar="JSON", help="The payload, as a JSON object; empty by default.")
@option("--revision", type=_REVISION, metavar="N", help="Judge by this revision; by the latest by default.")
@schema_file_option
@client_command
async def validate(
    session: Session, name_or_id: str, properties: Struct | None, revision: int | None, file: IO[str] | None
) -> None:
    """Say what would become of a payload under a definition, or under a schema that is not saved; nothing is stored.

    Exits with 2 if it would be refused.
    """
    if bool(name_or_id) == (file is not None):
        raise click.UsageError("Name a definition, or give --schema.")
    if file is not None and revision is not None:
        raise click.UsageError("--revision is of a definition: leave it out with --schema.")
    request = pb.ValidateEventRequest(revision=revision or 0, properties=properties)
    if file is None:
        request.event_definition = name_or_id
    else:
        request.schema.CopyFrom(read_schema(file))
    answer = await session.call(session.definitions.ValidateEvent, request)
    _show_validation(session, answer)
    if not answer.valid:
        raise click.exceptions.Exit(REFUSED)


@click.command()
@click.argument("name_or_id")
@client_command
async def dependents(session: Session, name_or_id: str) -> None:
    """List the automations that read the definition, and the revisions seen on its 10,000 newest events."""
    found = await listed(
        partial(session.call, session.definitions.ListDependents),
        pb.ListDependentsRequest(event_definition=name_or_id),
        lambda answer: answer.dependents,
    )
    if session.json:
        print_json([to_plain(each) for each in found])
        return
    automations = [each.automation for each in found if each.HasField("automation")]
    if automations:
        print_table(
            ("AUTOMATION", "ID", "READS"), [(each.name, each.id, ", ".join(each.paths)) for each in automations]
        )
        click.echo()
    seen = [each.traffic for each in found if each.HasField("traffic")]
    print_table(
        ("REVISION", "EVENTS", "LAST SEEN"),
        [(str(each.revision), str(each.event_count), moment(each.last_seen_at)) for each in seen],
    )


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
    """Return to the schema of an old revision: it becomes a new one, unless the latest equals it."""
    request = pb.RollbackRevisionRequest(
        event_definition=name_or_id, number=revision, etag=etag, validate_only=validate_only, force=force
    )
    answer = await session.call(session.definitions.RollbackRevision, request)
    show_definition(session, answer.event_definition)


def _show_verdict(session: Session, answer: pb.CheckCompatibilityResponse) -> None:
    if session.json:
        print_json(to_plain(answer))
        return
    print_fields(
        (
            ("compatible", _yes(answer.compatible)),
            ("rule", COMPATIBILITY.name(answer.compatibility)),
            ("new revision", _yes(answer.changed)),
        )
    )
    if answer.incompatibilities:
        click.echo()
        print_table(
            ("PROPERTY", "KIND", "REVISION", "OLD", "NEW", "BREAKS"),
            [
                (each.path, each.kind, str(each.revision), each.old, each.new, DIRECTION.name(each.direction))
                for each in answer.incompatibilities
            ],
        )


def _show_validation(session: Session, answer: pb.ValidateEventResponse) -> None:
    plain = to_plain(answer)
    if session.json:
        print_json(plain)
        return
    print_fields((("valid", _yes(answer.valid)), ("properties", to_json(plain["properties"]) if answer.valid else "")))
    show_coercions(answer.coercions, plain["coercions"])
    for violation in answer.violations:
        click.echo(printable(f"{violation.path}: {violation.message}"))


def _yes(truth: bool) -> str:
    return "yes" if truth else "no"
