"""Compares reads and deliveries of two checkouts: `python -m bench.reads CHECKOUT`. See bench/README.md.

Each checkout, this one and the other, runs a server of its own. Both run in the environment of this command.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any

import grpc
import uvloop

from bench.data import SEND_EVENTS, batch_requests
from bench.harness import machine, progress
from bench.results import Failed, Ratio, Result
from bench.subjects import METADATA, ROOT, signalbox
from signalbox.v1 import event_ingest_pb2, match_stream_pb2
from signalbox.v1.event_ingest_pb2_grpc import EventIngestStub
from signalbox.v1.match_stream_pb2_grpc import MatchStreamStub

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

SUBSCRIPTION = "bench"
GETS, PAGES, BATCHES = 60, 20, 20
REQUESTS = list(islice(batch_requests(), BATCHES))
MATCHES = sum(request.matches for request in REQUESTS)
PAGE = 50

HERE, OTHER = "", "other checkout"
MEASURED = {
    "GetEvent": 1 / 1.3,
    "ListEvents of 50": 1 / 1.3,
    "GetSubscription": None,
    "ConsumeMatches": 0.95,
}
"""The measurements, each with its required ratio: of calls a second, 1 / p50, and of acknowledged deliveries."""


def title(name: str, side: str) -> str:
    """Return the title of a measurement on one side."""
    return f"{name}, {side}" if side else name


RATIOS = [Ratio(title(name, HERE), title(name, OTHER), wanted) for name, wanted in MEASURED.items()]


@dataclass
class Side:
    """A server of one checkout, and the channel to it."""

    name: str
    channel: grpc.aio.Channel
    events: EventIngestStub = field(init=False)
    matches: MatchStreamStub = field(init=False)

    def __post_init__(self) -> None:
        stub: Any = EventIngestStub
        self.events = stub(self.channel)
        stub = MatchStreamStub
        self.matches = stub(self.channel)

    async def prepare(self) -> None:
        """Create the subscription, and record events that match."""
        subscription = match_stream_pb2.Subscription(name=SUBSCRIPTION)
        request: Any = match_stream_pb2.CreateSubscriptionRequest(subscription=subscription)
        call: Any = self.matches.CreateSubscription
        await call(request, metadata=METADATA, timeout=60)
        for _ in range(5):
            await self.send()
            await self.consume(MATCHES)

    async def send(self) -> None:
        """Record matches for one round."""
        call: Any = self.channel.unary_unary(
            SEND_EVENTS, response_deserializer=event_ingest_pb2.SendEventsResponse.FromString
        )
        for request in REQUESTS:
            await call(request.body, metadata=METADATA, timeout=60)

    async def get(self, event_id: str) -> None:
        call: Any = self.events.GetEvent
        await call(event_ingest_pb2.GetEventRequest(id=event_id), metadata=METADATA)

    async def page(self) -> event_ingest_pb2.ListEventsResponse:
        call: Any = self.events.ListEvents
        response: event_ingest_pb2.ListEventsResponse = await call(
            event_ingest_pb2.ListEventsRequest(page_size=PAGE), metadata=METADATA
        )
        return response

    async def subscription(self) -> None:
        call: Any = self.matches.GetSubscription
        await call(match_stream_pb2.GetSubscriptionRequest(subscription=SUBSCRIPTION), metadata=METADATA)

    async def consume(self, count: int) -> float:
        """Consume and acknowledge matches. Return the number of seconds."""
        requests: asyncio.Queue[match_stream_pb2.ConsumeMatchesRequest | None] = asyncio.Queue()
        opening = match_stream_pb2.OpenConsumer(subscription=SUBSCRIPTION)
        requests.put_nowait(match_stream_pb2.ConsumeMatchesRequest(open=opening))

        async def outgoing() -> AsyncIterator[match_stream_pb2.ConsumeMatchesRequest]:
            while (request := await requests.get()) is not None:
                yield request

        call: Any = self.matches.ConsumeMatches
        began = perf_counter()
        sequence = acknowledged = 0
        async for response in call(outgoing(), metadata=METADATA):
            if ids := [delivery.delivery_id for delivery in response.deliveries.deliveries]:
                sequence += 1
                ack = match_stream_pb2.AckDeliveries(delivery_ids=ids)
                requests.put_nowait(match_stream_pb2.ConsumeMatchesRequest(sequence=sequence, ack=ack))
            acknowledged += len(response.results.results)
            if acknowledged >= count:
                seconds = perf_counter() - began
                requests.put_nowait(None)
        if acknowledged != count:
            raise Failed(f"{acknowledged} deliveries were acknowledged instead of {count}")
        return seconds


async def p50(call: Callable[[], Awaitable[Any]], calls: int) -> float:
    """Return the median time of calls that are made one after the other, in seconds."""
    times = []
    for _ in range(calls):
        began = perf_counter()
        await call()
        times.append(perf_counter() - began)
    return median(times)


async def measure_round(sides: list[Side], rates: dict[str, list[float]]) -> None:
    """Measure each thing on one side right after the other."""

    def note(name: str, side: Side, rate: float) -> None:
        rates.setdefault(title(name, side.name), []).append(rate)

    for side in sides:
        event_id = (await side.page()).events[-1].id
        note("GetEvent", side, 1 / await p50(lambda side=side, wanted=event_id: side.get(wanted), GETS))  # type: ignore[misc]
    for side in sides:
        note(f"ListEvents of {PAGE}", side, 1 / await p50(side.page, PAGES))
    for side in sides:
        note("GetSubscription", side, 1 / await p50(side.subscription, GETS))
    for side in sides:
        await side.send()
    for side in sides:
        note("ConsumeMatches", side, MATCHES / await side.consume(MATCHES))


async def measure(addresses: list[str], rounds: int) -> dict[str, list[float]]:
    """Measure both servers by turns."""
    here, other = addresses
    rates: dict[str, list[float]] = {}
    async with grpc.aio.insecure_channel(here) as one, grpc.aio.insecure_channel(other) as two:
        sides = [Side(HERE, one), Side(OTHER, two)]
        for side in sides:
            await side.prepare()
        for number in range(rounds):
            progress(f"round {number + 1} of {rounds}")
            await measure_round(sides[:: -1 if number % 2 else 1], rates)
    progress("")
    return {title(name, side): rates[title(name, side)] for name in MEASURED for side in (HERE, OTHER)}


def main() -> None:
    """Run both servers, measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkout", type=Path, help="a checkout to compare with, such as a git worktree")
    parser.add_argument("--rounds", type=int, default=21, help="rounds (21)")
    parser.add_argument("--require", action="store_true", help="fail if a ratio is lower than wanted")
    arguments = parser.parse_args()
    print(machine(), end="\n\n", flush=True)
    with ExitStack() as stack:
        addresses = []
        for checkout in (ROOT, arguments.checkout.resolve()):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="signalbox-bench-")))
            addresses.append(stack.enter_context(signalbox(folder, checkout=checkout)).grpc)
        try:
            rates = uvloop.run(measure(addresses, arguments.rounds))
        except (Failed, grpc.RpcError) as error:
            sys.exit(f"The benchmark failed: {error}")
    result = Result("Reads and deliveries", "a second", rates, RATIOS)
    print(result.table())
    if arguments.require and (missed := result.missed()):
        sys.exit("\n".join(missed))


if __name__ == "__main__":
    main()
