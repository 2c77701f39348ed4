"""The commands `contact export` and `contact erase`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import grpc

from server.cli.arguments.confirmation import check_terminal, confirm
from server.cli.arguments.options import option
from server.cli.client.call_failures import failure_of
from server.cli.client.session import client_command
from server.cli.errors import Failure
from server.cli.output.json_text import to_json
from server.cli.output.quantities import quantity
from server.cli.output.tables import print_fields, print_json, to_plain
from signalbox.v1 import contacts_pb2 as pb

if TYPE_CHECKING:
    from server.cli.client.session import Session


@click.command()
@click.argument("email_or_id")
@client_command
async def export(session: Session, email_or_id: str) -> None:
    """Print everything that is stored about a person, as JSON lines.

    The last line has "end"; the command fails if it does not come. An address need not be that of a contact.
    """
    request = pb.ExportContactRequest()
    _name(request, email_or_id)
    call = session.contacts.ExportContact(request, metadata=await session.metadata())
    complete = False
    try:
        async for record in call:
            click.echo(to_json(to_plain(record)))
            complete = record.HasField("end")
    except grpc.aio.AioRpcError as error:
        raise failure_of(error, session.connection) from error
    finally:
        call.cancel()
    if not complete:
        raise Failure(f"{session.connection.server} ended the export before its end")


@click.command()
@click.argument("email_or_id")
@option("--yes", is_flag=True, help="Do not ask for confirmation.")
@option("--dry-run", is_flag=True, help="Only print what would be erased.")
@client_command
async def erase(session: Session, email_or_id: str, yes: bool, dry_run: bool) -> None:
    """Erase a person: the contact, the address, and the properties of the events. This cannot be undone.

    An address need not be that of a contact. The command ends when everything is erased.
    """
    if not (yes or dry_run):
        check_terminal(f"erases {email_or_id} for good")
    request = pb.EraseContactRequest(validate_only=True)
    _name(request, email_or_id)
    found = await session.call(session.contacts.EraseContact, request)
    if not dry_run:
        if not yes:
            events, runs = quantity(found.event_count, "event"), quantity(found.run_count, "run")
            confirm(f"erases {email_or_id} with {events} and {runs} for good")
        request.validate_only = False
        found = await session.call(session.contacts.EraseContact, request, patient=True)
    if session.json:
        print_json(to_plain(found))
    else:
        print_fields(_fields(found))


def _name(request: pb.ExportContactRequest | pb.EraseContactRequest, email_or_id: str) -> None:
    if "@" in email_or_id:
        request.email = email_or_id
    else:
        request.id = email_or_id


def _fields(response: pb.EraseContactResponse) -> tuple[tuple[str, str], ...]:
    return (
        ("contact", response.contact_id or "none"),
        ("events", f"{response.event_count:,}"),
        ("runs", f"{response.run_count:,}"),
        ("cancelled runs", f"{response.cancelled_run_count:,}"),
        ("dropped deliveries", f"{response.dropped_delivery_count:,}"),
        ("refused events", f"{response.refused_event_count:,}"),
    )
