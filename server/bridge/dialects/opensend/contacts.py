"""OpenSend's endpoints for contacts, by id or address."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from registry.times.timestamps import format_millis
from server.bridge.dialects.opensend import bodies
from server.bridge.dialects.opensend.validation import BodyReader
from server.bridge.messages import Request, Response
from server.bridge.operations import contact_properties, contact_ref, named_texts, other_properties

if TYPE_CHECKING:
    from server.bridge.operations import Services
    from server.model import Contact
    from server.services.contacts import ContactRef


_FIELDS = ("first_name", "last_name", "unsubscribed")


async def list_contacts(services: Services, request: Request) -> Response:
    """List contacts, newest first."""
    limit = request.number("limit", bodies.CONTACTS_LIMIT, bodies.MAX_LIMIT)
    page, more = await services.contacts.list_next_to(
        request.caller.project_pk, limit, after_id=request.query.get("after", "")
    )
    return Response(200, bodies.ContactList(data=[_contact_data(contact) for contact in page], has_more=more))


async def create_contact(services: Services, request: Request) -> Response:
    """Create a contact."""
    body = BodyReader(request)
    email, properties = body.email(required=True), _properties(body, request)
    body.check()
    assert email is not None
    return Response(
        201,
        bodies.CreatedContact(id=(await services.contacts.create(request.caller.project_pk, email, properties)).id),
    )


async def get_contact(services: Services, request: Request) -> Response:
    """Return the contact with an id or address."""
    return Response(200, _contact_data(await services.contacts.get(request.caller.project_pk, _ref(request))))


async def update_contact(services: Services, request: Request) -> Response:
    """Update fields of a contact; the address cannot change."""
    body = BodyReader(request)
    email, properties = body.email(), _properties(body, request)
    body.check()
    key, name = request.caller.project_pk, _ref(request)
    if email is not None and (await services.contacts.get(key, name)).email != email:
        body.add("email", "The address of a contact cannot be changed")
        body.check()
    return Response(200, bodies.CreatedContact(id=(await services.contacts.update(key, name, properties)).id))


async def delete_contact(services: Services, request: Request) -> Response:
    """Delete a contact and erase its data."""
    deleted = await services.contacts.delete(request.caller.project_pk, _ref(request))
    return Response(200, bodies.DeletedContact(id=deleted.id))


def _properties(body: BodyReader, request: Request) -> dict[str, Any]:
    named = {
        "first_name": body.text("first_name", least=0),
        "last_name": body.text("last_name", least=0),
        "unsubscribed": body.flag("unsubscribed"),
    }
    others = body.record("properties")
    for name, value in others.items():
        if not isinstance(value, str):
            body.add("properties", f"{name} must be a string")
    return contact_properties(named, others, len(request.body), "properties")


def _ref(request: Request) -> ContactRef:
    return contact_ref(request.params["identifier"])


def _contact_data(contact: Contact) -> bodies.ContactData:
    names = named_texts(contact, ("first_name", "last_name"))
    return bodies.ContactData(
        id=contact.id,
        email=contact.email,
        first_name=names["first_name"],
        last_name=names["last_name"],
        unsubscribed=contact.properties.get("unsubscribed") is True,
        properties=other_properties(contact, _FIELDS),
        created_at=format_millis(contact.created_at),
        updated_at=format_millis(contact.updated_at),
    )
