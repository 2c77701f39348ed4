"""Arsel: `/v1/events`, `/v1/events/send` and the contacts that go with them. JSON in snake_case, nothing around it.

A field is declared with its type, perhaps required; what is declared is coerced, what is not is kept. An address that
is nobody's becomes a contact when its event sets an automation off.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from registry.errors import DefinitionNotFound, PayloadRejected, Violation
from registry.schema import (
    MAX_DESCRIPTION_LENGTH,
    Compatibility,
    Property,
    PropertyType,
    Schema,
    UnknownProperties,
)
from registry.store import DefinitionChanges
from registry.timestamps import format_millis, parse_date
from server.bridge.contacts import given_properties, named_texts, other_properties
from server.bridge.definitions import all_definitions, definition_by_id
from server.bridge.doors import Door, Refusal
from server.bridge.messages import Refused, Reply, Request
from server.bridge.rate_limits import Headers, RateLimit, Standing
from server.bridge.routes import Route
from server.budgets import CONTACT_BUDGET, check_json
from server.contacts import ContactName
from server.emails import normal_email
from server.errors import ContactRequired, InvalidBody
from server.ingest.draft import Draft
from server.model import Dialect, NameCase, Rules, Scope, UndefinedEvents, UnknownContacts

if TYPE_CHECKING:
    from registry.definitions import EventDefinition
    from server.bridge.services import Services
    from server.model import Contact

RULES: Final = Rules(UndefinedEvents.REJECT, UnknownContacts.CREATE_ON_MATCH, NameCase.SENSITIVE)

SEND: Final = "send"
"""Topic: where the same error has another text."""

EVENT: Final = "/v1/events/{id}"
CONTACT: Final = "/v1/contacts/{id}"

_NAMES: Final = ("first_name", "last_name", "phone_number")
_CONTACT_FIELDS: Final = (*_NAMES, "unsubscribed")

_ERROR_NAMES: Final = {
    400: "bad_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    409: "conflict",
    413: "payload_too_large",
    415: "unsupported_media_type",
    429: "rate_limit_exceeded",
    500: "internal_server_error",
    503: "service_unavailable",
}

_TYPES: Final[dict[PropertyType, Literal["string", "number", "boolean", "date"]]] = {
    PropertyType.STRING: "string",
    PropertyType.NUMBER: "number",
    PropertyType.BOOLEAN: "boolean",
    PropertyType.DATE: "date",
}
"""What Arsel can show of a definition: fields of other types, which it has no word for, are left out."""

PersonName = Annotated[str, Meta(max_length=100)]
Description = Annotated[str, Meta(max_length=MAX_DESCRIPTION_LENGTH)]


class FieldBody(Struct):
    """A field as it is declared."""

    name: Annotated[str, Meta(pattern="^[A-Za-z_][A-Za-z0-9_]*$", max_length=64)]
    type: Literal["string", "number", "boolean", "date"]
    required: bool = False


class SchemaBody(Struct):
    """The fields of an event."""

    fields: list[FieldBody] = []


class CreateEventBody(Struct):
    """Body of POST /v1/events."""

    name: Annotated[str, Meta(min_length=1, max_length=80)]
    description: Description | None = None
    schema: SchemaBody | None = None


class UpdateEventBody(Struct):
    """Body of PATCH; `schema` replaces all there was, `name` may only say what it is."""

    name: str | UnsetType = UNSET
    description: Description | UnsetType | None = UNSET
    schema: SchemaBody | UnsetType = UNSET


class SendEventBody(Struct):
    """Body of POST /v1/events/send: exactly one of `email` and `contact_id`."""

    event: str
    data: dict[str, Any]
    email: str | None = None
    contact_id: str | None = None
    timestamp: str | None = None


class CreateContactBody(Struct):
    """Body of POST /v1/contacts."""

    email: str
    phone_number: str | None = None
    first_name: PersonName | None = None
    last_name: PersonName | None = None
    properties: dict[str, Any] | None = None


class UpdateContactBody(Struct):
    """Body of PATCH: null clears a field, `properties` replace all there were, `email` may only say what it is."""

    email: str | UnsetType | None = UNSET
    phone_number: str | UnsetType | None = UNSET
    first_name: PersonName | UnsetType | None = UNSET
    last_name: PersonName | UnsetType | None = UNSET
    properties: dict[str, Any] | UnsetType = UNSET


class BulkDeleteBody(Struct):
    """Body of POST /v1/contacts/bulk-delete."""

    contact_ids: Annotated[list[str], Meta(min_length=1, max_length=1000)]


class ListQuery(Struct):
    """A page of a list: behind one id or before another, of what contains a text in any case."""

    limit: Annotated[int, Meta(ge=1, le=100)] = 20
    after: str = ""
    before: str = ""
    search: str = ""


class DeclaredField(Struct):
    """A field of a definition."""

    name: str
    type: Literal["string", "number", "boolean", "date"]
    required: bool


class DeclaredSchema(Struct):
    """The fields of a definition."""

    fields: list[DeclaredField]


class EventDef(Struct):
    """An event definition. Times in milliseconds UTC."""

    id: str
    name: str
    description: str | None
    schema: DeclaredSchema
    created_at: str
    updated_at: str


class ContactData(Struct):
    """A contact."""

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


class EventList(Struct):
    """A page of definitions."""

    object: Literal["list"]
    has_more: bool
    data: list[EventDef]


class ContactList(Struct):
    """A page of contacts."""

    object: Literal["list"]
    has_more: bool
    data: list[ContactData]


class Accepted(Struct):
    """The receipt of an event."""

    id: str
    status: Literal["accepted"]


class Deleted(Struct):
    """What is said of a deletion."""

    message: str


class BulkDeleted(Struct):
    """What is said of the deletion of several."""

    message: str
    deleted: int


class ErrorAnswer(Struct):
    """An error."""

    status_code: int
    name: str
    message: str


async def create_event(services: Services, request: Request) -> Reply:
    """Define an event."""
    body = request.read(CreateEventBody)
    schema = Schema(_properties(body.schema or SchemaBody()), UnknownProperties.KEEP)
    created = await services.definitions.create(
        request.caller, body.name, body.description or "", schema, Compatibility.NONE
    )
    return Reply(201, _event_def(created))


async def list_events(services: Services, request: Request) -> Reply:
    """List definitions, newest first."""
    query = _list_query(request)
    found = [
        each
        for each in await all_definitions(services, request.caller)
        if query.search.casefold() in each.name.casefold()
    ]
    if cursor := query.after or query.before:
        place = await _place(services, request, cursor)
        found = [each for each in found if (_order(each) < place if query.after else _order(each) > place)]
    page = found[-query.limit :] if query.before else found[: query.limit]
    return Reply(200, EventList("list", len(found) > len(page), [_event_def(each) for each in page]))


async def get_event(services: Services, request: Request) -> Reply:
    """Read a definition by id."""
    return Reply(200, _event_def(await definition_by_id(services, request.caller, request.params["id"])))


async def update_event(services: Services, request: Request) -> Reply:
    """Change description or schema; the name stays."""
    body = request.read(UpdateEventBody)
    current = await definition_by_id(services, request.caller, request.params["id"])
    if body.name not in {UNSET, current.name}:
        raise _bad_request("The name of an event cannot be changed.")
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
    return Reply(200, Deleted("Event deleted"))


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
        _instant(body.timestamp) if body.timestamp is not None else None,
        request.idempotency_key(),
        RULES,
    )
    event = await services.ingest.send(request.caller.project_key, draft)
    return Reply(202, Accepted(event.id, "accepted"))


async def create_contact(services: Services, request: Request) -> Reply:
    """Create a contact whose address is free."""
    body = request.read(CreateContactBody)
    named = {name: getattr(body, name) for name in _NAMES}
    properties = given_properties(named, body.properties or {}, len(request.body), "properties")
    created = await services.contacts.create(request.caller.project_key, normal_email(body.email), properties)
    return Reply(201, _contact_data(created))


async def list_contacts(services: Services, request: Request) -> Reply:
    """List contacts, newest first."""
    for name in ("list_id", "tag_id"):
        if name in request.query:
            raise _bad_request(f"{name} is not supported: contacts have neither lists nor tags here.")
    query, project_key = _list_query(request), request.caller.project_key
    if (cursor := query.after or query.before) and not await services.contacts.existed(project_key, cursor):
        raise _unknown_cursor(cursor)
    found, more = await services.contacts.beside(
        project_key, query.limit, after_id=query.after, before_id=query.before, search=query.search
    )
    return Reply(200, ContactList("list", more, [_contact_data(each) for each in found]))


async def get_contact(services: Services, request: Request) -> Reply:
    """Read a contact by id."""
    contact = await services.contacts.get(request.caller.project_key, ContactName(request.params["id"]))
    return Reply(200, _contact_data(contact))


async def update_contact(services: Services, request: Request) -> Reply:
    """Change what is kept of a contact; the address stays."""
    body = request.read(UpdateContactBody)
    current = await services.contacts.get(request.caller.project_key, ContactName(request.params["id"]))
    if body.email is not UNSET and (body.email is None or normal_email(body.email) != current.email):
        raise _bad_request("The email of a contact cannot be changed.")
    changes = _contact_changes(body, current, len(request.body))
    updated = await services.contacts.update(request.caller.project_key, ContactName(current.id), changes, current.etag)
    return Reply(200, _contact_data(updated))


async def delete_contact(services: Services, request: Request) -> Reply:
    """Erase a contact."""
    await services.contacts.delete(request.caller.project_key, ContactName(request.params["id"]))
    return Reply(200, Deleted("Contact deleted"))


async def delete_contacts(services: Services, request: Request) -> Reply:
    """Erase several contacts; ids that are nobody's are passed over."""
    body = request.read(BulkDeleteBody)
    count = await services.contacts.delete_all(request.caller.project_key, body.contact_ids)
    return Reply(200, BulkDeleted("Contacts deleted", count))


