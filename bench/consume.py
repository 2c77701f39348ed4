"""Consumes matches and acknowledges them: `python -m bench.consume ADDRESS KEY SUBSCRIPTION COUNT WINDOW CONSUMERS`.

All consumers are clients of grpc.aio in this process; each acknowledges a batch as soon as it has read it. They end
when `COUNT` acknowledgements were confirmed. Prints `{"events": ..., "seconds": ...}`.
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, Any

import grpc
import uvloop

from signalbox.v1 import match_stream_pb2 as pb
from signalbox.v1.match_stream_pb2_grpc import MatchStreamStub

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LIMIT_SECONDS = 60


@dataclass
class Consumers:
    """The consumers of a subscription, and what they have acknowledged together."""

    stub: Any
    key: str
    subscription: str
    count: int
    window: int
    acknowledged: int = 0
    done: asyncio.Event = field(default_factory=asyncio.Event)

    async def consume(self) -> None:
        """Consume until all matches are acknowledged."""
        requests: asyncio.Queue[pb.ConsumeMatchesRequest | None] = asyncio.Queue()
        opening = pb.OpenConsumer(subscription=self.subscription, max_outstanding=self.window)
        requests.put_nowait(pb.ConsumeMatchesRequest(open=opening))
        call = self.stub.ConsumeMatches(self._outgoing(requests), metadata=(("authorization", f"Bearer {self.key}"),))
        reading = asyncio.create_task(self._read(call, requests))
        await self.done.wait()
        requests.put_nowait(None)
        await reading

    async def _read(self, call: Any, requests: asyncio.Queue[pb.ConsumeMatchesRequest | None]) -> None:
        sequence = 0
        async for response in call:
            ids = [delivery.delivery_id for delivery in response.deliveries.deliveries]
            if ids:
                sequence += 1
                ack = pb.AckDeliveries(delivery_ids=ids)
                requests.put_nowait(pb.ConsumeMatchesRequest(sequence=sequence, ack=ack))
            for result in response.results.results:
                self.acknowledged += result.outcome == pb.DELIVERY_OUTCOME_ACKNOWLEDGED
            if self.acknowledged >= self.count:
                self.done.set()

    async def _outgoing(
        self, requests: asyncio.Queue[pb.ConsumeMatchesRequest | None]
    ) -> AsyncIterator[pb.ConsumeMatchesRequest]:
        while (request := await requests.get()) is not None:
            yield request


async def main(address: str, key: str, subscription: str, count: int, window: int, consumers: int) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        await channel.channel_ready()
        stub: Any = MatchStreamStub
        shared = Consumers(stub(channel), key, subscription, count, window)
        began = perf_counter()
        running = [asyncio.create_task(shared.consume()) for _ in range(consumers)]
        # A stream that fails ends the wait as well, by its exception.
        waiting = asyncio.create_task(shared.done.wait())
        async with asyncio.timeout(LIMIT_SECONDS):
            await asyncio.wait([waiting, *running], return_when=asyncio.FIRST_COMPLETED)
            seconds = perf_counter() - began
            await asyncio.gather(*running)
        print(json.dumps({"events": shared.acknowledged, "seconds": seconds}))


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]), int(sys.argv[6])))
