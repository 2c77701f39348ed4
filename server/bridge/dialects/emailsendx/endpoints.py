"""EmailSendX: `/api/v1/contacts/{id}/events`, contacts and automations. JSON in camelCase, envelopes of `data`.

It has no definitions: any name is taken, and matches whatever its case. Where the project has a definition of the name
it judges the data all the same.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from msgspec import Meta, Struct

from automation.runs import MatchKind
from registry.timestamps import format_seconds
from server.bridge.contacts import given_properties, named_texts, other_properties
from server.bridge.dialect import Door, Refusal
from server.bridge.fields import Email, Limit  # noqa: TC001 - msgspec reads them
from server.bridge.messages import Reply, Request
from server.bridge.rate_limits import Headers, RateLimit, Standing
from server.bridge.routes import Route
from server.budgets import PayloadBudget, check_json
from server.emails import normal_email
from server.ingest.draft import Draft
from server.model import Dialect, NameCase, Rules, Scope, UndefinedEvents, UnknownContacts
from server.services.contacts import ContactName

if TYPE_CHECKING:
    from collections.abc import Sequence

    from server.bridge.services import Services
    from server.model import Contact
    from server.services.automations import CountedAutomation

RULES: Final = Rules(UndefinedEvents.ACCEPT, UnknownContacts.REJECT, NameCase.INSENSITIVE)

DEFAULT_LIMIT, MAX_LIMIT = 50, 100
MAX_PAGE: Final = 1_000_000
DATA_BUDGET: Final = PayloadBudget(size=16 * 1024)

_CONTACT_FIELDS = ("first_name", "last_name", "unsubscribed")


class FireEventBody(Struct):
    """Body of POST /api/v1/contacts/{id}/events; `data` holds at most 16 KiB."""

    name: Annotated[str, Meta(min_length=1)]
    data: dict[str, Any] | None = None


class ContactBody(Struct, rename="camel"):
    """Body of POST /api/v1/contacts."""

    email: Email
    first_name: str | None = None
    last_name: str | None = None
    metadata: dict[str, Any] | None = None


class ListQuery(Struct):
    """Which page of a list, from 1."""

    page: Annotated[int, Meta(ge=1, le=MAX_PAGE)] = 1
    limit: Limit = DEFAULT_LIMIT


class Fired(Struct, rename="camel"):
    """What came of an event. `firedAt` in seconds UTC."""

    contact_id: str
    event_name: str
    matching_automations: int
    fired_at: str


class FiredAnswer(Struct):
    """What came of an event, in its envelope."""

    data: Fired


class ContactData(Struct, rename="camel", kw_only=True):
    """A contact. Times in seconds UTC."""

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
    """An automation, with how many contacts entered and completed it."""

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
    """An automation with its steps, in order, as whoever made it keeps them."""

    steps: list[Any]


class AutomationAnswer(Struct):
    """An automation in its envelope."""

    data: DetailedAutomation


class Pagination(Struct, rename="camel"):
    """Where a page stands."""

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


async def fire_event(services: Services, request: Request) -> Reply:
    """Record an event of a contact."""
    body = request.read(FireEventBody)
    data = body.data or {}
    check_json(data, len(request.body), "data", DATA_BUDGET)
    draft = Draft(body.name, request.params["id"], "", data, idempotency_key=request.idempotency_key(), rules=RULES)
    event = await services.ingest.send(request.caller.project_pk, draft)
    started = sum(match.kind is MatchKind.STARTED for match, _ in draft.matches)
    return Reply(200, FiredAnswer(Fired(event.contact_id, body.name, started, format_seconds(event.received_at))))


async def upsert_contact(services: Services, request: Request) -> Reply:
    """Create a contact or change the one with this address."""
    body = request.read(ContactBody)
    named = {"first_name": body.first_name, "last_name": body.last_name}
    properties = given_properties(named, body.metadata or {}, len(request.body), "metadata")
    email = normal_email(body.email)
    contact, created = await services.contacts.upsert(request.caller.project_pk, email, properties)
    return Reply(201 if created else 200, ContactAnswer(_contact_data(contact)))


async def list_contacts(services: Services, request: Request) -> Reply:
    """List contacts, newest first."""
    page, limit = _page(request)
    found, total = await services.contacts.numbered(request.caller.project_pk, page, limit)
    return Reply(200, ContactList([_contact_data(each) for each in found], _pagination(page, limit, total)))


async def get_contact(services: Services, request: Request) -> Reply:
    """Read a contact by id."""
    contact = await services.contacts.get(request.caller.project_pk, ContactName(request.params["id"]))
    return Reply(200, ContactAnswer(_contact_data(contact)))


async def list_automations(services: Services, request: Request) -> Reply:
    """List automations, newest first."""
    page, limit = _page(request)
    found, total = await services.automations.numbered(request.caller.project_pk, page, limit)
    shown = [Automation(**_automation(each)) for each in found]
    return Reply(200, AutomationList(shown, _pagination(page, limit, total)))


async def get_automation(services: Services, request: Request) -> Reply:
    """Read an automation with its steps."""
    found = await services.automations.counted(request.caller.project_pk, request.params["id"])
    return Reply(200, AutomationAnswer(DetailedAutomation(**_automation(found), steps=list(_steps(found)))))


def write_error(refusal: Refusal) -> dict[str, Any]:
    """Write an error: one text."""
    return {"error": refusal.message}


def rate_headers(standing: Standing) -> Headers:
    """Say where a key stands."""
    return (
        (b"x-ratelimit-limit", b"%d" % standing.limit),
        (b"x-ratelimit-remaining", b"%d" % standing.remaining),
        (b"x-ratelimit-reset", b"%d" % standing.reset_at),
    )


def _page(request: Request) -> tuple[int, int]:
    """Read which page of a list is wanted. Raises InvalidBody."""
    return request.number("page", 1, MAX_PAGE), request.number("limit", DEFAULT_LIMIT, MAX_LIMIT)


def _pagination(page: int, limit: int, total: int) -> Pagination:
    return Pagination(page, limit, total, math.ceil(total / limit))


def _contact_data(contact: Contact) -> ContactData:
    return ContactData(
        id=contact.id,
        email=contact.email,
        **named_texts(contact, ("first_name", "last_name")),
        status="unsubscribed" if contact.properties.get("unsubscribed") is True else "active",
        metadata=other_properties(contact, _CONTACT_FIELDS),
        created_at=format_seconds(contact.created_at),
        updated_at=format_seconds(contact.updated_at),
    )


def _steps(found: CountedAutomation) -> Sequence[Any]:
    steps = found.automation.attributes.get("steps")
    return steps if isinstance(steps, list) else ()


def _automation(found: CountedAutomation) -> dict[str, Any]:
    automation = found.automation
    return {
        "id": automation.id,
        "name": automation.name,
        "status": automation.state.value,
        "step_count": len(_steps(found)),
        "enrolled_count": found.runs,
        "completed_count": found.completed,
        "created_at": format_seconds(automation.created_at),
        "updated_at": format_seconds(automation.updated_at),
    }


_CONTACTS, _CONTACT = "/api/v1/contacts", "/api/v1/contacts/{id}"
_AUTOMATIONS = "/api/v1/automations"
_UPSERTED = {200: ContactAnswer, 201: ContactAnswer}

EMAILSENDX = Door(
    dialect=Dialect.EMAILSENDX,
    title="EmailSendX",
    routes=(
        Route("POST", f"{_CONTACT}/events", fire_event, Scope.CONTACTS_WRITE, {200: FiredAnswer}, FireEventBody),
        Route("POST", _CONTACTS, upsert_contact, Scope.CONTACTS_WRITE, _UPSERTED, ContactBody),
        Route("GET", _CONTACTS, list_contacts, Scope.CONTACTS_READ, {200: ContactList}, query=ListQuery),
        Route("GET", _CONTACT, get_contact, Scope.CONTACTS_READ, {200: ContactAnswer}),
        Route("GET", _AUTOMATIONS, list_automations, Scope.AUTOMATIONS_READ, {200: AutomationList}, query=ListQuery),
        Route("GET", f"{_AUTOMATIONS}/{{id}}", get_automation, Scope.AUTOMATIONS_READ, {200: AutomationAnswer}),
    ),
    paths=("/api/v1",),
    key_prefix="esx_",
    write_error=write_error,
    error_type=ErrorAnswer,
    limit=RateLimit(120, 60.0, rate_headers),
    key_header=b"x-api-key",
)
