"""The real server process, killed or stopped while events pour in."""

from __future__ import annotations

import asyncio
import random
import time
from itertools import count
from typing import TYPE_CHECKING

import grpc
import pytest

from signalbox.v1 import event_ingest_pb2 as pb
from tests.support.messages import INDEPENDENT, event
from tests.support.plans import plans
from tests.support.process import server_process
from tests.support.service import serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from signalbox.v1.event_pb2 import Event
    from tests.support.service import Client
    from tests.support.stores import Store

ROUNDS = 3
LONG = 100_000


class Load:
    """Senders of every kind; remembers what was acknowledged as what. Events are distinguished by their order_total."""

    def __init__(self) -> None:
        self.acknowledged: dict[int, int] = {}
        self._numbers = count()
        self._goal = 0
        self._reached = asyncio.Event()

    async def run(self, shop: Client) -> None:
        """Send until the server is gone."""
        senders = [sender(shop) for sender in (self._singles, self._batches, self._stream) for _ in range(3)]
        outcomes = await asyncio.gather(*senders, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {grpc.aio.AioRpcError}

    async def grown_by(self, events: int) -> None:
        """Wait until `events` more events were acknowledged."""
        self._goal = len(self.acknowledged) + events
        self._reached.clear()
        await self._reached.wait()

    def check(self, log: Sequence[tuple[int, int]]) -> None:
        """Compare with the log: positions and what was sent."""
        assert [position for position, _ in log] == list(range(1, len(log) + 1))
        stored = dict(log)
        lost = {position: number for position, number in self.acknowledged.items() if stored.get(position) != number}
        assert lost == {}
        assert len(set(stored.values())) == len(stored)

    async def _singles(self, shop: Client) -> None:
        while True:
            number = next(self._numbers)
            self._note([number], [await shop.send(event({"order_total": number}))])

    async def _batches(self, shop: Client) -> None:
        while True:
            numbers = [next(self._numbers) for _ in range(20)]
            results = await shop.send_all([event({"order_total": number}) for number in numbers], INDEPENDENT)
            self._note(numbers, [result.receipt for result in results])

    async def _stream(self, shop: Client) -> None:
        sent: dict[int, list[int]] = {}

        async def messages() -> AsyncIterator[pb.StreamEventsRequest]:
            for sequence in count():
                sent[sequence] = [next(self._numbers) for _ in range(5)]
                events = [event({"order_total": number}) for number in sent[sequence]]
                yield pb.StreamEventsRequest(sequence=sequence, events=events)
                await asyncio.sleep(0.002)

        async for answer in shop.ingest.StreamEvents(messages()):
            self._note(sent.pop(answer.sequence), [result.receipt for result in answer.results])

    def _note(self, numbers: Sequence[int], receipts: Sequence[pb.EventReceipt]) -> None:
        for number, receipt in zip(numbers, receipts, strict=True):
            self.acknowledged[receipt.event.position] = number
        if len(self.acknowledged) >= self._goal:
            self._reached.set()


async def positions_and_totals(shop: Client) -> list[tuple[int, int]]:
    return [(each.position, int(each.properties.fields["order_total"].number_value)) for each in await shop.log()]


async def test_what_was_acknowledged_outlives_kill_9(database_url: str, tmp_path: Path) -> None:
    load, secret = Load(), ""
    for _ in range(ROUNDS):
        async with server_process(database_url, tmp_path) as server:
            shop = server.service.client(secret) if secret else await server.service.shop()
            secret = shop.secret
            load.check(await positions_and_totals(shop))
            loading = asyncio.create_task(load.run(shop))
            await load.grown_by(random.randint(1, 1_000))  # noqa: S311 - any moment will do
            server.kill()
            await loading
            assert await server.exit_code() == -9
    async with serving(database_url) as service:
        load.check(await positions_and_totals(service.client(secret)))


async def test_sigterm_ends_the_server_well_and_loses_nothing(database_url: str, tmp_path: Path) -> None:
    load = Load()
    async with server_process(database_url, tmp_path, "--grace", "5") as server:
        shop = await server.service.shop()
        loading = asyncio.create_task(load.run(shop))
        await load.grown_by(300)
        server.terminate()
        async with asyncio.timeout(5):
            assert await server.exit_code() == 0
        await loading
        assert "Traceback" not in server.log()
    async with serving(database_url) as service:
        load.check(await positions_and_totals(service.client(shop.secret)))


async def test_a_second_server_on_the_same_file_says_why_it_ends(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/signalbox.db"
    async with server_process(url, tmp_path) as server:
        with pytest.raises(AssertionError, match="another server"):
            async with server_process(url, tmp_path):
                pass
        await (await server.service.shop()).send()


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
async def test_a_long_log_is_ready_within_a_second_because_nothing_reads_it(database_url: str, store: Store) -> None:
    async with serving(database_url) as service:
        shop = await service.shop()
        last = (await shop.send()).event
    await store.execute(
        f"""
        WITH RECURSIVE number(n) AS (SELECT 2 UNION ALL SELECT n + 1 FROM number WHERE n < {LONG})
        INSERT INTO event (project_key, position, id, name, definition_id, revision, contact_key, email, properties,
                           coercions, occurred_at, received_at, match_count, idempotency_key, fingerprint, ignore_case)
        SELECT project_key, n, printf('%036d', n), name, definition_id, revision, contact_key, email, properties,
               coercions, occurred_at, received_at, match_count, idempotency_key, fingerprint, ignore_case
        FROM event, number WHERE position = 1
        """  # noqa: S608 - a constant of our own
    )
    await store.execute(f"UPDATE project_head SET position = {LONG}")  # noqa: S608 - as above
    begun = time.monotonic()
    with plans("event") as noted:
        async with serving(database_url) as service:
            assert time.monotonic() - begun < 1
            await read_some(service.client(shop.secret), last)
    assert noted.scans == []
    # To count the events takes three for each; a start takes 20,000, however many there are.
    assert 0 < noted.steps < LONG


async def read_some(shop: Client, last: Event) -> None:
    """Send, read an event, and list none."""
    assert (await shop.send()).event.position == LONG + 1
    assert (await shop.get(last.id)).position == 1
    request = pb.ListEventsRequest(page_size=1, received_until=last.received_at)
    begun = time.monotonic()
    assert (await shop.ingest.ListEvents(request)).events == []
    assert time.monotonic() - begun < 1
