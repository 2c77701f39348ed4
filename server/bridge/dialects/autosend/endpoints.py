"""AutoSend: `/v1/events`, `/v1/events/send` and the contacts that go with them. JSON in camelCase.

A property is declared or unknown, never required; what is declared is coerced, what is unknown refused. The contact
must exist.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeAlias

from msgspec import UNSET, Meta, Struct, UnsetType

from registry.errors import PayloadRejected, Violation
from registry.names import quoted_property
from registry.schema import Compatibility, Property, PropertyType, Schema
from registry.store import DefinitionChanges
from registry.timestamps import format_millis
from server.bridge.contacts import given_properties, named_texts, other_properties
from server.bridge.definitions import all_definitions, definition_by_name
from server.bridge.dialect import Door, Refusal
from server.bridge.fields import FLAT_TYPES, Email, FlatType
from server.bridge.messages import Refused, Reply, Request
from server.bridge.rate_limits import RateLimit
from server.bridge.routes import Route
from server.budgets import check_json
from server.emails import normal_email
from server.errors import ContactRequired, InvalidBody
from server.ingest.draft import Draft
from server.model import Dialect, NameCase, Rules, Scope, UndefinedEvents, UnknownContacts
from server.services.contacts import ContactName
from server.status import reason_of

if TYPE_CHECKING:
    from registry.definitions import EventDefinition
    from server.bridge.services import Services
    from server.model import Contact

RULES: Final = Rules(UndefinedEvents.REJECT, UnknownContacts.REJECT, NameCase.SENSITIVE)

MAX_NAME: Final = 64
VALIDATION_FAILED: Final = "VALIDATION_FAILED"

SEND, CONTACT = "send", "contact"
"""Topics: where the same error has another code, or another field."""

EVENT: Final = "/v1/events/eventName/{eventName}"

_NAME = re.compile("[A-Za-z0-9_]+")
_CONTACT_FIELDS = ("first_name", "last_name", "user_id")

_WANTED: Final = {
    "string": "a string",
    "number": "a number",
    "date": "a date",
    "boolean": "a boolean",
    "object": "an object",
    "array": "an array",
    "any": "a value",
}


Name: TypeAlias = Annotated[str, Meta(extra_json_schema={"pattern": "^[A-Za-z0-9_]{1,64}$"})]


class PropertyBody(Struct, rename="camel"):
    """A property as it is declared."""

    property_name: Name
    type: FlatType
    description: str | None = None
    suggested_values: list[str] | None = None


class CreateEventBody(Struct, rename="camel"):
    """Body of POST /v1/events."""

    event_name: Name
    description: str | None = None
    properties: list[PropertyBody] | None = None


class UpdateEventBody(Struct):
    """Body of PATCH; `properties` replace all there were."""

    description: str | UnsetType | None = UNSET
    properties: list[PropertyBody] | UnsetType = UNSET


class SendEventBody(Struct, rename="camel"):
    """Body of POST /v1/events/send; `contactId` wins over `email`."""

    event_name: str
    email: str | None = None
    contact_id: str | None = None
    event_properties: dict[str, Any] | None = None


class ContactBody(Struct, rename="camel"):
    """Body of a contact's creation."""

    email: Email
    first_name: str | None = None
    last_name: str | None = None
    user_id: str | None = None
    custom_fields: dict[str, Any] | None = None


class DeclaredProperty(Struct, rename="camel", kw_only=True):
    """A property of a definition."""

    property_name: str
    type: FlatType
    description: str | UnsetType = UNSET
    suggested_values: list[str]


class EventDef(Struct, rename="camel", kw_only=True):
    """An event definition. Times in milliseconds UTC."""

    id: str
    event_name: str
    description: str | None
    properties: list[DeclaredProperty]
    created_at: str
    updated_at: str


class EventLog(Struct, rename="camel", kw_only=True):
    """A recorded event."""

    id: str
    event_name: str
    contact_id: str
    properties: dict[str, Any]
    created_at: str


class ContactData(Struct, rename="camel", kw_only=True):
    """A contact."""

    id: str
    email: str
    first_name: str | None
    last_name: str | None
    user_id: str | None
    custom_fields: dict[str, Any]
    created_at: str
    updated_at: str
    project_id: str


class EventAnswer(Struct, kw_only=True):
    """A definition in its envelope."""

    success: bool = True
    data: EventDef


class EventList(Struct):
    """All definitions."""

    events: list[EventDef]


class EventListAnswer(Struct, kw_only=True):
    """All definitions in their envelope."""

    success: bool = True
    data: EventList


class EventLogAnswer(Struct, kw_only=True):
    """A recorded event in its envelope."""

    success: bool = True
    data: EventLog


class ContactAnswer(Struct, kw_only=True):
    """A contact in its envelope."""

    success: bool = True
    data: ContactData


class DeletedAnswer(Struct, kw_only=True):
    """What is said of a deletion."""

    success: bool = True
    message: str


class ErrorDetail(Struct):
    """What is wrong with one field."""

    field: str
    message: str


