"""Retention of events: which ones are deleted, which ones are kept, and how the log is read afterwards."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
from google.protobuf.duration_pb2 import Duration
from grpc import StatusCode
from hypothesis import given
from hypothesis import strategies as st

from server.background import event_retention, match_retention, retention_clock
from server.storage.events import reading as log
from server.storage.events.reading import position_at
from server.storage.events.retention import delete_events
from signalbox.v1 import event_definitions_pb2, event_ingest_pb2, projects_pb2
from signalbox.v1 import match_stream_pb2 as pb
from tests.support.automations import automate, await_event, get_run, no_longer_waiting, started
from tests.support.consumers import acknowledge, ids, pull, subscribe
from tests.support.messages import ANYTHING, ORDER, event, orders
from tests.support.refusals import refusal
from tests.support.service import ADMIN_KEY, Client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from tests.support.service import Service
    from tests.support.stores import Store

DAY = 86_400
FOREVER = event_definitions_pb2.EventRetention(forever=True)


pytestmark = pytest.mark.lasting
# Invalid periods are refused before any database is asked.
on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)


@pytest.fixture(scope="module", autouse=True)
def at_once() -> Iterator[None]:
    """Delete without waiting for the next look."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (event_retention, match_retention):
            patch.setattr(module, "LOOK_SECONDS", 0.05)
            patch.setattr(module, "SETTLING_SECONDS", 0.0)
        # The events are dated back, so the log has a gap.
        patch.setattr(retention_clock, "CONFIRM_SECONDS", 0)
        yield


@pytest_asyncio.fixture
async def shop(service: Service, served_store: Store) -> AsyncIterator[Client]:
    """A shop in the shared server, whose events are kept for ever once its test has ended."""
    yield await service.shop()
    for table in ("project", "event_definition"):
        await served_store.execute(f"UPDATE {table} SET event_retention = 0")  # noqa: S608


async def keep(client: Client, days: int) -> projects_pb2.Project:
    request = projects_pb2.UpdateProjectRequest(project=client.project, event_retention=Duration(seconds=days * DAY))
    return (await admin(client).projects.UpdateProject(request)).project


def admin(client: Client) -> Client:
    return Client(client.channel, ADMIN_KEY)


async def keep_name(client: Client, name: str, retention: event_definitions_pb2.EventRetention) -> None:
    request = event_definitions_pb2.UpdateEventDefinitionRequest(event_definition=name, event_retention=retention)
    await client.definitions.UpdateEventDefinition(request)


def days(count: int) -> event_definitions_pb2.EventRetention:
    return event_definitions_pb2.EventRetention(max_age=Duration(seconds=count * DAY))


async def make_old(store: Store, last: int) -> None:
    """Let the events up to a position, and their matches, have been received in 1970."""
    for table, column, position in (
        ("event", "received_at", "position"),
        ("automation_match", "matched_at", "event_position"),
    ):
        await store.execute(f"UPDATE {table} SET {column} = position WHERE {position} <= {last}")  # noqa: S608


async def kept_are(store: Store, client: Client, expected: list[int], table: str = "event") -> None:
    """Wait until the log of a project has exactly these positions."""
    (pk,) = (row[0] for row in await store.rows("project") if row[1] == client.project)
    async with asyncio.timeout(10):
        while sorted(row[1] for row in await store.rows(table) if row[0] == pk) != expected:  # noqa: ASYNC110 - no event to wait for
            await asyncio.sleep(0.02)


async def listed(client: Client, **fields: object) -> list[int]:
    """Return the positions of all pages of a list."""
    request = event_ingest_pb2.ListEventsRequest(**fields)  # type: ignore[arg-type]
    found: list[int] = []
    while True:
        page = await client.ingest.ListEvents(request)
        found += [recorded.position for recorded in page.events]
        if not page.next_page_token:
            return found
        request.page_token = page.next_page_token


# Deletion


async def test_old_events_are_deleted_and_younger_ones_stay_readable(shop: Client, served_store: Store) -> None:
    event_id = (await shop.send_all(orders(6)))[0].receipt.event.id
    await make_old(served_store, 4)
    await keep(shop, 30)
    await kept_are(served_store, shop, [5, 6])
    assert await listed(shop) == [6, 5]
    assert await listed(shop, after_position=0, page_size=1) == [5, 6]
    refused = await refusal(shop.ingest.GetEvent(event_ingest_pb2.GetEventRequest(id=event_id)))
    assert (refused.code, refused.reason) == (StatusCode.NOT_FOUND, "EVENT_NOT_FOUND")
    assert refused.message == f'The event "{event_id}" was deleted after its retention period'
    await shop.send()
    assert await listed(shop) == [7, 6, 5]


