"""The queue before the log: over a database whose writes wait until they are let through."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

import grpc
import pytest
import pytest_asyncio
from grpc import StatusCode
from structlog.testing import capture_logs

from server.catalog import Catalog
from server.errors import QueueFull, Stopping
from server.ingest.draft import BatchMode, Draft
from server.ingest.group_commit import GroupCommit
from server.ingest.ingest import Ingest
from server.model import Rules, UndefinedEvents, UnknownContacts
from server.storage.projects import insert_project
from signalbox.v1 import event_ingest_pb2 as pb
from tests.support.messages import event, orders
from tests.support.refusals import refusal, verdict
from tests.support.service import serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from sqlalchemy import Connection

    from server.storage.database import Database
    from tests.support.service import Client, Service
    from tests.support.stores import Store

T = TypeVar("T")

ONE = BatchMode.ALL_OR_NOTHING


class GatedDatabase:
    """A database that counts its writes and lets none begin while the gate is shut."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.shared = database.shared
        self.gate = asyncio.Event()
        self.writes = 0

    async def read(self, work: Callable[[Connection], T]) -> T:
        return await self._database.read(work)

    async def write(self, work: Callable[[Connection], T]) -> T:
        self.writes += 1
        await self.gate.wait()
        return await self._database.write(work)

    async def close(self) -> None:
        await self._database.close()


class Line:
    """A queue, its entrance, and the gate at its other end."""

    def __init__(self, database: GatedDatabase, project_key: int, limit: int) -> None:
        catalog = Catalog(database)
        self.database = database
        self.queue = GroupCommit(database, catalog, limit)
        self._ingest = Ingest(catalog, self.queue)
        self._project_key = project_key

    async def send(self, drafts: Sequence[Draft]) -> None:
        await self._ingest.send_batch(self._project_key, drafts, ONE)

    def begin(self, drafts: Sequence[Draft]) -> asyncio.Task[None]:
        return asyncio.create_task(self.send(drafts))

    async def stored(self) -> list[str]:
        def work(connection: Connection) -> list[str]:
            rows = connection.exec_driver_sql("SELECT name FROM event ORDER BY position")
            return [row.name for row in rows]

        return await self.database.read(work)


def drafts(count: int = 1, name: str = "page_viewed") -> list[Draft]:
    return [Draft(name, "", "ada@example.com", {}) for _ in range(count)]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


@pytest_asyncio.fixture
async def line(database: Database) -> AsyncIterator[Line]:
    """A queue of ten events, its gate shut and its first commit, of one event, under way."""
    rules = Rules(UndefinedEvents.ACCEPT, UnknownContacts.CREATE)
    project = await database.write(lambda connection: insert_project(connection, "id", "shop", rules, 1))
    made = Line(GatedDatabase(database), project.key, limit=10)
    made.queue.start()
    first = made.begin(drafts(name="first"))
    await until(lambda: made.database.writes == 1)
    yield made
    made.database.gate.set()
    await first
    await made.queue.close()


async def test_what_waits_goes_into_one_commit(line: Line) -> None:
    waiting = [line.begin(drafts(name=f"waiting_{number}")) for number in range(10)]
    await asyncio.sleep(0.01)
    line.database.gate.set()
    await asyncio.gather(*waiting)
    assert line.database.writes == 2
    assert await line.stored() == ["first", *(f"waiting_{number}" for number in range(10))]


async def test_a_full_queue_refuses_what_comes_and_stores_nothing_of_it(line: Line) -> None:
    waiting = line.begin(drafts(8))
    await asyncio.sleep(0.01)
    with pytest.raises(QueueFull):
        await line.send(drafts(3, "too_many"))
    fits = line.begin(drafts(2))
    await asyncio.sleep(0.01)
    with pytest.raises(QueueFull):
        await line.send(drafts(1, "too_many"))
    line.database.gate.set()
    await asyncio.gather(waiting, fits)
    await line.send(drafts(1, "later"))
    assert await line.stored() == ["first", *["page_viewed"] * 10, "later"]


async def test_a_unit_larger_than_the_queue_is_taken_when_the_queue_is_empty(line: Line) -> None:
    large = line.begin(drafts(50))
    await asyncio.sleep(0.01)
    line.database.gate.set()
    await large
    assert len(await line.stored()) == 51


async def test_what_its_sender_gave_up_while_it_waited_is_not_stored(line: Line) -> None:
    given_up, kept = line.begin(drafts(3, "given_up")), line.begin(drafts(3, "kept"))
    await asyncio.sleep(0.01)
    given_up.cancel()
    line.database.gate.set()
    await kept
    assert await line.stored() == ["first", *["kept"] * 3]


