"""The commands `contact`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import click

from server.cli.arguments.confirmation import confirmed
from server.cli.arguments.message_parsers import properties as json_object
from server.cli.arguments.options import etag_option, limit_option, option
from server.cli.client.pagination import list_all
from server.cli.client.session import client_command
from server.cli.commands.contact_data import erase, export
from server.cli.output.json_text import to_json
from server.cli.output.tables import moment, print_fields, print_json, to_plain
from server.cli.output.views import show_list, show_one
from signalbox.v1 import contacts_pb2 as pb

if TYPE_CHECKING:
    from google.protobuf.struct_pb2 import Struct

    from server.cli.client.session import Session


@click.group()
def contact() -> None:
    """Manage contacts, the people that events are about."""


@contact.command()
@click.argument("email")
@option("--properties", type=json_object, metavar="JSON", help="Properties to set; null removes a property.")
@etag_option
@client_command
async def upsert(session: Session, email: str, properties: Struct | None, etag: str) -> None:
    """Create the contact with this address, or update it."""
    request = pb.UpsertContactRequest(email=email, properties=properties, etag=etag)
    response = await session.call(session.contacts.UpsertContact, request)
    if session.json:
        print_json(to_plain(response))
        return
    first = ("created" if response.created else "updated", response.contact.email)
    print_fields((first, *_fields(response.contact)[1:]))


@contact.command()
@click.argument("email_or_id")
@client_command
async def show(session: Session, email_or_id: str) -> None:
    """Show one contact."""
    request = pb.GetContactRequest(email=email_or_id) if "@" in email_or_id else pb.GetContactRequest(id=email_or_id)
    response = await session.call(session.contacts.GetContact, request)
    show_one(response.contact, _fields, as_json=session.json)


@contact.command("list")
@option("--search", metavar="TEXT", default="", help="Only contacts whose address contains this text, ignoring case.")
@limit_option("contacts")
@client_command
async def list_(session: Session, search: str, limit: int) -> None:
    """List contacts, newest first."""
    contacts = await list_all(
        partial(session.call, session.contacts.ListContacts),
        pb.ListContactsRequest(search=search),
        lambda response: response.contacts,
        limit,
    )
    show_list(contacts, ("EMAIL", "ID", "CREATED", "PROPERTIES"), _row, as_json=session.json)


@contact.command()
@click.argument("email_or_id")
@etag_option
@confirmed("deletes the contact {email_or_id} and erases its address and properties")
@client_command
async def delete(session: Session, email_or_id: str, etag: str) -> None:
    """Delete a contact. Its address and properties are erased; its events are kept ("contact erase" erases them)."""
    request = pb.DeleteContactRequest(etag=etag)
    if "@" in email_or_id:
        request.email = email_or_id
    else:
        request.id = email_or_id
    response = await session.call(session.contacts.DeleteContact, request)
    show_one(response.contact, _fields, as_json=session.json)


contact.add_command(export)
contact.add_command(erase)


def _row(contact: pb.Contact) -> tuple[str, ...]:
    return contact.email, contact.id, moment(contact.created_at), _properties(contact)


def _fields(contact: pb.Contact) -> tuple[tuple[str, str], ...]:
    return (
        ("email", contact.email),
        ("id", contact.id),
        ("properties", _properties(contact)),
        ("created", moment(contact.created_at)),
        ("updated", moment(contact.updated_at)),
        ("etag", contact.etag),
    )


def _properties(contact: pb.Contact) -> str:
    return to_json(to_plain(contact)["properties"])
