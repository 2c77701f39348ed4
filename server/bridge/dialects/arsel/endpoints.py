"""Arsel: `/v1/events`, `/v1/events/send` and contacts. JSON in snake_case, single objects bare.

An event is accepted for exactly one of address and contact id; the contact of an unknown address is made when an
automation matches.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from registry.errors import Violation
from registry.schema import Compatibility, Property, PropertyType, Schema, UnknownProperties
from registry.store import DefinitionChanges
from registry.timestamps import format_millis, parse_iso8601
from server.bridge.contacts import given_properties, named_texts, other_properties
from server.bridge.definitions import all_definitions, definition_by_id
from server.bridge.dialect import Door, Refusal
from server.bridge.fields import FLAT_TYPES, Email, FlatType, Limit, Uuid
from server.bridge.lists import beside
from server.bridge.messages import Reply, Request
from server.bridge.rate_limits import Headers, RateLimit, Standing
from server.bridge.routes import Route
from server.budgets import CONTACT_BUDGET, check_json, hold_json
from server.emails import normal_email
from server.errors import ContactRequired, InvalidBody
from server.ingest.draft import Draft
from server.model import Dialect, NameCase, Rules, Scope, UndefinedEvents, UnknownContacts
from server.services.contacts import ContactName

if TYPE_CHECKING:
    from registry.definitions import EventDefinition
    from server.bridge.services import Services
    from server.model import Contact

RULES: Final = Rules(UndefinedEvents.REJECT, UnknownContacts.CREATE_ON_MATCH, NameCase.SENSITIVE)

MAX_NAME: Final = 80
MAX_FIELD_NAME: Final = 64
DEFAULT_LIMIT, MAX_LIMIT = 20, 100
MAX_BULK: Final = 1_000

SEND: Final = "send"
"""The topic where an event that is not defined has a text of its own."""

_FIELD_NAME = re.compile("[A-Za-z_][A-Za-z0-9_]*")
_NAMED = ("phone_number", "first_name", "last_name")
_CONTACT_FIELDS = (*_NAMED, "unsubscribed")

_NAMES: Final = {
    400: "bad_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    409: "conflict",
    413: "payload_too_large",
    415: "unsupported_media_type",
    422: "validation_error",
    429: "rate_limit_exceeded",
    500: "internal_server_error",
    503: "service_unavailable",
}


PersonName = Annotated[str, Meta(max_length=100)]


class FieldBody(Struct):
    """A field as it is declared."""

    name: Annotated[str, Meta(extra_json_schema={"pattern": "^[A-Za-z_][A-Za-z0-9_]{0,63}$"})]
    type: FlatType
    required: bool = False


class SchemaBody(Struct):
    """The fields of an event."""

    fields: list[FieldBody] = []


class CreateEventBody(Struct):
    """Body of POST /v1/events."""

    name: Annotated[str, Meta(min_length=1, extra_json_schema={"maxLength": MAX_NAME})]
    description: Annotated[str, Meta(extra_json_schema={"maxLength": 2_000})] | None = None
    schema: SchemaBody | None = None


class UpdateEventBody(Struct):
    """Body of PATCH; a schema replaces the one there was."""

    name: str | UnsetType = UNSET
    description: str | UnsetType | None = UNSET
    schema: SchemaBody | UnsetType = UNSET


class SendEventBody(Struct):
    """Body of POST /v1/events/send: exactly one of `email` and `contact_id`; `timestamp` is an instant in ISO 8601."""

    event: str
    data: dict[str, Any]
    email: Email | None = None
    contact_id: Uuid | None = None
    timestamp: Annotated[str, Meta(extra_json_schema={"format": "date-time"})] | None = None


class CreateContactBody(Struct):
    """Body of POST /v1/contacts."""

    email: Email
    phone_number: str | None = None
    first_name: PersonName | None = None
    last_name: PersonName | None = None
    properties: dict[str, Any] | None = None


class UpdateContactBody(Struct):
    """Body of PATCH: null clears a field, `properties` replace all there were, `email` may only say what it is."""

    email: Email | UnsetType | None = UNSET
    phone_number: str | UnsetType | None = UNSET
    first_name: PersonName | UnsetType | None = UNSET
    last_name: PersonName | UnsetType | None = UNSET
    properties: dict[str, Any] | UnsetType = UNSET


class BulkDeleteBody(Struct):
    """Body of POST /v1/contacts/bulk-delete."""

    contact_ids: Annotated[list[str], Meta(min_length=1, max_length=MAX_BULK)]


class ListQuery(Struct):
    """The page of a list: behind one id or before another, not both."""

    limit: Limit = DEFAULT_LIMIT
    after: str = ""
    before: str = ""
    search: str = ""


class FieldData(Struct):
    """A declared field."""

    name: str
    type: FlatType
    required: bool


class SchemaData(Struct):
    """The declared fields."""

    fields: list[FieldData]


class EventDef(Struct):
    """An event definition. Times in milliseconds UTC."""

    id: str
    name: str
    description: str | None
    schema: SchemaData
    created_at: str
    updated_at: str


class Accepted(Struct):
    """What is said of an event that was recorded."""

    id: str
    status: Literal["accepted"] = "accepted"


class ContactData(Struct, kw_only=True):
    """A contact; suppressed is one that unsubscribed."""

    id: str
    email: str
    phone_number: str | None
    first_name: str | None
    last_name: str | None
    source: Literal["api"]
    properties: dict[str, Any]
    is_suppressed: bool
    created_at: str
    updated_at: str


class EventList(Struct, kw_only=True):
    """A page of definitions."""

    object: Literal["list"] = "list"
    has_more: bool
    data: list[EventDef]


class ContactList(Struct, kw_only=True):
    """A page of contacts."""

    object: Literal["list"] = "list"
    has_more: bool
    data: list[ContactData]


class Done(Struct):
    """What is said of a deletion."""

    message: str


class BulkDeleted(Struct):
    """What is said of several deletions; ids that no contact has are not counted."""

    message: str
    deleted: int


class ErrorAnswer(Struct):
    """An error."""

    status_code: int
    name: str
    message: str


async def list_events(services: Services, request: Request) -> Reply:
    """List definitions, newest first."""
    limit, after, before, search = _page(request)
    found = await all_definitions(services, request.caller, search)
    page, more = beside(found, limit, after, before)
    return Reply(200, EventList(has_more=more, data=[_event_def(each) for each in page]))


async def create_event(services: Services, request: Request) -> Reply:
    """Define an event."""
    body = request.read(CreateEventBody)
    if len(body.name) > MAX_NAME:
        raise _invalid("name", f"name must be 1 to {MAX_NAME} characters long")
    schema = Schema(_properties(body.schema or SchemaBody()), UnknownProperties.KEEP)
    created = await services.definitions.create(
        request.caller, body.name, body.description or "", schema, Compatibility.NONE
    )
    return Reply(201, _event_def(created))


async def get_event(services: Services, request: Request) -> Reply:
    """Read a definition by id."""
    return Reply(200, _event_def(await definition_by_id(services, request.caller, request.params["id"])))


async def update_event(services: Services, request: Request) -> Reply:
    """Change description or schema; the name stays."""
    body = request.read(UpdateEventBody)
    current = await definition_by_id(services, request.caller, request.params["id"])
    if body.name is not UNSET and body.name != current.name:
        raise _invalid("name", "name is not accepted: an event keeps its name")
    changes = DefinitionChanges(
        description=UNSET if body.description is UNSET else body.description or "",
        schema=UNSET if body.schema is UNSET else replace(current.schema, properties=_properties(body.schema)),
    )
    updated = await services.definitions.update(request.caller, current.id, changes, current.etag)
    return Reply(200, _event_def(updated))


async def delete_event(services: Services, request: Request) -> Reply:
    """Delete a definition that no active automation uses; what was recorded stays."""
    current = await definition_by_id(services, request.caller, request.params["id"])
    await services.definitions.delete(request.caller, current.id, "", unless_used=True)
    return Reply(200, Done("Event deleted"))


async def send_event(services: Services, request: Request) -> Reply:
    """Record an event."""
    body = request.read(SendEventBody)
    if bool(body.email) is bool(body.contact_id):
        raise ContactRequired
    check_json(body.data, len(request.body), "data")
    draft = Draft(
        body.event,
        body.contact_id or "",
        normal_email(body.email) if body.email else "",
        body.data,
        None if body.timestamp is None else _instant(body.timestamp),
        request.idempotency_key(),
        RULES,
    )
    event = await services.ingest.send(request.caller.project_pk, draft)
    return Reply(202, Accepted(event.id))


async def list_contacts(services: Services, request: Request) -> Reply:
    """List contacts, newest first."""
    for name in ("list_id", "tag_id"):
        if name in request.query:
            raise _invalid(name, f"{name} is not supported: contacts have neither lists nor tags here")
    limit, after, before, search = _page(request)
    page, more = await services.contacts.beside(
        request.caller.project_pk, limit, after_id=after, before_id=before, search=search
    )
    return Reply(200, ContactList(has_more=more, data=[_contact_data(each) for each in page]))


async def create_contact(services: Services, request: Request) -> Reply:
    """Create a contact whose address is free."""
    body = request.read(CreateContactBody)
    named = {name: getattr(body, name) for name in _NAMED}
    properties = given_properties(named, body.properties or {}, len(request.body), "properties")
    created = await services.contacts.create(request.caller.project_pk, normal_email(body.email), properties)
    return Reply(201, _contact_data(created))


async def get_contact(services: Services, request: Request) -> Reply:
    """Read a contact by id."""
    return Reply(200, _contact_data(await services.contacts.get(request.caller.project_pk, _contact_name(request))))


async def update_contact(services: Services, request: Request) -> Reply:
    """Change what is kept of a contact; the address stays."""
    body = request.read(UpdateContactBody)
    current = await services.contacts.get(request.caller.project_pk, _contact_name(request))
    if body.email is not UNSET and (body.email is None or normal_email(body.email) != current.email):
        raise _invalid("email", "email is not accepted: a contact keeps its address")
    changes = _contact_changes(body, current, len(request.body))
    updated = await services.contacts.update(request.caller.project_pk, ContactName(current.id), changes, current.etag)
    return Reply(200, _contact_data(updated))


async def delete_contact(services: Services, request: Request) -> Reply:
    """Erase a contact."""
    await services.contacts.delete(request.caller.project_pk, _contact_name(request))
    return Reply(200, Done("Contact deleted"))


async def delete_contacts(services: Services, request: Request) -> Reply:
    """Erase several contacts."""
    body = request.read(BulkDeleteBody)
    deleted = await services.contacts.delete_all(request.caller.project_pk, body.contact_ids)
    return Reply(200, BulkDeleted("Contacts deleted", deleted))


def write_error(refusal: Refusal) -> dict[str, Any]:
    """Write an error."""
    name = refusal.code or _NAMES.get(refusal.status, "error")
    return {"status_code": refusal.status, "name": name, "message": refusal.message}


def rate_headers(standing: Standing) -> Headers:
    """Say where a key stands."""
    return (
        (b"ratelimit-limit", b"%d" % standing.limit),
        (b"ratelimit-remaining", b"%d" % standing.remaining),
        (b"ratelimit-reset", b"%d" % standing.reset_seconds),
    )


def _page(request: Request) -> tuple[int, str, str, str]:
    """Read which page of a list is wanted: limit, after, before, search. Raises InvalidBody."""
    after, before = request.query.get("after", ""), request.query.get("before", "")
    if after and before:
        raise _invalid("before", "Provide either after or before, not both.")
    return request.number("limit", DEFAULT_LIMIT, MAX_LIMIT), after, before, request.query.get("search", "")


def _instant(text: str) -> int:
    try:
        return parse_iso8601(text)
    except ValueError:
        message = "timestamp must be an ISO 8601 date, or date and time with an offset, such as 2026-06-01T12:00:00Z"
        raise _invalid("timestamp", message) from None


def _properties(given: SchemaBody) -> tuple[Property, ...]:
    """Read declared fields. Raises InvalidBody for names that Arsel does not take."""
    message = "a field's name has letters, digits and underscores, begins with no digit, and has at most 64 characters"
    faults = [
        Violation(f"schema.fields[{index}].name", "INVALID_FIELD", f"schema.fields[{index}].name: {message}")
        for index, each in enumerate(given.fields)
        if len(each.name) > MAX_FIELD_NAME or not _FIELD_NAME.fullmatch(each.name)
    ]
    if faults:
        raise InvalidBody(faults)
    return tuple(Property(each.name, PropertyType(each.type), each.required) for each in given.fields)


def _invalid(place: str, message: str) -> InvalidBody:
    return InvalidBody([Violation(place, "INVALID_FIELD", message)])


def _contact_name(request: Request) -> ContactName:
    return ContactName(request.params["id"])


def _contact_changes(body: UpdateContactBody, current: Contact, received: int) -> dict[str, Any]:
    """Say what becomes of each property; None takes it away."""
    changes: dict[str, Any] = {}
    if body.properties is not UNSET:
        held = hold_json(body.properties, received, "properties", CONTACT_BUDGET)
        changes = dict.fromkeys(other_properties(current, _CONTACT_FIELDS)) | held
    named = {name: getattr(body, name) for name in _NAMED}
    return changes | {name: value for name, value in named.items() if value is not UNSET}


def _event_def(definition: EventDefinition) -> EventDef:
    fields = [
        FieldData(each.name, FLAT_TYPES[each.type], each.required)
        for each in definition.schema.properties
        if each.type in FLAT_TYPES
    ]
    return EventDef(
        definition.id,
        definition.name,
        definition.description or None,
        SchemaData(fields),
        format_millis(definition.created_at),
        format_millis(definition.updated_at),
    )


def _contact_data(contact: Contact) -> ContactData:
    return ContactData(
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
_ACCEPTED, _EVENTS, _CONTACTS = {202: Accepted}, {200: EventList}, {200: ContactList}

ARSEL = Door(
    dialect=Dialect.ARSEL,
    title="Arsel",
    routes=(
        Route("POST", "/v1/events/send", send_event, Scope.EVENTS_WRITE, _ACCEPTED, SendEventBody, topic=SEND),
        Route("GET", "/v1/events", list_events, Scope.DEFINITIONS_READ, _EVENTS, query=ListQuery),
        Route("POST", "/v1/events", create_event, Scope.DEFINITIONS_WRITE, {201: EventDef}, CreateEventBody),
        Route("GET", _EVENT, get_event, Scope.DEFINITIONS_READ, {200: EventDef}),
        Route("PATCH", _EVENT, update_event, Scope.DEFINITIONS_WRITE, {200: EventDef}, UpdateEventBody),
        Route("DELETE", _EVENT, delete_event, Scope.DEFINITIONS_WRITE, {200: Done}),
        Route("GET", "/v1/contacts", list_contacts, Scope.CONTACTS_READ, _CONTACTS, query=ListQuery),
        Route("POST", "/v1/contacts", create_contact, Scope.CONTACTS_WRITE, {201: ContactData}, CreateContactBody),
        Route(
            "POST",
            "/v1/contacts/bulk-delete",
            delete_contacts,
            Scope.CONTACTS_WRITE,
            {200: BulkDeleted},
            BulkDeleteBody,
        ),
        Route("GET", _CONTACT, get_contact, Scope.CONTACTS_READ, {200: ContactData}),
        Route("PATCH", _CONTACT, update_contact, Scope.CONTACTS_WRITE, {200: ContactData}, UpdateContactBody),
        Route("DELETE", _CONTACT, delete_contact, Scope.CONTACTS_WRITE, {200: Done}),
    ),
    paths=("/v1",),
    key_prefix="be_",
    write_error=write_error,
    error_type=ErrorAnswer,
    limit=RateLimit(2, 1.0, rate_headers),
)