async def test_a_list_continues_after_an_event_that_was_deleted_meanwhile(shop: Client, served_store: Store) -> None:
    await shop.send_all(orders(5))
    request = event_ingest_pb2.ListEventsRequest(after_position=0, page_size=2)
    request.page_token = (await shop.ingest.ListEvents(request)).next_page_token
    await make_old(served_store, 3)
    await keep(shop, 30)
    await kept_are(served_store, shop, [4, 5])
    assert [recorded.position for recorded in (await shop.ingest.ListEvents(request)).events] == [4, 5]


async def test_the_newest_event_of_a_project_stays(shop: Client, served_store: Store) -> None:
    await shop.send_all(orders(3))
    await make_old(served_store, 3)
    await keep(shop, 30)
    await kept_are(served_store, shop, [3])
    await shop.send()
    await kept_are(served_store, shop, [4])


async def test_a_definition_has_a_period_of_its_own(shop: Client, served_store: Store) -> None:
    for name in ("page_viewed", "invoice_paid", "plain"):
        await shop.define(name, ANYTHING)
    await keep_name(shop, "page_viewed", days(7))
    await keep_name(shop, "invoice_paid", FOREVER)
    names = ["page_viewed", "invoice_paid", "plain", "plain"]
    await shop.send_all([event({}, name=name) for name in names])
    await make_old(served_store, 3)
    await kept_are(served_store, shop, [2, 3, 4])
    await keep(shop, 30)
    await kept_are(served_store, shop, [2, 4])
    await keep_name(shop, "invoice_paid", event_definitions_pb2.EventRetention())
    await kept_are(served_store, shop, [4])


async def test_nothing_is_deleted_without_a_period(shop: Client, served_store: Store) -> None:
    await shop.send_all(orders(3))
    await make_old(served_store, 3)
    await keep(shop, 0)
    await asyncio.sleep(0.2)
    await kept_are(served_store, shop, [1, 2, 3])


async def test_projects_have_periods_of_their_own(service: Service, shop: Client, served_store: Store) -> None:
    other = await service.shop()
    for each in (shop, other):
        await each.send_all(orders(2))
    await make_old(served_store, 1)
    await keep(shop, 30)
    await kept_are(served_store, shop, [2])
    assert await listed(other) == [2, 1]


async def test_a_long_log_is_deleted_in_small_transactions(
    shop: Client, served_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    def count(connection: object, project_pk: int, positions: list[int]) -> int:
        sizes.append(len(positions))
        return delete_events(connection, project_pk, positions)  # type: ignore[arg-type]

    monkeypatch.setattr(event_retention, "PORTION_EVENTS", 10)
    monkeypatch.setattr(event_retention, "delete_events", count)
    await shop.send_all(orders(35))
    await make_old(served_store, 34)
    await keep(shop, 1)
    await kept_are(served_store, shop, [35])
    assert sizes == [10, 10, 10, 4]


# Events in use


async def test_an_event_is_kept_until_its_match_is_settled_and_then_deleted_with_it(
    shop: Client, served_store: Store
) -> None:
    await automate(shop)
    await subscribe(shop)
    await shop.send_all(orders(4))
    await make_old(served_store, 3)
    await keep(shop, 30)
    first, second = await pull(shop, 2)
    await acknowledge(shop, ack=pb.AckDeliveries(delivery_ids=ids([first])))
    await kept_are(served_store, shop, [2, 3, 4])
    await acknowledge(shop, ack=pb.AckDeliveries(delivery_ids=ids([second])))
    deliveries = await pull(shop, 2)
    assert [delivery.match.event.properties["order_total"] for delivery in deliveries] == [2, 3]
    await acknowledge(shop, ack=pb.AckDeliveries(delivery_ids=ids(deliveries)))
    await kept_are(served_store, shop, [4])
    await kept_are(served_store, shop, [4], "automation_match")


async def test_an_event_whose_name_has_a_period_is_kept_as_long_as_its_match(shop: Client, served_store: Store) -> None:
    await automate(shop)
    await shop.send_all(orders(3))
    await make_old(served_store, 2)
    await keep_name(shop, ORDER, days(7))
    await asyncio.sleep(0.2)
    await kept_are(served_store, shop, [1, 2, 3])
    await served_store.execute("DELETE FROM automation_match WHERE event_position = 1")
    await kept_are(served_store, shop, [2, 3])


async def test_the_event_of_a_waiting_run_is_kept_until_the_run_waits_no_longer(
    shop: Client, served_store: Store
) -> None:
    await automate(shop)
    await subscribe(shop)
    run = await started(shop)
    await acknowledge(shop, ack=pb.AckDeliveries(delivery_ids=ids(await pull(shop))))
    await await_event(shop, run, "never", timeout=Duration(seconds=3_600))
    await shop.define("plain", ANYTHING)
    await shop.send_all([event({}, name="plain")])
    await make_old(served_store, 1)
    await keep(shop, 30)
    await kept_are(served_store, shop, [], "automation_match")
    await kept_are(served_store, shop, [1, 2])
    await served_store.execute("UPDATE run SET timeout_at = 1")
    await no_longer_waiting(shop, run)
    (timeout,) = await pull(shop, wait=5)
    assert timeout.match.event.position == 1
    await acknowledge(shop, ack=pb.AckDeliveries(delivery_ids=ids([timeout])))
    await served_store.execute("UPDATE automation_match SET matched_at = 1")
    await kept_are(served_store, shop, [2])
    assert (await get_run(shop, run.id)).event_id == ""


# Reading


Log = list[tuple[int, int]]


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 3)), max_size=12), st.integers(0, 40))
def test_a_time_is_found_in_a_log_with_gaps(steps: Log, time: int) -> None:
    position = received = 0
    events: Log = []
    for gap, pause in steps:
        position, received = position + gap, received + pause
        events.append((position, received))
    found = position_at(_Connection(events), 1, time)  # type: ignore[arg-type]
    assert all(received < time for position, received in events if position < found)
    assert all(received >= time for position, received in events if position >= found)


