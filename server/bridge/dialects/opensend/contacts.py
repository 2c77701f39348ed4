"""OpenSend's contacts, by id or address."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from msgspec import UNSET, Struct, UnsetType

from registry.timestamps import format_millis
from server.bridge.contacts import given_properties, named_texts, other_properties
from server.bridge.dialects.opensend.bodies import Body, is_uuid
from server.bridge.fields import Email, Limit  # noqa: TC001 - msgspec reads them
from server.bridge.messages import Reply, Request
from server.services.contacts import ContactName

if TYPE_CHECKING:
    from server.bridge.services import Services
    from server.model import Contact

DEFAULT_LIMIT, MAX_LIMIT = 40, 100

_FIELDS = ("first_name", "last_name", "unsubscribed")


class ContactBody(Struct):
    """Body of POST and PATCH; the values of `properties` are texts. `segments` and `topics` are not kept."""

    email: Email | UnsetType = UNSET
    first_name: str | UnsetType = UNSET
    last_name: str | UnsetType = UNSET
    unsubscribed: bool | UnsetType = UNSET
    properties: dict[str, str] | UnsetType = UNSET


class ContactsQuery(Struct):
    """Which contacts: behind an id."""

    limit: Limit = DEFAULT_LIMIT
    after: str = ""


class CreatedContact(Struct, kw_only=True):
    """What is said of a contact that was created or changed."""

    object: Literal["contact"] = "contact"
    id: str


class ContactData(Struct, kw_only=True):
    """A contact. Times in milliseconds UTC."""

    object: Literal["contact"] = "contact"
    id: str
    email: str
    first_name: str | None
    last_name: str | None
    unsubscribed: bool
    properties: dict[str, Any]
    created_at: str
    updated_at: str


class ContactList(Struct, kw_only=True):
    """A page of contacts."""

    object: Literal["list"] = "list"
    data: list[ContactData]
    has_more: bool


class DeletedContact(Struct, kw_only=True):
    """What is said of a deletion."""

    object: Literal["contact"] = "contact"
    id: str
    deleted: bool = True


async def list_contacts(services: Services, request: Request) -> Reply:
    """List contacts, newest first."""
    limit = request.number("limit", DEFAULT_LIMIT, MAX_LIMIT)
    page, more = await services.contacts.beside(
        request.caller.project_pk, limit, after_id=request.query.get("after", "")
    )
    return Reply(200, ContactList(data=[_contact_data(each) for each in page], has_more=more))


async def create_contact(services: Services, request: Request) -> Reply:
    """Create a contact whose address is free."""
    body = Body(request)
    email, properties = body.email(required=True), _properties(body, request)
    body.check()
    assert email is not None
    return Reply(
        201, CreatedContact(id=(await services.contacts.create(request.caller.project_pk, email, properties)).id)
    )


async def get_contact(services: Services, request: Request) -> Reply:
    """Read a contact by id or address."""
    return Reply(200, _contact_data(await services.contacts.get(request.caller.project_pk, _name(request))))


async def update_contact(services: Services, request: Request) -> Reply:
    """Set fields of a contact; its address stays."""
    body = Body(request)
    email, properties = body.email(), _properties(body, request)
    body.check()
    key, name = request.caller.project_pk, _name(request)
    if email is not None and (await services.contacts.get(key, name)).email != email:
        body.add("email", "The address of a contact cannot be changed")
        body.check()
    return Reply(200, CreatedContact(id=(await services.contacts.update(key, name, properties)).id))


async def delete_contact(services: Services, request: Request) -> Reply:
    """Erase a contact."""
    deleted = await services.contacts.delete(request.caller.project_pk, _name(request))
    return Reply(200, DeletedContact(id=deleted.id))


def _properties(body: Body, request: Request) -> dict[str, Any]:
    named = {
        "first_name": body.text("first_name", least=0),
        "last_name": body.text("last_name", least=0),
        "unsubscribed": body.flag("unsubscribed"),
    }
    others = body.record("properties")
    for name, value in others.items():
        if not isinstance(value, str):
            body.add("properties", f"{name} must be a string")
    return given_properties(named, others, len(request.body), "properties")


def _name(request: Request) -> ContactName:
    identifier = request.params["identifier"]
    named = identifier.strip().lower()
    return ContactName(named) if is_uuid(named) else ContactName(email=named)


def _contact_data(contact: Contact) -> ContactData:
    names = named_texts(contact, ("first_name", "last_name"))
    return ContactData(
        id=contact.id,
        email=contact.email,
        first_name=names["first_name"],
        last_name=names["last_name"],
        unsubscribed=contact.properties.get("unsubscribed") is True,
        properties=other_properties(contact, _FIELDS),
        created_at=format_millis(contact.created_at),
        updated_at=format_millis(contact.updated_at),
    )
