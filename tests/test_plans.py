"""Costs of reads of large tables: each finds its rows by an index."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy import create_engine

from automation.prepared_statements import Prepared
from automation.subscriptions.leasing import step
from automation.subscriptions.store import create_subscription
from automation.subscriptions.values import Ack, Delivery, DeliveryRequest, SearchBounds
from automation.tables import metadata
from server.background import statistics
from server.storage.opening import open_database
from signalbox.v1 import (
    automations_pb2,
    contacts_pb2,
    event_definitions_pb2,
    event_ingest_pb2,
    match_stream_pb2,
    refusals_pb2,
)
from tests.support.automations import automate
from tests.support.leasing import NOW, SECOND, SUBSCRIPTION, match, record
from tests.support.list_filters import examine_at_most, filters_of, lists, singles_and_pairs
from tests.support.messages import ADA, ORDER, event
from tests.support.plans import plans
from tests.support.quarantine import KEEP
from tests.support.refusals import refusal
from tests.support.service import serving
from tests.support.stores import PostgresStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from sqlalchemy import Connection

    from server.storage.database import Database
    from tests.support.service import Client
    from tests.support.stores import Backend, Store

# ruff: noqa: S608 - the statements are our own
ROWS = 20_000
NUMBERS = f"WITH RECURSIVE number(n) AS (SELECT 2 UNION ALL SELECT n + 1 FROM number WHERE n < {ROWS})"
LARGE = ("event", "contact", "automation_match", "run", "subscription_delivery", "subscription_parked", "refused_event")
NOBODY = "nobody@example.com"
MOST_STEPS, MOST_BLOCKS = 20_000, 800
"""A read of a table as a whole takes some 10 steps for each of the ROWS, or visits 0.05 blocks for each."""

ATTEMPTS = 20

on_postgresql = pytest.mark.parametrize("backend", ["postgresql"], indirect=True)


@pytest_asyncio.fixture(scope="module")
async def crowd(backend: Backend, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Client, Store]]:
    """A shop whose large tables are large; one event in a hundred was recorded without a contact."""
    async with backend.empty(tmp_path_factory.mktemp("crowded")) as store, serving(store.url) as service:
        shop = await service.shop(unknown_contacts="UNKNOWN_CONTACTS_CREATE_ON_MATCH", refused_events=KEEP)
        await automate(shop)
        wanted = match_stream_pb2.Subscription(name="engine")
        await shop.matches.CreateSubscription(match_stream_pb2.CreateSubscriptionRequest(subscription=wanted))
        await shop.send()
        await refusal(shop.send(event(name="unheard_of")))
        for statement in seeds():
            await store.execute(statement)
        yield shop, store


@pytest.fixture
def crowded(crowd: tuple[Client, Store]) -> Client:
    return crowd[0]


@pytest_asyncio.fixture
async def many_parked(crowd: tuple[Client, Store]) -> AsyncIterator[None]:
    """Many parked matches, which would be counted for every other test of subscriptions."""
    await crowd[1].execute(
        f"""{NUMBERS} INSERT INTO subscription_parked SELECT key, n, 0, 0, 'nacked', 1, '', '', n
            FROM subscription, number"""
    )
    await crowd[1].execute("ANALYZE")
    yield
    await crowd[1].execute("DELETE FROM subscription_parked")


def seeds() -> list[str]:
    email = f"CASE WHEN n = 1000 THEN '{NOBODY}' WHEN n % 100 = 0 THEN 'x@y.z' ELSE '' END"
    return [
        f"""{NUMBERS} INSERT INTO contact (key, id, project_key, email, properties, version, created_at, updated_at)
            SELECT key + n, 'c' || n, project_key, n || '@example.com', properties,
            version, created_at, updated_at FROM contact, number""",
        f"""{NUMBERS} INSERT INTO event (project_key, position, id, name, definition_id, revision, contact_key,
            email, properties, coercions, occurred_at, received_at, match_count,
            idempotency_key, fingerprint, ignore_case)
            SELECT project_key, n, id, name, definition_id, revision,
            CASE WHEN n % 100 = 0 THEN 0 ELSE contact_key + 2 + n % 1000 END, {email}, properties, coercions,
            occurred_at, received_at + n, match_count, '', '', ignore_case FROM event, number""",
        f"""{NUMBERS} INSERT INTO automation_match SELECT project_key, n, id, kind, automation_key, n, run_id, n,
            event_name, contact_key, matched_at FROM automation_match, number""",
        f"""{NUMBERS} INSERT INTO run SELECT project_key, n, id, automation_key, contact_key + n % 1000, n, status, n,
            wait_event, wait_condition, wait_from, timeout_at, reason, attributes, version, created_at, updated_at,
            finished_at, finished_position FROM run, number""",
        f"""{NUMBERS} INSERT INTO refused_event SELECT project_key, substr(id, 1, 24) || (100000000000 + n),
            received_at, byte_count, name, faults, door, key_id, request_id, idempotency_key, contact_id, email, error,
            content, request FROM refused_event, number""",
        f"UPDATE project_head SET position = {ROWS}, match_position = {ROWS}",
        "ANALYZE",
    ]  # fmt: skip


EVENTS: dict[str, dict[str, Any]] = {
    "all": {},
    "by address, with a contact": {"email": ADA},
    "by address, without a contact": {"email": NOBODY},
    "by an address never seen": {"email": "never@example.com"},
    "by name": {"name": ORDER},
    "by name and address": {"name": ORDER, "email": NOBODY},
}


@pytest.mark.parametrize("filters", EVENTS.values(), ids=EVENTS)
@pytest.mark.parametrize("order", [{}, {"after_position": 0}], ids=["newest first", "oldest first"])
async def test_events_are_listed_by_an_index(
    crowded: Client, backend: Backend, filters: dict[str, Any], order: dict[str, Any]
) -> None:
    request = event_ingest_pb2.ListEventsRequest(page_size=10, **filters, **order)
    with plans(*LARGE) as noted:
        page = await crowded.ingest.ListEvents(request)
    assert noted.scans == []
    assert noted.blocks < 200
    if filters.get("email") == NOBODY:
        assert [each.position for each in page.events] == [1_000]
        assert "event_without_contact" in noted.used


PAST, FUTURE = Timestamp(seconds=1_000_000_000), Timestamp(seconds=4_000_000_000)

FILTERS: dict[str, tuple[dict[str, Any], dict[str, list[Any]]]] = {
    "ListEvents": (
        {},
        {
            "name": [ORDER, "never"],
            "contact_id": ["c1000"],
            "email": [ADA, NOBODY],
            "received_from": [PAST, FUTURE],
            "received_until": [PAST, FUTURE],
            "occurred_from": [PAST, FUTURE],
            "occurred_until": [PAST, FUTURE],
            "after_position": [0, ROWS // 2],
        },
    ),
    "ListRuns": (
        {},
        {
            "statuses": [[automations_pb2.RUN_STATUS_QUEUED], [automations_pb2.RUN_STATUS_FAILED]],
            "automation_id": ["of the shop"],
            "contact_id": ["c1000"],
            "email": [ADA, NOBODY],
        },
    ),
    "ListContacts": ({}, {"search": ["1", "never"]}),
    "ListRefusedEvents": (
        {},
        {
            "filter": [
                refusals_pb2.RefusedEventFilter(**fields)
                for fields in (
                    {"name": "unheard_of"},
                    {"name": "never"},
                    {"reason": "DEFINITION_NOT_FOUND"},
                    {"path": "never"},
                    {"door": "never", "received_from": PAST},
                    {"received_from": FUTURE},
                    {"received_until": PAST},
                )
            ]
        },
    ),
    "ListParkedMatches": (
        {"subscription": "engine"},
        {"automation_id": ["of the shop", "never"], "parked_until": [PAST, FUTURE]},
    ),
}
"""The filters of each list with large tables, with many rows and with none."""


@pytest.mark.usefixtures("many_parked")
@pytest.mark.parametrize("name", FILTERS)
async def test_no_page_of_a_list_reads_more_the_larger_its_tables_are(
    crowded: Client, backend: Backend, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    examine_at_most(monkeypatch, 50, 500)
    always, values = FILTERS[name]
    request = lists()[name].input_type
    assert set(values) == filters_of(request) - set(always)
    call: Any = {
        "ListEvents": crowded.ingest.ListEvents,
        "ListRuns": crowded.automations.ListRuns,
        "ListContacts": crowded.contacts.ListContacts,
        "ListRefusedEvents": crowded.quarantine.ListRefusedEvents,
        "ListParkedMatches": crowded.matches.ListParkedMatches,
    }[name]
    automations = await crowded.automations.ListAutomations(automations_pb2.ListAutomationsRequest())
    too_much: list[str] = []
    for filters in singles_and_pairs(request, values, always):
        if filters.get("automation_id") == "of the shop":
            filters["automation_id"] = automations.automations[0].id
        # Recurring work of the server may read in between, for a while, but not each time.
        for _ in range(ATTEMPTS):
            with plans(*LARGE) as noted:
                await call(GetMessageClass(request)(page_size=10, **filters))
            if not noted.scans and noted.steps <= MOST_STEPS and noted.blocks <= MOST_BLOCKS:
                break
        else:
            found = f"{noted.steps} steps, {noted.blocks} blocks, {noted.scans}"
            too_much.append(f"{filters}: {found} in {noted.statements}")
    assert not too_much, "\n".join(too_much)


async def test_other_lists_are_read_by_an_index(crowded: Client) -> None:
    with plans(*LARGE) as noted:
        await crowded.contacts.ListContacts(contacts_pb2.ListContactsRequest(page_size=10))
        await crowded.automations.ListRuns(automations_pb2.ListRunsRequest(page_size=10))
        await crowded.matches.ListSubscriptions(match_stream_pb2.ListSubscriptionsRequest())
        parked = match_stream_pb2.ListParkedMatchesRequest(subscription="engine")
        await crowded.matches.ListParkedMatches(parked)
        await crowded.definitions.ListEventDefinitions(event_definitions_pb2.ListEventDefinitionsRequest())
    assert len(noted.statements) > 5
    assert noted.scans == []


@pytest.mark.usefixtures("many_parked")
async def test_what_the_metrics_ask_of_the_database_reads_no_table_as_a_whole(crowd: tuple[Client, Store]) -> None:
    store = crowd[1]
    with plans(*LARGE) as noted:
        if isinstance(store, PostgresStore):
            database = await open_database(store.url)
            await database.read(statistics.read_statistics)
            await database.close()
        else:
            # A second server on the file is refused.
            engine = create_engine(store.url)
            with engine.connect() as connection:
                statistics.read_statistics(connection)
            engine.dispose()
    of_all = [each for each in noted.statements if "subscription.floor" in each and "matched_at" in each]
    assert len(of_all) == 1
    # Of the waiting runs, which have an index of their own, the first ones are counted. PostgreSQL counts the first
    # parked matches in the table, if all of them are of one subscription.
    counted = ("USING INDEX run_waiting", "'Rows Removed by Filter': 0")
    assert [scan for scan in noted.scans if not any(each in scan for each in counted)] == []


async def test_events_are_sent_and_matches_consumed_by_an_index(crowded: Client) -> None:
    pull = match_stream_pb2.PullMatchesRequest(subscription="engine", max_matches=100)
    await crowded.matches.PullMatches(pull)
    with plans(*LARGE) as noted:
        await crowded.send()
        deliveries = (await crowded.matches.PullMatches(pull)).deliveries
        ack = match_stream_pb2.AckDeliveries(delivery_ids=[each.delivery_id for each in deliveries])
        settle = match_stream_pb2.AcknowledgeMatchesRequest(subscription="engine", ack=ack)
        await crowded.matches.AcknowledgeMatches(settle)
    assert len(deliveries) == 100
    assert noted.scans == []


# A step while somebody holds a snapshot


@on_postgresql
async def test_reads_of_a_step_do_not_grow_with_settled_matches(database: Database, store: Store) -> None:
    assert isinstance(store, PostgresStore)
    subscription = await database.write(lambda connection: create_subscription(connection, SUBSCRIPTION))
    engine = SteadyEngine(database, subscription.key)
    async with store.connected() as other, other.transaction(isolation="repeatable_read"):
        await other.fetch("SELECT count(*) FROM subscription_delivery")
        await engine.settle(4)
        await store.execute("ANALYZE subscription_delivery")
        early = await engine.settle(1)
        await engine.settle(30)
        await store.execute("ANALYZE subscription_delivery")
        late = await engine.settle(1)
    # One of them counts the leases of the consumer, another one looks up the settled matches.
    assert len([statement for statement in late if "GROUP BY" in statement]) == 1
    assert (
        len([statement for statement in late if re.match(r"SELECT .*match_position = ANY", statement, re.DOTALL)]) == 1
    )
    # The searches for due matches visit the dead entries of the last seconds, and none of all earlier ones.
    assert sum(late.values()) < sum(early.values()) + 30, f"{[*early.values()]} {[*late.values()]}"


class SteadyEngine:
    """Settles what it leased with each step, a second later than the step before."""

    BATCH = 200

    def __init__(self, database: Database, key: int) -> None:
        self._database, self._key = database, key
        self._leased: Sequence[Delivery] = ()
        self._now, self._head = NOW, 0
        self._bounds = SearchBounds()

    async def settle(self, steps: int) -> dict[str, int]:
        """Take steps; return how many blocks each read of the last one visited."""
        blocks: dict[str, int] = {}
        for number in range(steps):
            blocks = await self._database.write(self._step)
            assert number or len(self._leased) == self.BATCH
        return blocks

    def _step(self, connection: Connection) -> dict[str, int]:
        record(connection, [match(self._head + each) for each in range(1, self.BATCH + 1)])
        # As it is once the table is so large that reading it as a whole costs more than by an index.
        connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        self._head += self.BATCH
        self._now += SECOND
        ids = [each.id for each in self._leased]
        settlements = [Ack(ids)] if ids else []
        requests = [DeliveryRequest("a", self.BATCH, 10_000)]
        bounds = replace(self._bounds, full_at=2**62)
        with plans() as noted:
            result = step(connection, self._key, lambda: self._now, settlements, requests, bounds=bounds)
        self._leased, self._bounds = result.deliveries[0], result.bounds
        return noted.costs


def prepared_statements() -> dict[str, Prepared]:
    modules = [module for name, module in sys.modules.items() if name.startswith("automation.")]
    return {
        f"{module.__name__}.{name}": value
        for module in modules
        for name, value in vars(module).items()
        if isinstance(value, Prepared)
    }


@pytest.mark.parametrize("name", sorted(prepared_statements()))
def test_prepared_statements_find_their_rows_by_an_index(name: str) -> None:
    """On SQLite, where they pass the noted plans by: no table is read as a whole, nor all rows of a subscription."""
    engine = create_engine("sqlite://")
    with engine.connect() as connection:
        metadata.create_all(connection)
        text, parameters, _ = prepared_statements()[name].text("sqlite")
        driver: Any = connection.connection.driver_connection
        lists = dict.fromkeys(("positions", "numbers", "contacts", "consumers"), "[1]") | {"pairs": "[[1, 1]]"}
        plan = [
            row[3] for row in driver.execute(f"EXPLAIN QUERY PLAN {text}", [lists.get(each, 1) for each in parameters])
        ]
    engine.dispose()
    tables = "|".join(metadata.tables)
    assert not [line for line in plan if re.match(rf"SCAN ({tables})\b|.*PRIMARY KEY \(subscription_key=\?\)$", line)]
