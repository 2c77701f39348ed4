"""The JSON bodies and queries of EmailSendX, as msgspec types."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Struct

from server.bridge.fields import Email, Limit  # noqa: TC001 - msgspec reads them

DEFAULT_LIMIT, MAX_LIMIT = 50, 100
MAX_PAGE: Final = 1_000_000


# Requests


class FireEventBody(Struct):
    """Body of POST /api/v1/contacts/{id}/events; `data` has at most 16 KiB."""

    name: Annotated[str, Meta(min_length=1)]
    data: dict[str, Any] | None = None


class ContactBody(Struct, rename="camel"):
    """Body of POST /api/v1/contacts."""

    email: Email
    first_name: str | None = None
    last_name: str | None = None
    metadata: dict[str, Any] | None = None


class ListQuery(Struct):
    """Query of a list; pages are numbered from 1."""

    page: Annotated[int, Meta(ge=1, le=MAX_PAGE)] = 1
    limit: Limit = DEFAULT_LIMIT


# Responses


class Fired(Struct, rename="camel"):
    """The result of an event. `firedAt` is in seconds, UTC."""

    contact_id: str
    event_name: str
    matching_automations: int
    fired_at: str


class FiredAnswer(Struct):
    """The result of an event, in its envelope."""

    data: Fired


class ContactData(Struct, rename="camel", kw_only=True):
    """A contact. Times are in seconds, UTC."""

    id: str
    email: str
    first_name: str | None
    last_name: str | None
    status: Literal["active", "unsubscribed"]
    metadata: dict[str, Any]
    created_at: str
    updated_at: str


class ContactAnswer(Struct):
    """A contact in its envelope."""

    data: ContactData


class Automation(Struct, rename="camel", kw_only=True):
    """An automation, with the number of contacts that entered it and that completed it."""

    id: str
    name: str
    status: Literal["active", "paused", "draft"]
    trigger_type: Literal["CUSTOM_EVENT"] = "CUSTOM_EVENT"
    step_count: int
    enrolled_count: int
    completed_count: int
    created_at: str
    updated_at: str


class DetailedAutomation(Automation, rename="camel", kw_only=True):
    """An automation with its steps, in order, as they are stored in its attributes."""

    steps: list[Any]


class AutomationAnswer(Struct):
    """An automation in its envelope."""

    data: DetailedAutomation


class Pagination(Struct, rename="camel"):
    """The place of a page in its list."""

    page: int
    limit: int
    total: int
    total_pages: int


class ContactList(Struct):
    """A page of contacts."""

    data: list[ContactData]
    pagination: Pagination


class AutomationList(Struct):
    """A page of automations."""

    data: list[Automation]
    pagination: Pagination


class ErrorAnswer(Struct):
    """An error."""

    error: str
