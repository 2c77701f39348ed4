"""Retention: the matches that are deleted, those that are kept, and the answers about deleted ones."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from google.protobuf.timestamp_pb2 import Timestamp
from grpc import StatusCode
from structlog.testing import capture_logs

from automation.deletion.retention import delete_matches
from automation.match_log import match_values
from automation.matches import Match, MatchKind
from server.background import match_retention as match_pruner
from server.background import retention_clock
from server.background.match_retention import MatchRetention
from server.background.retention_clock import RetentionClock
from server.logs.outages import Outages
from server.model import Rules
from server.storage.events.appending import matches
from server.storage.projects.heads import Head, match_positions, move_heads
from server.storage.projects.projects import get_project, insert_project
from signalbox.v1 import automations_pb2 as runs_pb
from signalbox.v1 import match_stream_pb2 as pb
from tests.support.automations import (
    RESUMED,
    STARTED,
    TIMED_OUT,
    automate,
    await_event,
    cancel,
    complete,
    get_run,
    list_runs,
    matches_of,
    no_longer_waiting,
    started,
)
from tests.support.consumers import EARLIEST, PARK, acknowledge, ids, parked, positions, pull, seek, stats, subscribe
from tests.support.messages import ANYTHING, MATCHES, event, orders
from tests.support.refusals import refusal, verdict
from tests.support.service import serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    import asyncpg
    from sqlalchemy import Connection

    from server.storage.database import Database
    from signalbox.v1 import match_pb2
    from tests.support.refusals import Refusal
    from tests.support.service import Client, Service
    from tests.support.stores import PostgresStore, Store

pytestmark = pytest.mark.lasting

ALL = pb.ParkedSelection(all=True)
NEVER = 3_600.0
AT_ONCE = 0.05
"""Seconds that matches are kept in tests of their deletion."""

on_postgresql = pytest.mark.parametrize("backend", ["postgresql"], indirect=True)


@pytest.fixture(scope="module", autouse=True)
def at_once() -> Iterator[None]:
    """Delete as soon as a server has started."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(match_pruner, "SETTLING_SECONDS", 0.0)
        yield


@pytest.fixture
def served_database(service: Service) -> Database:
    """Return the database as the shared server has opened it: SQLite's can be opened once."""
    assert service._database is not None
    return service._database


@pytest_asyncio.fixture
async def shop(service: Service, served_store: Store) -> AsyncIterator[Client]:
    """A shop in the shared server, whose matches are the only ones."""
    yield await service.shop()
    await served_store.execute("DELETE FROM automation_match")


@asynccontextmanager
async def deleting(database: Database, shop: Client, seconds: float) -> AsyncIterator[None]:
    """Delete the matches of a shop as a server with a match retention of `seconds`."""
    pk = await database.read(lambda connection: get_project(connection, shop.project).pk)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(match_pruner, "match_positions", lambda connection: match_positions(connection, [pk]))
        pruner = MatchRetention(database, seconds, RetentionClock(database), Outages())
        pruner.start()
        try:
            yield
        finally:
            await pruner.close()


async def kept(store: Store) -> list[int]:
    return sorted(row[1] for row in await store.rows("automation_match"))


async def kept_are(store: Store, expected: list[int]) -> None:
    """Wait until the log has exactly these positions."""
    async with asyncio.timeout(10):
        while await kept(store) != expected:  # noqa: ASYNC110 - no event to wait for
            await asyncio.sleep(0.02)


async def read_from(client: Client, start: pb.StartPoint) -> tuple[list[match_pb2.Match], pb.WatchMatchesResponse]:
    """Return the matches from a place to the end of the log, and the last answer."""
    call = client.matches.WatchMatches(pb.WatchMatchesRequest(start=start))
    found: list[match_pb2.Match] = []
    async for answer in call:
        found += answer.matches
        if answer.position == answer.head_position:
            break
    call.cancel()
    return found, answer


def after(position: int) -> pb.StartPoint:
    return pb.StartPoint(after_position=position)


def since(micros: int) -> pb.StartPoint:
    time = Timestamp()
    time.FromMicroseconds(micros)
    return pb.StartPoint(time=time)


async def expired(call: Any) -> Refusal:
    refused = await refusal(call)
    assert (refused.code, refused.reason) == (StatusCode.OUT_OF_RANGE, "CURSOR_EXPIRED")
    return refused


# Deletion


