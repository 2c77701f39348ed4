"""The commands `run`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import click

from server.cli.arguments.enums import RUN_OUTCOME, RUN_STATUS, enum_option, enums_option
from server.cli.arguments.message_parsers import attributes as json_object
from server.cli.arguments.message_parsers import duration
from server.cli.arguments.options import etag_option, limit_option, option
from server.cli.arguments.value_parsers import automation_id
from server.cli.client.pagination import list_all
from server.cli.client.session import client_command
from server.cli.output.json_text import to_json
from server.cli.output.tables import moment, to_plain
from server.cli.output.views import show_list, show_one
from signalbox.v1 import automations_pb2 as pb

if TYPE_CHECKING:
    from google.protobuf.duration_pb2 import Duration

    from server.cli.client.session import Session

_attributes_option = option(
    "--attributes",
    type=json_object,
    metavar="JSON",
    help="Attributes that the engine stores with the run, a JSON object.",
)
_match_option = option(
    "--match", "match_id", metavar="ID", default="", help="Fail if this is not the newest match of the run."
)
_reason_option = option("--reason", metavar="TEXT", default="", help="The reason, as text.")


@click.group()
def run() -> None:
    """Inspect runs, and advance them as an engine does."""


@run.command("list")
@enums_option("--status", "statuses", RUN_STATUS, help="Only runs with this status. (repeatable)")
@option("--automation", "automation_id", type=automation_id, metavar="ID", help="Only runs of this automation.")
@option("--email", metavar="EMAIL", help="Only runs of the contact with this address.")
@option("--contact-id", metavar="ID", help="Only runs of this contact.")
@limit_option("runs")
@client_command
async def list_(session: Session, /, limit: int, **filters: Any) -> None:
    """List runs, newest first."""
    if filters["email"] is not None and filters["contact_id"] is not None:
        raise click.UsageError("Give --email or --contact-id, not both.")
    runs = await list_all(
        partial(session.call, session.automations.ListRuns),
        pb.ListRunsRequest(**filters),
        lambda response: response.runs,
        limit,
    )
    header = ("ID", "STATUS", "AUTOMATION", "CONTACT", "UPDATED", "WAITS FOR")
    show_list(runs, header, _row, as_json=session.json)


@run.command()
@click.argument("run_id", metavar="ID")
@client_command
async def show(session: Session, run_id: str) -> None:
    """Show one run."""
    _show(session, (await session.call(session.automations.GetRun, pb.GetRunRequest(id=run_id))).run)


@run.command("await")
@click.argument("run_id", metavar="ID")
@option("--event", "event_name", metavar="EVENT", required=True, help="Name of the event to wait for.")
@option(
    "--condition",
    metavar="TEXT",
    default="",
    help="Condition that such an event must meet; by default any event resumes the run.",
)
@option(
    "--for",
    "wait_time",
    type=duration,
    metavar="TIME",
    help="How long to wait: 90s, 10m, 2h or 7d; without a limit by default.",
)
@_match_option
@_attributes_option
@client_command
async def await_(session: Session, /, wait_time: Duration | None, **stated: Any) -> None:
    """Suspend a run until the next event of this name for its contact."""
    request = pb.AwaitEventRequest(timeout=wait_time, **stated)
    _show(session, (await session.call(session.automations.AwaitEvent, request)).run)


@run.command()
@click.argument("run_id", metavar="ID")
@enum_option("--outcome", RUN_OUTCOME, default="completed", help="Outcome of the run.")
@_reason_option
@_match_option
@_attributes_option
@client_command
async def complete(session: Session, /, **stated: Any) -> None:
    """End a run."""
    request = pb.CompleteRunRequest(**stated)
    _show(session, (await session.call(session.automations.CompleteRun, request)).run)


@run.command()
@click.argument("run_id", metavar="ID")
@_reason_option
@etag_option
@client_command
async def cancel(session: Session, /, **stated: Any) -> None:
    """Cancel a run that has not ended."""
    request = pb.CancelRunRequest(**stated)
    _show(session, (await session.call(session.automations.CancelRun, request)).run)


def _show(session: Session, run: pb.Run) -> None:
    show_one(run, _fields, as_json=session.json)


def _row(run: pb.Run) -> tuple[str, ...]:
    return (
        run.id,
        RUN_STATUS.name(run.status),
        run.automation_id,
        run.contact_id,
        moment(run.updated_at),
        run.wait.event_name,
    )


def _fields(run: pb.Run) -> tuple[tuple[str, str], ...]:
    attributes = to_plain(run)["attributes"]
    return (
        ("id", run.id),
        ("status", RUN_STATUS.name(run.status)),
        ("automation", run.automation_id),
        ("contact", run.contact_id),
        ("event", run.event_id),
        ("newest match", run.match_id),
        ("waits for", run.wait.event_name),
        ("condition", run.wait.condition),
        ("after position", str(run.wait.from_position) if run.HasField("wait") else ""),
        ("times out", moment(run.wait.timeout_at)),
        ("reason", run.reason),
        ("attributes", to_json(attributes) if attributes else ""),
        ("created", moment(run.created_at)),
        ("updated", moment(run.updated_at)),
        ("finished", moment(run.finished_at)),
        ("etag", run.etag),
    )
