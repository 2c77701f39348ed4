"""OpenSend's automations: a trigger becomes one of ours, its steps are kept with it for the engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from automation.automation_store import AutomationFilter
from automation.automations import AutomationChanges, AutomationState, NewAutomation
from registry.json_values import held
from registry.timestamps import format_millis
from server.bridge.dialects.opensend.bodies import Body, rule_broken
from server.bridge.dialects.opensend.documents import (
    TYPES,
    check_connections,
    check_steps,
    read_connections,
    read_steps,
    trigger_event,
)
from server.bridge.dialects.opensend.runs import Status  # noqa: TC001 - msgspec reads it
from server.bridge.fields import Limit  # noqa: TC001 - msgspec reads it
from server.bridge.messages import Reply, Request
from server.budgets import AUTOMATION_BUDGET, check_json

if TYPE_CHECKING:
    from automation.automations import Automation
    from automation.runs import Run
    from server.bridge.services import Services

DEFAULT_LIMIT, MAX_LIMIT = 25, 100
UNTITLED: Final = "Untitled"

AutomationStatus = Literal["draft", "enabled", "disabled"]

_STATES: Final = {
    "draft": AutomationState.DRAFT,
    "enabled": AutomationState.ACTIVE,
    "disabled": AutomationState.PAUSED,
}
_STATUSES: Final[dict[AutomationState, AutomationStatus]] = {
    AutomationState.DRAFT: "draft",
    AutomationState.ACTIVE: "enabled",
    AutomationState.PAUSED: "disabled",
}


class StepBody(Struct, kw_only=True):
    """A step. Without a position it stands where it is in the list."""

    id: str | UnsetType = UNSET
    key: Annotated[str, Meta(extra_json_schema={"pattern": "^[A-Za-z0-9_:-]{1,64}$"})]
    type: Annotated[str, Meta(extra_json_schema={"enum": list(TYPES)})]
    config: dict[str, Any] | UnsetType = UNSET
    position: int | UnsetType = UNSET


class ConnectionBody(Struct, rename={"start": "from", "end": "to"}):
    """A connection from one step to another, by their keys."""

    start: str
    end: str
    type: str | UnsetType = UNSET


class AutomationBody(Struct):
    """Body of POST and PATCH. The event may be named beside the steps, in the trigger step, or in both alike."""

    name: str | UnsetType = UNSET
    status: AutomationStatus | UnsetType = UNSET
    trigger_event_name: str | UnsetType = UNSET
    steps: Annotated[list[StepBody], Meta(min_length=1)] | UnsetType = UNSET
    connections: list[ConnectionBody] | UnsetType = UNSET


class AutomationsQuery(Struct):
    """Which automations: in a status, with a part of the name, behind an id."""

    status: str = ""
    search: str = ""
    limit: Limit = DEFAULT_LIMIT
    after: str = ""


class LastRun(Struct):
    """The newest run of an automation."""

    status: Status
    created_at: str


class ListedAutomation(Struct, kw_only=True):
    """An automation in a list. Times in milliseconds UTC."""

    object: Literal["automation"] = "automation"
    id: str
    name: str
    status: AutomationStatus
    trigger_event_name: str
    step_count: int
    last_run: LastRun | None
    created_at: str
    updated_at: str


class AutomationData(Struct, kw_only=True):
    """An automation with its steps and the connections between them."""

    object: Literal["automation"] = "automation"
    id: str
    name: str
    status: AutomationStatus
    trigger_event_name: str
    connections: list[Any]
    steps: list[Any]
    created_at: str
    updated_at: str


class AutomationList(Struct, kw_only=True):
    """A page of automations."""

    object: Literal["list"] = "list"
    data: list[ListedAutomation]
    has_more: bool


class DeletedAutomation(Struct, kw_only=True):
    """What is said of a deletion."""

    object: Literal["automation"] = "automation"
    id: str
    deleted: bool = True


async def list_automations(services: Services, request: Request) -> Reply:
    """List automations, newest first, each with its newest run."""
    status = request.query.get("status", "")
    wanted = AutomationFilter(state=_state(status) if status else None, search=request.query.get("search", ""))
    limit = request.number("limit", DEFAULT_LIMIT, MAX_LIMIT)
    page, more = await services.automations.behind(
        request.caller.project_pk, wanted, limit, request.query.get("after", "")
    )
    return Reply(200, AutomationList(data=[_listed(each, run) for each, run in page], has_more=more))


async def create_automation(services: Services, request: Request) -> Reply:
    """Create an automation."""
    body = Body(request)
    name, stated = body.text("name"), body.text("trigger_event_name", "triggerEventName")
    body.check()
    state = _state(body.values.get("status", "draft"))
    steps, connections = read_steps(body) or [], read_connections(body) or []
    check_steps(steps)
    check_connections(connections, steps)
    check_json(body.values, len(request.body), "", AUTOMATION_BUDGET)
    wanted = NewAutomation(
        name=UNTITLED if name is None else name,
        event_name=trigger_event(steps, stated),
        state=state,
        attributes=held({"steps": steps, "connections": connections}),
    )
    return Reply(201, _automation(await services.automations.create(request.caller.project_pk, wanted)))


async def get_automation(services: Services, request: Request) -> Reply:
    """Read an automation."""
    return Reply(200, _automation(await _identified(services, request)))


async def update_automation(services: Services, request: Request) -> Reply:
    """Change an automation; steps and connections are replaced whole, one without the other if the rest fits."""
    body = Body(request)
    name, stated = body.text("name"), body.text("trigger_event_name", "triggerEventName")
    body.check()
    state = _state(body.values["status"]) if "status" in body.values else None
    given_steps, given_connections = read_steps(body), read_connections(body)
    current = await _identified(services, request)
    steps = _kept(current, "steps") if given_steps is None else given_steps
    connections = _kept(current, "connections") if given_connections is None else given_connections
    event_name, attributes = None, None
    if given_steps is not None or given_connections is not None:
        check_steps(steps)
        check_connections(connections, steps)
        check_json(body.values, len(request.body), "", AUTOMATION_BUDGET)
        attributes = held({**current.attributes, "steps": steps, "connections": connections})
    if given_steps is not None or stated is not None:
        event_name = trigger_event(steps, stated) if steps else stated
    changes = AutomationChanges(name=name, event_name=event_name, attributes=attributes, state=state)
    changed = await services.automations.update(request.caller.project_pk, current.id, changes, current.etag)
    return Reply(200, _automation(changed))


async def stop_automation(services: Services, request: Request) -> Reply:
    """Disable an automation; its runs go on."""
    changes = AutomationChanges(state=AutomationState.PAUSED)
    stopped = await services.automations.update(request.caller.project_pk, request.params["id"], changes, "")
    return Reply(200, _automation(stopped))


async def delete_automation(services: Services, request: Request) -> Reply:
    """Delete an automation that is not enabled."""
    deleted, _ = await services.automations.delete(request.caller.project_pk, request.params["id"], "")
    return Reply(200, DeletedAutomation(id=deleted.id))


def _state(status: Any) -> AutomationState:
    state = _STATES.get(status) if isinstance(status, str) else None
    if state is None:
        raise rule_broken("automation_status_invalid", f"status must be one of: {', '.join(_STATES)}")
    return state


async def _identified(services: Services, request: Request) -> Automation:
    return await services.automations.get(request.caller.project_pk, request.params["id"])


def _kept(automation: Automation, name: str) -> list[Any]:
    kept = automation.attributes.get(name)
    return kept if isinstance(kept, list) else []


def _automation(automation: Automation) -> AutomationData:
    return AutomationData(
        id=automation.id,
        name=automation.name,
        status=_STATUSES[automation.state],
        trigger_event_name=automation.event_name,
        connections=_kept(automation, "connections"),
        steps=_kept(automation, "steps"),
        created_at=format_millis(automation.created_at),
        updated_at=format_millis(automation.updated_at),
    )


def _listed(automation: Automation, last: Run | None) -> ListedAutomation:
    return ListedAutomation(
        id=automation.id,
        name=automation.name,
        status=_STATUSES[automation.state],
        trigger_event_name=automation.event_name,
        step_count=len(_kept(automation, "steps")),
        last_run=None if last is None else LastRun(last.status.value, format_millis(last.created_at)),
        created_at=format_millis(automation.created_at),
        updated_at=format_millis(automation.updated_at),
    )
