"""Events are freed when their call ends. Left to the garbage collector, those of a flood would stop everything."""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING, Final

from server.api.interceptor import _GrpcCall
from server.ingest.commit_queue import PART_EVENTS
from server.ingest.draft import Batch, Draft
from server.model import Event
from signalbox.v1.event_ingest_pb2 import BATCH_MODE_ALL_OR_NOTHING, BATCH_MODE_INDEPENDENT
from tests.support.automations import automate
from tests.support.messages import event, orders
from tests.support.refusals import refusal

if TYPE_CHECKING:
    from tests.support.service import Client

WAIT: Final = 10.0

LATEST: Final = 3
"""The group that was committed last is kept until the next one: one event in its draft and its batch."""


async def all_freed(shop: Client) -> None:
    """Wait until nothing is left of the calls that were answered, but of the latest one."""
    await shop.send()
    async with asyncio.timeout(WAIT):
        while kept() > LATEST:  # noqa: ASYNC110 - nothing tells when the memory of a call is freed
            await asyncio.sleep(0.02)


def kept() -> int:
    """Return the number of events in memory that came after the freeze, with their drafts and batches."""
    return sum(type(each) in {Batch, Draft, Event} for each in gc.get_objects())


async def test_sends_leave_no_events_to_the_garbage_collector(shop: Client) -> None:
    await automate(shop)
    # What is there already counts no more, and is not looked through again and again.
    gc.freeze()
    gc.disable()
    try:
        await shop.send()
        await all_freed(shop)
        await shop.send_all(orders(20), BATCH_MODE_ALL_OR_NOTHING)
        await all_freed(shop)
        # Stored in parts.
        await shop.send_all(orders(2 * PART_EVENTS + 1), BATCH_MODE_INDEPENDENT)
        await all_freed(shop)
        await shop.send_all([*orders(1), event({"order_total": "x"})], BATCH_MODE_INDEPENDENT)
        await all_freed(shop)
    finally:
        gc.enable()


async def test_refused_calls_leave_nothing_to_the_garbage_collector(shop: Client) -> None:
    refused = event({"order_total": "x"})
    await refusal(shop.send(refused))
    gc.freeze()
    gc.disable()
    try:
        for _ in range(10):
            await refusal(shop.send(refused))
        async with asyncio.timeout(WAIT):
            while sum(type(each) is _GrpcCall for each in gc.get_objects()) > 1:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.02)
    finally:
        gc.enable()
        gc.unfreeze()
