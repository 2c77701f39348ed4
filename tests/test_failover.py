"""Several servers on one PostgreSQL database that fails over, is restored under them, or freezes one of them."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import grpc
import pytest
from grpc import StatusCode

from signalbox.v1 import match_stream_pb2, projects_pb2
from tests.support.automations import automate
from tests.support.messages import ADA, INDEPENDENT, event, schema
from tests.support.postgres import USER, find_binaries, running_cluster
from tests.support.refusals import read_refusal, verdict
from tests.support.service import serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from signalbox.v1 import event_ingest_pb2
    from tests.support.postgres import Cluster
    from tests.support.service import Client, Service

T = TypeVar("T")

_numbers = count(1)

RECONNECT_SECONDS = 10.0
"""Servers have found the new primary by then, on a busy machine too; on a quiet one it takes one."""

LOST = [f"lost{number}@example.com" for number in range(60)]
NEW = [f"new{number}@example.com" for number in range(60)]
# More than the 32 values by which a sequence may jump in a failover: the same keys are given out again.


@pytest.fixture
def primary() -> Iterator[Cluster]:
    binaries = find_binaries()
    if binaries is None:
        pytest.skip("PostgreSQL is not installed")
    with running_cluster(binaries) as cluster:
        yield cluster


class Nodes(NamedTuple):
    """Two servers on one database, and a client of each with the same key."""

    first: Service
    second: Service
    clients: tuple[Client, Client]


@asynccontextmanager
async def two_nodes(url: str) -> AsyncIterator[Nodes]:
    """Run two servers with a project where contacts come with their events, and every order matches."""
    async with AsyncExitStack() as stack:
        first, second = [await stack.enter_async_context(serving(url)) for _ in range(2)]
        shop = await first.shop(unknown_contacts=projects_pb2.UNKNOWN_CONTACTS_CREATE)
        await automate(shop)
        yield Nodes(first, second, (shop, second.client(shop.secret)))


async def until_answered(call: Callable[[], Awaitable[T]]) -> T:
    """Repeat a call while the database is away."""
    async with asyncio.timeout(RECONNECT_SECONDS):
        while True:
            try:
                return await call()
            except grpc.aio.AioRpcError as error:
                if error.code() is not StatusCode.UNAVAILABLE:
                    raise
            await asyncio.sleep(0.05)
    raise AssertionError


async def send_about(client: Client, emails: list[str]) -> None:
    """Send an event about each address, with the address in it."""
    results = await client.send_all([about(email) for email in emails], INDEPENDENT)
    assert {result.receipt.event.contact_id != "" for result in results} == {True}


def about(email: str) -> event_ingest_pb2.EventInput:
    return event({"currency": email}, email=email)


async def check_persons(client: Client) -> list[str]:
    """Check that every event is recorded for the person that its sender named, and return these."""
    log = await client.log()
    named = [each.properties.fields["currency"].string_value for each in log]
    assert [each.email for each in log] == named
    assert [each.position for each in log] == list(range(1, len(log) + 1))
    assert len({each.contact_id for each in log}) == len(set(named))
    return named


class Watcher:
    """A watch that reads on until the server ends it; it resumes from its cursor after an outage, as clients do."""

    def __init__(self, client: Client, cursor: str) -> None:
        self._client = client
        self._cursor = cursor
        self._call = self._begin()
        self.positions: list[int] = []

    async def read_to(self, position: int) -> None:
        """Read up to a position of the log."""
        async with asyncio.timeout(RECONNECT_SECONDS):
            while not self.positions or self.positions[-1] < position:
                await self._read()

    async def ended(self) -> str:
        """Read until the server ends the watch, and return why."""
        async with asyncio.timeout(RECONNECT_SECONDS):
            while True:
                try:
                    await self._read()
                except grpc.aio.AioRpcError as error:
                    if error.code() is not StatusCode.UNAVAILABLE:
                        return read_refusal(error).reason
                    await asyncio.sleep(0.05)
                    self._call = self._begin()

    def _begin(self) -> grpc.aio.UnaryStreamCall[Any, Any]:
        start = match_stream_pb2.StartPoint(cursor=self._cursor)
        return self._client.matches.WatchMatches(match_stream_pb2.WatchMatchesRequest(start=start))

    async def _read(self) -> None:
        answer = await self._call.read()
        assert isinstance(answer, match_stream_pb2.WatchMatchesResponse)
        self._cursor = answer.cursor
        self.positions += [match.position for match in answer.matches]


async def cursor_of(client: Client) -> tuple[str, int]:
    """Return the cursor of the end of the match log, and its position."""
    start = match_stream_pb2.StartPoint(log_end=match_stream_pb2.LOG_END_LATEST)
    call = client.matches.WatchMatches(match_stream_pb2.WatchMatchesRequest(start=start))
    answer = await call.read()
    call.cancel()
    assert isinstance(answer, match_stream_pb2.WatchMatchesResponse)
    return answer.cursor, answer.position


class Rewind:
    """A tail of the log that is made, used on two servers, and lost under them."""

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes
        self._shop, self._other = nodes.clients
        self._watchers: list[Watcher] = []

    async def prepare(self) -> None:
        """Make what is kept."""
        await send_about(self._shop, [ADA])
        self._kept, self._kept_at = await cursor_of(self._shop)
        self._standing = [Watcher(client, self._kept) for client in self._nodes.clients]

    async def make_tail(self) -> None:
        """Make contacts, a key, definitions and matches, and use them all on both servers."""
        for client in self._nodes.clients:
            await send_about(client, LOST)
        projects = await self._nodes.first.admin.projects.ListProjects(projects_pb2.ListProjectsRequest())
        lost_key = await self._nodes.first.key(projects.projects[0].id)
        self._lost_secret = lost_key.secret
        await self._nodes.second.client(self._lost_secret).log()
        await lost_key.define("lost_event", schema(number="number"))
        await self._shop.redefine(schema(order_total="number", currency="number"))
        self._lost, self._lost_at = await cursor_of(self._other)
        assert self._lost_at == self._kept_at + 2 * len(LOST)
        for watcher in self._standing:
            await watcher.read_to(self._lost_at)

    async def check_nothing_counts(self) -> None:
        """Check that nothing of the tail is honoured, by the server that made it or by the other one."""
        following = [Watcher(client, self._lost) for client in self._nodes.clients]
        for client in reversed(self._nodes.clients):
            await until_answered(partial(client.send, about(ADA)))
        for watcher in [*self._standing, *following]:
            assert await watcher.ended() == "CURSOR_REWOUND"
        assert await verdict(self._shop.send(event(name="lost_event"))) == (StatusCode.NOT_FOUND, "EVENT_NOT_FOUND")
        for node in self._nodes[:2]:
            assert await until_refused(node.client(self._lost_secret)) == "API_KEY_INVALID"

    async def check_the_same_numbers_again(self) -> None:
        """Make as much as was lost, and more, so that numbers and keys come back with another meaning."""
        await self._shop.define("new_event", schema(number="number"))
        await self._shop.redefine(schema(order_total="number", currency="string", note="string"))
        for number in range(0, len(NEW), 20):
            for client, addresses in zip(self._nodes.clients, (NEW, LOST), strict=True):
                await send_about(client, addresses[number : number + 20])
        for client in self._nodes.clients:
            await send_about(client, [*LOST[:5], *NEW[:5]])
        assert set(await check_persons(self._other)) == {ADA, *LOST, *NEW}
        # The log is longer than it was: the lost cursor would skip what is there now.
        assert (await cursor_of(self._shop))[1] > self._lost_at
        for client in self._nodes.clients:
            assert await Watcher(client, self._lost).ended() == "CURSOR_REWOUND"
            resumed = Watcher(client, self._kept)
            await resumed.read_to(self._lost_at)
            assert resumed.positions == list(range(self._kept_at + 1, resumed.positions[-1] + 1))


async def until_refused(client: Client) -> str:
    """Call until a key is refused, and return why; two seconds are enough for that."""
    async with asyncio.timeout(2):
        while True:
            try:
                await client.log()
            except grpc.aio.AioRpcError as error:
                return read_refusal(error).reason
            await asyncio.sleep(0.05)


async def created(cluster: Cluster) -> str:
    """Create a database, and return its name."""
    name = f"signalbox_{next(_numbers)}"
    await asyncio.to_thread(cluster.execute, f"CREATE DATABASE {name}")
    return name


def url_of(*clusters: Cluster, database: str) -> str:
    return f"postgresql://{USER}@{','.join(each.address for each in clusters)}/{database}"


async def test_nothing_remembered_of_a_tail_that_a_failover_lost_is_used(primary: Cluster) -> None:
    database = await created(primary)
    with primary.standby() as standby:
        async with two_nodes(url_of(primary, standby, database=database)) as nodes:
            rewind = Rewind(nodes)
            await rewind.prepare()
            await asyncio.to_thread(standby.await_copy_of, primary)
            await asyncio.to_thread(standby.detach)
            await rewind.make_tail()
            await asyncio.to_thread(primary.crash)
            await asyncio.to_thread(standby.promote)
            await rewind.check_nothing_counts()
            await rewind.check_the_same_numbers_again()


async def test_nothing_remembered_of_a_tail_that_a_restore_lost_is_used(primary: Cluster) -> None:
    async with two_nodes(url_of(primary, database=await created(primary))) as nodes:
        rewind = Rewind(nodes)
        await rewind.prepare()
        backup = primary.socket / "backup"
        await asyncio.to_thread(primary.backup, backup)
        await rewind.make_tail()
        await asyncio.to_thread(primary.restore, backup)
        await rewind.check_nothing_counts()
        await rewind.check_the_same_numbers_again()
