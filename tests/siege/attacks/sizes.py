"""Calls that are each as large as they may be."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from signalbox.v1 import automations_pb2
from signalbox.v1 import event_ingest_pb2 as pb
from tests.siege.attacks.attack import Attack
from tests.siege.attacks.floods import call_at_once
from tests.support.messages import ANYTHING, event, schema

if TYPE_CHECKING:
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


class LargeMessages(Attack):
    """Messages of the largest size, with as many values as fit into them."""

    what: ClassVar = "SendEvents of 15 MiB of values, 40 in flight"

    async def prepare(self, assault: Assault) -> None:
        async with assault.client() as client:
            await client.define("values", ANYTHING)
        sent = event({"items": list(range(9_990))}, name="values")
        size = assault.target.sized(MESSAGE_BYTES, sent.ByteSize())
        self._batch = pb.SendEventsRequest(events=[sent] * (size // sent.ByteSize())).SerializeToString()

    async def run(self, assault: Assault) -> None:
        await call_at_once(assault, "EventIngest/SendEvents", self._batch, assault.target.sized(40, 4), 8)


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
