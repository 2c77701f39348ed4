"""The JSON bodies and queries of OpenSend for events, contacts and errors, as msgspec types.

Those of requests describe only: `validation` checks a body field by field, to report all its violations at once.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from msgspec import UNSET, Meta, Struct, UnsetType

from server.bridge.dialects.opensend.automation_bodies import RunData  # noqa: TC001 - msgspec reads it
from server.bridge.fields import Email, Limit, Uuid  # noqa: TC001 - msgspec reads them

MAX_LIMIT = 100
EVENTS_LIMIT, CONTACTS_LIMIT = 50, 40
"""Default limits of the lists."""

Name: TypeAlias = Annotated[str, Meta(min_length=1, max_length=255)]


# Events


class DescriptorBody(Struct):
    """A declared property; `properties` and `required` are for objects only."""

    type: Literal["string", "number", "boolean", "object", "array"]
    properties: dict[str, DescriptorBody] | UnsetType = UNSET
    required: list[str] | UnsetType = UNSET


class SchemaBody(Struct):
    """A schema: a small part of JSON Schema."""

    type: Literal["object"]
    properties: dict[str, DescriptorBody] | UnsetType = UNSET
    required: list[str] | UnsetType = UNSET


class CreateEventBody(Struct):
    """Body of POST /events."""

    name: Name
    schema: SchemaBody | None = None


class UpdateEventBody(Struct):
    """Body of PATCH: a new name, a new schema (null removes it), or both."""

    name: Name | UnsetType = UNSET
    schema: dict[str, Any] | UnsetType | None = UNSET


class SendEventBody(Struct):
    """Body of POST /events/send: exactly one of `contact_id`, or its alias `contactId`, and `email`."""

    event: Name
    contact_id: Uuid | UnsetType = UNSET
    contactId: Uuid | UnsetType = UNSET  # noqa: N815 - the alias as it is on the wire
    email: Email | UnsetType = UNSET
    payload: dict[str, Any] | UnsetType = UNSET


class EventsQuery(Struct):
    """Query of the list of definitions: those after an id."""

    limit: Limit = EVENTS_LIMIT
    after: str = ""


class IdQuery(Struct):
    """Query of the legacy deletion: the id of a definition."""

    id: str


class EventData(Struct, kw_only=True):
    """An event definition. Times are in milliseconds, UTC."""

    object: Literal["event"] = "event"
    id: str
    name: str
    schema: dict[str, Any] | None
    created_at: str
    updated_at: str


class EventList(Struct, kw_only=True):
    """A page of definitions."""

    object: Literal["list"] = "list"
    data: list[EventData]
    has_more: bool


class DeletedEvent(Struct, kw_only=True):
    """The confirmation of a deletion."""

    object: Literal["event"] = "event"
    id: str
    deleted: bool = True


class Delivery(Struct, kw_only=True):
    """A recorded event; `email` is null if the request identified the contact by id."""

    object: Literal["event_delivery"] = "event_delivery"
    id: str
    event: str
    contact_id: str | None
    email: str | None
    payload: dict[str, Any]
    received_at: str


class Sent(Struct, kw_only=True):
    """A recorded event, and the runs that it resumed and started."""

    object: Literal["event_delivery"] = "event_delivery"
    delivery: Delivery
    resumed_runs: list[RunData]
    automation_runs: list[RunData]


# Contacts


class ContactBody(Struct):
    """Body of POST and PATCH; values of `properties` are strings. `segments` and `topics` are ignored."""

    email: Email | UnsetType = UNSET
    first_name: str | UnsetType = UNSET
    last_name: str | UnsetType = UNSET
    unsubscribed: bool | UnsetType = UNSET
    properties: dict[str, str] | UnsetType = UNSET


class ContactsQuery(Struct):
    """Query of the list of contacts: those after an id."""

    limit: Limit = CONTACTS_LIMIT
    after: str = ""


class CreatedContact(Struct, kw_only=True):
    """The confirmation of a created or updated contact."""

    object: Literal["contact"] = "contact"
    id: str


class ContactData(Struct, kw_only=True):
    """A contact. Times are in milliseconds, UTC."""

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
    """The confirmation of a deletion."""

    object: Literal["contact"] = "contact"
    id: str
    deleted: bool = True


# Errors


class ErrorAnswer(Struct):
    """An error; with `name`, `message` and `statusCode` in place of `error` if the key lacks a scope."""

    error: str | UnsetType = UNSET
    code: str | UnsetType = UNSET
    details: Any = UNSET
    name: str | UnsetType = UNSET
    message: str | UnsetType = UNSET
    statusCode: int | UnsetType = UNSET  # noqa: N815 - its name on the wire
