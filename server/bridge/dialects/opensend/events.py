"""OpenSend's endpoints for event definitions, and for sending events."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from msgspec import UNSET

from automation.errors import AutomationNotFound
from automation.matches import MatchKind
from registry.definitions.event_definitions import NewDefinition
from registry.storage.definition_store import DefinitionChanges
from registry.times.timestamps import format_millis
from server.bridge.dialects.opensend import bodies
from server.bridge.dialects.opensend.names import check_event_name, is_reserved
from server.bridge.dialects.opensend.runs import run_data, started_run
from server.bridge.dialects.opensend.schemas import FREE, read_schema, write_schema
from server.bridge.dialects.opensend.validation import BodyReader, Violations
from server.bridge.messages import Request, Response
from server.bridge.operations import (
    all_definitions,
    create_definition,
    definition_by_id,
    find_definition,
    page_by_id,
    update_definition,
)
from server.bridge.payloads import check_json
from server.bridge.sending import send
from server.ingest.draft import Draft
from server.model import NameCase, Rules, UndefinedEvents, UnknownContacts, UnknownIds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from automation.automations import Automation
    from automation.matches import Match
    from registry.definitions.event_definitions import EventDefinition
    from registry.definitions.schema import Schema
    from server.bridge.dialects.opensend.automation_bodies import RunData
    from server.bridge.operations import Services

RULES: Final = Rules(UndefinedEvents.ACCEPT, UnknownContacts.CREATE, NameCase.SENSITIVE, UnknownIds.ACCEPT)


_ONE_OF_TWO = "provide exactly one contact identifier: contact_id/contactId or email"


async def list_events(services: Services, request: Request) -> Response:
    """List event definitions, newest first."""
    limit, after = request.number("limit", bodies.EVENTS_LIMIT, bodies.MAX_LIMIT), request.query.get("after", "")
    definitions = await all_definitions(services, request.caller)
    page, more = page_by_id(definitions, limit, after)
    return Response(200, bodies.EventList(data=[_event_data(definition) for definition in page], has_more=more))


async def create_event(services: Services, request: Request) -> Response:
    """Create an event definition."""
    body = BodyReader(request)
    name, schema = _read_name(body, required=True), _read_schema(body)
    body.check()
    assert name is not None
    check_event_name(name, "name")
    created = await create_definition(services, request, NewDefinition(name, schema))
    return Response(201, _event_data(created))


async def get_event(services: Services, request: Request) -> Response:
    """Return the event definition with an id or name."""
    return Response(200, _event_data(await _definition(services, request)))


async def update_event(services: Services, request: Request) -> Response:
    """Update the name or schema of an event definition; recorded events keep their name."""
    body = BodyReader(request)
    name, schema = _read_name(body), _read_schema(body)
    if not body.has("name", "schema"):
        body.form.append("Provide at least one field to update")
    body.check()
    if name is not None:
        check_event_name(name, "name")
    current = await _definition(services, request)
    changes = DefinitionChanges(
        name=UNSET if name is None else name,
        schema=_updated(current.schema, schema) if body.has("schema") else UNSET,
    )
    updated = await update_definition(services, request, current, changes)
    return Response(200, _event_data(updated))


async def delete_event(services: Services, request: Request) -> Response:
    """Delete an event definition; recorded events are kept."""
    return await _deleted(services, request, await _definition(services, request))


async def delete_by_query(services: Services, request: Request) -> Response:
    """Delete the event definition whose id is in the query."""
    definition_id = request.query.get("id", "")
    if not definition_id:
        violations = Violations()
        violations.add("id", "Required")
        violations.check()
    return await _deleted(services, request, await definition_by_id(services, request.caller, definition_id))


async def send_event(services: Services, request: Request) -> Response:
    """Record an event, and return the runs that it resumed and started."""
    draft = await send(services, request, read_event)
    event = draft.event
    assert event is not None
    delivery = bodies.Delivery(
        id=event.id,
        event=event.name,
        contact_id=event.contact_id or None,
        email=draft.email or None,
        payload=event.properties,
        received_at=format_millis(event.received_at),
    )
    started = [started_run(match, automation) for match, automation in _of_kind(draft, MatchKind.STARTED)]
    resumed = await _resumed(services, request.caller.project_pk, _of_kind(draft, MatchKind.RESUMED))
    return Response(202, bodies.Sent(delivery=delivery, resumed_runs=resumed, automation_runs=started))


def read_event(request: Request) -> Draft:
    """Read the event of a request."""
    body = BodyReader(request)
    name = body.text("event", required=True)
    contact_id, email = _read_contact(body)
    payload = body.record("payload")
    body.check()
    assert name is not None
    check_event_name(name, "event")
    check_json(payload, len(request.body), "payload")
    return Draft(name, contact_id or "", email or "", payload, idempotency_key=request.idempotency_key(), rules=RULES)


def _read_name(body: BodyReader, *, required: bool = False) -> str | None:
    name = body.text("name", required=required)
    if name is not None and is_reserved(name):
        body.add("name", f'"{name}" is a reserved name')
    return name


def _read_schema(body: BodyReader) -> Schema:
    violations: list[str] = []
    schema = read_schema(body.values.get("schema"), violations)
    for message in violations:
        body.add("schema", message)
    return schema


def _updated(current: Schema, new: Schema) -> Schema:
    """Return a schema with new properties and the current rules for unknown ones; no schema resets the rules, too."""
    return replace(current, properties=new.properties) if new.properties else FREE


def _read_contact(body: BodyReader) -> tuple[str | None, str | None]:
    """Return the id or the address of an event's contact: exactly one of them."""
    violations = len(body.fields)
    contact_id, alias, email = body.uuid("contact_id"), body.uuid("contactId"), body.email()
    if len(body.fields) == violations:
        if contact_id and alias and contact_id != alias:
            body.add("contact_id", "contactId and contact_id must match when both are provided")
        elif (contact_id or alias) and email:
            body.add("email", _ONE_OF_TWO)
        elif not (contact_id or alias or email):
            body.add("contact_id", _ONE_OF_TWO)
    return contact_id or alias, email


def _of_kind(draft: Draft, kind: MatchKind) -> list[tuple[Match, Automation]]:
    return [(match, automation) for match, automation in draft.matches if match.kind is kind]


async def _resumed(services: Services, project_pk: int, matches: Sequence[tuple[Match, Automation]]) -> list[RunData]:
    # The automations of the matches come without attributes, and may have been deleted since.
    automations = {automation.id: automation for _, automation in matches}
    for automation_id in list(automations):
        with suppress(AutomationNotFound):
            automations[automation_id] = await services.automations.get(project_pk, automation_id)
    return [
        run_data(await services.runs.get(project_pk, match.run_id), automations[automation.id])
        for match, automation in matches
    ]


async def _definition(services: Services, request: Request) -> EventDefinition:
    return await find_definition(services, request.caller, request.params["identifier"])


async def _deleted(services: Services, request: Request, definition: EventDefinition) -> Response:
    await services.definitions.delete(request.caller, definition.id, "")
    return Response(200, bodies.DeletedEvent(id=definition.id))


def _event_data(definition: EventDefinition) -> bodies.EventData:
    return bodies.EventData(
        id=definition.id,
        name=definition.name,
        schema=write_schema(definition.schema),
        created_at=format_millis(definition.created_at),
        updated_at=format_millis(definition.updated_at),
    )
