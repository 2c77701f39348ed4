"""The database is shared fairly: no project holds up the reads, deliveries and writes of others."""

from __future__ import annotations

import asyncio
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy.util import await_only

from registry.storage import definition_store
from server.delivery import consumer_session, match_reader
from server.errors import ProjectBusy
from server.services import events
from server.sharing.current_project import SERVER, work_for
from server.storage import connection_turns
from server.storage.events import pages as event_pages
from server.storage.postgresql import database as postgresql
from signalbox.v1 import event_ingest_pb2, match_stream_pb2
from tests.support.automations import automate
from tests.support.bridge import calling
from tests.support.consumers import ACKNOWLEDGED, Engine, acknowledge, pull, record, seconds, stats, subscribe

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from server.storage.database import Database
    from tests.support.service import Client, Service

SCANS = 12
LONG = {
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n",
    "postgresql": "SELECT pg_sleep(60)",
}


@pytest.fixture
def long_scans(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Lists of events and of definitions take a minute if they are searched for "long"; set once the first begins."""
    begun = threading.Event()
    list_events, list_definitions = event_pages.list_events, definition_store.list_definitions

    def scan(connection: Connection) -> None:
        begun.set()
        connection.exec_driver_sql(LONG[connection.dialect.name]).fetchall()

    def events_after_scan(connection: Connection, project_pk: int, wanted: Any, *arguments: Any, **options: Any) -> Any:
        if wanted.name == "long":
            scan(connection)
        return list_events(connection, project_pk, wanted, *arguments, **options)

    def definitions_after_scan(connection: Connection, *arguments: Any, **options: Any) -> Any:
        if options["search"] == "long":
            scan(connection)
        return list_definitions(connection, *arguments, **options)

    monkeypatch.setattr(events, "list_events", events_after_scan)
    monkeypatch.setattr(definition_store, "list_definitions", definitions_after_scan)
    return begun


async def test_scans_of_one_project_hold_up_no_delivery_heartbeat_or_read_of_another(
    service: Service, long_scans: threading.Event
) -> None:
    busy, neighbour = await service.shop(), await service.shop()
    await automate(neighbour)
    await subscribe(neighbour)
    async with calling(service, busy, "arsel") as rest:
        listing = event_ingest_pb2.ListEventsRequest(name="long")
        scans: list[asyncio.Future[Any]] = [
            asyncio.ensure_future(busy.ingest.ListEvents(listing)) for _ in range(SCANS)
        ]
        scans += [asyncio.ensure_future(rest.call("GET /v1/events?search=long")) for _ in range(SCANS)]
        try:
            async with asyncio.timeout(10):
                while not long_scans.is_set():  # noqa: ASYNC110 - set in another thread
                    await asyncio.sleep(0.01)
                engine = await Engine.open(neighbour, consumer_id="a", heartbeat_interval=seconds(1))
                receipt = await neighbour.send()
                await engine.ack(await engine.deliveries())
                await neighbour.get(receipt.event.id)
                assert len(await neighbour.log()) == 1
                while not engine.heartbeats:
                    await engine.read()
                await record(neighbour, 1)
                await engine.close()
                (delivery,) = await pull(neighbour)
                await acknowledge(neighbour, ack=match_stream_pb2.AckDeliveries(delivery_ids=[delivery.delivery_id]))
            assert not any(scan.done() for scan in scans)
        finally:
            for scan in scans:
                scan.cancel()
            await asyncio.gather(*scans, return_exceptions=True)


async def test_writes_of_one_project_let_those_of_another_and_of_the_server_pass(database: Database) -> None:
    begun: list[int | None] = []
    queued = threading.Event()
    if database.shared:
        await open_connections(database)

    async def write(project_pk: int | None) -> None:
        def work(connection: Connection) -> None:
            begun.append(project_pk)
            if connection.dialect.name == "sqlite":
                queued.wait(10)

        work_for(project_pk)
        await database.write(work)

    writes = [asyncio.create_task(write(project_pk)) for project_pk in [*[1] * 100, 2, SERVER]]
    await asyncio.sleep(0)
    queued.set()
    await asyncio.gather(*writes)
    assert len(begun) == 102
    # On PostgreSQL several run at the same time.
    assert max(begun.index(2), begun.index(SERVER)) < 50


async def open_connections(database: Database) -> None:
    """Open as many connections as writes use at the same time: while one opens, writes on the others pass."""
    opened = asyncio.Barrier(postgresql.WRITE_TURNS)

    async def write(project_pk: int) -> None:
        work_for(project_pk)
        await database.write(lambda _: await_only(opened.wait()))

    await asyncio.gather(*(asyncio.create_task(write(project_pk)) for project_pk in range(postgresql.WRITE_TURNS)))


def add(numbers: list[int], number: int, _connection: Connection) -> None:
    numbers.append(number)


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
async def test_the_writes_of_one_project_run_in_order(database: Database) -> None:
    begun: list[int] = []
    work_for(1)
    await asyncio.gather(*(database.write(partial(add, begun, number)) for number in range(20)))
    assert begun == list(range(20))


async def test_a_write_whose_caller_has_gone_before_it_began_is_left_out(database: Database) -> None:
    work_for(1)
    done: list[int] = []
    writes = [asyncio.create_task(database.write(partial(add, done, number))) for number in range(5)]
    writes[-1].cancel()
    await asyncio.gather(*writes, return_exceptions=True)
    await database.write(lambda _: None)
    assert sorted(done) == [0, 1, 2, 3]


async def test_a_request_that_waits_too_long_for_its_own_project_is_refused(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_turns, "TURN_SECONDS", 0.3)

    async def read(project_pk: int, statement: str) -> Any:
        work_for(project_pk)
        return await database.read(lambda connection: connection.exec_driver_sql(statement).scalar())

    reads = [asyncio.create_task(read(1, LONG["postgresql" if database.shared else "sqlite"])) for _ in range(4)]
    try:
        with pytest.raises(ProjectBusy):
            await asyncio.create_task(read(1, "SELECT 1"))
        assert await asyncio.create_task(read(2, "SELECT 1")) == 1
    finally:
        for task in reads:
            task.cancel()
        await asyncio.gather(*reads, return_exceptions=True)


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
async def test_the_server_writes_although_its_other_writes_are_held_up(database: Database) -> None:
    holding = [asyncio.create_task(database.write(sleep)) for _ in range(postgresql.WRITE_SHARE)]
    try:
        async with asyncio.timeout(10):
            await database.write(lambda connection: connection.exec_driver_sql("SELECT 1").scalar())
        assert not any(task.done() for task in holding)
    finally:
        for task in holding:
            task.cancel()
        await asyncio.gather(*holding, return_exceptions=True)


def sleep(connection: Connection) -> None:
    connection.exec_driver_sql(LONG["postgresql"])


async def test_heartbeats_and_results_do_not_wait_for_matches_that_are_loaded(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads, load_in = asyncio.Semaphore(1), match_reader.MatchReader.load

    async def load(self: Any, *arguments: Any) -> Any:
        async with loads:
            return await load_in(self, *arguments)

    monkeypatch.setattr(match_reader.MatchReader, "load", load)
    monkeypatch.setattr(consumer_session, "recent_deliveries", lambda *_: ())  # as after a restart: all is loaded
    shop = await service.shop()
    await automate(shop)
    await subscribe(shop)
    engine = await Engine.open(shop, consumer_id="a", heartbeat_interval=seconds(1))
    await record(shop, 1)
    first = await engine.deliveries()
    async with loads:
        await record(shop, 1)
        (result,) = await engine.ack(first)
        assert result.outcome == ACKNOWLEDGED
        seen = len(engine.heartbeats)
        while len(engine.heartbeats) < seen + 2:
            await engine.read()
    (second,) = await engine.deliveries()
    await engine.ack([second])
    # Loaded by nobody when the stream ends, and delivered to the next one without a failed attempt.
    async with loads:
        await record(shop, 1)
        while not await stats_outstanding(shop):  # noqa: ASYNC110 - a lease wakes nobody
            await asyncio.sleep(0.01)
        await engine.close()
    (third,) = await pull(shop, wait=5)
    assert (third.match.position, third.attempt) == (3, 1)


async def stats_outstanding(client: Client) -> int:
    return (await stats(client)).outstanding_count
