"""What the clients of peers share: sends at a fixed rate or with a number in flight, and the figures of both."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import islice
from time import perf_counter
from typing import TypeAlias

from bench.data import event_inputs, matching_events
from bench.lag import Times

Send: TypeAlias = Callable[[bytes], Awaitable[object]]
"""Sends an event and returns when it is acknowledged."""

IN_FLIGHT = 64
LIMIT_SECONDS = 60
NUMBER_BYTES = 4


def payloads(count: int) -> list[bytes]:
    """Return the events as bytes, each with its number in front."""
    events = islice(matching_events(count), count)
    return [number.to_bytes(NUMBER_BYTES, "big") + event.SerializeToString() for number, event in enumerate(events)]


async def saturate(send: Send, seconds: float, in_flight: int = IN_FLIGHT) -> dict[str, float]:
    """Send for a time with a number of events in flight. Return how many were acknowledged, and the seconds."""
    bodies = [event.SerializeToString() for event, _ in event_inputs(1_000)]
    began = perf_counter()
    acknowledged = 0

    async def sender(first: int) -> None:
        nonlocal acknowledged
        number = first
        while perf_counter() - began < seconds:
            await send(bodies[number % len(bodies)])
            acknowledged += 1
            number += in_flight

    await asyncio.gather(*(sender(first) for first in range(in_flight)))
    return {"events": acknowledged, "seconds": perf_counter() - began}


class Arrivals:
    """When the events of a run were due, accepted and delivered."""

    def __init__(self, rate: float, seconds: float) -> None:
        self.payloads = payloads(round(rate * seconds))
        count = len(self.payloads)
        start = perf_counter() + 0.05
        self.times = Times([start + number / rate for number in range(count)], [0.0] * count, [0.0] * count)
        self._missing = count
        self._all = asyncio.Event()

    def delivered(self, payload: bytes) -> None:
        """Note that an event has arrived."""
        self.times.delivered[int.from_bytes(payload[:NUMBER_BYTES], "big")] = perf_counter()
        self._missing -= 1
        if not self._missing:
            self._all.set()

    async def run(self, send: Send) -> dict[str, float]:
        """Send each event when it is due, and wait until all are accepted and delivered. Return the percentiles."""

        async def one(number: int, payload: bytes) -> None:
            await send(payload)
            self.times.accepted[number] = perf_counter()

        async with asyncio.timeout(LIMIT_SECONDS), asyncio.TaskGroup() as sending:
            for number, payload in enumerate(self.payloads):
                await asyncio.sleep(max(0.0, self.times.due[number] - perf_counter()))
                sending.create_task(one(number, payload))
            await self._all.wait()
        return self.times.figures(received=True)
