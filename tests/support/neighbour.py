"""A second project beside the one that a test is about: nothing that the test does may change a row of it.

It has the names, addresses, positions and numbers that the test's own project has, so that a statement which leaves out
the project finds it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from signalbox.v1 import projects_pb2
from signalbox.v1.match_stream_pb2 import NackDeliveries
from tests.support.automations import automate, await_event, started
from tests.support.consumers import EARLIEST, PARK, acknowledge, pull, seconds, subscribe
from tests.support.messages import ADA, ANYTHING, BOB, ORDER, event

if TYPE_CHECKING:
    from collections import Counter

    from tests.support.service import Client, Service
    from tests.support.stores import Row, Store

UNKNOWN_TO_ALL = "marked@example.com"


async def plant(service: Service, store: Store) -> Counter[Row]:
    """Make the neighbour in an empty database; return all its rows."""
    client = await service.shop(unknown_contacts=projects_pb2.UNKNOWN_CONTACTS_CREATE_ON_MATCH)
    await client.define("paid", ANYTHING)
    await client.define("signed_up", ANYTHING)
    await client.undefine("signed_up")
    # Recorded without a contact, who comes to be afterwards.
    await client.send_all([event(email=BOB, key="k1"), event(email=UNKNOWN_TO_ALL), event(name="paid", key="k2")])
    await client.upsert(BOB, {"tier": "gold"})
    await _automate(client)
    (project,) = await store.rows("project")
    store.neighbour = project[0]
    return await store.all_rows()


async def _automate(client: Client) -> None:
    """Create a waiting run and two queued ones; of their matches one is leased, one parked and one not delivered."""
    await automate(client)
    waiting, _, _ = [await started(client, event(name=ORDER, email=email)) for email in (ADA, BOB, ADA)]
    await await_event(client, waiting, seconds=86_400)
    await subscribe(client, start=EARLIEST, ack_deadline=seconds(600))
    parked, _ = await pull(client, 2)
    await acknowledge(client, nacks=[NackDeliveries(delivery_ids=[parked.delivery_id], action=PARK)])


async def assert_untouched(store: Store, planted: Counter[Row]) -> None:
    """Assert that every row of the neighbour is as it was."""
    lost = planted - await store.all_rows()
    assert not lost, f"rows of another project were changed: {sorted(table for table, _ in lost)}"
