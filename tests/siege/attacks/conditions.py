"""Conditions that take long."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from signalbox.v1 import event_ingest_pb2 as pb
from tests.siege.attacks.attack import Attack
from tests.support.automations import automate
from tests.support.messages import ANYTHING, event
from tests.support.wire import call_raw

if TYPE_CHECKING:
    from tests.siege.target import Assault

NAME: Final = "list_sent"
ITEMS: Final = 9_990


class LongConditions(Attack):
    """Conditions that look at every item of a long list, over batches of such lists."""

    what: ClassVar = "40 conditions with exists over 9,990 items, SendEvents of 60 such events, 2 at a time"

    async def prepare(self, assault: Assault) -> None:
        async with assault.client() as client:
            await client.define(NAME, ANYTHING)
            for number in range(assault.target.sized(40)):
                condition = f"properties.items.exists(item, item < -{number})"
                await assault.prepared(automate(client, NAME, name=f"list {number}", condition=condition))
        items = {"items": list(range(assault.target.sized(ITEMS, 1_000)))}
        events = [event(items, name=NAME)] * assault.target.sized(60)
        self._batch = pb.SendEventsRequest(events=events).SerializeToString()

    async def run(self, assault: Assault) -> None:
        async with assault.client() as client:
            await assault.repeat(
                2, lambda: call_raw(client.channel, "EventIngest/SendEvents", self._batch, client.metadata)
            )
