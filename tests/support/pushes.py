"""What the tests of subscriptions that push wait for."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.support.consumers import WAIT, get, stats

if TYPE_CHECKING:
    from signalbox.v1 import match_stream_pb2 as pb
    from tests.support.service import Client


POLL_SECONDS = 0.04
"""Most of what a test waits for takes a second; to ask more often takes more time than the rest of the test."""

SHORT_CLAIMS = ("--push-claim", "3")
"""For `launching` of a server process: another server pushes the subscriptions of a killed one after half the time."""


async def settled(client: Client, position: int, name: str = "engine", seconds: float = WAIT) -> pb.SubscriptionStats:
    """Wait until the ack floor is at a position."""
    async with asyncio.timeout(seconds):
        while (found := await stats(client, name)).floor_position < position:  # noqa: ASYNC110 - it must be asked
            await asyncio.sleep(POLL_SECONDS)
    return found


async def paused(client: Client, name: str = "engine") -> pb.Push:
    """Wait until a subscription is paused."""
    async with asyncio.timeout(WAIT):
        while not (found := (await get(client, name)).subscription.push).paused:  # noqa: ASYNC110 - as above
            await asyncio.sleep(POLL_SECONDS)
    return found
