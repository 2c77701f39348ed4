"""The JSON bodies and queries of OpenSend for automations and their runs, as msgspec types."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from msgspec import UNSET, Meta, Struct, UnsetType

from server.bridge.dialects.opensend.documents import TYPES
from server.bridge.fields import Limit  # noqa: TC001 - msgspec reads it

MAX_LIMIT = 100
AUTOMATIONS_LIMIT, RUNS_LIMIT = 25, 50
"""Default limits of the lists."""

AutomationStatus: TypeAlias = Literal["draft", "enabled", "disabled"]
RunStatus: TypeAlias = Literal["queued", "running", "waiting", "completed", "failed", "cancelled", "skipped"]


# Runs


class CancelRunBody(Struct):
    """Body of POST /api/automations/{id}/runs/{run_id}/cancel."""

    reason: str | UnsetType = UNSET


class RunData(Struct, kw_only=True):
    """A run. Times are in milliseconds, UTC."""

    object: Literal["automation_run"] = "automation_run"
    id: str
    automation_id: str
    status: RunStatus
    started_at: str | None
    completed_at: str | None
    duration_ms: int | None
    current_step_key: str | None
    failed_step_key: str | None
    failure_reason: str | None
    next_step_at: str | None
    created_at: str
    updated_at: str


class DetailedRun(RunData, kw_only=True):
    """A run with its event, its contact and the states of its steps."""

    trigger_event_id: str
    contact_id: str | None
    step_states: dict[str, Any]


class RunList(Struct, kw_only=True):
    """A page of runs."""

    object: Literal["list"] = "list"
    data: list[RunData]
    has_more: bool


class RunsQuery(Struct):
    """Query of the list of runs: in any of these statuses (comma-separated), after an id."""

    status: str = ""
    limit: Limit = RUNS_LIMIT
    after: str = ""


# Automations


class StepBody(Struct, kw_only=True):
    """A step. Its default position is its index in the list."""

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
    """Body of POST and PATCH. The event is named in `trigger_event_name`, in the trigger step, or equally in both."""

    name: str | UnsetType = UNSET
    status: AutomationStatus | UnsetType = UNSET
    trigger_event_name: str | UnsetType = UNSET
    steps: Annotated[list[StepBody], Meta(min_length=1)] | UnsetType = UNSET
    connections: list[ConnectionBody] | UnsetType = UNSET


class AutomationsQuery(Struct):
    """Query of the list of automations: in a status, with a part of the name, after an id."""

    status: str = ""
    search: str = ""
    limit: Limit = AUTOMATIONS_LIMIT
    after: str = ""


class LastRun(Struct):
    """The newest run of an automation."""

    status: RunStatus
    created_at: str


class ListedAutomation(Struct, kw_only=True):
    """An automation in a list. Times are in milliseconds, UTC."""

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
    """The confirmation of a deletion."""

    object: Literal["automation"] = "automation"
    id: str
    deleted: bool = True
