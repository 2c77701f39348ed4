"""The JSON bodies and queries of Arsel, as msgspec types."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, TypeAlias

from msgspec import UNSET, Meta, Struct, UnsetType

from server.bridge.fields import Email, FlatType, Limit, Uuid  # noqa: TC001 - msgspec reads them

MAX_NAME: Final = 80
MAX_BULK: Final = 1_000
DEFAULT_LIMIT, MAX_LIMIT = 20, 100

PersonName: TypeAlias = Annotated[str, Meta(max_length=100)]


# Requests


class FieldBody(Struct):
    """A field to declare."""

    name: Annotated[str, Meta(extra_json_schema={"pattern": "^[A-Za-z_][A-Za-z0-9_]{0,63}$"})]
    type: FlatType
    required: bool = False


class SchemaBody(Struct):
    """The fields to declare."""

    fields: list[FieldBody] = []


class CreateEventBody(Struct):
    """Body of POST /v1/events."""

    name: Annotated[str, Meta(min_length=1, extra_json_schema={"maxLength": MAX_NAME})]
    description: Annotated[str, Meta(extra_json_schema={"maxLength": 2_000})] | None = None
    schema: SchemaBody | None = None


class UpdateEventBody(Struct):
    """Body of PATCH; `schema` replaces the current one."""

    name: str | UnsetType = UNSET
    description: str | UnsetType | None = UNSET
    schema: SchemaBody | UnsetType = UNSET


class SendEventBody(Struct):
    """Body of POST /v1/events/send: exactly one of `email` and `contact_id`; `timestamp` is in ISO 8601."""

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
    """Body of PATCH: null clears a field, `properties` replaces all current ones, `email` cannot change."""

    email: Email | UnsetType | None = UNSET
    phone_number: str | UnsetType | None = UNSET
    first_name: PersonName | UnsetType | None = UNSET
    last_name: PersonName | UnsetType | None = UNSET
    properties: dict[str, Any] | UnsetType = UNSET


class BulkDeleteBody(Struct):
    """Body of POST /v1/contacts/bulk-delete."""

    contact_ids: Annotated[list[str], Meta(min_length=1, max_length=MAX_BULK)]


class ListQuery(Struct):
    """Query of a list: the items after one id or before another, not both."""

    limit: Limit = DEFAULT_LIMIT
    after: str = ""
    before: str = ""
    search: str = ""


# Responses


class FieldData(Struct):
    """A declared field."""

    name: str
    type: FlatType
    required: bool


class SchemaData(Struct):
    """The declared fields."""

    fields: list[FieldData]


class EventDef(Struct):
    """An event definition. Times are in milliseconds, UTC."""

    id: str
    name: str
    description: str | None
    schema: SchemaData
    created_at: str
    updated_at: str


class Accepted(Struct):
    """The confirmation of an event."""

    id: str
    status: Literal["accepted"] = "accepted"


class ContactData(Struct, kw_only=True):
    """A contact; `is_suppressed` if it has unsubscribed."""

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
    """The confirmation of a deletion."""

    message: str


class BulkDeleted(Struct):
    """The confirmation of several deletions; `deleted` does not count ids of no contact."""

    message: str
    deleted: int


class ErrorAnswer(Struct):
    """An error."""

    status_code: int
    name: str
    message: str