class ErrorBody(Struct):
    """An error; `details` where fields are at fault, `status` on the endpoints of contacts."""

    message: str
    code: str
    details: list[ErrorDetail] | UnsetType = UNSET
    status: int | UnsetType = UNSET


class ErrorAnswer(Struct):
    """An error in its envelope."""

    success: bool
    error: ErrorBody


async def list_events(services: Services, request: Request) -> Reply:
    """List all definitions, newest first."""
    found = await all_definitions(services, request.caller)
    return Reply(200, EventListAnswer(data=EventList([_event_def(each) for each in found])))


async def create_event(services: Services, request: Request) -> Reply:
    """Define an event."""
    body = request.read(CreateEventBody)
    _check_event_name(body.event_name)
    schema = Schema(_properties(body.properties or []))
    created = await services.definitions.create(
        request.caller, body.event_name, body.description or "", schema, Compatibility.NONE
    )
    return Reply(201, EventAnswer(data=_event_def(created)))


async def get_event(services: Services, request: Request) -> Reply:
    """Read a definition by name."""
    return Reply(200, EventAnswer(data=_event_def(await _named(services, request))))


async def update_event(services: Services, request: Request) -> Reply:
    """Change description or properties; the name stays."""
    body = request.read(UpdateEventBody)
    if body.description is UNSET and body.properties is UNSET:
        message = "At least one of description or properties is required"
        raise InvalidBody([Violation("", "NOTHING_TO_UPDATE", message)])
    current = await _named(services, request)
    changes = DefinitionChanges(
        description=UNSET if body.description is UNSET else body.description or "",
        schema=UNSET if body.properties is UNSET else replace(current.schema, properties=_properties(body.properties)),
    )
    updated = await services.definitions.update(request.caller, current.id, changes, current.etag)
    return Reply(200, EventAnswer(data=_event_def(updated)))


async def delete_event(services: Services, request: Request) -> Reply:
    """Delete a definition; what was recorded stays."""
    current = await _named(services, request)
    deleted = await services.definitions.delete(request.caller, current.id, "")
    return Reply(200, EventAnswer(data=_event_def(deleted)))


async def send_event(services: Services, request: Request) -> Reply:
    """Record an event."""
    body = request.read(SendEventBody)
    if not body.contact_id and not body.email:
        raise ContactRequired
    given = body.event_properties or {}
    check_json(given, len(request.body), "eventProperties")
    draft = Draft(
        body.event_name,
        body.contact_id or "",
        # An address that is none is nobody's: the contact is not found.
        "" if body.contact_id else (body.email or "").strip().lower(),
        given,
        idempotency_key=request.idempotency_key(),
        rules=RULES,
    )
    event = await services.ingest.send(request.caller.project_pk, draft)
    recorded = EventLog(
        id=event.id,
        event_name=event.name,
        contact_id=event.contact_id,
        properties=event.properties,
        created_at=format_millis(event.received_at),
    )
    return Reply(201, EventLogAnswer(data=recorded))


async def create_contact(services: Services, request: Request) -> Reply:
    """Create a contact whose address is free."""
    body = request.read(ContactBody)
    properties = _contact_properties(body, len(request.body))
    created = await services.contacts.create(request.caller.project_pk, normal_email(body.email), properties)
    return Reply(201, ContactAnswer(data=_contact_data(request, created)))


async def upsert_contact(services: Services, request: Request) -> Reply:
    """Create a contact or change the one with this address."""
    body = request.read(ContactBody)
    properties = _contact_properties(body, len(request.body))
    contact, _ = await services.contacts.upsert(request.caller.project_pk, normal_email(body.email), properties)
    return Reply(200, ContactAnswer(data=_contact_data(request, contact)))


async def get_contact(services: Services, request: Request) -> Reply:
    """Read a contact by id."""
    contact = await services.contacts.get(request.caller.project_pk, ContactName(request.params["id"]))
    return Reply(200, ContactAnswer(data=_contact_data(request, contact)))


async def delete_contact(services: Services, request: Request) -> Reply:
    """Erase a contact."""
    await services.contacts.delete(request.caller.project_pk, ContactName(request.params["id"]))
    return Reply(200, DeletedAnswer(message="Contact deleted successfully"))


def write_error(refusal: Refusal) -> dict[str, Any]:
    """Write an error in its envelope."""
    error = refusal.error
    code, message = refusal.code or reason_of(error), refusal.message
    if isinstance(error, PayloadRejected):
        code, message = _payload_fault(error)
    said: dict[str, Any] = {"message": message, "code": code}
    if code == VALIDATION_FAILED:
        said["details"] = [{"field": _field(each.path), "message": each.message} for each in refusal.violations]
    if refusal.topic == CONTACT:
        said["status"] = refusal.status
    return {"success": False, "error": said}


def _payload_fault(error: PayloadRejected) -> tuple[str, str]:
    """Say in AutoSend's words what is wrong first."""
    first = error.violations[0]
    name = quoted_property(first.path)
    if first.reason == "UNKNOWN_PROPERTY":
        return "UNKNOWN_PROPERTY", f'Property {name} is not declared on event "{error.metadata["event"]}"'
    wanted = f"must be {_WANTED[first.expected]}" if first.expected else "is required"
    return "INVALID_PROPERTY_VALUE", f"Property {name} {wanted}"


