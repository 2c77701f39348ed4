"""EmailSendX: events fired at contacts, under `/api/v1`. JSON in camelCase, times in seconds.

Any event is taken, by any name, and matched without regard to case; the contact must exist. Where a definition has the
name, it judges the payload.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeAlias

from msgspec import Meta, Struct

from automation.runs import MatchKind
from registry.timestamps import format_seconds
from server.bridge.contacts import given_properties, named_texts, other_properties
from server.bridge.doors import Door, Refusal
from server.bridge.messages import Reply, Request
from server.bridge.rate_limits import Headers, RateLimit, Standing
from server.bridge.routes import Route
from server.budgets import PayloadBudget, check_json
from server.contacts import ContactName
from server.emails import normal_email
from server.ingest.draft import Draft
from server.model import Dialect, NameCase, Rules, Scope, UndefinedEvents, UnknownContacts

if TYPE_CHECKING:
    from automation.automations import Automation
    from automation.runs import RunCounts
    from server.bridge.services import Services
    from server.model import Contact

RULES: Final = Rules(UndefinedEvents.ACCEPT, UnknownContacts.REJECT, NameCase.INSENSITIVE)

DATA_BUDGET: Final = PayloadBudget(size=16 * 1024)
MAX_LIMIT: Final = 100

Status: TypeAlias = Literal["active", "unsubscribed"]

_NAMES: Final = ("first_name", "last_name")
_CONTACT_FIELDS: Final = (*_NAMES, "unsubscribed")


class FireEventBody(Struct):
    """Body of POST /api/v1/contacts/{id}/events; `data` takes at most 16 KB."""

    name: str
    data: dict[str, Any] | None = None


class ContactBody(Struct, rename="camel"):
    """Body of POST /api/v1/contacts; what it leaves out stays, and so does metadata that it does not name."""

    email: str
    first_name: str | None = None
    last_name: str | None = None
    status: Status | None = None
    metadata: dict[str, Any] | None = None


class PageQuery(Struct):
    """Which page of a list; a limit beyond 100 counts as 100."""

    page: Annotated[int, Meta(ge=1)] = 1
    limit: Annotated[int, Meta(ge=1)] = 50


class FiredEvent(Struct, rename="camel"):
    """What an event set off."""

    contact_id: str
    event_name: str
    matching_automations: int
    fired_at: str


class ContactData(Struct, rename="camel"):
    """A contact."""

    id: str
    email: str
    first_name: str | None
    last_name: str | None
    status: Status
    metadata: dict[str, Any]
    created_at: str
    updated_at: str


class AutomationData(Struct, rename="camel"):
    """An automation, and how many contacts entered and completed it."""

    id: str
    name: str
    status: Literal["active", "paused", "draft"]
    trigger_type: Literal["CUSTOM_EVENT"]
    step_count: int
    enrolled_count: int
    completed_count: int
    created_at: str
    updated_at: str


class AutomationDetail(AutomationData, rename="camel"):
    """An automation with its steps, in order, as whoever made them keeps them."""

    steps: list[Any]


class Pagination(Struct, rename="camel"):
    """Which page this is, and of how many."""

    page: int
    limit: int
    total: int
    total_pages: int


class FiredAnswer(Struct):
    """A fired event in its envelope."""

    data: FiredEvent


class ContactAnswer(Struct):
    """A contact in its envelope."""

    data: ContactData


class ContactsAnswer(Struct):
    """A page of contacts."""

    data: list[ContactData]
    pagination: Pagination


class AutomationAnswer(Struct):
    """An automation in its envelope."""

    data: AutomationDetail


class AutomationsAnswer(Struct):
    """A page of automations."""

    data: list[AutomationData]
    pagination: Pagination


class ErrorAnswer(Struct):
    """An error."""

    error: str


async def fire_event(services: Services, request: Request) -> Reply:
    """Fire an event for a contact."""
    body = request.read(FireEventBody)
    data = body.data or {}
    check_json(data, len(request.body), "data", DATA_BUDGET)
    draft = Draft(body.name, request.params["id"], "", data, idempotency_key=request.idempotency_key(), rules=RULES)
    event = await services.ingest.send(request.caller.project_key, draft)
    fired = FiredEvent(
        contact_id=event.contact_id,
        event_name=body.name,
        matching_automations=sum(match.kind is MatchKind.STARTED for match, _ in draft.matches),
        fired_at=format_seconds(event.received_at),
    )
    return Reply(200, FiredAnswer(fired))


async def upsert_contact(services: Services, request: Request) -> Reply:
    """Create a contact or change the one with this address."""
    body = request.read(ContactBody)
    named = {
        "first_name": body.first_name,
        "last_name": body.last_name,
        "unsubscribed": None if body.status is None else body.status == "unsubscribed",
    }
    properties = given_properties(named, body.metadata or {}, len(request.body), "metadata")
    email = normal_email(body.email)
    contact, created = await services.contacts.upsert(request.caller.project_key, email, properties)
    return Reply(201 if created else 200, ContactAnswer(_contact_data(contact)))


async def list_contacts(services: Services, request: Request) -> Reply:
    """List contacts, newest first."""
    page, limit = _page(request)
    found, total = await services.contacts.numbered(request.caller.project_key, page, limit)
    return Reply(200, ContactsAnswer([_contact_data(each) for each in found], _pagination(page, limit, total)))


async def get_contact(services: Services, request: Request) -> Reply:
    """Read a contact by id."""
    contact = await services.contacts.get(request.caller.project_key, ContactName(request.params["id"]))
    return Reply(200, ContactAnswer(_contact_data(contact)))


async def list_automations(services: Services, request: Request) -> Reply:
    """List automations, newest first."""
    page, limit = _page(request)
    found, total = await services.automations.numbered(request.caller.project_key, page, limit)
    data = [AutomationData(**_automation_fields(*each)) for each in found]
    return Reply(200, AutomationsAnswer(data, _pagination(page, limit, total)))


async def get_automation(services: Services, request: Request) -> Reply:
    """Read an automation with its steps."""
    automation, counts = await services.automations.counted(request.caller.project_key, request.params["id"])
    detail = AutomationDetail(**_automation_fields(automation, counts), steps=_steps(automation))
    return Reply(200, AutomationAnswer(detail))


def write_error(refusal: Refusal) -> dict[str, Any]:
    """Write an error: a text and nothing else."""
    return {"error": refusal.message}


def _page(request: Request) -> tuple[int, int]:
    query = request.read_query(PageQuery)
    return query.page, min(query.limit, MAX_LIMIT)


def _pagination(page: int, limit: int, total: int) -> Pagination:
    return Pagination(page, limit, total, total_pages=-(-total // limit))


def _contact_data(contact: Contact) -> ContactData:
    return ContactData(
        id=contact.id,
        email=contact.email,
        **named_texts(contact, _NAMES),
        status="unsubscribed" if contact.properties.get("unsubscribed") is True else "active",
        metadata=other_properties(contact, _CONTACT_FIELDS),
        created_at=format_seconds(contact.created_at),
        updated_at=format_seconds(contact.updated_at),
    )


def _automation_fields(automation: Automation, counts: RunCounts) -> dict[str, Any]:
    return {
        "id": automation.id,
        "name": automation.name,
        "status": automation.state.value,
        "trigger_type": "CUSTOM_EVENT",
        "step_count": len(_steps(automation)),
        "enrolled_count": counts.all,
        "completed_count": counts.completed,
        "created_at": format_seconds(automation.created_at),
        "updated_at": format_seconds(automation.updated_at),
    }


def _steps(automation: Automation) -> list[Any]:
    steps = automation.attributes.get("steps")
    return steps if isinstance(steps, list) else []


def _limit_headers(standing: Standing) -> Headers:
    return (
        (b"x-ratelimit-limit", b"%d" % standing.limit),
        (b"x-ratelimit-remaining", b"%d" % standing.remaining),
        (b"x-ratelimit-reset", b"%d" % standing.reset_at),
    )


EMAILSENDX = Door(
    dialect=Dialect.EMAILSENDX,
    title="EmailSendX",
    rules=RULES,
    routes=(
        Route(
            "POST",
            "/api/v1/contacts/{id}/events",
            fire_event,
            Scope.CONTACTS_WRITE,
            {200: FiredAnswer},
            body=FireEventBody,
        ),
        Route(
            "POST",
            "/api/v1/contacts",
            upsert_contact,
            Scope.CONTACTS_WRITE,
            {200: ContactAnswer, 201: ContactAnswer},
            body=ContactBody,
        ),
        Route("GET", "/api/v1/contacts", list_contacts, Scope.CONTACTS_READ, {200: ContactsAnswer}, query=PageQuery),
        Route("GET", "/api/v1/contacts/{id}", get_contact, Scope.CONTACTS_READ, {200: ContactAnswer}),
        Route(
            "GET",
            "/api/v1/automations",
            list_automations,
            Scope.AUTOMATIONS_READ,
            {200: AutomationsAnswer},
            query=PageQuery,
        ),
        Route("GET", "/api/v1/automations/{id}", get_automation, Scope.AUTOMATIONS_READ, {200: AutomationAnswer}),
    ),
    paths=("/api/v1",),
    write_error=write_error,
    error_type=ErrorAnswer,
    limit=RateLimit(120, 60.0, _limit_headers),
    key_header=b"x-api-key",
)
