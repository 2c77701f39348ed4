"""Matches of which something stored cannot be read: each is put aside alone, and those beside it are delivered."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from server.rpc.messages.structs import read_struct
from signalbox.v1 import match_stream_pb2 as pb
from tests.support.automations import automate
from tests.support.consumers import EARLIEST, Engine, acknowledge, get, ids, parked, positions, pull, record, subscribe

if TYPE_CHECKING:
    from tests.support.service import Client
    from tests.support.stores import Store

pytestmark = pytest.mark.lasting
# All deliveries read their rows alike: pulls show that over both databases.
on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)

UNREADABLE = pb.ParkedMatch.CAUSE_UNREADABLE
GOOD = [1, 2, 4, 5]

BROKEN = {
    "properties that are no JSON": """UPDATE event SET properties = '{"n":' WHERE position = 3""",
    "properties that are no object": "UPDATE event SET properties = '[1]' WHERE position = 3",
    "properties with a text that no response can hold": (
        """UPDATE event SET properties = '{"n":"\\ud800"}' WHERE position = 3"""
    ),
    "coercions of an unknown kind": """UPDATE event SET coercions = '[["x","odd",1,2]]' WHERE position = 3""",
    "coercions with a path that is no text": (
        """UPDATE event SET coercions = '[[7,"converted","1",1]]' WHERE position = 3"""
    ),
    "a time of receipt of no calendar": "UPDATE event SET received_at = 1000000000000000000 WHERE position = 3",
    "a time of occurrence of no calendar": "UPDATE event SET occurred_at = -1000000000000000000 WHERE position = 3",
    "a missing event": "DELETE FROM event WHERE position = 3",
}

bad_row = pytest.mark.parametrize("damage", BROKEN.values(), ids=BROKEN)


@pytest_asyncio.fixture
async def till(shop: Client) -> Client:
    """The shop, with an automation on orders and a subscription that tries twice."""
    await automate(shop)
    await subscribe(shop, start=EARLIEST, max_attempts=2)
    return shop


async def check_parked(client: Client) -> None:
    """Expect the third match to be parked, alone and with its reason, and all others to be settled."""
    (found,) = await parked(client)
    assert (found.match.position, found.match.event.position, found.cause) == (3, 3, UNREADABLE)
    assert found.match.id
    assert "cannot be" in found.last_failure
    stats = (await get(client)).subscription.stats
    assert (stats.floor_position, stats.outstanding_count, stats.retrying_count, stats.parked_count) == (5, 0, 0, 1)


@bad_row
async def test_a_pull_parks_it_and_delivers_the_others(till: Client, served_store: Store, damage: str) -> None:
    await record(till, 5)
    await served_store.execute(damage)
    deliveries = await pull(till)
    assert positions(deliveries) == GOOD
    await acknowledge(till, ack=pb.AckDeliveries(delivery_ids=ids(deliveries)))
    assert await pull(till) == []
    await check_parked(till)


@on_sqlite
@bad_row
async def test_a_consumer_gets_the_others(till: Client, served_store: Store, damage: str) -> None:
    await record(till, 5)
    await served_store.execute(damage)
    engine = await Engine.open(till)
    await engine.ack(await engine.deliveries(4))
    await record(till, 1)
    (later,) = await engine.deliveries(1)
    assert later.match.position == 6
    await engine.nack([later], action=pb.NACK_ACTION_SKIP)
    await engine.close()
    (found,) = await parked(till)
    assert (found.match.position, found.cause) == (3, UNREADABLE)


@on_sqlite
@bad_row
async def test_a_consumer_with_a_window_of_one_receives_the_next_match(
    till: Client, served_store: Store, damage: str
) -> None:
    await record(till, 5)
    await served_store.execute(damage)
    engine = await Engine.open(till, max_outstanding=1)
    delivered: list[int] = []
    while len(delivered) < len(GOOD):
        deliveries = await engine.some()
        delivered += positions(deliveries)
        await engine.ack(deliveries)
    await engine.close()
    assert delivered == GOOD
    await check_parked(till)


async def test_a_pull_of_one_skips_to_the_next_readable_match(till: Client, served_store: Store) -> None:
    await record(till, 5)
    await served_store.execute("UPDATE event SET properties = '{' WHERE position < 4")
    assert positions(await pull(till, 1)) == [4]
    assert [each.match.position for each in await parked(till)] == [3, 2, 1]


@on_sqlite
@bad_row
async def test_a_watch_skips_an_unreadable_match(till: Client, served_store: Store, damage: str) -> None:
    await record(till, 5)
    await served_store.execute(damage)
    seen: list[int] = []
    watch = till.matches.WatchMatches(pb.WatchMatchesRequest(start=EARLIEST, max_matches=2))
    async for answer in watch:
        seen += [match.position for match in answer.matches]
        if answer.position == answer.head_position:
            break
    watch.cancel()
    assert seen == GOOD


async def test_a_replayed_match_is_read_again(till: Client, served_store: Store) -> None:
    await record(till, 1)
    await served_store.execute("UPDATE event SET properties = '[1]'")
    assert await pull(till) == []
    await served_store.execute("UPDATE event SET properties = '{}'")
    request = pb.ReplayParkedMatchesRequest(subscription="engine", selection=pb.ParkedSelection(all=True))
    assert (await till.matches.ReplayParkedMatches(request)).match_count == 1
    assert positions(await pull(till, wait=5)) == [1]


async def test_a_match_whose_automation_is_missing_parks_alone(till: Client, store: Store) -> None:
    await automate(till, name="Second")
    await record(till, 2)
    await store.execute("DELETE FROM automation WHERE name = 'Second'")
    assert [each.match.automation_name for each in await pull(till)] == ["Welcome", "Welcome"]
    assert [each.cause for each in await parked(till)] == [UNREADABLE] * 2


async def test_a_number_beyond_the_range_that_an_earlier_release_stored_is_delivered(
    till: Client, served_store: Store
) -> None:
    await record(till, 1)
    await served_store.execute(f"UPDATE event SET properties = '{json.dumps({'n': 10**400, 'list': [-(10**400)]})}'")  # noqa: S608
    (delivery,) = await pull(till)
    largest = 1.7976931348623157e308
    assert read_struct(delivery.match.event.properties) == {"n": largest, "list": [-largest]}
    (event,) = await till.log()
    assert event.properties["n"] == largest
    assert (await till.get(event.id)).properties["n"] == largest
