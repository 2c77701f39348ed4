"""Memory that was taken for large requests is given back."""

from __future__ import annotations

import asyncio
import gc
import time
import tracemalloc
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import grpc
import pytest

from server.ingest.draft import Batch, Draft
from signalbox.v1 import event_ingest_pb2 as pb
from tests.siege.memory import Memory
from tests.support.messages import ANYTHING, event, schema
from tests.support.process import server_process
from tests.support.service import serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.service import Client

WRONG: Final = [f"p{number}" for number in range(50)]
KEPT_MIB: Final = 70
TAKEN_MIB: Final = 100
"""What an attack takes at least, else nothing is shown."""

WITHIN_SECONDS: Final = 30.0
"""Ten seconds on a machine without other work."""


async def _send(client: Client, batch: pb.SendEventsRequest) -> None:
    with suppress(grpc.aio.AioRpcError):
        await client.ingest.SendEvents(batch)


@pytest.mark.parametrize("mode", [pb.BATCH_MODE_ALL_OR_NOTHING, pb.BATCH_MODE_INDEPENDENT])
async def test_memory_of_large_invalid_batches_is_given_back(tmp_path: Path, mode: pb.BatchMode.ValueType) -> None:
    async with server_process(f"sqlite:///{tmp_path}/signalbox.db", tmp_path) as server:
        shop = await server.service.shop()
        await shop.define("wrong", schema(**dict.fromkeys(WRONG, "number")))
        wrong = event(dict.fromkeys(WRONG, "x"), name="wrong")
        await _send(shop, pb.SendEventsRequest(events=[wrong], mode=mode))
        memory = Memory(server.pid)
        before = memory.now()
        batch = pb.SendEventsRequest(events=[wrong] * 6_000, mode=mode)
        await asyncio.gather(*(_send(shop, batch) for _ in range(4)))
        assert memory.peak() > before + TAKEN_MIB
        now, _ = await memory.fallen(before + KEPT_MIB, WITHIN_SECONDS)
        assert now <= before + KEPT_MIB


async def test_a_page_of_large_events_reads_no_more_than_it_returns(tmp_path: Path) -> None:
    async with serving(f"sqlite:///{tmp_path}/signalbox.db") as service:
        shop = await service.shop()
        await shop.define("large", ANYTHING)
        large = event({"text": "x" * 250_000}, name="large")
        await shop.ingest.SendEvents(pb.SendEventsRequest(events=[large] * 60))
        gc.collect()
        tracemalloc.start()
        try:
            page = await shop.ingest.ListEvents(pb.ListEventsRequest(page_size=60))
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert 1 <= len(page.events) <= 4
        assert peak < 10_000_000


@pytest.fixture
def _no_collection() -> Iterator[None]:
    """Free objects by their reference counts only."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


MODES: Final = (pb.BATCH_MODE_ALL_OR_NOTHING, pb.BATCH_MODE_INDEPENDENT)
SENT: Final = {
    "none": event({"p": 1}, name="right"),
    "wrong": event({"p": "x"}, name="wrong"),
    "undefined": event({"p": 1}, name="undefined"),
    "unreadable": event({"p": 1}, name="right", email="nobody"),
}
"""What is wrong with the events of a batch."""


@pytest.mark.usefixtures("_no_collection")
@pytest.mark.parametrize("mode", MODES)
async def test_nothing_of_a_batch_waits_for_the_collection_of_garbage(
    shop: Client, mode: pb.BatchMode.ValueType
) -> None:
    await shop.define("right", ANYTHING)
    await shop.define("wrong", schema(p="number"))
    right = event({"p": 1}, name="right")
    # The objects of this process are searched once for all batches: that takes longer than to send them.
    for count in (3, 600):
        for faulty in SENT.values():
            await _send(shop, pb.SendEventsRequest(events=[right, *[faulty] * count], mode=mode))
    await _send(shop, pb.SendEventsRequest(events=[right]))
    until = time.monotonic() + 10
    # The thread of the database lets go of its work a moment after the response.
    while left := [repr(each)[:200] for each in gc.get_objects() if isinstance(each, Batch | Draft)]:
        assert time.monotonic() < until, left
        await asyncio.sleep(0.01)
