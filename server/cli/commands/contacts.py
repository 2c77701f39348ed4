"""The commands `contact`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import click

from server.cli.arguments.inputs import properties as json_object
from server.cli.arguments.options import etag_option, limit_option, option
from server.cli.client.pagination import listed
from server.cli.client.session import client_command
from server.cli.output.tables import moment, print_fields, print_json, print_table, to_json, to_plain
from signalbox.v1 import contacts_pb2 as pb

if TYPE_CHECKING:
    from google.protobuf.struct_pb2 import Struct

    from server.cli.client.session import Session


@click.group()
def contact() -> None:
    """Keep the people that events are about."""


@contact.command()
@click.argument("email")
@option("--properties", type=json_object, metavar="JSON", help="Properties to set; one that is null is removed.")
@etag_option
@client_command
async def upsert(session: Session, email: str, properties: Struct | None, etag: str) -> None:
    """Create the contact with this address, or change it."""
    request = pb.UpsertContactRequest(email=email, properties=properties, etag=etag)
    answer = await session.call(session.contacts.UpsertContact, request)
    if session.json:
        print_json(to_plain(answer))
    else:
        print_fields((("created" if answer.created else "changed", answer.contact.email), *_fields(answer.contact)[1:]))


@contact.command()
@click.argument("email_or_id")
@client_command
async def show(session: Session, email_or_id: str) -> None:
    """Show one contact."""
    request = pb.GetContactRequest(email=email_or_id) if "@" in email_or_id else pb.GetContactRequest(id=email_or_id)
    _show(session, (await session.call(session.contacts.GetContact, request)).contact)


@contact.command("list")
@option("--search", metavar="TEXT", default="", help="Only contacts whose address contains this, in any case.")
@limit_option("contacts")
@client_command
async def list_(session: Session, search: str, limit: int) -> None:
    """List contacts, newest first."""
    contacts = await listed(
        partial(session.call, session.contacts.ListContacts),
        pb.ListContactsRequest(search=search),
        lambda answer: answer.contacts,
        limit,
    )
    if session.json:
        print_json([to_plain(each) for each in contacts])
        return
    print_table(
        ("EMAIL", "ID", "CREATED", "PROPERTIES"),
        [(each.email, each.id, moment(each.created_at), _properties(each)) for each in contacts],
    )


@contact.command()
@click.argument("email_or_id")
@etag_option
@client_command
async def delete(session: Session, email_or_id: str, etag: str) -> None:
    """Delete a contact: its address and properties are erased, its events stay."""
    request = pb.DeleteContactRequest(etag=etag)
    if "@" in email_or_id:
        request.email = email_or_id
    else:
        request.id = email_or_id
    _show(session, (await session.call(session.contacts.DeleteContact, request)).contact)


def _show(session: Session, each: pb.Contact) -> None:
    if session.json:
        print_json(to_plain(each))
    else:
        print_fields(_fields(each))


def _fields(each: pb.Contact) -> tuple[tuple[str, str], ...]:
    return (
        ("email", each.email),
        ("id", each.id),
        ("properties", _properties(each)),
        ("created", moment(each.created_at)),
        ("updated", moment(each.updated_at)),
        ("etag", each.etag),
    )


def _properties(each: pb.Contact) -> str:
    return to_json(to_plain(each)["properties"])
