"""Clocks that are wrong: a server's clock an hour forward and back, and two servers whose clocks differ."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from signalbox.v1 import automations_pb2
from tests.siege.report import Report
from tests.siege.stage import empty_database
from tests.support.automations import automate, await_event, get_run
from tests.support.consumers import EARLIEST, pull, seconds, subscribe
from tests.torture.launcher import CLOCK_READS
from tests.torture.nodes import Node

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from tests.siege.stage import Plan
    from tests.support.service import Client

HOUR: Final = 3_600
APART: Final = 60
LEASE_SECONDS: Final = 10.0
EARLY_SECONDS: Final = 2.0
LATE_SECONDS: Final = 13.0
SKEW_SECONDS: Final = 60.0
"""How far from the true time a server may record an event, however wrong its clock was for a while."""


@dataclass(frozen=True)
class _Database:
    """What a node needs to know of its database."""

    url: str


@asynccontextmanager
async def _nodes(plan: Plan, clocks: Sequence[int]) -> AsyncIterator[list[tuple[Node, Client]]]:
    """Start a server for each clock on one database; yield each with a client of one project."""
    async with empty_database(plan) as (url, _), AsyncExitStack() as stack:
        nodes = [Node(_Database(url), plan.folder) for _ in clocks]  # type: ignore[arg-type]
        made: list[tuple[Node, Client]] = []
        for node, clock in zip(nodes, clocks, strict=True):
            stack.push_async_callback(node.kill)
            node.set_clock(clock)
            service = await node.start()
            client = service.client(made[0][1].secret) if made else await service.shop()
            made.append((node, client))
        yield made


async def stepped_clock(plan: Plan) -> Report:
    """Step the clock an hour forward and back, under a lease of ten seconds."""
    report = Report("10a", "the server's clock an hour forward and back, while a match is leased for 10 s")
    async with _nodes(plan, [0]) as [(node, client)]:
        await _lease(client)
        begun = time.monotonic()
        forward = await _skew(node, client, HOUR)
        early = await _redelivered(client, begun + LEASE_SECONDS - EARLY_SECONDS)
        back = await _skew(node, client, 0)
        again = early or await _redelivered(client, begun + LATE_SECONDS)
    report.facts = [
        f"received_at {forward:,.0f} s off while the clock is, {back:,.0f} s afterwards",
        f"the lease ended after {again - begun:.1f} s" if again else "the lease did not end",
    ]
    if early:
        report.misses.append(f"a lease of {LEASE_SECONDS:.0f} s ended after {early - begun:.1f} s")
    if not again:
        report.misses.append(f"a lease of {LEASE_SECONDS:.0f} s had not ended after {LATE_SECONDS:.0f} s")
    if abs(back) > SKEW_SECONDS:
        report.misses.append(f"received_at is {back:,.0f} s off once the clock is right again")
    return report


async def different_clocks(plan: Plan) -> Report:
    """Lease a match and park a run on a server, beside another one whose clock is ahead."""
    report = Report("10b", "two servers with clocks 60 s apart, a match leased and a run parked for 10 s on one")
    if plan.database == "sqlite":
        report.facts.append("only for databases with several servers")
        return report
    async with _nodes(plan, [0, APART]) as [(_, client), (_, ahead)]:
        await _lease(client)
        begun = time.monotonic()
        match = (await client.send()).matches
        run = automations_pb2.Run(id=match[0].run_id) if match else (await _runs(client))
        await await_event(client, run, seconds=LEASE_SECONDS)
        early = await _redelivered(ahead, begun + LEASE_SECONDS - EARLY_SECONDS)
        parked = (await get_run(client, run.id)).status
    if early:
        report.misses.append(f"the other server delivered it again after {early - begun:.1f} s")
    if parked != automations_pb2.RUN_STATUS_WAITING:
        report.misses.append("the wait ended early")
    return report


async def _runs(client: Client) -> automations_pb2.Run:
    return (await client.automations.ListRuns(automations_pb2.ListRunsRequest(page_size=1))).runs[0]


async def _lease(client: Client) -> None:
    """Lease the match at position 1."""
    await automate(client)
    await subscribe(client, start=EARLIEST, ack_deadline=seconds(LEASE_SECONDS))
    await client.send()
    (delivery,) = await pull(client, 1, wait=5)
    assert delivery.match.position == 1


async def _redelivered(client: Client, until: float) -> float:
    """Return when the match at position 1 was delivered again; 0 if it was not before a time."""
    while (left := until - time.monotonic()) > 0:
        if any(delivery.match.position == 1 for delivery in await pull(client, 10, wait=min(left, 1))):
            return time.monotonic()
    return 0.0


async def _skew(node: Node, client: Client, clock: int) -> float:
    """Set a server's clock; return how far from now it records an event."""
    node.set_clock(clock)
    await asyncio.sleep(5 * CLOCK_READS)
    received = (await client.send()).event.received_at
    return received.ToNanoseconds() / 1e9 - time.time()
