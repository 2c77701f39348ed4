"""The JSON bodies and queries of Resend, as msgspec types."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from msgspec import UNSET, Meta, Struct, UnsetType

from server.bridge.fields import Email, FlatType, Limit, Uuid

MAX_LIMIT = 100
EVENTS_LIMIT, CONTACTS_LIMIT = 20, 100
"""Default limits of the lists."""

Name: TypeAlias = Annotated[str, Meta(extra_json_schema={"minLength": 1, "maxLength": 255})]
Schema: TypeAlias = dict[str, FlatType]
Scalar: TypeAlias = str | int | float | bool | None


# Requests


class CreateEventBody(Struct):
    """Body of POST /events."""

    name: Name
    schema: Schema | None = None


class UpdateEventBody(Struct):
    """Body of PATCH /events/{identifier}: `schema` replaces the current one, null removes it."""

    schema: Schema | None
    name: str | UnsetType = UNSET


class SendEventBody(Struct):
    """Body of POST /events/send: exactly one of `contact_id` and `email`."""

    event: Name
    contact_id: Uuid | None = None
    email: Email | None = None
    payload: dict[str, Any] | None = None


class CreateContactBody(Struct):
    """Body of POST /contacts. `segments` and `topics` are ignored."""

    email: Email
    first_name: str | None = None
    last_name: str | None = None
    unsubscribed: bool | None = None
    properties: dict[str, Scalar] | None = None


class UpdateContactBody(Struct):
    """Body of PATCH /contacts/{identifier}: null clears a name or removes a property; `email` cannot change."""

    email: Email | UnsetType | None = UNSET
    first_name: str | UnsetType | None = UNSET
    last_name: str | UnsetType | None = UNSET
    unsubscribed: bool | UnsetType | None = UNSET
    properties: dict[str, Scalar] | UnsetType | None = UNSET


class EventsQuery(Struct):
    """Query of the list of definitions: those after one id or before another, not both."""

    limit: Limit = EVENTS_LIMIT
    after: str = ""
    before: str = ""


class ContactsQuery(Struct):
    """Query of the list of contacts: those after one id or before another, not both."""

    limit: Limit = CONTACTS_LIMIT
    after: str = ""
    before: str = ""


# Responses


class EventId(Struct, kw_only=True):
    """The confirmation of a created or updated definition."""

    object: Literal["event"] = "event"
    id: str


class ListedEvent(Struct, kw_only=True):
    """An event definition in a list. Times are in microseconds, UTC."""

    id: str
    name: str
    schema: Schema | None
    created_at: str
    updated_at: str


class EventData(Struct, kw_only=True):
    """An event definition."""

    object: Literal["event"] = "event"
    id: str
    name: str
    schema: Schema | None
    created_at: str
    updated_at: str


class EventList(Struct, kw_only=True):
    """A page of definitions."""

    object: Literal["list"] = "list"
    has_more: bool
    data: list[ListedEvent]


class DeletedEvent(Struct, kw_only=True):
    """The confirmation of a deletion."""

    object: Literal["event"] = "event"
    id: str
    deleted: bool = True


class SentEvent(Struct, kw_only=True):
    """The confirmation of an event, by its name."""

    object: Literal["event"] = "event"
    event: str


class ContactId(Struct, kw_only=True):
    """The confirmation of a created or updated contact."""

    object: Literal["contact"] = "contact"
    id: str


class PropertyValue(Struct):
    """A property of a contact with its type."""

    type: Literal["string", "number", "boolean"]
    value: str | int | float | bool


class ListedContact(Struct, kw_only=True):
    """A contact in a list."""

    id: str
    email: str
    first_name: str | None
    last_name: str | None
    created_at: str
    unsubscribed: bool


class ContactData(Struct, kw_only=True):
    """A contact."""

    object: Literal["contact"] = "contact"
    id: str
    email: str
    first_name: str | None
    last_name: str | None
    created_at: str
    unsubscribed: bool
    properties: dict[str, PropertyValue]


class ContactList(Struct, kw_only=True):
    """A page of contacts."""

    object: Literal["list"] = "list"
    has_more: bool
    data: list[ListedContact]


class DeletedContact(Struct, kw_only=True):
    """The confirmation of a deletion; `contact` repeats the id, or the identifier of a contact that does not exist."""

    object: Literal["contact"] = "contact"
    id: str
    contact: str
    deleted: bool = True


class ErrorAnswer(Struct):
    """An error."""

    statusCode: int  # noqa: N815 - its name on the wire
    message: str
    name: str