class _Connection:
    """Stands for the log of one project."""

    def __init__(self, events: Log) -> None:
        self._events = events

    def scalar(self, _query: object) -> int:
        return self._events[-1][0] if self._events else 0

    def execute(self, query: object, values: dict[str, int]) -> _Connection:
        assert query is log._NEXT_EVENT
        return _Connection([row for row in self._events if row[0] >= values["middle"]])

    def one_or_none(self) -> _Row | None:
        return _Row(*self._events[0]) if self._events else None


class _Row:
    def __init__(self, position: int, received_at: int) -> None:
        self.position, self.received_at = position, received_at


async def test_times_of_receipt_are_found_beside_deleted_events(shop: Client, served_store: Store) -> None:
    await shop.define("plain", ANYTHING)
    await keep_name(shop, "plain", days(7))
    await shop.send_all([event({}, name="plain") if number % 2 else each for number, each in enumerate(orders(9))])
    await make_old(served_store, 8)
    await kept_are(served_store, shop, [1, 3, 5, 7, 9])
    # The two bounds are looked up each for itself.
    for start, end in [*((0, end) for end in range(10)), *((start, 9) for start in range(1, 10)), (4, 4)]:
        expected = [position for position in (7, 5, 3, 1) if start <= position < end]
        bounds = {"received_from": {"nanos": start * 1_000}, "received_until": {"nanos": end * 1_000}}
        assert await listed(shop, **bounds) == expected


# Settings


@on_sqlite
@pytest.mark.parametrize(("seconds", "nanos"), [(0, 999_999_000), (-1, 0), (36_500 * DAY + 1, 0), (2**62, 0), (1, -1)])
async def test_a_period_is_from_one_second_to_a_hundred_years(shop: Client, seconds: int, nanos: int) -> None:
    period = Duration(seconds=seconds, nanos=nanos)
    calls: list[tuple[str, Callable[[], object]]] = [
        (
            "event_retention",
            lambda: admin(shop).projects.UpdateProject(
                projects_pb2.UpdateProjectRequest(project=shop.project, event_retention=period)
            ),
        ),
        (
            "event_retention.max_age",
            lambda: shop.definitions.UpdateEventDefinition(
                event_definitions_pb2.UpdateEventDefinitionRequest(
                    event_definition=ORDER, event_retention=event_definitions_pb2.EventRetention(max_age=period)
                )
            ),
        ),
    ]
    for path, call in calls:
        refused = await refusal(call())  # type: ignore[arg-type]
        assert refused.code is StatusCode.INVALID_ARGUMENT
        assert [violated for violated, _ in refused.violations] == [path]


async def test_a_period_is_returned_as_it_was_set(shop: Client) -> None:
    project = await keep(shop, 30)
    assert project.event_retention == Duration(seconds=30 * DAY)
    assert not (await keep(shop, 0)).HasField("event_retention")
    for retention in (days(7), FOREVER, event_definitions_pb2.EventRetention()):
        await keep_name(shop, ORDER, retention)
        request = event_definitions_pb2.GetEventDefinitionRequest(event_definition=ORDER)
        definition = (await shop.definitions.GetEventDefinition(request)).event_definition
        assert definition.event_retention == retention
        assert definition.revision == 1