async def test_matches_are_kept_forever_by_default(database_url: str, store: Store) -> None:
    async with serving(database_url) as service:
        shop = await service.shop()
        await automate(shop)
        await shop.send_all(orders(3))
        await store.execute("UPDATE automation_match SET matched_at = 1")
        await asyncio.sleep(0.2)
    assert await kept(store) == [1, 2, 3]


async def test_old_matches_are_deleted_and_younger_ones_stay(
    served_database: Database, shop: Client, served_store: Store
) -> None:
    await automate(shop)
    await shop.send_all(orders(5))
    await served_store.execute("UPDATE automation_match SET matched_at = position WHERE position <= 3")
    async with deleting(served_database, shop, NEVER):
        await kept_are(served_store, [4, 5])
        found, last = await read_from(shop, EARLIEST)
        assert [each.position for each in found] == [4, 5]
        for start in (after(0), after(2), since(0), since(3)):
            call = shop.matches.WatchMatches(pb.WatchMatchesRequest(start=start))
            assert (await expired(call.read())).metadata == {"earliest_position": "4"}
        for start in (after(3), since(4)):
            assert (await read_from(shop, start))[0] == found
        assert (await read_from(shop, pb.StartPoint(cursor=last.cursor)))[0] == []
        (match,) = await matches_of(shop)
        assert match.position == 6


async def test_a_log_without_matches_continues_at_its_end(
    served_database: Database, shop: Client, served_store: Store
) -> None:
    async with deleting(served_database, shop, AT_ONCE):
        await automate(shop)
        await shop.send_all(orders(3))
        await kept_are(served_store, [])
        for start in (EARLIEST, after(3), pb.StartPoint(), since(2**52)):
            found, last = await read_from(shop, start)
            assert (found, last.position, last.head_position) == ([], 3, 3)
        assert (await subscribe(shop, "late", EARLIEST)).stats == pb.SubscriptionStats(
            floor_position=3, read_position=3, head_position=3
        )
        await shop.send()
        (delivery,) = await pull(shop, name="late", wait=5)
        assert delivery.match.position == 4
        await acknowledge(shop, "late", ack=pb.AckDeliveries(delivery_ids=[delivery.delivery_id]))
        await kept_are(served_store, [])


async def test_a_cursor_expires_under_a_watcher_that_stays_behind(shop: Client, served_store: Store) -> None:
    """A watcher that continues gets an error instead of a gap."""
    await shop.define("large", ANYTHING)
    await automate(shop, "large")
    for _ in range(10):
        await shop.send_all([event({"text": "x" * 100_000}, name="large") for _ in range(10)])
    call = shop.matches.WatchMatches(pb.WatchMatchesRequest(start=EARLIEST))
    first = await call.read()
    assert isinstance(first, pb.WatchMatchesResponse)
    await served_store.execute("UPDATE automation_match SET matched_at = 1")
    await served_store.execute(
        "INSERT INTO match_log_start (project_key, position, gone_before)"
        " SELECT project_key, 101, 2 FROM automation_match WHERE position = 1"
    )
    read = [each.position for each in first.matches]

    async def read_on() -> None:
        while isinstance(answer := await call.read(), pb.WatchMatchesResponse):
            read.extend(each.position for each in answer.matches)

    assert (await expired(read_on())).metadata == {"earliest_position": "101"}
    assert read == list(range(1, len(read) + 1))
    assert len(read) < 100


async def test_the_start_of_a_log_outlives_a_restart_and_the_end_of_pruning(database_url: str, store: Store) -> None:
    async with serving(database_url, match_retention_seconds=AT_ONCE) as service:
        shop = await service.shop()
        await automate(shop)
        await shop.send_all(orders(4))
        await kept_are(store, [])
    async with serving(database_url) as service:
        shop = service.client(shop.secret, shop.project)
        call = shop.matches.WatchMatches(pb.WatchMatchesRequest(start=after(1)))
        assert (await expired(call.read())).metadata == {"earliest_position": "5"}
        assert (await subscribe(shop)).stats.head_position == 4


async def test_logs_are_pruned_each_for_itself(database_url: str, store: Store) -> None:
    async with serving(database_url, match_retention_seconds=AT_ONCE) as service:
        one, other = await service.shop(), await service.shop()
        for shop in (one, other):
            await automate(shop)
        await subscribe(other)
        await one.send_all(orders(3))
        await other.send_all(orders(2))
        await kept_are(store, [1, 2])
        assert (await read_from(other, after(0)))[1].position == 2
        assert (await read_from(one, EARLIEST))[1].position == 3


