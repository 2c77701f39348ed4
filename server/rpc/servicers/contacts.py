"""The service Contacts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from registry.values.json_values import CONTACT_BUDGET
from server.errors import ContactRequired
from server.paging import PageRequest
from server.process.shutdown import until
from server.rpc.messages.contacts import write_contact, write_record
from server.rpc.messages.response_size import write_page
from server.rpc.messages.structs import read_struct
from server.services.contacts import ContactRef
from server.services.emails import normalize_email
from signalbox.v1 import contacts_pb2 as pb

if TYPE_CHECKING:
    import asyncio

    from server.auth.caller import Caller
    from server.rpc.transport import Send
    from server.services.contact_exports import ContactExports
    from server.services.contacts import Contacts
    from server.services.erasures import Erasures

READ_SECONDS: Final = 30.0
"""How long an export waits for its client to read a record."""


class ContactsServicer:
    """Manages contacts."""

    def __init__(
        self, contacts: Contacts, erasures: Erasures, exports: ContactExports, stopping: asyncio.Event
    ) -> None:
        self._contacts = contacts
        self._erasures = erasures
        self._exports = exports
        self._stopping = stopping

    async def UpsertContact(self, request: pb.UpsertContactRequest, caller: Caller) -> pb.UpsertContactResponse:
        contact, created = await self._contacts.upsert(
            caller.project_pk,
            normalize_email(request.email),
            read_struct(request.properties, budget=CONTACT_BUDGET),
            request.etag,
        )
        return pb.UpsertContactResponse(contact=write_contact(contact), created=created)

    async def GetContact(self, request: pb.GetContactRequest, caller: Caller) -> pb.GetContactResponse:
        contact = await self._contacts.get(caller.project_pk, _read_name(request))
        return pb.GetContactResponse(contact=write_contact(contact))

    async def ListContacts(self, request: pb.ListContactsRequest, caller: Caller) -> pb.ListContactsResponse:
        page = await self._contacts.list(
            caller.project_pk, PageRequest(request.page_size, request.page_token), request.search
        )
        response = pb.ListContactsResponse()
        response.next_page_token = write_page(page, write_contact, response.contacts)
        return response

    async def DeleteContact(self, request: pb.DeleteContactRequest, caller: Caller) -> pb.DeleteContactResponse:
        contact = await self._contacts.delete(caller.project_pk, _read_name(request), request.etag)
        return pb.DeleteContactResponse(contact=write_contact(contact))

    async def EraseContact(self, request: pb.EraseContactRequest, caller: Caller) -> pb.EraseContactResponse:
        ref = _read_name(request)
        if request.validate_only:
            erased = await self._erasures.preview(caller.project_pk, ref)
        else:
            erased = await until(self._stopping, self._erasures.erase(caller.project_pk, ref))
        return pb.EraseContactResponse(
            contact_id=erased.contact_id,
            event_count=erased.events,
            run_count=erased.runs,
            cancelled_run_count=erased.cancelled_runs,
            dropped_delivery_count=erased.dropped_deliveries,
            refused_event_count=erased.refused_events,
        )

    async def ExportContact(self, request: pb.ExportContactRequest, caller: Caller, send: Send) -> None:
        async for record in self._exports.export(caller.project_pk, _read_name(request)):
            await send(write_record(record), READ_SECONDS)


def _read_name(
    request: pb.GetContactRequest | pb.DeleteContactRequest | pb.EraseContactRequest | pb.ExportContactRequest,
) -> ContactRef:
    if request.id:
        return ContactRef(id=request.id)
    if request.email:
        return ContactRef(email=normalize_email(request.email))
    raise ContactRequired
