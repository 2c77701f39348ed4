"""The service Contacts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from server.budgets import CONTACT_BUDGET
from server.emails import normalize_email
from server.errors import ContactRequired
from server.paging import PageRequest
from server.rpc.messages.structs import read_struct, write_struct
from server.rpc.messages.times import timestamp
from server.rpc.response_size import write_page
from server.services.contacts import ContactRef
from signalbox.v1 import contacts_pb2 as pb

if TYPE_CHECKING:
    from server.auth.access import Caller
    from server.model import Contact
    from server.services.contacts import Contacts


class ContactsServicer:
    """Manages contacts."""

    def __init__(self, contacts: Contacts) -> None:
        self._contacts = contacts

    async def UpsertContact(self, request: pb.UpsertContactRequest, caller: Caller) -> pb.UpsertContactResponse:
        contact, created = await self._contacts.upsert(
            caller.project_pk,
            normalize_email(request.email),
            read_struct(request.properties, budget=CONTACT_BUDGET),
            request.etag,
        )
        return pb.UpsertContactResponse(contact=_write_contact(contact), created=created)

    async def GetContact(self, request: pb.GetContactRequest, caller: Caller) -> pb.GetContactResponse:
        contact = await self._contacts.get(caller.project_pk, _read_name(request))
        return pb.GetContactResponse(contact=_write_contact(contact))

    async def ListContacts(self, request: pb.ListContactsRequest, caller: Caller) -> pb.ListContactsResponse:
        page = await self._contacts.list(
            caller.project_pk, PageRequest(request.page_size, request.page_token), request.search
        )
        response = pb.ListContactsResponse()
        response.next_page_token = write_page(page, _write_contact, response.contacts)
        return response

    async def DeleteContact(self, request: pb.DeleteContactRequest, caller: Caller) -> pb.DeleteContactResponse:
        contact = await self._contacts.delete(caller.project_pk, _read_name(request), request.etag)
        return pb.DeleteContactResponse(contact=_write_contact(contact))


def _read_name(request: pb.GetContactRequest | pb.DeleteContactRequest) -> ContactRef:
    if request.id:
        return ContactRef(id=request.id)
    if request.email:
        return ContactRef(email=normalize_email(request.email))
    raise ContactRequired


def _write_contact(contact: Contact) -> pb.Contact:
    message = pb.Contact(
        id=contact.id,
        email=contact.email,
        created_at=timestamp(contact.created_at),
        updated_at=timestamp(contact.updated_at),
        etag=contact.etag,
        unreadable_reason=contact.unreadable,
    )
    message.properties.SetInParent()
    write_struct(contact.properties, message.properties)
    return message
