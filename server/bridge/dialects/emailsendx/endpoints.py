"""EmailSendX's endpoints for events, contacts and automations."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from automation.matches import MatchKind
from registry.times.timestamps import format_seconds
from registry.values.json_values import PayloadBudget
from server.bridge.dialects.emailsendx import bodies
from server.bridge.messages import Request, Response
from server.bridge.operations import contact_properties, named_texts, other_properties
from server.bridge.payloads import check_json
from server.bridge.routes import Route
from server.bridge.sending import send
from server.ingest.draft import Draft
from server.model import NameCase, Rules, Scope, UndefinedEvents, UnknownContacts
from server.services.contacts import ContactRef
from server.services.emails import normalize_email

if TYPE_CHECKING:
    from collections.abc import Sequence

    from server.bridge.operations import Services
    from server.model import Contact
    from server.services.automations import AutomationWithCounts

RULES: Final = Rules(UndefinedEvents.ACCEPT, UnknownContacts.REJECT, NameCase.INSENSITIVE)

DATA_BUDGET: Final = PayloadBudget(size=16 * 1024)

_CONTACT_FIELDS = ("first_name", "last_name", "unsubscribed")


async def fire_event(services: Services, request: Request) -> Response:
    """Record an event of a contact."""
    draft = await send(services, request, read_event)
    event = draft.event
    assert event is not None
    started = sum(match.kind is MatchKind.STARTED for match, _ in draft.matches)
    return Response(
        200, bodies.FiredAnswer(bodies.Fired(event.contact_id, draft.name, started, format_seconds(event.received_at)))
    )


def read_event(request: Request) -> Draft:
    """Read the event of a request."""
    body = request.read(bodies.FireEventBody)
    data = body.data or {}
    check_json(data, len(request.body), "data", DATA_BUDGET)
    return Draft(body.name, request.params["id"], "", data, idempotency_key=request.idempotency_key(), rules=RULES)


async def upsert_contact(services: Services, request: Request) -> Response:
    """Create a contact, or update the one with this address."""
    body = request.read(bodies.ContactBody)
    named = {"first_name": body.first_name, "last_name": body.last_name}
    properties = contact_properties(named, body.metadata or {}, len(request.body), "metadata")
    email = normalize_email(body.email)
    contact, created = await services.contacts.upsert(request.caller.project_pk, email, properties)
    return Response(201 if created else 200, bodies.ContactAnswer(_contact_data(contact)))


async def list_contacts(services: Services, request: Request) -> Response:
    """List contacts, newest first."""
    page, limit = _page(request)
    contacts, total = await services.contacts.list_numbered(request.caller.project_pk, page, limit)
    return Response(
        200, bodies.ContactList([_contact_data(contact) for contact in contacts], _pagination(page, limit, total))
    )


async def get_contact(services: Services, request: Request) -> Response:
    """Return the contact with an id."""
    contact = await services.contacts.get(request.caller.project_pk, ContactRef(request.params["id"]))
    return Response(200, bodies.ContactAnswer(_contact_data(contact)))


async def list_automations(services: Services, request: Request) -> Response:
    """List automations, newest first."""
    page, limit = _page(request)
    automations, total = await services.automations.list_numbered(request.caller.project_pk, page, limit)
    listed = [bodies.Automation(**_automation(automation)) for automation in automations]
    return Response(200, bodies.AutomationList(listed, _pagination(page, limit, total)))


async def get_automation(services: Services, request: Request) -> Response:
    """Return an automation with its steps."""
    counted = await services.automations.get_with_counts(request.caller.project_pk, request.params["id"])
    return Response(
        200, bodies.AutomationAnswer(bodies.DetailedAutomation(**_automation(counted), steps=list(_steps(counted))))
    )


def _page(request: Request) -> tuple[int, int]:
    """Return the page number and limit of a list's query. Raise InvalidBody."""
    return request.number("page", 1, bodies.MAX_PAGE), request.number("limit", bodies.DEFAULT_LIMIT, bodies.MAX_LIMIT)


def _pagination(page: int, limit: int, total: int) -> bodies.Pagination:
    return bodies.Pagination(page, limit, total, math.ceil(total / limit))


def _contact_data(contact: Contact) -> bodies.ContactData:
    return bodies.ContactData(
        id=contact.id,
        email=contact.email,
        **named_texts(contact, ("first_name", "last_name")),
        status="unsubscribed" if contact.properties.get("unsubscribed") is True else "active",
        metadata=other_properties(contact, _CONTACT_FIELDS),
        created_at=format_seconds(contact.created_at),
        updated_at=format_seconds(contact.updated_at),
    )


def _steps(counted: AutomationWithCounts) -> Sequence[Any]:
    steps = counted.automation.attributes.get("steps")
    return steps if isinstance(steps, list) else ()


def _automation(counted: AutomationWithCounts) -> dict[str, Any]:
    automation = counted.automation
    return {
        "id": automation.id,
        "name": automation.name,
        "status": automation.state.value,
        "step_count": len(_steps(counted)),
        "enrolled_count": counted.runs,
        "completed_count": counted.completed,
        "created_at": format_seconds(automation.created_at),
        "updated_at": format_seconds(automation.updated_at),
    }


_CONTACTS, _CONTACT = "/api/v1/contacts", "/api/v1/contacts/{id}"
_AUTOMATIONS, _AUTOMATION = "/api/v1/automations", "/api/v1/automations/{id}"
_READ, _WRITE = Scope.CONTACTS_READ, Scope.CONTACTS_WRITE
_FIRED = {200: bodies.FiredAnswer}
_CONTACT_LIST, _AUTOMATION_LIST = {200: bodies.ContactList}, {200: bodies.AutomationList}
_UPSERTED = {200: bodies.ContactAnswer, 201: bodies.ContactAnswer}

_SENDING = ("CONTACT_NOT_FOUND", "PAYLOAD_REJECTED", "IDEMPOTENCY_KEY_REUSED")
_NO_CONTACT = ("CONTACT_NOT_FOUND",)
_NO_AUTOMATION = ("AUTOMATION_NOT_FOUND",)

ROUTES: Final = (
    Route("POST", f"{_CONTACT}/events", fire_event, _WRITE, _FIRED, bodies.FireEventBody, errors=_SENDING),
    Route("POST", _CONTACTS, upsert_contact, _WRITE, _UPSERTED, bodies.ContactBody),
    Route("GET", _CONTACTS, list_contacts, _READ, _CONTACT_LIST, query=bodies.ListQuery),
    Route("GET", _CONTACT, get_contact, _READ, {200: bodies.ContactAnswer}, errors=_NO_CONTACT),
    Route("GET", _AUTOMATIONS, list_automations, Scope.AUTOMATIONS_READ, _AUTOMATION_LIST, query=bodies.ListQuery),
    Route(
        "GET",
        _AUTOMATION,
        get_automation,
        Scope.AUTOMATIONS_READ,
        {200: bodies.AutomationAnswer},
        errors=_NO_AUTOMATION,
    ),
)
