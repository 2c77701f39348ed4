"""More work than there is capacity for, from one tenant, at a steady rate that does not wait for answers."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, ClassVar, Final

from signalbox.v1 import event_ingest_pb2 as pb
from tests.siege.attacks.attack import Attack
from tests.siege.attacks.floods import connected_often
from tests.siege.memory import processor_seconds
from tests.siege.samples import OK
from tests.siege.target import Assault
from tests.support.messages import orders
from tests.support.wire import call_raw

if TYPE_CHECKING:
    from tests.support.service import Client

BATCH: Final = 100
SENDERS: Final = 32
CONNECTIONS: Final = 8
MEASURED_SECONDS: Final = 6.0
TIMES: Final = 3.0
WANTED_SHARE: Final = 0.8
TICK_SECONDS: Final = 0.01
IN_FLIGHT: Final = 2_000
"""The generator is one process: beyond this many calls on their way it leaves out what would be due."""


class Overload(Attack):
    """Measures the capacity with senders that wait for answers, then sends a multiple of it.

    The capacity that counts is measured beside the neighbour and the probe: while others send, commits are short.
    """

    what: ClassVar = "SendEvents of 100 events at three times the rate that 32 senders reach"
    has_floor: ClassVar = False

    async def prepare(self, assault: Assault) -> None:
        self._batch = pb.SendEventsRequest(events=orders(BATCH)).SerializeToString()
        self._alone = await self._measured(assault, "capacity alone")

    async def _measured(self, assault: Assault, what: str) -> float:
        """Return how many batches a second are stored for senders that wait for answers."""
        used = processor_seconds(assault.target.process)
        measured = Assault(assault.target, time.monotonic() + MEASURED_SECONDS)
        async with AsyncExitStack() as stack:
            clients = await connected_often(measured, stack, CONNECTIONS)
            await measured.repeat(SENDERS, lambda: self._call(next(clients)))
        rate = measured.answers[OK] / MEASURED_SECONDS
        cores = (processor_seconds(assault.target.process) - used) / MEASURED_SECONDS
        assault.facts.append(f"{what} {rate * BATCH:,.0f} events a second with {cores:.2f} cores")
        return rate

    async def _call(self, client: Client) -> None:
        await call_raw(client.channel, "EventIngest/SendEvents", self._batch, client.metadata)

    async def run(self, assault: Assault) -> None:
        self._rate = await self._measured(assault, "beside the neighbour")
        assault.until += MEASURED_SECONDS
        begun, due, left_out = time.monotonic(), 0, 0
        used = processor_seconds(assault.target.process)
        calls: set[asyncio.Task[str]] = set()
        async with AsyncExitStack() as stack:
            clients = await connected_often(assault, stack, CONNECTIONS)
            while not assault.over:
                late = round((time.monotonic() - begun) * self._rate * TIMES) - due
                due += late
                for _ in range(late):
                    if len(calls) >= IN_FLIGHT:
                        left_out += 1
                        continue
                    call = asyncio.create_task(assault.made(self._call(next(clients))))
                    calls.add(call)
                    call.add_done_callback(calls.discard)
                await asyncio.sleep(TICK_SECONDS)
            seconds = time.monotonic() - begun
            cores = (processor_seconds(assault.target.process) - used) / seconds
            assault.facts.append(f"{cores:.2f} cores under the overload")
            await asyncio.gather(*calls)
        self._check(assault, seconds, due, left_out)

    def _check(self, assault: Assault, seconds: float, due: int, left_out: int) -> None:
        accepted = assault.answers[OK] / seconds
        assault.facts += [
            f"{due * BATCH / seconds:,.0f} a second were due, {left_out * BATCH / seconds:,.0f} of them not sent",
            f"{accepted * BATCH:,.0f} a second accepted",
            f"that is {accepted / self._rate:.2f} of the capacity, and {accepted / self._alone:.2f} of that alone",
        ]
        if accepted < WANTED_SHARE * self._rate:
            assault.misses.append(f"accepted {accepted / self._rate:.2f} of the capacity, wanted {WANTED_SHARE}")
