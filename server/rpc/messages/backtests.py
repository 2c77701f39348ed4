"""Backtests between their messages and the service's values."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from server.errors import InvalidArgument
from server.rpc.messages.enums import EnumMap
from server.rpc.messages.events import write_violation
from server.rpc.messages.structs import write_struct
from server.rpc.messages.times import read_timestamp
from server.services.backtests import DEFAULT_SAMPLES, BacktestScope, Outcome, Progress, Report
from signalbox.v1 import event_definitions_pb2 as pb

if TYPE_CHECKING:
    from server.services.backtests import Sample

MAX_REPORT_BYTES = 3 * 1024 * 1024
"""Samples beyond it are left out: clients refuse responses larger than 4 MiB by default."""
MAX_SAMPLES = 100
MAX_EVENTS = 2**63 - 1

OUTCOME = EnumMap(pb.BacktestSample.Outcome, "OUTCOME_", Outcome)


def read_scope(request: pb.BacktestSchemaRequest) -> BacktestScope:
    """Read the revision and the events to compare. Raise InvalidArgument."""
    for field, value, most in (
        ("revision", request.revision, 2**31 - 1),
        ("max_events", request.max_events, MAX_EVENTS),
        ("max_samples", request.max_samples, MAX_SAMPLES),
    ):
        if not 0 <= value <= most:
            message = f"{field} is {value}; it must be 0 to {most:,}"
            raise InvalidArgument.at(field, "OUT_OF_RANGE", message)
    return BacktestScope(
        request.revision,
        read_timestamp(request, "received_from"),
        read_timestamp(request, "received_until"),
        request.max_events,
        request.max_samples or DEFAULT_SAMPLES,
    )


async def write_backtest(found: Progress | Report) -> pb.BacktestSchemaResponse:
    """Write the progress or the report of a backtest."""
    if isinstance(found, Progress):
        progress = pb.BacktestProgress(judged_count=found.compared, event_count=found.events)
        return pb.BacktestSchemaResponse(progress=progress)
    return pb.BacktestSchemaResponse(report=await _write_report(found))


async def _write_report(report: Report) -> pb.BacktestReport:
    outcomes = report.outcomes
    message = pb.BacktestReport(
        revision=report.revision,
        event_count=report.events,
        unchanged_count=report.events - outcomes.total(),
        newly_rejected_count=outcomes[Outcome.NEWLY_REJECTED],
        newly_accepted_count=outcomes[Outcome.NEWLY_ACCEPTED],
        differently_coerced_count=outcomes[Outcome.DIFFERENTLY_COERCED],
        reasons=[
            pb.BacktestReason(path=path, reason=reason, event_count=count) for (path, reason), count in report.reasons
        ],
        head_position=report.head,
        unreadable_count=report.unreadable,
        erased_count=report.erased,
    )
    room = MAX_REPORT_BYTES - message.ByteSize()
    for recorded in report.samples:
        sample = _write_sample(recorded)
        size = sample.ByteSize()
        if size <= room:
            message.samples.append(sample)
            room -= size
        # Writing a large one takes as long as several calls of others.
        await asyncio.sleep(0)
    return message


def _write_sample(sample: Sample) -> pb.BacktestSample:
    message = pb.BacktestSample(
        outcome=OUTCOME.write(sample.outcome),
        event_id=sample.event_id,
        position=sample.position,
        revision=sample.revision,
        violations=map(write_violation, sample.violations),
    )
    for properties, into in (
        (sample.sent, message.sent),
        (sample.before, message.before),
        (sample.after, message.after),
    ):
        if properties is not None:
            into.SetInParent()
            write_struct(properties, into)
    return message
