"""Many automations on one name."""

from __future__ import annotations

import asyncio
from itertools import cycle
from typing import TYPE_CHECKING, ClassVar, Final

from signalbox.v1 import event_ingest_pb2 as pb
from tests.siege.attacks.attack import Attack
from tests.support.automations import activate, automate, pause
from tests.support.messages import ORDER, event, orders
from tests.support.wire import call_raw

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from signalbox.v1.automations_pb2 import Automation
    from tests.siege.target import Assault
    from tests.support.service import Client

CREATING: Final = 16
CHANGE_SECONDS: Final = 1.0


async def create(assault: Assault, client: Client, count: int, condition: str = "") -> list[Automation]:
    """Create automations on one name until a limit refuses one; `{}` in the condition is its number."""
    made: list[Automation] = []
    numbers = iter(range(count))

    async def some() -> None:
        for number in numbers:
            automation = automate(client, ORDER, name=f"number {number}", condition=condition.format(number))
            if not await assault.prepared(_appended(made, automation)):
                return

    await asyncio.gather(*(some() for _ in range(CREATING)))
    return made


async def _appended(made: list[Automation], creation: Awaitable[Automation]) -> None:
    made.append(await creation)


class ManyMatches(Attack):
    """Batches in which each event starts a run of each of very many automations."""

    what: ClassVar = "SendEvents of 100 events, each matched by 1,000 automations, 2 at a time"

    async def prepare(self, assault: Assault) -> None:
        async with assault.client() as client:
            await create(assault, client, assault.target.sized(1_000))
        self._batch = pb.SendEventsRequest(events=orders(assault.target.sized(100, 20))).SerializeToString()

    async def run(self, assault: Assault) -> None:
        async with assault.client() as client:
            await assault.repeat(
                2, lambda: call_raw(client.channel, "EventIngest/SendEvents", self._batch, client.metadata)
            )


class ChangedAutomations(Attack):
    """A name with very many automations, one of which is changed again and again, and an event after each change."""

    what: ClassVar = "10,000 automations on one name, one changed each second, and an event sent after it"

    async def prepare(self, assault: Assault) -> None:
        async with assault.client() as client:
            condition = 'properties.currency == "none" && properties.order_total > {}'
            self._automations = await create(assault, client, assault.target.sized(10_000), condition)

    async def run(self, assault: Assault) -> None:
        async with assault.client() as client:
            for automation in cycle(self._automations[:10]):
                if assault.over:
                    return
                await assault.made(pause(client, automation))
                await assault.made(client.send(event({"order_total": 1})))
                await asyncio.sleep(CHANGE_SECONDS)
                await assault.made(activate(client, automation))
                await assault.made(client.send(event({"order_total": 1})))
