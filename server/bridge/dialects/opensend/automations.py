"""OpenSend's endpoints for automations.

An automation's name, event and state are Signalbox's own; its steps are stored in its attributes, for the engine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from automation.automation_store import AutomationFilter
from automation.automations import AutomationChanges, AutomationState, NewAutomation
from registry.times.timestamps import format_millis
from registry.values.json_values import AUTOMATION_BUDGET, with_doubles
from server.bridge.dialects.opensend import automation_bodies as bodies
from server.bridge.dialects.opensend.documents import (
    check_connections,
    check_steps,
    read_connections,
    read_steps,
    trigger_event,
)
from server.bridge.dialects.opensend.validation import BodyReader, rule_broken
from server.bridge.messages import Request, Response
from server.bridge.payloads import check_json

if TYPE_CHECKING:
    from automation.automations import Automation
    from automation.runs import Run
    from server.bridge.operations import Services

UNTITLED: Final = "Untitled"

_STATES: Final = {
    "draft": AutomationState.DRAFT,
    "enabled": AutomationState.ACTIVE,
    "disabled": AutomationState.PAUSED,
}
_STATUSES: Final[dict[AutomationState, bodies.AutomationStatus]] = {
    AutomationState.DRAFT: "draft",
    AutomationState.ACTIVE: "enabled",
    AutomationState.PAUSED: "disabled",
    AutomationState.UNREADABLE: "disabled",
}


async def list_automations(services: Services, request: Request) -> Response:
    """List automations, newest first, each with its newest run."""
    status = request.query.get("status", "")
    query = AutomationFilter(state=_state(status) if status else None, search=request.query.get("search", ""))
    limit = request.number("limit", bodies.AUTOMATIONS_LIMIT, bodies.MAX_LIMIT)
    page, more = await services.automations.list_after(
        request.caller.project_pk, query, limit, request.query.get("after", "")
    )
    return Response(
        200, bodies.AutomationList(data=[_listed(automation, run) for automation, run in page], has_more=more)
    )


async def create_automation(services: Services, request: Request) -> Response:
    """Create an automation."""
    body = BodyReader(request)
    name, stated = body.text("name"), body.text("trigger_event_name", "triggerEventName")
    body.check()
    state = _state(body.values.get("status", "draft"))
    steps, connections = read_steps(body) or [], read_connections(body) or []
    check_steps(steps)
    check_connections(connections, steps)
    check_json(body.values, len(request.body), "", AUTOMATION_BUDGET)
    automation = NewAutomation(
        name=UNTITLED if name is None else name,
        event_name=trigger_event(steps, stated),
        state=state,
        attributes=with_doubles({"steps": steps, "connections": connections}),
    )
    return Response(201, _automation(await services.automations.create(request.caller.project_pk, automation)))


async def get_automation(services: Services, request: Request) -> Response:
    """Return an automation."""
    return Response(200, _automation(await _current(services, request)))


async def update_automation(services: Services, request: Request) -> Response:
    """Update an automation.

    Steps and connections are each replaced as a whole; one given without the other must fit the current other.
    """
    body = BodyReader(request)
    name, stated = body.text("name"), body.text("trigger_event_name", "triggerEventName")
    body.check()
    state = _state(body.values["status"]) if "status" in body.values else None
    given_steps, given_connections = read_steps(body), read_connections(body)
    current = await _current(services, request)
    steps = _stored(current, "steps") if given_steps is None else given_steps
    connections = _stored(current, "connections") if given_connections is None else given_connections
    event_name, attributes = None, None
    if given_steps is not None or given_connections is not None:
        check_steps(steps)
        check_connections(connections, steps)
        check_json(body.values, len(request.body), "", AUTOMATION_BUDGET)
        attributes = with_doubles({**current.attributes, "steps": steps, "connections": connections})
    if given_steps is not None or stated is not None:
        event_name = trigger_event(steps, stated) if steps else stated
    changes = AutomationChanges(name=name, event_name=event_name, attributes=attributes, state=state)
    changed = await services.automations.update(request.caller.project_pk, current.id, changes, current.etag)
    return Response(200, _automation(changed))


async def stop_automation(services: Services, request: Request) -> Response:
    """Disable an automation; its runs continue."""
    changes = AutomationChanges(state=AutomationState.PAUSED)
    stopped = await services.automations.update(request.caller.project_pk, request.params["id"], changes, "")
    return Response(200, _automation(stopped))


async def delete_automation(services: Services, request: Request) -> Response:
    """Delete an automation that is not enabled."""
    deleted, _ = await services.automations.delete(request.caller.project_pk, request.params["id"], "")
    return Response(200, bodies.DeletedAutomation(id=deleted.id))


def _state(status: Any) -> AutomationState:
    state = _STATES.get(status) if isinstance(status, str) else None
    if state is None:
        raise rule_broken("automation_status_invalid", f"status must be one of: {', '.join(_STATES)}")
    return state


async def _current(services: Services, request: Request) -> Automation:
    return await services.automations.get(request.caller.project_pk, request.params["id"])


def _stored(automation: Automation, name: str) -> list[Any]:
    stored = automation.attributes.get(name)
    return stored if isinstance(stored, list) else []


def _automation(automation: Automation) -> bodies.AutomationData:
    return bodies.AutomationData(
        id=automation.id,
        name=automation.name,
        status=_STATUSES[automation.state],
        trigger_event_name=automation.event_name,
        connections=_stored(automation, "connections"),
        steps=_stored(automation, "steps"),
        created_at=format_millis(automation.created_at),
        updated_at=format_millis(automation.updated_at),
    )


def _listed(automation: Automation, last: Run | None) -> bodies.ListedAutomation:
    return bodies.ListedAutomation(
        id=automation.id,
        name=automation.name,
        status=_STATUSES[automation.state],
        trigger_event_name=automation.event_name,
        step_count=len(_stored(automation, "steps")),
        last_run=None if last is None else bodies.LastRun(last.status.value, format_millis(last.created_at)),
        created_at=format_millis(automation.created_at),
        updated_at=format_millis(automation.updated_at),
    )
