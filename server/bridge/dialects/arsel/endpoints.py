"""Arsel's endpoints for events and contacts."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from msgspec import UNSET

from registry.definitions.event_definitions import NewDefinition
from registry.definitions.schema import Property, PropertyType, Schema, UnknownProperties
from registry.errors import Violation
from registry.storage.definition_store import DefinitionChanges
from registry.times.timestamps import format_millis, parse_iso8601
from registry.values.json_values import CONTACT_BUDGET
from server.bridge.dialects.arsel import bodies
from server.bridge.dialects.arsel.errors import SEND
from server.bridge.fields import FLAT_TYPES
from server.bridge.messages import Request, Response
from server.bridge.operations import (
    all_definitions,
    contact_properties,
    create_definition,
    definition_by_id,
    named_texts,
    other_properties,
    page_by_id,
    update_definition,
)
from server.bridge.payloads import check_json, storable_json
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

RULES: Final = Rules(UndefinedEvents.REJECT, UnknownContacts.CREATE_ON_MATCH, NameCase.SENSITIVE)

MAX_FIELD_NAME: Final = 64

_FIELD_NAME = re.compile("[A-Za-z_][A-Za-z0-9_]*")
_NAMED = ("phone_number", "first_name", "last_name")
_CONTACT_FIELDS = (*_NAMED, "unsubscribed")


async def list_events(services: Services, request: Request) -> Response:
    """List event definitions, newest first."""
    limit, after, before, search = _page(request)
    definitions = await all_definitions(services, request.caller, search)
    page, more = page_by_id(definitions, limit, after, before)
    return Response(200, bodies.EventList(has_more=more, data=[_event_def(definition) for definition in page]))


async def create_event(services: Services, request: Request) -> Response:
    """Create an event definition."""
    body = request.read(bodies.CreateEventBody)
    if len(body.name) > bodies.MAX_NAME:
        raise _invalid("name", f"name must be 1 to {bodies.MAX_NAME} characters long")
    schema = Schema(_properties(body.schema or bodies.SchemaBody()), UnknownProperties.KEEP)
    new = NewDefinition(body.name, schema, description=body.description or "")
    created = await create_definition(services, request, new)
    return Response(201, _event_def(created))


async def get_event(services: Services, request: Request) -> Response:
    """Return the event definition with an id."""
    return Response(200, _event_def(await definition_by_id(services, request.caller, request.params["id"])))


async def update_event(services: Services, request: Request) -> Response:
    """Update the description or schema of an event definition; the name cannot change."""
    body = request.read(bodies.UpdateEventBody)
    current = await definition_by_id(services, request.caller, request.params["id"])
    if body.name is not UNSET and body.name != current.name:
        raise _invalid("name", "name is not accepted: an event keeps its name")
    changes = DefinitionChanges(
        description=UNSET if body.description is UNSET else body.description or "",
        schema=UNSET if body.schema is UNSET else replace(current.schema, properties=_properties(body.schema)),
    )
    updated = await update_definition(services, request, current, changes)
    return Response(200, _event_def(updated))


async def delete_event(services: Services, request: Request) -> Response:
    """Delete an event definition that no active automation uses; recorded events are kept."""
    current = await definition_by_id(services, request.caller, request.params["id"])
    await services.definitions.delete(request.caller, current.id, "", unless_used=True)
    return Response(200, bodies.Done("Event deleted"))


async def send_event(services: Services, request: Request) -> Response:
    """Record an event."""
    draft = await send(services, request, read_event)
    assert draft.event is not None
    return Response(202, bodies.Accepted(draft.event.id))


def read_event(request: Request) -> Draft:
    """Read the event of a request."""
    body = request.read(bodies.SendEventBody)
    if bool(body.email) is bool(body.contact_id):
        raise ContactRequired
    check_json(body.data, len(request.body), "data")
    return Draft(
        name=body.event,
        contact_id=body.contact_id or "",
        email=normalize_email(body.email) if body.email else "",
        given=body.data,
        occurred_at=None if body.timestamp is None else _instant(body.timestamp),
        idempotency_key=request.idempotency_key(),
        rules=RULES,
    )


async def list_contacts(services: Services, request: Request) -> Response:
    """List contacts, newest first."""
    for name in ("list_id", "tag_id"):
        if name in request.query:
            raise _invalid(name, f"{name} is not supported: contacts have neither lists nor tags here")
    limit, after, before, search = _page(request)
    page, more = await services.contacts.list_next_to(
        request.caller.project_pk, limit, after_id=after, before_id=before, search=search
    )
    return Response(200, bodies.ContactList(has_more=more, data=[_contact_data(contact) for contact in page]))


async def create_contact(services: Services, request: Request) -> Response:
    """Create a contact."""
    body = request.read(bodies.CreateContactBody)
    named = {name: getattr(body, name) for name in _NAMED}
    properties = contact_properties(named, body.properties or {}, len(request.body), "properties")
    created = await services.contacts.create(request.caller.project_pk, normalize_email(body.email), properties)
    return Response(201, _contact_data(created))


async def get_contact(services: Services, request: Request) -> Response:
    """Return the contact with an id."""
    return Response(200, _contact_data(await services.contacts.get(request.caller.project_pk, _contact_ref(request))))


async def update_contact(services: Services, request: Request) -> Response:
    """Update fields of a contact; the address cannot change."""
    body = request.read(bodies.UpdateContactBody)
    current = await services.contacts.get(request.caller.project_pk, _contact_ref(request))
    if body.email is not UNSET and (body.email is None or normalize_email(body.email) != current.email):
        raise _invalid("email", "email is not accepted: a contact keeps its address")
    changes = _contact_changes(body, current, len(request.body))
    updated = await services.contacts.update(request.caller.project_pk, ContactRef(current.id), changes, current.etag)
    return Response(200, _contact_data(updated))


async def delete_contact(services: Services, request: Request) -> Response:
    """Delete a contact and erase its data."""
    await services.contacts.delete(request.caller.project_pk, _contact_ref(request))
    return Response(200, bodies.Done("Contact deleted"))


async def delete_contacts(services: Services, request: Request) -> Response:
    """Delete several contacts and erase their data."""
    body = request.read(bodies.BulkDeleteBody)
    deleted = await services.contacts.delete_all(request.caller.project_pk, body.contact_ids)
    return Response(200, bodies.BulkDeleted("Contacts deleted", deleted))


def _page(request: Request) -> tuple[int, str, str, str]:
    """Return limit, after, before and search of a list's query. Raise InvalidBody."""
    after, before = request.query.get("after", ""), request.query.get("before", "")
    if after and before:
        raise _invalid("before", "Provide either after or before, not both.")
    return (
        request.number("limit", bodies.DEFAULT_LIMIT, bodies.MAX_LIMIT),
        after,
        before,
        request.query.get("search", ""),
    )


