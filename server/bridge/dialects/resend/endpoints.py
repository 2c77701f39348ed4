"""Resend's endpoints for events and contacts."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from msgspec import UNSET

from registry.definitions.event_definitions import NewDefinition
from registry.definitions.schema import Property, PropertyType, Schema, UnknownProperties
from registry.storage.definition_store import DefinitionChanges
from registry.values.json_values import CONTACT_BUDGET
from server.bridge.dialects.resend import bodies
from server.bridge.errors import RuleBroken
from server.bridge.fields import FLAT_TYPES, is_uuid
from server.bridge.messages import Request, Response
from server.bridge.operations import (
    accepts_everything,
    all_definitions,
    contact_properties,
    contact_ref,
    create_definition,
    find_definition,
    named_texts,
    other_properties,
    page_by_id,
    update_definition,
)
from server.bridge.payloads import check_json, storable_json
from server.bridge.routes import Route
from server.bridge.sending import send
from server.errors import ContactNotFound, InvalidArgument
from server.ingest.draft import Draft
from server.model import NameCase, Rules, Scope, UndefinedEvents, UnknownContacts
from server.services.emails import normalize_email

if TYPE_CHECKING:
    from collections.abc import Mapping

    from registry.definitions.event_definitions import EventDefinition
    from server.bridge.operations import Services
    from server.model import Contact

RULES: Final = Rules(UndefinedEvents.ACCEPT, UnknownContacts.CREATE_ON_MATCH, NameCase.SENSITIVE)

RESERVED_PREFIX: Final = "resend:"

NO_SCHEMA: Final = Schema((), UnknownProperties.KEEP)
"""The schema of a definition without a schema: it accepts every payload."""

_NAMED = ("first_name", "last_name")
_CONTACT_FIELDS = (*_NAMED, "unsubscribed")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


# Events


async def list_events(services: Services, request: Request) -> Response:
    """List event definitions, newest first."""
    limit, after, before = _page(request, bodies.EVENTS_LIMIT)
    definitions = await all_definitions(services, request.caller)
    page, more = page_by_id(definitions, limit, after, before)
    listed = [bodies.ListedEvent(**_event_fields(definition)) for definition in page]
    return Response(200, bodies.EventList(has_more=more, data=listed))


async def create_event(services: Services, request: Request) -> Response:
    """Create an event definition."""
    body = request.read(bodies.CreateEventBody)
    _check_event_name(body.name)
    schema = replace(NO_SCHEMA, properties=_properties(body.schema or {}))
    created = await create_definition(services, request, NewDefinition(body.name, schema))
    return Response(201, bodies.EventId(id=created.id))


async def get_event(services: Services, request: Request) -> Response:
    """Return the event definition with an id or name."""
    return Response(200, bodies.EventData(**_event_fields(await _definition(services, request))))


async def update_event(services: Services, request: Request) -> Response:
    """Replace or remove the schema of an event definition; the name cannot change."""
    body = request.read(bodies.UpdateEventBody)
    current = await _definition(services, request)
    if body.name is not UNSET and body.name != current.name:
        raise RuleBroken(422, "invalid_parameter", "The name of an event cannot be changed.")
    schema = replace(current.schema, properties=_properties(body.schema)) if body.schema else NO_SCHEMA
    updated = await update_definition(services, request, current, DefinitionChanges(schema=schema))
    return Response(200, bodies.EventId(id=updated.id))


async def delete_event(services: Services, request: Request) -> Response:
    """Delete an event definition; recorded events are kept."""
    current = await _definition(services, request)
    await services.definitions.delete(request.caller, current.id, "")
    return Response(200, bodies.DeletedEvent(id=current.id))


async def send_event(services: Services, request: Request) -> Response:
    """Record an event."""
    event = (await send(services, request, read_event)).event
    assert event is not None
    return Response(202, bodies.SentEvent(event=event.name))


def read_event(request: Request) -> Draft:
    """Read the event of a request."""
    body = request.read(bodies.SendEventBody)
    _check_event_name(body.event)
    if not body.contact_id and not body.email:
        raise RuleBroken(422, "missing_required_field", "Missing `contact_id` or `email` field.")
    if body.contact_id and body.email:
        raise RuleBroken(422, "invalid_parameter", "Provide either `contact_id` or `email`, not both.")
    if body.contact_id and not is_uuid(body.contact_id):
        raise RuleBroken(422, "validation_error", "The `contact_id` must be a valid UUID.")
    payload = body.payload or {}
    check_json(payload, len(request.body), "payload")
    return Draft(
        body.event,
        (body.contact_id or "").lower(),
        normalize_email(body.email) if body.email else "",
        payload,
        idempotency_key=_idempotency_key(request),
        rules=RULES,
    )


# Contacts


async def list_contacts(services: Services, request: Request) -> Response:
    """List contacts, newest first."""
    limit, after, before = _page(request, bodies.CONTACTS_LIMIT)
    page, more = await services.contacts.list_next_to(
        request.caller.project_pk, limit, after_id=after, before_id=before
    )
    listed = [bodies.ListedContact(**_contact_fields(contact)) for contact in page]
    return Response(200, bodies.ContactList(has_more=more, data=listed))


async def create_contact(services: Services, request: Request) -> Response:
    """Create a contact."""
    body = request.read(bodies.CreateContactBody)
    named = {name: getattr(body, name) for name in _CONTACT_FIELDS}
    properties = contact_properties(named, dict(body.properties or {}), len(request.body), "properties")
    created = await services.contacts.create(request.caller.project_pk, normalize_email(body.email), properties)
    return Response(201, bodies.ContactId(id=created.id))


async def get_contact(services: Services, request: Request) -> Response:
    """Return the contact with an id or address."""
    name = contact_ref(request.params["identifier"])
    contact = await services.contacts.get(request.caller.project_pk, name)
    properties = _property_values(other_properties(contact, _CONTACT_FIELDS))
    return Response(200, bodies.ContactData(**_contact_fields(contact), properties=properties))


async def update_contact(services: Services, request: Request) -> Response:
    """Update fields of a contact; the address cannot change."""
    body = request.read(bodies.UpdateContactBody)
    name = contact_ref(request.params["identifier"])
    current = await services.contacts.get(request.caller.project_pk, name)
    if body.email and normalize_email(body.email) != current.email:
        raise RuleBroken(422, "invalid_parameter", "The email of a contact cannot be changed.")
    changes = {name: value for name in _CONTACT_FIELDS if (value := getattr(body, name)) is not UNSET}
    if body.properties:
        changes |= storable_json(dict(body.properties), len(request.body), "properties", CONTACT_BUDGET)
    updated = await services.contacts.update(request.caller.project_pk, name, changes)
    return Response(200, bodies.ContactId(id=updated.id))


async def delete_contact(services: Services, request: Request) -> Response:
    """Delete a contact and erase its data; a contact that does not exist counts as deleted."""
    identifier = request.params["identifier"]
    with suppress(ContactNotFound):
        deleted = await services.contacts.delete(request.caller.project_pk, contact_ref(identifier))
        identifier = deleted.id
    return Response(200, bodies.DeletedContact(id=identifier, contact=identifier))


# Reading requests


def _page(request: Request, default: int) -> tuple[int, str, str]:
    """Return limit, after and before of a list's query. Raise InvalidBody and RuleBroken."""
    after, before = request.query.get("after", ""), request.query.get("before", "")
    if after and before:
        raise RuleBroken(422, "validation_error", "Provide either `after` or `before`, not both.")
    return request.number("limit", default, bodies.MAX_LIMIT), after, before


