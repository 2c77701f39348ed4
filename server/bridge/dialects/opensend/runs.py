"""OpenSend's endpoints for runs.

An engine executes the steps of a run and stores their progress in the run's attributes, which are shown here:
`current_step_key`, `failed_step_key` and `step_states`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from automation.matches import MatchKind
from automation.runs import RunStatus
from registry.times.timestamps import format_millis
from server.bridge.dialects.opensend import automation_bodies as bodies
from server.bridge.dialects.opensend.documents import step_after_wait
from server.bridge.dialects.opensend.validation import BodyReader, Violations
from server.bridge.messages import Request, Response
from server.services.runs import RunQuery

if TYPE_CHECKING:
    from automation.automations import Automation
    from automation.matches import Match
    from server.bridge.operations import Services
    from server.services.runs import RunView

TRIGGER: Final = "trigger"
DEFAULT_REASON: Final = "cancelled_by_api"


async def list_runs(services: Services, request: Request) -> Response:
    """List the runs of an automation, newest first."""
    key, automation_id = request.caller.project_pk, request.params["id"]
    limit = request.number("limit", bodies.RUNS_LIMIT, bodies.MAX_LIMIT)
    query = RunQuery(_statuses(request.query.get("status", "")), automation_id)
    automation = await services.automations.get(key, automation_id)
    page, more = await services.runs.list_after(key, query, limit, request.query.get("after", ""))
    return Response(200, bodies.RunList(data=[run_data(run, automation) for run in page], has_more=more))


async def get_run(services: Services, request: Request) -> Response:
    """Return a run of an automation."""
    return Response(200, _detailed(*await _of_automation(services, request)))


async def cancel_run(services: Services, request: Request) -> Response:
    """Cancel a queued or waiting run."""
    body = BodyReader(request)
    reason = body.text("reason", most=500)
    if unknown := [name for name in body.values if name != "reason"]:
        listed = ", ".join(f'"{name}"' for name in unknown)
        body.form.append(f"Unrecognized key{'s' if len(unknown) > 1 else ''}: {listed}")
    body.check()
    current, automation = await _of_automation(services, request)
    cancelled = await services.runs.cancel(
        request.caller.project_pk, current.run.id, reason or DEFAULT_REASON, "", (RunStatus.QUEUED, RunStatus.WAITING)
    )
    return Response(200, _detailed(cancelled, automation))


def started_run(match: Match, automation: Automation) -> bodies.RunData:
    """Return a run that an event has just started."""
    at = format_millis(match.matched_at)
    return bodies.RunData(
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


def run_data(named: RunView, automation: Automation) -> bodies.RunData:
    """Return a run of an automation in OpenSend's form."""
    return bodies.RunData(**_fields(named, automation))


def _detailed(named: RunView, automation: Automation) -> bodies.DetailedRun:
    states = named.run.attributes.get("step_states")
    return bodies.DetailedRun(
        **_fields(named, automation),
        trigger_event_id=named.event_id,
        contact_id=named.contact_id or None,
        step_states=states if isinstance(states, dict) else {},
    )


def _fields(named: RunView, automation: Automation) -> dict[str, Any]:
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


def _current_step(named: RunView, automation: Automation) -> str | None:
    """Return the key of the current step of a run.

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


async def _of_automation(services: Services, request: Request) -> tuple[RunView, Automation]:
    """Return the run and the automation that the path names. Raise AutomationNotFound and RunNotFound."""
    key, automation_id = request.caller.project_pk, request.params["id"]
    automation = await services.automations.get(key, automation_id)
    return await services.runs.get_of_automation(key, automation_id, request.params["run_id"]), automation


def _statuses(text: str) -> tuple[RunStatus, ...]:
    """Return the statuses of a comma-separated list. Raise InvalidBody."""
    violations = Violations()
    statuses: list[RunStatus] = []
    for name in filter(None, (part.strip() for part in text.split(","))):
        try:
            statuses.append(RunStatus(name))
        except ValueError:
            violations.add("status", f"Invalid option: {name}")
    violations.check()
    return tuple(statuses)