def _instant(text: str) -> int:
    try:
        return parse_iso8601(text)
    except ValueError:
        message = "timestamp must be an ISO 8601 date, or date and time with an offset, such as 2026-06-01T12:00:00Z"
        raise _invalid("timestamp", message) from None


def _properties(schema: bodies.SchemaBody) -> tuple[Property, ...]:
    """Return the properties to declare. Raise InvalidBody for names that Arsel does not allow."""
    message = "a field's name has letters, digits and underscores, begins with no digit, and has at most 64 characters"
    violations = [
        Violation(f"schema.fields[{index}].name", "INVALID_FIELD", f"schema.fields[{index}].name: {message}")
        for index, field in enumerate(schema.fields)
        if len(field.name) > MAX_FIELD_NAME or not _FIELD_NAME.fullmatch(field.name)
    ]
    if violations:
        raise InvalidBody(violations)
    return tuple(Property(field.name, PropertyType(field.type), field.required) for field in schema.fields)


def _invalid(path: str, message: str) -> InvalidBody:
    return InvalidBody([Violation(path, "INVALID_FIELD", message)])


def _contact_ref(request: Request) -> ContactRef:
    return ContactRef(request.params["id"])


def _contact_changes(body: bodies.UpdateContactBody, current: Contact, received: int) -> dict[str, Any]:
    """Return the new value of each changed property; None removes the property."""
    changes: dict[str, Any] = {}
    if body.properties is not UNSET:
        held = storable_json(body.properties, received, "properties", CONTACT_BUDGET)
        changes = dict.fromkeys(other_properties(current, _CONTACT_FIELDS)) | held
    named = {name: getattr(body, name) for name in _NAMED}
    return changes | {name: value for name, value in named.items() if value is not UNSET}