def _check_event_name(name: str) -> None:
    """Raise RuleBroken for a reserved name; the registry checks the rest."""
    if name.lower().startswith(RESERVED_PREFIX):
        raise RuleBroken(422, "validation_error", f'The event name must not start with "{RESERVED_PREFIX}".')


def _properties(schema: Mapping[str, str]) -> tuple[Property, ...]:
    return tuple(Property(name, PropertyType(kind)) for name, kind in schema.items())


def _idempotency_key(request: Request) -> str:
    try:
        return request.idempotency_key()
    except InvalidArgument as error:
        raise RuleBroken(400, "invalid_idempotency_key", error.message) from None


async def _definition(services: Services, request: Request) -> EventDefinition:
    return await find_definition(services, request.caller, request.params["identifier"])


# Writing responses


def format_timestamp(micros: int) -> str:
    """Return a time as `2025-10-17 16:47:07.461063+00`."""
    return (_EPOCH + timedelta(microseconds=micros)).strftime("%Y-%m-%d %H:%M:%S.%f+00")


def _event_fields(definition: EventDefinition) -> dict[str, Any]:
    return {
        "id": definition.id,
        "name": definition.name,
        "schema": _flat_schema(definition.schema),
        "created_at": format_timestamp(definition.created_at),
        "updated_at": format_timestamp(definition.updated_at),
    }


