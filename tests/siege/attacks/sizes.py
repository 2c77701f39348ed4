"""Calls that are each as large as they may be."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, ClassVar, Final

from signalbox.v1 import automations_pb2, event_definitions_pb2, projects_pb2
from signalbox.v1 import event_ingest_pb2 as pb
from tests.siege.attacks.attack import Attack
from tests.siege.attacks.floods import StreamFlood, call_at_once
from tests.siege.samples import UNANSWERED
from tests.siege.target import open_connection
from tests.support.messages import ADA, ALL_OR_NOTHING, ANYTHING, ORDER, event, orders, schema
from tests.support.service import connected

if TYPE_CHECKING:
    from collections.abc import Sequence

    from google.protobuf.message import Message

    from tests.siege.target import Assault

MESSAGE_BYTES: Final = 15 * 1024 * 1024


class Patterns(Attack):
    """A condition with very many patterns, tested over a long text."""

    what: ClassVar = "TestCondition with 200 patterns over a text of 200 KB, 4 at a time"

    async def prepare(self, assault: Assault) -> None:
        patterns = (f'properties.a.matches("[a-q]{{9}}x{{{number}}}y")' for number in range(1, 201))
        condition = " || ".join(patterns)
        request = automations_pb2.TestConditionRequest(
            condition=condition, event=event({"a": "abcdefghxx" * 20_000}, name="never_defined")
        )
        self._request = request.SerializeToString()

    async def run(self, assault: Assault) -> None:
        await call_at_once(assault, "Automations/TestCondition", self._request, 4, 1)


async def values_batch(assault: Assault, batch: type[pb.SendEventsRequest | pb.StreamEventsRequest]) -> bytes:
    """Define an event, and return a batch of the largest size with such events."""
    async with assault.client() as client:
        await client.define("values", ANYTHING)
    sent = event({"items": list(range(9_990))}, name="values")
    size = assault.target.sized(MESSAGE_BYTES, sent.ByteSize())
    return batch(events=[sent] * (size // sent.ByteSize())).SerializeToString()


class LargeMessages(Attack):
    """Messages of the largest size, with as many values as fit into them."""

    what: ClassVar = "SendEvents of 15 MiB of values, 40 in flight"

    async def prepare(self, assault: Assault) -> None:
        self._batch = await values_batch(assault, pb.SendEventsRequest)

    async def run(self, assault: Assault) -> None:
        await call_at_once(assault, "EventIngest/SendEvents", self._batch, assault.target.sized(40, 4), 8)


class LargeRequests(Attack):
    """Messages of the largest size to methods that have no use for it."""

    what: ClassVar = "CreateEventDefinition, TestCondition and BacktestSchema of 15 MiB, 40 in flight"

    async def prepare(self, assault: Assault) -> None:
        size = assault.target.sized(MESSAGE_BYTES)
        declared = schema(**{f"p{number}": "number" for number in range(size // 20)})
        definition = event_definitions_pb2.EventDefinition(name="large", schema=declared)
        sent = event({"items": list(range(size // 11))}, name="values")
        self._requests: Sequence[tuple[str, Message]] = (
            (
                "EventDefinitions/CreateEventDefinition",
                event_definitions_pb2.CreateEventDefinitionRequest(event_definition=definition),
            ),
            ("Automations/TestCondition", automations_pb2.TestConditionRequest(condition="true", event=sent)),
            (
                "EventDefinitions/BacktestSchema",
                event_definitions_pb2.BacktestSchemaRequest(event_definition=ORDER, schema=declared),
            ),
        )

    async def run(self, assault: Assault) -> None:
        calls = assault.target.sized(40, 4) // len(self._requests) + 1
        await asyncio.gather(
            *(
                call_at_once(assault, method, request.SerializeToString(), calls, 4)
                for method, request in self._requests
            )
        )


class LargeStreams(Attack):
    """Streams of messages of the largest size."""

    what: ClassVar = "16 streams of StreamEvents, 8 messages of 15 MiB of values on their way on each"

    async def prepare(self, assault: Assault) -> None:
        self._flood = StreamFlood(await values_batch(assault, pb.StreamEventsRequest))

    async def run(self, assault: Assault) -> None:
        await self._flood.run(assault, assault.target.sized(16, 2))


class AllOrNothing(Attack):
    """Batches of the largest count, each in one transaction."""

    what: ClassVar = "SendEvents of 10,000 events, all or nothing, 2 at a time"

    async def prepare(self, assault: Assault) -> None:
        request = pb.SendEventsRequest(events=orders(assault.target.sized(10_000)), mode=ALL_OR_NOTHING)
        self._batch = request.SerializeToString()

    async def run(self, assault: Assault) -> None:
        await call_at_once(assault, "EventIngest/SendEvents", self._batch, 2, 1)


class LargeBodies(Attack):
    """Bodies of the bridge of the largest size."""

    what: ClassVar = "REST events of 1 MiB over 40 connections"
    has_floor: ClassVar = False

    async def prepare(self, assault: Assault) -> None:
        async with connected(assault.target.grpc) as service:
            self._secret = await service.secret(assault.target.project, projects_pb2.DIALECT_AUTOSEND)
        items = list(range(assault.target.sized(140_000)))
        content = json.dumps({"name": "values", "email": ADA, "properties": {"items": items}}, separators=(",", ":"))
        self._body = content.encode()

    async def run(self, assault: Assault) -> None:
        await asyncio.gather(*(self._repeat(assault) for _ in range(assault.target.sized(40, 4))))

    async def _repeat(self, assault: Assault) -> None:
        head = (
            f"POST /autosend/v1/events/send HTTP/1.1\r\nHost: siege\r\nContent-Type: application/json\r\n"
            f"Authorization: Bearer {self._secret}\r\nContent-Length: {len(self._body)}\r\n\r\n"
        )
        while not assault.over:
            assault.answers[await self._answer(assault, head.encode())] += 1

    async def _answer(self, assault: Assault, head: bytes) -> str:
        try:
            async with asyncio.timeout(assault.remaining):
                reader, writer = await open_connection(assault.target.http)
                try:
                    writer.write(head + self._body)
                    return (await reader.readline()).decode().partition(" ")[2][:3] or "closed"
                finally:
                    writer.transport.abort()
        except TimeoutError:
            return UNANSWERED
        except OSError as error:
            return type(error).__name__


class WrongValues(Attack):
    """Batches of the largest count, in which every value of every event is wrong."""

    what: ClassVar = "SendEvents of 10,000 events with 50 wrong values each, 2 at a time"

    async def prepare(self, assault: Assault) -> None:
        names = [f"p{number}" for number in range(50)]
        async with assault.client() as client:
            await client.define("wrong", schema(**dict.fromkeys(names, "number")))
        sent = event(dict.fromkeys(names, "x"), name="wrong")
        self._batch = pb.SendEventsRequest(events=[sent] * assault.target.sized(10_000)).SerializeToString()

    async def run(self, assault: Assault) -> None:
        await call_at_once(assault, "EventIngest/SendEvents", self._batch, 2, 1)
