"""Sends batches and streams to a server: `python -m bench.load batches|stream ADDRESS SECONDS`.

Requests are serialized once. Every answer is read and must hold a receipt for every event, else the run fails.
Prints `{"events": ..., "seconds": ...}`.
"""

from __future__ import annotations

import asyncio
import json
import sys
from time import perf_counter
from typing import TYPE_CHECKING, Any

import grpc
import uvloop

from bench.messages import (
    BATCH,
    SEND_EVENTS,
    STREAM_BATCH,
    STREAM_EVENTS,
    send_events_request,
    stream_events_request,
)
from server.demo import SECRET
from signalbox.v1 import event_ingest_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

CALLERS = 4
"""Calls of SendEvents in flight: while one is committed, the next is read."""

STREAM_WINDOW = 16
"""Messages of the stream in flight."""

METADATA = (("authorization", f"Bearer {SECRET}"),)
OPTIONS = (("grpc.max_receive_message_length", 16 * 1024 * 1024),)


class Refused(Exception):
    """The server rejected the events."""


def check(results: Sequence[pb.EventResult], size: int) -> None:
    """Raise Refused unless there are `size` results and all are receipts."""
    if len(results) != size or not all(result.HasField("receipt") for result in results):
        raise Refused(f"{size} events were sent; the answer is {str(results)[:500]}")


async def send_batches(channel: grpc.aio.Channel, until: float) -> int:
    """Send batches from all callers until `until`. Return the number of recorded events."""
    request = send_events_request()
    call: Any = channel.unary_unary(SEND_EVENTS, response_deserializer=pb.SendEventsResponse.FromString)

    async def send() -> int:
        events = 0
        while perf_counter() < until:
            check((await call(request, metadata=METADATA)).results, BATCH)
            events += BATCH
        return events

    return sum(await asyncio.gather(*(send() for _ in range(CALLERS))))


async def send_stream(channel: grpc.aio.Channel, until: float) -> int:
    """Send one stream until a time. Returns how many events were recorded."""
    request = stream_events_request()
    window = asyncio.Semaphore(STREAM_WINDOW)

    async def messages() -> AsyncIterator[bytes]:
        sequence = 0
        while perf_counter() < until:
            await window.acquire()
            sequence += 1
            yield request + pb.StreamEventsRequest(sequence=sequence).SerializeToString()

    call: Any = channel.stream_stream(STREAM_EVENTS, response_deserializer=pb.StreamEventsResponse.FromString)
    answered = 0
    async for answer in call(messages(), metadata=METADATA):
        answered += 1
        if answer.sequence != answered:
            raise Refused(f"answer {answered} is to message {answer.sequence}: {answer.error.message}")
        check(answer.results, STREAM_BATCH)
        window.release()
    return answered * STREAM_BATCH


async def main(kind: str, address: str, seconds: float) -> None:
    send = {"batches": send_batches, "stream": send_stream}[kind]
    async with grpc.aio.insecure_channel(address, options=OPTIONS) as channel:
        await channel.channel_ready()
        start = perf_counter()
        events = await send(channel, start + seconds)
        print(json.dumps({"events": events, "seconds": perf_counter() - start}))


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], sys.argv[2], float(sys.argv[3])))
