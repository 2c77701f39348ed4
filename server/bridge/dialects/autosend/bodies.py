"""The JSON bodies of AutoSend, as msgspec types."""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

from msgspec import UNSET, Meta, Struct, UnsetType

from server.bridge.fields import Email, FlatType  # noqa: TC001 - msgspec reads them

Name: TypeAlias = Annotated[str, Meta(extra_json_schema={"pattern": "^[A-Za-z0-9_]{1,64}$"})]


# Requests


class PropertyBody(Struct, rename="camel"):
    """A property to declare."""

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
    """Body of PATCH; `properties` replaces all current properties."""

    description: str | UnsetType | None = UNSET
    properties: list[PropertyBody] | UnsetType = UNSET


class SendEventBody(Struct, rename="camel"):
    """Body of POST /v1/events/send; `contactId` takes precedence over `email`."""

    event_name: str
    email: str | None = None
    contact_id: str | None = None
    event_properties: dict[str, Any] | None = None


class ContactBody(Struct, rename="camel"):
    """Body of POST /v1/contacts and POST /v1/contacts/email."""

    email: Email
    first_name: str | None = None
    last_name: str | None = None
    user_id: str | None = None
    custom_fields: dict[str, Any] | None = None


# Responses


class DeclaredProperty(Struct, rename="camel", kw_only=True):
    """A property of a definition."""

    property_name: str
    type: FlatType
    description: str | UnsetType = UNSET
    suggested_values: list[str]


class EventDef(Struct, rename="camel", kw_only=True):
    """An event definition. Times are in milliseconds, UTC."""

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
    """The confirmation of a deletion."""

    success: bool = True
    message: str


class ErrorDetail(Struct):
    """A violation of one field."""

    field: str
    message: str


class ErrorBody(Struct):
    """An error; with `details` if fields are invalid, with `status` on the endpoints of contacts."""

    message: str
    code: str
    details: list[ErrorDetail] | UnsetType = UNSET
    status: int | UnsetType = UNSET


class ErrorAnswer(Struct):
    """An error in its envelope."""

    success: bool
    error: ErrorBody
