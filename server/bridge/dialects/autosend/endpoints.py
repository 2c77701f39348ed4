"""AutoSend's endpoints for events and contacts."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from msgspec import UNSET

from registry.definitions.event_definitions import NewDefinition
from registry.definitions.schema import Property, PropertyType, Schema
from registry.errors import Violation
from registry.storage.definition_store import DefinitionChanges
from registry.times.timestamps import format_millis
from server.bridge.dialects.autosend import bodies
from server.bridge.dialects.autosend.errors import CONTACT, SEND
from server.bridge.errors import RuleBroken
from server.bridge.fields import FLAT_TYPES
from server.bridge.messages import Request, Response
from server.bridge.operations import (
    all_definitions,
    contact_properties,
    create_definition,
    definition_by_name,
    named_texts,
    other_properties,
    update_definition,
)
from server.bridge.payloads import check_json
from server.bridge.routes import Route
from server.bridge.sending import send
from server.errors import ContactRequired
from server.http.errors import InvalidBody
from server.ingest.draft import Draft
from server.model import NameCase, Rules, Scope, UndefinedEvents, UnknownContacts
from server.services.contacts import ContactRef
from server.services.emails import normalize_email

if TYPE_CHECKING:
    from registry.definitions.event_definitions import EventDefinition
    from server.bridge.operations import Services
    from server.model import Contact

RULES: Final = Rules(UndefinedEvents.REJECT, UnknownContacts.REJECT, NameCase.SENSITIVE)

MAX_NAME: Final = 64

_NAME = re.compile("[A-Za-z0-9_]+")
_CONTACT_FIELDS = ("first_name", "last_name", "user_id")


async def list_events(services: Services, request: Request) -> Response:
    """List all event definitions, newest first."""
    definitions = await all_definitions(services, request.caller)
    return Response(
        200, bodies.EventListAnswer(data=bodies.EventList([_event_def(definition) for definition in definitions]))
    )


async def create_event(services: Services, request: Request) -> Response:
    """Create an event definition."""
    body = request.read(bodies.CreateEventBody)
    _check_event_name(body.event_name)
    schema = Schema(_properties(body.properties or []))
    new = NewDefinition(body.event_name, schema, description=body.description or "")
    created = await create_definition(services, request, new)
    return Response(201, bodies.EventAnswer(data=_event_def(created)))


async def get_event(services: Services, request: Request) -> Response:
    """Return the event definition with a name."""
    return Response(200, bodies.EventAnswer(data=_event_def(await _definition(services, request))))


async def update_event(services: Services, request: Request) -> Response:
    """Update the description or properties of an event definition; the name cannot change."""
    body = request.read(bodies.UpdateEventBody)
    if body.description is UNSET and body.properties is UNSET:
        message = "At least one of description or properties is required"
        raise InvalidBody([Violation("", "NOTHING_TO_UPDATE", message)])
    current = await _definition(services, request)
    changes = DefinitionChanges(
        description=UNSET if body.description is UNSET else body.description or "",
        schema=UNSET if body.properties is UNSET else replace(current.schema, properties=_properties(body.properties)),
    )
    updated = await update_definition(services, request, current, changes)
    return Response(200, bodies.EventAnswer(data=_event_def(updated)))


async def delete_event(services: Services, request: Request) -> Response:
    """Delete an event definition; recorded events are kept."""
    current = await _definition(services, request)
    deleted = await services.definitions.delete(request.caller, current.id, "")
    return Response(200, bodies.EventAnswer(data=_event_def(deleted)))


async def send_event(services: Services, request: Request) -> Response:
    """Record an event."""
    event = (await send(services, request, read_event)).event
    assert event is not None
    recorded = bodies.EventLog(
        id=event.id,
        event_name=event.name,
        contact_id=event.contact_id,
        properties=event.properties,
        created_at=format_millis(event.received_at),
    )
    return Response(201, bodies.EventLogAnswer(data=recorded))


def read_event(request: Request) -> Draft:
    """Read the event of a request."""
    body = request.read(bodies.SendEventBody)
    if not body.contact_id and not body.email:
        raise ContactRequired
    properties = body.event_properties or {}
    check_json(properties, len(request.body), "eventProperties")
    return Draft(
        body.event_name,
        body.contact_id or "",
        # An invalid address belongs to no contact: the error is CONTACT_NOT_FOUND_FOR_EVENT.
        "" if body.contact_id else (body.email or "").strip().lower(),
        properties,
        idempotency_key=request.idempotency_key(),
        rules=RULES,
    )


async def create_contact(services: Services, request: Request) -> Response:
    """Create a contact."""
    body = request.read(bodies.ContactBody)
    properties = _properties_of(body, len(request.body))
    created = await services.contacts.create(request.caller.project_pk, normalize_email(body.email), properties)
    return Response(201, bodies.ContactAnswer(data=_contact_data(request, created)))


async def upsert_contact(services: Services, request: Request) -> Response:
    """Create a contact, or update the one with this address."""
    body = request.read(bodies.ContactBody)
    properties = _properties_of(body, len(request.body))
    contact, _ = await services.contacts.upsert(request.caller.project_pk, normalize_email(body.email), properties)
    return Response(200, bodies.ContactAnswer(data=_contact_data(request, contact)))


async def get_contact(services: Services, request: Request) -> Response:
    """Return the contact with an id."""
    contact = await services.contacts.get(request.caller.project_pk, ContactRef(request.params["id"]))
    return Response(200, bodies.ContactAnswer(data=_contact_data(request, contact)))


async def delete_contact(services: Services, request: Request) -> Response:
    """Delete a contact and erase its data."""
    await services.contacts.delete(request.caller.project_pk, ContactRef(request.params["id"]))
    return Response(200, bodies.DeletedAnswer(message="Contact deleted successfully"))


def _check_event_name(name: str) -> None:
    """Raise InvalidBody or RuleBroken for a name that AutoSend does not allow."""
    if not 1 <= len(name) <= MAX_NAME:
        message = f"eventName must be 1 to {MAX_NAME} characters long"
        raise InvalidBody([Violation("eventName", "INVALID_FIELD", message)])
    if not _NAME.fullmatch(name):
        message = "Event name can only contain ASCII letters (a-z, A-Z), numbers (0-9), and underscores (_)."
        raise RuleBroken(400, "INVALID_EVENT_NAME_CHARACTERS", message)


def _properties(declared: list[bodies.PropertyBody]) -> tuple[Property, ...]:
    """Return the properties to declare. Raise InvalidBody for names that AutoSend does not allow."""
    message = f"propertyName must be 1 to {MAX_NAME} ASCII letters, digits and underscores"
    violations = [
        Violation(f"properties[{index}].propertyName", "INVALID_FIELD", message)
        for index, prop in enumerate(declared)
        if len(prop.property_name) > MAX_NAME or not _NAME.fullmatch(prop.property_name)
    ]
    if violations:
        raise InvalidBody(violations)
    return tuple(
        Property(
            prop.property_name,
            PropertyType(prop.type),
            description=prop.description or "",
            suggested_values=tuple(prop.suggested_values or ()),
        )
        for prop in declared
    )


async def _definition(services: Services, request: Request) -> EventDefinition:
    return await definition_by_name(services, request.caller, request.params["eventName"])


def _event_def(definition: EventDefinition) -> bodies.EventDef:
    return bodies.EventDef(
        id=definition.id,
        event_name=definition.name,
        description=definition.description or None,
        properties=[_declared(prop) for prop in definition.schema.properties if prop.type in FLAT_TYPES],
        created_at=format_millis(definition.created_at),
        updated_at=format_millis(definition.updated_at),
    )


def _declared(prop: Property) -> bodies.DeclaredProperty:
    return bodies.DeclaredProperty(
        property_name=prop.name,
        type=FLAT_TYPES[prop.type],
        description=prop.description or UNSET,
        suggested_values=list(prop.suggested_values),
    )


def _properties_of(body: bodies.ContactBody, received: int) -> dict[str, Any]:
    named = {"first_name": body.first_name, "last_name": body.last_name, "user_id": body.user_id}
    return contact_properties(named, body.custom_fields or {}, received, "customFields")


def _contact_data(request: Request, contact: Contact) -> bodies.ContactData:
    return bodies.ContactData(
        id=contact.id,
        email=contact.email,
        **named_texts(contact, _CONTACT_FIELDS),
        custom_fields=other_properties(contact, _CONTACT_FIELDS),
        created_at=format_millis(contact.created_at),
        updated_at=format_millis(contact.updated_at),
        project_id=request.caller.project_id,
    )


_EVENT, _CONTACT = "/v1/events/eventName/{eventName}", "/v1/contacts/{id}"
_DEFINE, _WRITE = Scope.DEFINITIONS_WRITE, Scope.CONTACTS_WRITE
_SENT, _EVENTS = {201: bodies.EventLogAnswer}, {200: bodies.EventListAnswer}
_EVENT_DATA, _CONTACT_DATA = {200: bodies.EventAnswer}, {200: bodies.ContactAnswer}
_CREATED = {201: bodies.ContactAnswer}

_SENDING = (
    "CONTACT_REQUIRED",
    "CONTACT_NOT_FOUND",
    "DEFINITION_NOT_FOUND",
    "PAYLOAD_REJECTED",
    "IDEMPOTENCY_KEY_REUSED",
)
_DEFINING = ("DEFINITION_ALREADY_EXISTS", "TOO_MANY_DEFINITIONS")
_NO_EVENT = ("DEFINITION_NOT_FOUND",)
_DELETING = ("DEFINITION_NOT_FOUND", "DEFINITION_IN_USE")
_CONTACT_EXISTS = ("CONTACT_ALREADY_EXISTS",)
_NO_CONTACT = ("CONTACT_NOT_FOUND",)

ROUTES: Final = (
    Route(
        "POST",
        "/v1/events/send",
        send_event,
        Scope.EVENTS_WRITE,
        _SENT,
        bodies.SendEventBody,
        error_group=SEND,
        errors=_SENDING,
    ),
    Route("GET", "/v1/events", list_events, Scope.DEFINITIONS_READ, _EVENTS),
    Route(
        "POST", "/v1/events", create_event, _DEFINE, {201: bodies.EventAnswer}, bodies.CreateEventBody, errors=_DEFINING
    ),
    Route("GET", _EVENT, get_event, Scope.DEFINITIONS_READ, _EVENT_DATA, errors=_NO_EVENT),
    Route("PATCH", _EVENT, update_event, _DEFINE, _EVENT_DATA, bodies.UpdateEventBody, errors=_NO_EVENT),
    Route("DELETE", _EVENT, delete_event, _DEFINE, _EVENT_DATA, errors=_DELETING),
    Route(
        "POST",
        "/v1/contacts",
        create_contact,
        _WRITE,
        _CREATED,
        bodies.ContactBody,
        error_group=CONTACT,
        errors=_CONTACT_EXISTS,
    ),
    Route("POST", "/v1/contacts/email", upsert_contact, _WRITE, _CONTACT_DATA, bodies.ContactBody, error_group=CONTACT),
    Route("GET", _CONTACT, get_contact, Scope.CONTACTS_READ, _CONTACT_DATA, error_group=CONTACT, errors=_NO_CONTACT),
    Route(
        "DELETE", _CONTACT, delete_contact, _WRITE, {200: bodies.DeletedAnswer}, error_group=CONTACT, errors=_NO_CONTACT
    ),
)
