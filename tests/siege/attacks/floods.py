"""One tenant that asks for all that there is: streams, batches, scans, and single events."""

from __future__ import annotations

import asyncio
import math
from contextlib import AsyncExitStack
from itertools import count, cycle
from typing import TYPE_CHECKING, Any, ClassVar, Final

import grpc

from signalbox.v1 import event_ingest_pb2 as pb
from signalbox.v1 import projects_pb2
from tests.siege.attacks.attack import Attack
from tests.siege.samples import OK
from tests.siege.target import PAUSE, outcome_of
from tests.support.messages import event, orders
from tests.support.service import connected
from tests.support.wire import call_raw

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.siege.target import Assault
    from tests.support.service import Client

STREAM_BATCH: Final = 100
STREAM_WINDOW: Final = 8
LOGGED: Final = 20_000


async def connected_often(assault: Assault, stack: AsyncExitStack, number: int) -> Iterator[Client]:
    """Connect a number of times, with one key after the other; return the clients, again and again."""
    return cycle([await stack.enter_async_context(assault.client(key)) for key in range(number)])


class Streams(Attack):
    """Streams of batches, each with as many on their way as it may have."""

    what: ClassVar = "64 streams of StreamEvents, 8 batches of 100 on their way on each"

    async def prepare(self, assault: Assault) -> None:
        self._flood = StreamFlood(pb.StreamEventsRequest(events=orders(STREAM_BATCH)).SerializeToString())

    async def run(self, assault: Assault) -> None:
        await self._flood.run(assault, assault.target.sized(64, 8))


class StreamFlood:
    """Sends the same batch on several streams, again and again."""

    def __init__(self, batch: bytes) -> None:
        self._batch = batch

    async def run(self, assault: Assault, streams: int) -> None:
        """Send until the attack is over."""
        async with AsyncExitStack() as stack:
            clients = await connected_often(assault, stack, max(streams // 8, 1))
            await asyncio.gather(*(self._repeat(assault, next(clients)) for _ in range(streams)))

    async def _repeat(self, assault: Assault, client: Client) -> None:
        while not assault.over:
            try:
                async with asyncio.timeout(assault.remaining):
                    await self._stream(assault, client)
            except (TimeoutError, asyncio.InvalidStateError):
                pass  # the time is over, or the stream ended while a batch was on its way
            except grpc.aio.AioRpcError as error:
                assault.answers[outcome_of(error)] += 1
            await asyncio.sleep(PAUSE)

    async def _stream(self, assault: Assault, client: Client) -> None:
        start: Any = client.channel.stream_stream("/signalbox.v1.EventIngest/StreamEvents")
        call = start(metadata=client.metadata)
        try:
            for sequence in count(1):
                # Bytes of messages that follow each other are the bytes of one message with the fields of both.
                await call.write(pb.StreamEventsRequest(sequence=sequence).SerializeToString() + self._batch)
                if sequence > STREAM_WINDOW and not await self._answered(assault, call):
                    return
        finally:
            call.cancel()

    async def _answered(self, assault: Assault, call: Any) -> bool:
        content = await call.read()
        if content is grpc.aio.EOF:
            return False
        answer = pb.StreamEventsResponse.FromString(content)
        assault.answers[answer.error.reason or OK] += 1
        if answer.HasField("error"):
            await asyncio.sleep(PAUSE)
        return True


class Batches(Attack):
    """Batches sent at once."""

    what: ClassVar = "400 calls of SendEvents at once, each of 500 events"

    async def prepare(self, assault: Assault) -> None:
        self._batch = pb.SendEventsRequest(events=orders(500)).SerializeToString()

    async def run(self, assault: Assault) -> None:
        await call_at_once(assault, "EventIngest/SendEvents", self._batch, assault.target.sized(400, 40), 16)


class Singles(Attack):
    """Single events sent at once, as by a client without any patience."""

    what: ClassVar = "3,000 calls of SendEvent in flight, over 32 connections"

    async def prepare(self, assault: Assault) -> None:
        self._event = pb.SendEventRequest(event=event({"order_total": 1})).SerializeToString()

    async def run(self, assault: Assault) -> None:
        await call_at_once(assault, "EventIngest/SendEvent", self._event, assault.target.sized(3_000, 200), 32)


async def call_at_once(
    assault: Assault, method: str, request: bytes, calls: int, channels: int, expected: str = OK
) -> None:
    """Make a call again and again, `calls` at a time; after another outcome than the expected one, rest."""
    async with AsyncExitStack() as stack:
        clients = await connected_often(assault, stack, channels)

        async def call() -> bytes:
            client = next(clients)
            return await call_raw(client.channel, method, request, client.metadata)

        await assault.repeat(calls, call, expected)


class RefusedEvents(Attack):
    """Events that are refused and kept in quarantine, by clients that do not mind: batches, and single events."""

    what: ClassVar = "refused events kept in quarantine: 16 SendEvents of 100 and 200 SendEvent in flight"

    async def prepare(self, assault: Assault) -> None:
        bad = event({"order_total": "a lot"})
        batch = pb.SendEventsRequest(events=[bad] * 100, mode=pb.BATCH_MODE_INDEPENDENT)
        self._batch, self._event = batch.SerializeToString(), pb.SendEventRequest(event=bad).SerializeToString()
        async with connected(assault.target.grpc) as service:
            request = projects_pb2.UpdateProjectRequest(
                project=assault.target.project, refused_events=projects_pb2.REFUSED_EVENTS_QUARANTINE
            )
            await service.client(assault.target.admin).projects.UpdateProject(request)

    async def run(self, assault: Assault) -> None:
        singles = assault.target.sized(200, 16)
        await asyncio.gather(
            call_at_once(assault, "EventIngest/SendEvents", self._batch, assault.target.sized(16, 2), 4),
            call_at_once(assault, "EventIngest/SendEvent", self._event, singles, 8, expected="PAYLOAD_REJECTED"),
        )


class Scans(Attack):
    """Readers of the whole log, page after page, from the beginning again when they reached the end."""

    what: ClassVar = "12 scans of a log of 20,000 events by ListEvents, 1,000 a page"

    async def prepare(self, assault: Assault) -> None:
        async with assault.client() as client:
            for _ in range(math.ceil(assault.target.sized(LOGGED) / 1_000)):
                await assault.prepared(client.send_all(orders(1_000)))

    async def run(self, assault: Assault) -> None:
        async with AsyncExitStack() as stack:
            clients = await connected_often(assault, stack, 4)
            await asyncio.gather(*(self._scan(assault, next(clients)) for _ in range(12)))

    async def _scan(self, assault: Assault, client: Client) -> None:
        token = ""

        async def page() -> None:
            nonlocal token
            request = pb.ListEventsRequest(page_size=1_000, page_token=token, after_position=0)
            content = await call_raw(
                client.channel, "EventIngest/ListEvents", request.SerializeToString(), client.metadata
            )
            token = pb.ListEventsResponse.FromString(content).next_page_token

        await assault.repeat(1, page)
