"""A second project beside the one that a test is about: nothing that the test does may change a row of it.

It has the names, addresses, positions and numbers that the test's own project has, so that a statement which leaves out
the project finds it.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple

from signalbox.v1 import projects_pb2
from signalbox.v1.match_stream_pb2 import NackDeliveries
from tests.support.automations import automate, await_event, started
from tests.support.consumers import EARLIEST, PARK, acknowledge, pull, seconds, subscribe
from tests.support.messages import ADA, ANYTHING, BOB, ORDER, event
from tests.support.service import serving

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support.service import Client, Service
    from tests.support.stores import Backend, Row, Store

UNKNOWN_TO_ALL = "marked@example.com"
REPEATED = event(email=BOB, key="k1")


OF_SERVER = {"server_setting", "used_key"}
"""Tables in which no project has rows: settings of the server that started last, keys of deleted rows."""


class Neighbourhood:
    """Databases that hold the neighbour. It is planted once and copied: that takes longer than most tests."""

    def __init__(self, backend: Backend, folder: Path) -> None:
        self._backend, self._folder = backend, folder
        self._planted: _Planted | None = None

    @asynccontextmanager
    async def fresh(self, folder: Path) -> AsyncIterator[Store]:
        """Create a database that holds the neighbour alone."""
        planted = self._planted = self._planted or await self._plant()
        async with planted.backend.fresh(folder) as store:
            store.neighbour = planted.key
            yield store

    async def call(self, service: Service) -> None:
        """Repeat a send of the neighbour, which changes nothing: its definitions and contacts are in memory, too."""
        assert self._planted is not None
        receipt = await service.client(self._planted.secret).send(REPEATED)
        assert receipt.event.position == 1

    async def check(self, store: Store) -> None:
        """Assert that every row of the neighbour is as it was."""
        assert self._planted is not None
        lost = {table for table, _ in self._planted.rows - await store.all_rows()} - OF_SERVER
        assert not lost, f"rows of another project were changed: {sorted(lost)}"

    async def _plant(self) -> _Planted:
        async with self._backend.fresh(self._folder) as store:
            async with serving(store.url) as service:
                secret = await plant(service)
            (project,) = await store.rows("project")
            return _Planted(await self._backend.like(store), project[0], secret, await store.all_rows())


class _Planted(NamedTuple):
    backend: Backend
    key: int
    secret: str
    rows: Counter[Row]


async def plant(service: Service) -> str:
    """Make the neighbour in an empty database; return its key."""
    client = await service.shop(unknown_contacts=projects_pb2.UNKNOWN_CONTACTS_CREATE_ON_MATCH)
    await client.define("paid", ANYTHING)
    await client.define("signed_up", ANYTHING)
    await client.undefine("signed_up")
    # Recorded without a contact, who comes to be afterwards.
    await client.send_all([REPEATED, event(email=UNKNOWN_TO_ALL), event(name="paid", key="k2")])
    await client.upsert(BOB, {"tier": "gold"})
    await _automate(client)
    return client.secret


async def _automate(client: Client) -> None:
    """Create a waiting run and two queued ones; of their matches one is leased, one parked and one not delivered."""
    await automate(client)
    waiting, _, _ = [await started(client, event(name=ORDER, email=email)) for email in (ADA, BOB, ADA)]
    await await_event(client, waiting, seconds=86_400)
    await subscribe(client, start=EARLIEST, ack_deadline=seconds(600))
    parked, _ = await pull(client, 2)
    await acknowledge(client, nacks=[NackDeliveries(delivery_ids=[parked.delivery_id], action=PARK)])
