"""OpenSend's runs: one passage of a contact through an automation.

Steps are executed by an engine; what it keeps with a run is shown from there: `current_step_key`, `failed_step_key` and
`step_states`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

from msgspec import UNSET, Struct, UnsetType

from automation.runs import MatchKind, RunStatus
from registry.timestamps import format_millis
from server.bridge.dialects.opensend.bodies import Body, Faults
from server.bridge.dialects.opensend.documents import step_after_wait
from server.bridge.fields import Limit  # noqa: TC001 - msgspec reads it
from server.bridge.messages import Reply, Request
from server.services.runs import RunQuery

if TYPE_CHECKING:
    from automation.automations import Automation
    from automation.runs import Match
    from server.bridge.services import Services
    from server.services.runs import NamedRun

DEFAULT_LIMIT, MAX_LIMIT = 50, 100
TRIGGER: Final = "trigger"
DEFAULT_REASON: Final = "cancelled_by_api"

Status = Literal["queued", "running", "waiting", "completed", "failed", "cancelled", "skipped"]


class CancelRunBody(Struct):
    """Body of a run's cancellation."""

    reason: str | UnsetType = UNSET


class RunData(Struct, kw_only=True):
    """A run. Times in milliseconds UTC."""

    object: Literal["automation_run"] = "automation_run"
    id: str
    automation_id: str
    status: Status
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
    """A run with what it is about and where its steps stand."""

    trigger_event_id: str
    contact_id: str | None
    step_states: dict[str, Any]


class RunList(Struct, kw_only=True):
    """A page of runs."""

    object: Literal["list"] = "list"
    data: list[RunData]
    has_more: bool


class RunsQuery(Struct):
    """Which runs: with one of these statuses, several with commas between them, behind an id."""

    status: str = ""
    limit: Limit = DEFAULT_LIMIT
    after: str = ""


async def list_runs(services: Services, request: Request) -> Reply:
    """List the runs of an automation, newest first."""
    key, automation_id = request.caller.project_pk, request.params["id"]
    limit = request.number("limit", DEFAULT_LIMIT, MAX_LIMIT)
    query = RunQuery(_statuses(request.query.get("status", "")), automation_id)
    automation = await services.automations.get(key, automation_id)
    page, more = await services.runs.behind(key, query, limit, request.query.get("after", ""))
    return Reply(200, RunList(data=[run_data(each, automation) for each in page], has_more=more))


async def get_run(services: Services, request: Request) -> Reply:
    """Read a run of an automation."""
    return Reply(200, _detailed(*await _of_automation(services, request)))


async def cancel_run(services: Services, request: Request) -> Reply:
    """Cancel a run that is queued or waits."""
    body = Body(request)
    reason = body.text("reason", most=500)
    if unknown := [name for name in body.values if name != "reason"]:
        listed = ", ".join(f'"{name}"' for name in unknown)
        body.form.append(f"Unrecognized key{'s' if len(unknown) > 1 else ''}: {listed}")
    body.check()
    current, automation = await _of_automation(services, request)
    cancelled = await services.runs.cancel(
        request.caller.project_pk, current.run.id, reason or DEFAULT_REASON, "", (RunStatus.QUEUED, RunStatus.WAITING)
    )
    return Reply(200, _detailed(cancelled, automation))


def started_run(match: Match, automation: Automation) -> RunData:
    """Tell of a run that has just been started."""
    at = format_millis(match.matched_at)
    return RunData(
        id=match.run_id,
        automation_id=automation.id,
        status="queued",
        started_at=at,
        completed_at=None,
        duration_ms=None,
        current_step_key=TRIGGER,
        failed_step_key=None,
        failure_reason=None,
        next_step_at=None,
        created_at=at,
        updated_at=at,
    )


def run_data(named: NamedRun, automation: Automation) -> RunData:
    """Return a run of an automation as it is shown."""
    return RunData(**_fields(named, automation))


def _detailed(named: NamedRun, automation: Automation) -> DetailedRun:
    states = named.run.attributes.get("step_states")
    return DetailedRun(
        **_fields(named, automation),
        trigger_event_id=named.event_id,
        contact_id=named.contact_id or None,
        step_states=states if isinstance(states, dict) else {},
    )


def _fields(named: NamedRun, automation: Automation) -> dict[str, Any]:
    run = named.run
    finished = run.finished_at or None
    failed = run.status is not RunStatus.COMPLETED
    return {
        "id": run.id,
        "automation_id": named.automation_id,
        "status": run.status.value,
        "started_at": format_millis(run.created_at),
        "completed_at": None if finished is None else format_millis(finished),
        "duration_ms": None if finished is None else (finished - run.created_at) // 1_000,
        "current_step_key": _current_step(named, automation),
        "failed_step_key": _text(run.attributes.get("failed_step_key")),
        "failure_reason": run.reason or None if failed else None,
        "next_step_at": format_millis(run.wait.timeout_at) if run.wait and run.wait.timeout_at else None,
        "created_at": format_millis(run.created_at),
        "updated_at": format_millis(run.updated_at),
    }


def _current_step(named: NamedRun, automation: Automation) -> str | None:
    """Return the key of the step where a run stands.

    The engine records it when it parks the run. An event that resumes the run moves it to the next step before the
    engine has acted; a timeout leaves it where it is.
    """
    key = _text(named.run.attributes.get("current_step_key", TRIGGER))
    under_way = named.run.status in (RunStatus.QUEUED, RunStatus.RUNNING)
    if key is None or not under_way or named.match_kind is MatchKind.TIMED_OUT:
        return key
    return step_after_wait(automation.attributes, key)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


async def _of_automation(services: Services, request: Request) -> tuple[NamedRun, Automation]:
    """Read the run and the automation that the path names. Raises AutomationNotFound and RunNotFound."""
    key, automation_id = request.caller.project_pk, request.params["id"]
    automation = await services.automations.get(key, automation_id)
    return await services.runs.of_automation(key, automation_id, request.params["run_id"]), automation


def _statuses(text: str) -> tuple[RunStatus, ...]:
    """Read statuses with commas between them. Raises Refused."""
    faults = Faults()
    found: list[RunStatus] = []
    for name in filter(None, (each.strip() for each in text.split(","))):
        try:
            found.append(RunStatus(name))
        except ValueError:
            faults.add("status", f"Invalid option: {name}")
    faults.check()
    return tuple(found)