def write_error(refusal: Refusal) -> dict[str, Any]:
    """Write an error; of several faults all are named, unless it is the payload of an event that has them."""
    message = refusal.message
    if len(refusal.violations) > 1 and not isinstance(refusal.error, PayloadRejected):
        message = ", ".join(each.message for each in refusal.violations)
    return _error(refusal.status, message, refusal.code)


def _error(status: int, message: str, name: str | None = None) -> dict[str, Any]:
    return {"status_code": status, "name": name or _ERROR_NAMES[status], "message": message}


def _bad_request(message: str) -> Refused:
    return Refused(400, _error(400, message))


def _unknown_cursor(cursor: str) -> Refused:
    return _bad_request(f"Unknown cursor {cursor[:100]}: after and before take the id of a listed item.")


def _list_query(request: Request) -> ListQuery:
    query = request.read_query(ListQuery)
    if query.after and query.before:
        raise _bad_request("Provide either after or before, not both.")
    return query


async def _place(services: Services, request: Request, cursor: str) -> tuple[int, str]:
    """Find where in the list a definition stands, or stood before it was deleted."""
    try:
        found = await services.definitions.get(request.caller, cursor)
    except DefinitionNotFound:
        raise _unknown_cursor(cursor) from None
    if found.id != cursor:
        raise _unknown_cursor(cursor)
    return _order(found)


