"""The command `definition backtest`: run a backtest with progress, then show its report."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

import click
import grpc

from server.cli.arguments.enums import Names
from server.cli.arguments.options import option
from server.cli.arguments.schema_options import SchemaOptions, remove_option, schema_options
from server.cli.arguments.value_parsers import WholeNumber
from server.cli.arguments.window_options import since_option, until_option
from server.cli.client.call_failures import failure_of
from server.cli.client.definitions import get_definition
from server.cli.client.session import client_command
from server.cli.errors import CheckCommand, Failure, ServerAway
from server.cli.output.json_text import to_json
from server.cli.output.progress import counting
from server.cli.output.tables import print_fields, print_json, print_table, to_plain
from signalbox.v1 import event_definitions_pb2 as pb

if TYPE_CHECKING:
    from google.protobuf.timestamp_pb2 import Timestamp

    from server.cli.client.session import Session

NEGATIVE = 2
"""Exit code if an event would be newly rejected or differently coerced."""

OUTCOME = Names(pb.BacktestSample.Outcome, "OUTCOME_")

_Call = grpc.aio.UnaryStreamCall[pb.BacktestSchemaRequest, pb.BacktestSchemaResponse]


@click.command(cls=CheckCommand)
@click.argument("name_or_id")
@schema_options
@remove_option
@option(
    "--revision",
    type=WholeNumber(min=1, max=2**31 - 1),
    metavar="N",
    help="Compare with this revision; the latest by default.",
)
@since_option
@until_option
@option("--max-events", type=WholeNumber(min=1, max=2**63 - 1), metavar="N", help="Only the newest N events.")
@option(
    "--samples",
    type=WholeNumber(1, 100),
    metavar="N",
    default=10,
    show_default=True,
    help="Maximum number of samples for each outcome.",
)
@client_command
async def backtest(
    session: Session,
    /,
    name_or_id: str,
    removed: tuple[str, ...],
    received_from: Timestamp | None,
    received_until: Timestamp | None,
    samples: int,
    revision: int | None,
    max_events: int | None,
    **options: Any,
) -> None:
    """Validate the recorded events, as they were sent, against a schema. Takes the options of `update`.

    Changes nothing. Exits with 2 if an event would be newly rejected or differently coerced.
    """
    candidate, _ = await SchemaOptions(**options).next_of(partial(get_definition, session, name_or_id), removed)
    if candidate is None:
        raise click.UsageError("Give the schema with --schema, --property, --remove, --unknown or --coercion.")
    request = pb.BacktestSchemaRequest(
        event_definition=name_or_id,
        schema=candidate,
        revision=revision or 0,
        received_from=received_from,
        received_until=received_until,
        max_events=max_events or 0,
        max_samples=samples,
    )
    call = session.definitions.BacktestSchema(request, metadata=await session.metadata())
    try:
        report = await _report(session, call)
    except grpc.aio.AioRpcError as error:
        raise failure_of(error, session.connection) from error
    finally:
        call.cancel()
    if session.json:
        print_json(to_plain(report))
    else:
        _show(report)
    if report.newly_rejected_count or report.differently_coerced_count:
        raise click.exceptions.Exit(NEGATIVE)


async def _report(session: Session, call: _Call) -> pb.BacktestReport:
    """Show progress and return the report. Raise ServerAway if the server is silent for --timeout seconds."""
    seconds = session.connection.timeout
    with counting("validating events") as shown:
        while True:
            try:
                response = await asyncio.wait_for(call.read(), seconds)
            except TimeoutError:
                message = (
                    f"{session.connection.server} did not answer within {seconds:g} s (give it more with --timeout)"
                )
                raise ServerAway(message) from None
            if not isinstance(response, pb.BacktestSchemaResponse):
                raise Failure(f"{session.connection.server} ended the backtest without a report")
            if response.HasField("report"):
                return response.report
            shown(response.progress.judged_count, response.progress.event_count)


def _show(report: pb.BacktestReport) -> None:
    print_fields(
        (
            ("compared with", f"revision {report.revision}"),
            ("events", f"{report.event_count:,}"),
            ("unchanged", f"{report.unchanged_count:,}"),
            ("newly rejected", f"{report.newly_rejected_count:,}"),
            ("newly accepted", f"{report.newly_accepted_count:,}"),
            ("differently coerced", f"{report.differently_coerced_count:,}"),
            *((("unreadable, skipped", f"{report.unreadable_count:,}"),) if report.unreadable_count else ()),
        )
    )
    if report.reasons:
        click.echo()
        print_table(
            ("REJECTED FOR", "REASON", "EVENTS"),
            [(each.path, each.reason, f"{each.event_count:,}") for each in report.reasons],
        )
    if report.samples:
        click.echo()
        print_table(
            ("OUTCOME", "EVENT", "REVISION", "SENT", "DIFFERENCE"),
            [_sample_row(each) for each in report.samples],
        )


def _sample_row(sample: pb.BacktestSample) -> tuple[str, ...]:
    plain = to_plain(sample)
    difference = "; ".join(f"{violation.path}: {violation.message}" for violation in sample.violations)
    if not difference:
        difference = f"{to_json(plain['before'])} becomes {to_json(plain['after'])}"
    return OUTCOME.name(sample.outcome), sample.event_id, str(sample.revision), to_json(plain["sent"]), difference