def _event_def(definition: EventDefinition) -> bodies.EventDef:
    fields = [
        bodies.FieldData(prop.name, FLAT_TYPES[prop.type], prop.required)
        for prop in definition.schema.properties
        if prop.type in FLAT_TYPES
    ]
    return bodies.EventDef(
        definition.id,
        definition.name,
        definition.description or None,
        bodies.SchemaData(fields),
        format_millis(definition.created_at),
        format_millis(definition.updated_at),
    )


def _contact_data(contact: Contact) -> bodies.ContactData:
    return bodies.ContactData(
        id=contact.id,
        email=contact.email,
        **named_texts(contact, _NAMED),
        source="api",
        properties=other_properties(contact, _CONTACT_FIELDS),
        is_suppressed=contact.properties.get("unsubscribed") is True,
        created_at=format_millis(contact.created_at),
        updated_at=format_millis(contact.updated_at),
    )


_EVENT, _CONTACT = "/v1/events/{id}", "/v1/contacts/{id}"
_DEFINE, _READ, _WRITE = Scope.DEFINITIONS_WRITE, Scope.CONTACTS_READ, Scope.CONTACTS_WRITE
_ACCEPTED, _EVENTS = {202: bodies.Accepted}, {200: bodies.EventList}
_EVENT_DEF, _CONTACT_DATA = {200: bodies.EventDef}, {200: bodies.ContactData}
_DONE, _BULK_DELETED = {200: bodies.Done}, {200: bodies.BulkDeleted}

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
        _ACCEPTED,
        bodies.SendEventBody,
        error_group=SEND,
        errors=_SENDING,
    ),
    Route("GET", "/v1/events", list_events, Scope.DEFINITIONS_READ, _EVENTS, query=bodies.ListQuery),
    Route(
        "POST", "/v1/events", create_event, _DEFINE, {201: bodies.EventDef}, bodies.CreateEventBody, errors=_DEFINING
    ),
    Route("GET", _EVENT, get_event, Scope.DEFINITIONS_READ, _EVENT_DEF, errors=_NO_EVENT),
    Route("PATCH", _EVENT, update_event, _DEFINE, _EVENT_DEF, bodies.UpdateEventBody, errors=_NO_EVENT),
    Route("DELETE", _EVENT, delete_event, _DEFINE, _DONE, errors=_DELETING),
    Route("GET", "/v1/contacts", list_contacts, _READ, {200: bodies.ContactList}, query=bodies.ListQuery),
    Route(
        "POST",
        "/v1/contacts",
        create_contact,
        _WRITE,
        {201: bodies.ContactData},
        bodies.CreateContactBody,
        errors=_CONTACT_EXISTS,
    ),
    Route("POST", "/v1/contacts/bulk-delete", delete_contacts, _WRITE, _BULK_DELETED, bodies.BulkDeleteBody),
    Route("GET", _CONTACT, get_contact, _READ, _CONTACT_DATA, errors=_NO_CONTACT),
    Route("PATCH", _CONTACT, update_contact, _WRITE, _CONTACT_DATA, bodies.UpdateContactBody, errors=_NO_CONTACT),
    Route("DELETE", _CONTACT, delete_contact, _WRITE, _DONE, errors=_NO_CONTACT),
)
