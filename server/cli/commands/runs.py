"""The commands `run`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import click

from server.cli.arguments.enums import RUN_OUTCOME, RUN_STATUS, enum_option, enums_option
from server.cli.arguments.inputs import attributes as json_object
from server.cli.arguments.inputs import duration
from server.cli.arguments.options import etag_option, limit_option, option
from server.cli.client.pagination import listed
from server.cli.client.session import client_command
from server.cli.output.tables import moment, print_fields, print_json, print_table, to_json, to_plain
from signalbox.v1 import automations_pb2 as pb

if TYPE_CHECKING:
    from google.protobuf.duration_pb2 import Duration

    from server.cli.client.session import Session

_attributes_option = option(
    "--attributes", type=json_object, metavar="JSON", help="What the engine keeps with the run, as a JSON object."
)
_match_option = option(
    "--match", "match_id", metavar="ID", default="", help="Refuse if this is not the newest match of the run."
)
_reason_option = option("--reason", metavar="TEXT", default="", help="Why, in words.")


@click.group()
def run() -> None:
    """Look at runs, and move them as an engine does."""


@run.command("list")
@enums_option("--status", "statuses", RUN_STATUS, help="Only runs with this status. Again for each.")
@option("--automation", "automation_id", metavar="ID", default="", help="Only runs of this automation.")
@option("--email", metavar="EMAIL", help="Only runs of the contact with this address.")
@option("--contact-id", metavar="ID", help="Only runs of this contact.")
@limit_option("runs")
@client_command
async def list_(session: Session, /, limit: int, **filters: Any) -> None:
    """List runs, newest first."""
    if filters["email"] is not None and filters["contact_id"] is not None:
        raise click.UsageError("Give --email or --contact-id, not both.")
    runs = await listed(
        partial(session.call, session.automations.ListRuns),
        pb.ListRunsRequest(**filters),
        lambda answer: answer.runs,
        limit,
    )
    if session.json:
        print_json([to_plain(each) for each in runs])
        return
    print_table(
        ("ID", "STATUS", "AUTOMATION", "CONTACT", "UPDATED", "WAITS FOR"),
        [
            (
                each.id,
                RUN_STATUS.name(each.status),
                each.automation_id,
                each.contact_id,
                moment(each.updated_at),
                each.wait.event_name,
            )
            for each in runs
        ],
    )


@run.command()
@click.argument("run_id", metavar="ID")
@client_command
async def show(session: Session, run_id: str) -> None:
    """Show one run."""
    _show(session, (await session.call(session.automations.GetRun, pb.GetRunRequest(id=run_id))).run)


@run.command("await")
@click.argument("run_id", metavar="ID")
@option("--event", "event_name", metavar="EVENT", required=True, help="Name of the event to wait for.")
@option("--condition", metavar="TEXT", default="", help="Which of those events resume the run; any by default.")
@option("--for", "wait_time", type=duration, metavar="TIME", help="How long: 90s, 10m, 2h or 7d; for ever by default.")
@_match_option
@_attributes_option
@client_command
async def await_(session: Session, /, wait_time: Duration | None, **stated: Any) -> None:
    """Park a run until its contact's next event of a name."""
    request = pb.AwaitEventRequest(timeout=wait_time, **stated)
    _show(session, (await session.call(session.automations.AwaitEvent, request)).run)


@run.command()
@click.argument("run_id", metavar="ID")
@enum_option("--outcome", RUN_OUTCOME, default="completed", help="How it ends.")
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


def _show(session: Session, each: pb.Run) -> None:
    if session.json:
        print_json(to_plain(each))
        return
    attributes = to_plain(each)["attributes"]
    print_fields(
        (
            ("id", each.id),
            ("status", RUN_STATUS.name(each.status)),
            ("automation", each.automation_id),
            ("contact", each.contact_id),
            ("event", each.event_id),
            ("newest match", each.match_id),
            ("waits for", each.wait.event_name),
            ("condition", each.wait.condition),
            ("behind position", str(each.wait.from_position) if each.HasField("wait") else ""),
            ("times out", moment(each.wait.timeout_at)),
            ("reason", each.reason),
            ("attributes", to_json(attributes) if attributes else ""),
            ("created", moment(each.created_at)),
            ("updated", moment(each.updated_at)),
            ("finished", moment(each.finished_at)),
            ("etag", each.etag),
        )
    )
