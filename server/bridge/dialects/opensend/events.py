"""OpenSend's events: definitions, and sending."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeAlias

from msgspec import UNSET, Meta, Struct, UnsetType

from automation.errors import AutomationNotFound
from automation.runs import MatchKind
from registry.errors import DefinitionNotFound
from registry.schema import Compatibility
from registry.store import DefinitionChanges
from registry.timestamps import format_millis
from server.bridge.definitions import all_definitions, definition_by_id
from server.bridge.dialects.opensend.bodies import Body, Faults
from server.bridge.dialects.opensend.names import check_event_name, is_reserved
from server.bridge.dialects.opensend.runs import RunData, run_data, started_run
from server.bridge.dialects.opensend.schemas import FREE, read_schema, write_schema
from server.bridge.fields import Email, Limit, Uuid  # noqa: TC001 - msgspec reads them
from server.bridge.lists import beside
from server.bridge.messages import Reply, Request
from server.budgets import check_json
from server.ingest.draft import Draft
from server.model import NameCase, Rules, UndefinedEvents, UnknownContacts, UnknownIds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from automation.automations import Automation
    from automation.runs import Match
    from registry.definitions import EventDefinition
    from registry.schema import Schema
    from server.bridge.services import Services

RULES: Final = Rules(UndefinedEvents.ACCEPT, UnknownContacts.CREATE, NameCase.SENSITIVE, UnknownIds.ACCEPT)

DEFAULT_LIMIT, MAX_LIMIT = 50, 100

_ONE_OF_TWO = "provide exactly one contact identifier: contact_id/contactId or email"


Name: TypeAlias = Annotated[str, Meta(min_length=1, max_length=255)]


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
    """Body of PATCH: a new name, a new schema, null for none, or both."""

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
    """Which definitions: behind an id."""

    limit: Limit = DEFAULT_LIMIT
    after: str = ""


class IdQuery(Struct):
    """Which definition, by its id."""

    id: str


class EventData(Struct, kw_only=True):
    """An event definition. Times in milliseconds UTC."""

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
    """What is said of a deletion."""

    object: Literal["event"] = "event"
    id: str
    deleted: bool = True


class Delivery(Struct, kw_only=True):
    """A recorded event; `email` is null where the contact was named by its id."""

    object: Literal["event_delivery"] = "event_delivery"
    id: str
    event: str
    contact_id: str | None
    email: str | None
    payload: dict[str, Any]
    received_at: str


class Sent(Struct, kw_only=True):
    """A recorded event, and the runs that went on and those that began with it."""

    object: Literal["event_delivery"] = "event_delivery"
    delivery: Delivery
    resumed_runs: list[RunData]
    automation_runs: list[RunData]


async def list_events(services: Services, request: Request) -> Reply:
    """List definitions, newest first."""
    limit, after = request.number("limit", DEFAULT_LIMIT, MAX_LIMIT), request.query.get("after", "")
    found = await all_definitions(services, request.caller)
    page, more = beside(found, limit, after)
    return Reply(200, EventList(data=[_event_data(each) for each in page], has_more=more))


async def create_event(services: Services, request: Request) -> Reply:
    """Define an event."""
    body = Body(request)
    name, schema = _read_name(body, required=True), _read_schema(body)
    body.check()
    assert name is not None
    check_event_name(name, "name")
    created = await services.definitions.create(request.caller, name, "", schema, Compatibility.NONE)
    return Reply(201, _event_data(created))


async def get_event(services: Services, request: Request) -> Reply:
    """Read a definition by id or name."""
    return Reply(200, _event_data(await _identified(services, request)))


async def update_event(services: Services, request: Request) -> Reply:
    """Change name or schema; what was recorded keeps the old name."""
    body = Body(request)
    name, schema = _read_name(body), _read_schema(body)
    if not body.has("name", "schema"):
        body.form.append("Provide at least one field to update")
    body.check()
    if name is not None:
        check_event_name(name, "name")
    current = await _identified(services, request)
    changes = DefinitionChanges(
        name=UNSET if name is None else name,
        schema=_changed(current.schema, schema) if body.has("schema") else UNSET,
    )
    updated = await services.definitions.update(request.caller, current.id, changes, current.etag)
    return Reply(200, _event_data(updated))


async def delete_event(services: Services, request: Request) -> Reply:
    """Delete a definition; what was recorded stays."""
    return await _deleted(services, request, await _identified(services, request))


async def delete_by_query(services: Services, request: Request) -> Reply:
    """Delete the definition whose id is in the query."""
    definition_id = request.query.get("id", "")
    if not definition_id:
        faults = Faults()
        faults.add("id", "Required")
        faults.check()
    return await _deleted(services, request, await definition_by_id(services, request.caller, definition_id))


async def send_event(services: Services, request: Request) -> Reply:
    """Record an event, and tell which runs it set off."""
    body = Body(request)
    name = body.text("event", required=True)
    contact_id, email = _read_contact(body)
    payload = body.record("payload")
    body.check()
    assert name is not None
    check_event_name(name, "event")
    check_json(payload, len(request.body), "payload")
    draft = Draft(name, contact_id or "", email or "", payload, idempotency_key=request.idempotency_key(), rules=RULES)
    event = await services.ingest.send(request.caller.project_pk, draft)
    delivery = Delivery(
        id=event.id,
        event=event.name,
        contact_id=event.contact_id or None,
        email=email,
        payload=event.properties,
        received_at=format_millis(event.received_at),
    )
    started = [started_run(match, automation) for match, automation in _of_kind(draft, MatchKind.STARTED)]
    resumed = await _resumed(services, request.caller.project_pk, _of_kind(draft, MatchKind.RESUMED))
    return Reply(202, Sent(delivery=delivery, resumed_runs=resumed, automation_runs=started))


def _read_name(body: Body, *, required: bool = False) -> str | None:
    name = body.text("name", required=required)
    if name is not None and is_reserved(name):
        body.add("name", f'"{name}" is a reserved name')
    return name


def _read_schema(body: Body) -> Schema:
    faults: list[str] = []
    schema = read_schema(body.values.get("schema"), faults)
    for fault in faults:
        body.add("schema", fault)
    return schema


def _changed(current: Schema, wanted: Schema) -> Schema:
    """Give a definition other properties; the rules of the door that made it stay, unless no schema is wanted."""
    return replace(current, properties=wanted.properties) if wanted.properties else FREE


def _read_contact(body: Body) -> tuple[str | None, str | None]:
    """Read whom an event is about: exactly one of id and address."""
    known = len(body.fields)
    one, other, email = body.uuid("contact_id"), body.uuid("contactId"), body.email()
    if len(body.fields) == known:
        if one and other and one != other:
            body.add("contact_id", "contactId and contact_id must match when both are provided")
        elif (one or other) and email:
            body.add("email", _ONE_OF_TWO)
        elif not (one or other or email):
            body.add("contact_id", _ONE_OF_TWO)
    return one or other, email


def _of_kind(draft: Draft, kind: MatchKind) -> list[tuple[Match, Automation]]:
    return [each for each in draft.matches if each[0].kind is kind]


async def _resumed(services: Services, project_pk: int, matches: Sequence[tuple[Match, Automation]]) -> list[RunData]:
    # Those that came with the matches have no attributes, and may have been deleted since.
    automations = {automation.id: automation for _, automation in matches}
    for each in list(automations):
        with suppress(AutomationNotFound):
            automations[each] = await services.automations.get(project_pk, each)
    return [
        run_data(await services.runs.get(project_pk, match.run_id), automations[automation.id])
        for match, automation in matches
    ]


async def _identified(services: Services, request: Request) -> EventDefinition:
    """Find a live definition by id or exact name. Raises DefinitionNotFound."""
    identifier = request.params["identifier"]
    found = await services.definitions.get(request.caller, identifier)
    if found.deleted_at is not None:
        raise DefinitionNotFound(identifier)
    return found


async def _deleted(services: Services, request: Request, definition: EventDefinition) -> Reply:
    await services.definitions.delete(request.caller, definition.id, "")
    return Reply(200, DeletedEvent(id=definition.id))


def _event_data(definition: EventDefinition) -> EventData:
    return EventData(
        id=definition.id,
        name=definition.name,
        schema=write_schema(definition.schema),
        created_at=format_millis(definition.created_at),
        updated_at=format_millis(definition.updated_at),
    )