def _flat_schema(schema: Schema) -> bodies.Schema | None:
    """Return a schema without the types that Resend does not have; None if it accepts every payload."""
    if accepts_everything(schema):
        return None
    return {prop.name: FLAT_TYPES[prop.type] for prop in schema.properties if prop.type in FLAT_TYPES}


def _contact_fields(contact: Contact) -> dict[str, Any]:
    return {
        "id": contact.id,
        "email": contact.email,
        **named_texts(contact, _NAMED),
        "created_at": format_timestamp(contact.created_at),
        "unsubscribed": contact.properties.get("unsubscribed") is True,
    }


def _property_values(properties: Mapping[str, Any]) -> dict[str, bodies.PropertyValue]:
    """Return properties with their types, without objects and arrays, which Resend does not have."""
    values: dict[str, bodies.PropertyValue] = {}
    for name, value in properties.items():
        match value:
            case bool():
                values[name] = bodies.PropertyValue("boolean", value)
            case int() | float():
                values[name] = bodies.PropertyValue("number", value)
            case str():
                values[name] = bodies.PropertyValue("string", value)
    return values


_EVENT, _CONTACT = "/events/{identifier}", "/contacts/{identifier}"
_DEFINE, _READ, _WRITE = Scope.DEFINITIONS_WRITE, Scope.CONTACTS_READ, Scope.CONTACTS_WRITE
_EVENTS, _CONTACTS = {200: bodies.EventList}, {200: bodies.ContactList}

_SENDING = ("CONTACT_NOT_FOUND", "PAYLOAD_REJECTED", "IDEMPOTENCY_KEY_REUSED")
_DEFINING = ("DEFINITION_ALREADY_EXISTS", "TOO_MANY_DEFINITIONS")
_NO_EVENT = ("DEFINITION_NOT_FOUND",)
_DELETING = ("DEFINITION_NOT_FOUND", "DEFINITION_IN_USE")
_CONTACT_EXISTS = ("CONTACT_ALREADY_EXISTS",)
_NO_CONTACT = ("CONTACT_NOT_FOUND",)

ROUTES: Final = (
    Route(
        "POST",
        "/events/send",
        send_event,
        Scope.EVENTS_WRITE,
        {202: bodies.SentEvent},
        bodies.SendEventBody,
        errors=_SENDING,
    ),
    Route("GET", "/events", list_events, Scope.DEFINITIONS_READ, _EVENTS, query=bodies.EventsQuery),
    Route("POST", "/events", create_event, _DEFINE, {201: bodies.EventId}, bodies.CreateEventBody, errors=_DEFINING),
    Route("GET", _EVENT, get_event, Scope.DEFINITIONS_READ, {200: bodies.EventData}, errors=_NO_EVENT),
    Route("PATCH", _EVENT, update_event, _DEFINE, {200: bodies.EventId}, bodies.UpdateEventBody, errors=_NO_EVENT),
    Route("DELETE", _EVENT, delete_event, _DEFINE, {200: bodies.DeletedEvent}, errors=_DELETING),
    Route("GET", "/contacts", list_contacts, _READ, _CONTACTS, query=bodies.ContactsQuery),
    Route(
        "POST",
        "/contacts",
        create_contact,
        _WRITE,
        {201: bodies.ContactId},
        bodies.CreateContactBody,
        errors=_CONTACT_EXISTS,
    ),
    Route("GET", _CONTACT, get_contact, _READ, {200: bodies.ContactData}, errors=_NO_CONTACT),
    Route(
        "PATCH", _CONTACT, update_contact, _WRITE, {200: bodies.ContactId}, bodies.UpdateContactBody, errors=_NO_CONTACT
    ),
    Route("DELETE", _CONTACT, delete_contact, _WRITE, {200: bodies.DeletedContact}),
)