def _order(definition: EventDefinition) -> tuple[int, str]:
    return definition.created_at, definition.id


def _instant(text: str) -> int:
    try:
        return parse_date(text)
    except ValueError:
        message = "timestamp must be an ISO 8601 date-time with an offset, such as 2026-06-01T12:00:00.000Z"
        raise InvalidBody([Violation("timestamp", "INVALID_FIELD", message)]) from None


def _properties(schema: SchemaBody) -> tuple[Property, ...]:
    return tuple(Property(each.name, PropertyType(each.type), each.required) for each in schema.fields)


def _event_def(definition: EventDefinition) -> EventDef:
    fields = [
        DeclaredField(each.name, _TYPES[each.type], each.required)
        for each in definition.schema.properties
        if each.type in _TYPES
    ]
    return EventDef(
        id=definition.id,
        name=definition.name,
        description=definition.description or None,
        schema=DeclaredSchema(fields),
        created_at=format_millis(definition.created_at),
        updated_at=format_millis(definition.updated_at),
    )


def _contact_changes(body: UpdateContactBody, current: Contact, received: int) -> dict[str, Any]:
    """Say what becomes of each property; None takes it away."""
    changes: dict[str, Any] = {}
    if body.properties is not UNSET:
        check_json(body.properties, received, "properties", CONTACT_BUDGET)
        changes = dict.fromkeys(other_properties(current, _CONTACT_FIELDS)) | body.properties
    named = {name: getattr(body, name) for name in _NAMES}
    return changes | {name: value for name, value in named.items() if value is not UNSET}