@on_postgresql
async def test_servers_of_one_database_prune_together(database_url: str, store: Store) -> None:
    async with (
        serving(database_url, match_retention_seconds=AT_ONCE) as one,
        serving(database_url, match_retention_seconds=AT_ONCE) as _,
    ):
        shop = await one.shop()
        await automate(shop)
        with capture_logs() as logs:
            for _ in range(5):
                await shop.send_all(orders(100))
            await kept_are(store, [])
        assert [each for each in logs if each["log_level"] == "error"] == []
        assert (await read_from(shop, EARLIEST))[1].position == 500


async def test_a_long_log_is_deleted_in_small_transactions(
    served_database: Database, shop: Client, served_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(match_pruner, "PORTION_MATCHES", 10)
    sizes: list[int] = []

    def delete(connection: Any, project_pk: int, gone: Any) -> None:
        sizes.append(len(gone))
        delete_matches(connection, project_pk, gone)

    monkeypatch.setattr(match_pruner, "delete_matches", delete)
    await automate(shop)
    await shop.send_all(orders(95))
    await served_store.execute("UPDATE automation_match SET matched_at = 1")
    async with deleting(served_database, shop, NEVER):
        await kept_are(served_store, [])
    assert sizes == [10] * 9 + [5]


async def test_one_project_that_cannot_be_pruned_does_not_keep_the_others_from_it(
    database: Database, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row that was deleted by hand is a defect of one log only."""

    def work(connection: Connection) -> None:
        for name, found in (("broken", [2]), ("sound", [1, 2])):
            key = insert_project(connection, name, name, Rules(), 1).pk
            made = [Match(each, "m", MatchKind.STARTED, 1, 1, "r", 1, "e", 0, 1) for each in found]
            matches.append(connection, [match_values(key, each) for each in made])
            move_heads(connection, {key: Head(2, 1, 1, 2)})

    await database.write(work)
    monkeypatch.setattr(retention_clock, "CONFIRM_SECONDS", 0)  # The log ends in 1970.
    pruner = MatchRetention(database, 1, RetentionClock(database), Outages())
    with capture_logs() as logs:
        pruner.start()
        await kept_are(store, [2])
        async with asyncio.timeout(10):
            while not any(each["log_level"] == "error" for each in logs):  # noqa: ASYNC110 - logs do not tell
                await asyncio.sleep(0.02)
        await pruner.close()
    assert {(each["event"], each["work"]) for each in logs if each["log_level"] == "error"} == {
        ("work_failed", "pruning")
    }


# Unsettled and parked matches


async def test_an_unsettled_match_is_kept_and_deleted_once_it_is_settled(
    served_database: Database, shop: Client, served_store: Store
) -> None:
    """NoAckedLoss: unread, outstanding and retrying matches of every age."""
    async with deleting(served_database, shop, AT_ONCE):
        await automate(shop)
        await subscribe(shop)
        await shop.send_all(orders(6))
        first, second, third, fourth = await pull(shop, 4)
        await acknowledge(shop, ack=pb.AckDeliveries(delivery_ids=ids([first, third])))
        retry = pb.NackDeliveries(delivery_ids=[second.delivery_id])
        await acknowledge(shop, nacks=[retry])
        await kept_are(served_store, [2, 3, 4, 5, 6])
        await asyncio.sleep(0.2)
        assert await kept(served_store) == [2, 3, 4, 5, 6]
        await acknowledge(shop, ack=pb.AckDeliveries(delivery_ids=[fourth.delivery_id]))
        settled: set[int] = set()
        while not settled >= {2, 5, 6}:
            found = await pull(shop, 10, wait=5)
            await acknowledge(shop, ack=pb.AckDeliveries(delivery_ids=ids(found)))
            settled.update(positions(found))
        assert settled == {2, 5, 6}
        await kept_are(served_store, [])
        assert (await stats(shop)).floor_position == 6


async def test_a_parked_match_is_kept_without_keeping_others(
    served_database: Database, shop: Client, served_store: Store
) -> None:
    async with deleting(served_database, shop, AT_ONCE):
        await automate(shop)
        await subscribe(shop)
        await shop.send_all(orders(5))
        deliveries = await pull(shop, 5)
        await acknowledge(
            shop,
            ack=pb.AckDeliveries(delivery_ids=ids(deliveries[2:4])),
            nacks=[pb.NackDeliveries(delivery_ids=ids([*deliveries[:2], deliveries[4]]), action=PARK)],
        )
        await kept_are(served_store, [1, 2, 5])
        assert [each.match for each in await parked(shop)] == [deliveries[at].match for at in (4, 1, 0)]
        assert (await read_from(shop, EARLIEST))[0] == []
        one = pb.ParkedSelection(match_ids=[deliveries[0].match.id])
        await shop.matches.DiscardParkedMatches(pb.DiscardParkedMatchesRequest(subscription="engine", selection=one))
        await kept_are(served_store, [2, 5])
        await shop.matches.ReplayParkedMatches(pb.ReplayParkedMatchesRequest(subscription="engine", selection=ALL))
        replayed = await pull(shop, 5)
        assert [each.match for each in replayed] == [deliveries[at].match for at in (1, 4)]
        await asyncio.sleep(0.2)
        assert await kept(served_store) == [2, 5]
        assert (await stats(shop)).floor_position == 5
        await acknowledge(shop, ack=pb.AckDeliveries(delivery_ids=ids(replayed)))
        await kept_are(served_store, [])


async def test_a_subscription_that_is_deleted_holds_nothing(
    served_database: Database, shop: Client, served_store: Store
) -> None:
    async with deleting(served_database, shop, AT_ONCE):
        await automate(shop)
        await subscribe(shop, "one")
        await subscribe(shop, "two")
        await shop.send_all(orders(3))
        for name, expected in (("one", [1, 2, 3]), ("two", [])):
            await shop.matches.DeleteSubscription(pb.DeleteSubscriptionRequest(subscription=name))
            await asyncio.sleep(0.1)
            await kept_are(served_store, expected)


async def test_the_start_of_the_log_is_the_earliest_position_of_a_seek(
    served_database: Database, shop: Client, served_store: Store
) -> None:
    await automate(shop)
    await subscribe(shop)
    await shop.send_all(orders(6))
    await acknowledge(shop, ack=pb.AckDeliveries(delivery_ids=ids(await pull(shop))))
    await served_store.execute("UPDATE automation_match SET matched_at = position WHERE position <= 3")
    async with deleting(served_database, shop, NEVER):
        await kept_are(served_store, [4, 5, 6])
        before = (await stats(shop)).floor_position
        assert (await expired(seek(shop, 2))).metadata == {"earliest_position": "4"}
        assert (await expired(subscribe(shop, "late", after(0)))).metadata == {"earliest_position": "4"}
        assert (await stats(shop)).floor_position == before == 6
        request = pb.SeekSubscriptionRequest(subscription="engine", start=EARLIEST)
        assert (await shop.matches.SeekSubscription(request)).subscription.stats.floor_position == 3
        assert positions(await pull(shop)) == [4, 5, 6]


async def test_no_seek_slips_below_a_log_that_is_being_pruned(
    served_database: Database, shop: Client, served_store: Store
) -> None:
    """The matches of an accepted seek are delivered, however it interleaves with retention."""
    async with deleting(served_database, shop, 0.005):
        await automate(shop)
        await subscribe(shop)

        for _ in range(5):
            await shop.send_all(orders(3))
            await acknowledge(shop, ack=pb.AckDeliveries(delivery_ids=ids(await pull(shop, wait=5))))
            request = pb.SeekSubscriptionRequest(subscription="engine", start=EARLIEST)
            place = (await shop.matches.SeekSubscription(request)).subscription.stats.floor_position
            head = (await stats(shop)).head_position
            again = await pull(shop, wait=1 if place < head else 0)
            assert positions(again) == list(range(place + 1, head + 1))
            if again:
                await acknowledge(shop, ack=pb.AckDeliveries(delivery_ids=ids(again)))
        await kept_are(served_store, [])


@on_postgresql
async def test_retention_waits_for_a_seek_and_keeps_its_matches(
    service: Service, database: Database, store: PostgresStore
) -> None:
    """It waits for the lock of the project's head, which a seek holds while it moves the subscription."""
    await settled_long_ago(await service.shop(), store)
    async with store.connected() as seeking:
        async with seeking.transaction():
            await seeking.execute("SELECT 1 FROM project_head FOR UPDATE")
            await seeking.execute("UPDATE subscription SET floor_position = 0, read_position = 0")
            pruned = asyncio.create_task(MatchRetention(database, 1, RetentionClock(database), Outages())._prune_all())
            await blocked_by(seeking, pruned)
        await pruned
    assert await kept(store) == [1, 2, 3]


@on_postgresql
async def test_a_seek_waits_for_the_start_of_the_log(service: Service, store: PostgresStore) -> None:
    """It waits for the lock of the project's head, which retention holds while it moves the start."""
    shop = await service.shop()
    await settled_long_ago(shop, store)
    async with store.connected() as pruning:
        async with pruning.transaction():
            await pruning.execute("SELECT 1 FROM project_head FOR UPDATE")
            await pruning.execute(
                "INSERT INTO match_log_start (project_key, position, gone_before)"
                " SELECT project_key, 4, 2 FROM automation_match WHERE position = 1"
            )
            sought = asyncio.create_task(expired(seek(shop, 0)))
            await blocked_by(pruning, sought)
        assert (await sought).metadata == {"earliest_position": "4"}
    assert (await stats(shop)).floor_position == 3


async def settled_long_ago(shop: Client, store: Store) -> None:
    """Record three matches, which the only subscription has settled."""
    await automate(shop)
    await subscribe(shop)
    await shop.send_all(orders(3))
    await acknowledge(shop, ack=pb.AckDeliveries(delivery_ids=ids(await pull(shop))))
    await store.execute("UPDATE automation_match SET matched_at = 1")


async def blocked_by(holder: asyncpg.Connection, task: asyncio.Task[Any]) -> None:
    """Wait until a transaction waits for one that holds a lock; not if the task ends without doing so."""
    waiting = (
        "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY (pg_blocking_pids(pid)))"
    )
    while not task.done() and not await holder.fetchval(waiting):
        pass


# Runs, explanations and repeated sends


async def test_runs_need_no_match(served_database: Database, shop: Client, served_store: Store) -> None:
    await shop.define("paid", ANYTHING)
    await automate(shop)
    resumed, timed_out, ended, left = [await started(shop) for _ in range(4)]
    match_ids = [each.match_id for each in (resumed, timed_out, ended, left)]
    async with deleting(served_database, shop, AT_ONCE):
        await await_event(shop, resumed)
        await kept_are(served_store, [])
        assert [each.match_id for each in await list_runs(shop)] == [""] * 4
        assert (await get_run(shop, left.id)).status == runs_pb.RUN_STATUS_QUEUED
        await await_event(shop, timed_out, "unheard_of", seconds=1, match_id=match_ids[1])
        assert await verdict(complete(shop, ended, match_id=match_ids[3])) == (
            StatusCode.FAILED_PRECONDITION,
            "RUN_MOVED_ON",
        )
        assert (await complete(shop, ended, match_id=match_ids[2])).status == runs_pb.RUN_STATUS_COMPLETED
        assert (await cancel(shop, left)).status == runs_pb.RUN_STATUS_CANCELLED
        await subscribe(shop)
        (match,) = await matches_of(shop, event(name="paid"))
        assert (match.kind, match.run_id, match.position) == (RESUMED, resumed.id, 5)
        await no_longer_waiting(shop, timed_out)
        found = [each.match for each in await pull(shop, wait=5)]
        assert [(each.kind, each.run_id, each.event.name) for each in found] == [
            (RESUMED, resumed.id, "paid"),
            (TIMED_OUT, timed_out.id, "order_completed"),
        ]
        assert (await get_run(shop, resumed.id)).match_id == found[0].id


async def test_an_event_whose_match_was_deleted_is_explained_and_repeated(
    served_database: Database, shop: Client, served_store: Store
) -> None:
    async with deleting(served_database, shop, AT_ONCE):
        await automate(shop, entry_rule=runs_pb.ENTRY_RULE_ONCE_PER_CONTACT)
        sent = event({"order_total": 5}, key="once")
        receipt = await shop.send(sent, MATCHES)
        assert [each.kind for each in receipt.matches] == [STARTED]
        await kept_are(served_store, [])
        again = await shop.send(sent, MATCHES)
        assert (again.duplicate, again.event.id, again.match_count, list(again.matches)) == (
            True,
            receipt.event.id,
            0,
            [],
        )
        second = await shop.send()
        assert second.match_count == 0
        answer = await shop.automations.ExplainEvent(runs_pb.ExplainEventRequest(event_id=receipt.event.id))
        (each,) = answer.explanations
        assert (each.matched, each.match_id, each.run_id) == (True, "", "")
        answer = await shop.automations.ExplainEvent(runs_pb.ExplainEventRequest(event_id=second.event.id))
        (each,) = answer.explanations
        (run,) = await list_runs(shop)
        assert [reason.run_id for reason in each.outside_reasons] == [run.id]