async def test_what_is_given_up_during_its_commit_is_stored_whole(line: Line) -> None:
    waiting = line.begin(drafts(5))
    await asyncio.sleep(0.01)
    line.database.gate.set()
    await until(lambda: line.database.writes == 2)
    waiting.cancel()
    await line.send(drafts(1, "later"))
    assert await line.stored() == ["first", *["page_viewed"] * 5, "later"]


async def test_closing_stores_what_waits_and_refuses_what_comes(line: Line) -> None:
    waiting = line.begin(drafts(5))
    await asyncio.sleep(0.01)
    closing = asyncio.create_task(line.queue.close())
    await asyncio.sleep(0.01)
    with pytest.raises(Stopping):
        await line.send(drafts(1, "too_late"))
    line.database.gate.set()
    await asyncio.gather(waiting, closing)
    assert await line.stored() == ["first", *["page_viewed"] * 5]


async def test_a_unit_the_database_refuses_does_not_take_its_group_along(line: Line, store: Store) -> None:
    await store.refuse_events_named("poison")
    good, bad = line.begin(drafts(3, "good")), line.begin([*drafts(2, "good"), *drafts(1, "poison")])
    also_good = line.begin(drafts(3, "also_good"))
    await asyncio.sleep(0.01)
    line.database.gate.set()
    with capture_logs() as logs:
        outcomes = await asyncio.gather(good, bad, also_good, return_exceptions=True)
    assert [type(outcome).__name__ for outcome in outcomes] == ["NoneType", "StorageRefused", "NoneType"]
    assert await line.stored() == ["first", *["good"] * 3, *["also_good"] * 3]
    assert [entry["event"] for entry in logs] == ["commit_failed"]


# Over the wire


@asynccontextmanager
async def narrow(database_url: str, queue_events: int) -> AsyncIterator[tuple[Service, Client]]:
    async with serving(database_url, queue_events=queue_events) as service:
        shop = await service.shop()
        await shop.send()
        yield service, shop


async def test_a_sender_is_told_when_to_try_again(database_url: str, store: Store) -> None:
    async with narrow(database_url, queue_events=2) as (_, shop):
        async with store.held():
            under_way = asyncio.create_task(shop.send())
            await asyncio.sleep(0.1)
            waiting = asyncio.create_task(shop.send_all(orders(2)))
            await asyncio.sleep(0.1)
            refused = await refusal(shop.send())
        await asyncio.gather(under_way, waiting)
        assert (refused.code, refused.reason) == (StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
        assert refused.retry_after
        assert await shop.positions() == [1, 2, 3, 4]


@pytest.mark.parametrize("queue_events", [1, 4])
async def test_a_stream_waits_where_a_sender_is_refused(
    database_url: str, store: Store, queue_events: int
) -> None:
    async with narrow(database_url, queue_events) as (_, shop):
        async with store.held():
            under_way = asyncio.create_task(shop.send())
            await asyncio.sleep(0.1)
            call = shop.ingest.StreamEvents()
            for number in range(6):
                await call.write(pb.StreamEventsRequest(sequence=number, events=orders(3)))
            await call.done_writing()
            await asyncio.sleep(0.1)
        async with asyncio.timeout(5):
            answers = [answer async for answer in call]
        await under_way
        assert [(answer.sequence, len(answer.results)) for answer in answers] == [(number, 3) for number in range(6)]
        assert await shop.positions() == list(range(1, 21))


async def test_a_deadline_that_passes_in_the_queue_leaves_nothing_half_written(
    database_url: str, store: Store
) -> None:
    async with narrow(database_url, queue_events=1_000) as (_, shop):
        async with store.held():
            under_way = asyncio.create_task(shop.send())
            await asyncio.sleep(0.1)
            late = pb.SendEventsRequest(events=orders(50))
            code, _ = await verdict(shop.ingest.SendEvents(late, timeout=0.2))
            assert code is StatusCode.DEADLINE_EXCEEDED
            await asyncio.sleep(0.1)
        await under_way
        assert (await shop.send()).event.position == 3
        assert await shop.positions() == [1, 2, 3]


async def test_a_server_that_stops_stores_what_waits_and_answers_it(database_url: str, store: Store) -> None:
    async with narrow(database_url, queue_events=1_000) as (_, shop):
        async with store.held():
            waiting = [asyncio.create_task(shop.send_all(orders(5))) for _ in range(10)]
            await asyncio.sleep(0.2)
    answered = await asyncio.gather(*waiting, return_exceptions=True)
    assert not [each for each in answered if isinstance(each, grpc.aio.AioRpcError)]
    assert len(await store.rows("event")) == 51