def _contact_data(contact: Contact) -> ContactData:
    return ContactData(
        id=contact.id,
        email=contact.email,
        **named_texts(contact, _NAMES),
        source="api",
        properties=other_properties(contact, _CONTACT_FIELDS),
        is_suppressed=contact.properties.get("unsubscribed") is True,
        created_at=format_millis(contact.created_at),
        updated_at=format_millis(contact.updated_at),
    )


def _limit_headers(standing: Standing) -> Headers:
    return (
        (b"ratelimit-limit", b"%d" % standing.limit),
        (b"ratelimit-remaining", b"%d" % standing.remaining),
        (b"ratelimit-reset", b"%d" % standing.reset_seconds),
    )


ARSEL = Door(
    dialect=Dialect.ARSEL,
    title="Arsel",
    rules=RULES,
    routes=(
        Route(
            "POST", "/v1/events/send", send_event, Scope.EVENTS_WRITE, {202: Accepted}, body=SendEventBody, topic=SEND
        ),
        Route("GET", "/v1/events", list_events, Scope.DEFINITIONS_READ, {200: EventList}, query=ListQuery),
        Route("POST", "/v1/events", create_event, Scope.DEFINITIONS_WRITE, {201: EventDef}, body=CreateEventBody),
        Route("GET", EVENT, get_event, Scope.DEFINITIONS_READ, {200: EventDef}),
        Route("PATCH", EVENT, update_event, Scope.DEFINITIONS_WRITE, {200: EventDef}, body=UpdateEventBody),
        Route("DELETE", EVENT, delete_event, Scope.DEFINITIONS_WRITE, {200: Deleted}),
        Route("GET", "/v1/contacts", list_contacts, Scope.CONTACTS_READ, {200: ContactList}, query=ListQuery),
        Route("POST", "/v1/contacts", create_contact, Scope.CONTACTS_WRITE, {201: ContactData}, body=CreateContactBody),
        Route(
            "POST",
            "/v1/contacts/bulk-delete",
            delete_contacts,
            Scope.CONTACTS_WRITE,
            {200: BulkDeleted},
            body=BulkDeleteBody,
        ),
        Route("GET", CONTACT, get_contact, Scope.CONTACTS_READ, {200: ContactData}),
        Route("PATCH", CONTACT, update_contact, Scope.CONTACTS_WRITE, {200: ContactData}, body=UpdateContactBody),
        Route("DELETE", CONTACT, delete_contact, Scope.CONTACTS_WRITE, {200: Deleted}),
    ),
    paths=("/v1",),
    write_error=write_error,
    error_type=ErrorAnswer,
    limit=RateLimit(2, 1.0, _limit_headers),
)