def _check_event_name(name: str) -> None:
    """Raise InvalidBody or Refused for a name that AutoSend does not take."""
    if not 1 <= len(name) <= MAX_NAME:
        message = f"eventName must be 1 to {MAX_NAME} characters long"
        raise InvalidBody([Violation("eventName", "INVALID_FIELD", message)])
    if not _NAME.fullmatch(name):
        message = "Event name can only contain ASCII letters (a-z, A-Z), numbers (0-9), and underscores (_)."
        said = {"message": message, "code": "INVALID_EVENT_NAME_CHARACTERS"}
        raise Refused(400, {"success": False, "error": said})


def _properties(given: list[PropertyBody]) -> tuple[Property, ...]:
    """Read declared properties. Raises InvalidBody for names that AutoSend does not take."""
    message = f"propertyName must be 1 to {MAX_NAME} ASCII letters, digits and underscores"
    faults = [
        Violation(f"properties[{index}].propertyName", "INVALID_FIELD", message)
        for index, each in enumerate(given)
        if len(each.property_name) > MAX_NAME or not _NAME.fullmatch(each.property_name)
    ]
    if faults:
        raise InvalidBody(faults)
    return tuple(
        Property(
            each.property_name,
            PropertyType(each.type),
            description=each.description or "",
            suggested_values=tuple(each.suggested_values or ()),
        )
        for each in given
    )


def _field(path: str) -> str:
    """Name a field of the body by the path of a schema's property."""
    return (
        path.removeprefix("schema.").replace("].name", "].propertyName").replace("suggested_values", "suggestedValues")
    )


async def _named(services: Services, request: Request) -> EventDefinition:
    return await definition_by_name(services, request.caller, request.params["eventName"])


def _event_def(definition: EventDefinition) -> EventDef:
    return EventDef(
        id=definition.id,
        event_name=definition.name,
        description=definition.description or None,
        properties=[_declared(each) for each in definition.schema.properties if each.type in FLAT_TYPES],
        created_at=format_millis(definition.created_at),
        updated_at=format_millis(definition.updated_at),
    )


def _declared(each: Property) -> DeclaredProperty:
    return DeclaredProperty(
        property_name=each.name,
        type=FLAT_TYPES[each.type],
        description=each.description or UNSET,
        suggested_values=list(each.suggested_values),
    )


def _contact_properties(body: ContactBody, received: int) -> dict[str, Any]:
    named = {"first_name": body.first_name, "last_name": body.last_name, "user_id": body.user_id}
    return given_properties(named, body.custom_fields or {}, received, "customFields")


def _contact_data(request: Request, contact: Contact) -> ContactData:
    return ContactData(
        id=contact.id,
        email=contact.email,
        **named_texts(contact, _CONTACT_FIELDS),
        custom_fields=other_properties(contact, _CONTACT_FIELDS),
        created_at=format_millis(contact.created_at),
        updated_at=format_millis(contact.updated_at),
        project_id=request.caller.project_id,
    )


AUTOSEND = Door(
    dialect=Dialect.AUTOSEND,
    title="AutoSend",
    routes=(
        Route(
            "POST",
            "/v1/events/send",
            send_event,
            Scope.EVENTS_WRITE,
            {201: EventLogAnswer},
            body=SendEventBody,
            topic=SEND,
        ),
        Route("GET", "/v1/events", list_events, Scope.DEFINITIONS_READ, {200: EventListAnswer}),
        Route("POST", "/v1/events", create_event, Scope.DEFINITIONS_WRITE, {201: EventAnswer}, body=CreateEventBody),
        Route("GET", EVENT, get_event, Scope.DEFINITIONS_READ, {200: EventAnswer}),
        Route("PATCH", EVENT, update_event, Scope.DEFINITIONS_WRITE, {200: EventAnswer}, body=UpdateEventBody),
        Route("DELETE", EVENT, delete_event, Scope.DEFINITIONS_WRITE, {200: EventAnswer}),
        Route(
            "POST",
            "/v1/contacts",
            create_contact,
            Scope.CONTACTS_WRITE,
            {201: ContactAnswer},
            body=ContactBody,
            topic=CONTACT,
        ),
        Route(
            "POST",
            "/v1/contacts/email",
            upsert_contact,
            Scope.CONTACTS_WRITE,
            {200: ContactAnswer},
            body=ContactBody,
            topic=CONTACT,
        ),
        Route("GET", "/v1/contacts/{id}", get_contact, Scope.CONTACTS_READ, {200: ContactAnswer}, topic=CONTACT),
        Route("DELETE", "/v1/contacts/{id}", delete_contact, Scope.CONTACTS_WRITE, {200: DeletedAnswer}, topic=CONTACT),
    ),
    paths=("/v1",),
    key_prefix="AS_",
    write_error=write_error,
    error_type=ErrorAnswer,
    limit=RateLimit(600, 60.0),
)
