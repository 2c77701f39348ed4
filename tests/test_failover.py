"""Several servers on one PostgreSQL database that fails over, is restored under them, or freezes one of them."""

from __future__ import annotations

import asyncio
import random
import socket
import time
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from itertools import count, cycle
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import asyncpg
import grpc
import pytest
from grpc import StatusCode

from server.errors import StorageBusy, StorageFailed, StorageReadOnly
from server.storage.opening import open_database
from server.storage.postgresql import database as postgresql
from server.storage.postgresql.connections import KEEPALIVE_IDLE_S, Connector
from server.storage.postgresql.url import parse_postgres_url
from server.storage.transactions import let_loop_run
from signalbox.v1 import event_ingest_pb2, match_stream_pb2, projects_pb2
from tests.support.automations import automate
from tests.support.clusters import _numbers, created, states_of, url_of
from tests.support.messages import ADA, INDEPENDENT, event, schema
from tests.support.postgres import USER, find_binaries, running_cluster
from tests.support.process import server_process
from tests.support.refusals import read_refusal, verdict
from tests.support.service import serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from pathlib import Path

    from sqlalchemy import Connection

    from tests.support.postgres import Cluster
    from tests.support.process import Process
    from tests.support.service import Client, Service

T = TypeVar("T")


RECONNECT_SECONDS = 10.0
"""Servers have found the new primary by then, on a busy machine too; on a quiet one it takes one."""

FROZEN_SECONDS = 3.0
"""A frozen server holds up the others for two seconds. What a send takes otherwise, on a busy machine, is deducted."""

LOST = [f"lost{number}@example.com" for number in range(40)]
NEW = [f"new{number}@example.com" for number in range(40)]
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
    """A tail of the log that is made, used on two servers, and lost under them.

    Without `changes` the catalogue stays as it is: nothing but the events shows that the log is another one.
    """

    def __init__(self, nodes: Nodes, *, changes: bool) -> None:
        self._changes = changes
        self._nodes = nodes
        self._shop, self._other = nodes.clients
        self._watchers: list[Watcher] = []

    async def prepare(self) -> None:
        """Make what is kept."""
        await send_about(self._shop, [ADA])
        self._kept, self._kept_at = await cursor_of(self._shop)
        self._standing = [Watcher(client, self._kept) for client in self._nodes.clients]

    async def make_tail(self) -> None:
        """Make contacts and matches, perhaps a key and definitions, and use them all on both servers."""
        for client in self._nodes.clients:
            await send_about(client, LOST)
        if self._changes:
            await self._change()
        self._lost, self._lost_at = await cursor_of(self._other)
        self._page = event_ingest_pb2.ListEventsRequest(after_position=0, page_size=50)
        self._page.page_token = (await self._shop.ingest.ListEvents(self._page)).next_page_token
        assert self._lost_at == self._kept_at + 2 * len(LOST)
        for watcher in self._standing:
            await watcher.read_to(self._lost_at)

    async def _change(self) -> None:
        projects = await self._nodes.first.admin.projects.ListProjects(projects_pb2.ListProjectsRequest())
        lost_key = await self._nodes.first.key(projects.projects[0].id)
        self._lost_secret = lost_key.secret
        await self._nodes.second.client(self._lost_secret).log()
        await lost_key.define("lost_event", schema(number="number"))
        await self._shop.redefine(schema(order_total="number", currency="number"))

    async def check_nothing_counts(self) -> None:
        """Check that nothing of the tail is honoured, by the server that made it or by the other one."""
        following = [Watcher(client, self._lost) for client in self._nodes.clients]
        for client in reversed(self._nodes.clients):
            await until_answered(partial(client.send, about(ADA)))
        for watcher in [*self._standing, *following]:
            assert await watcher.ended() == "CURSOR_REWOUND"
        if not self._changes:
            return
        assert await verdict(self._shop.send(event(name="lost_event"))) == (
            StatusCode.NOT_FOUND,
            "DEFINITION_NOT_FOUND",
        )
        for node in self._nodes[:2]:
            assert await until_refused(node.client(self._lost_secret)) == "API_KEY_INVALID"

    async def check_the_same_numbers_again(self) -> None:
        """Make as much as was lost, and more, so that numbers and keys come back with another meaning."""
        if self._changes:
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
            refused = await verdict(client.ingest.ListEvents(self._page))
            assert refused == (StatusCode.OUT_OF_RANGE, "CURSOR_REWOUND")
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


async def test_nothing_remembered_of_a_tail_that_a_failover_lost_is_used(primary: Cluster) -> None:
    database = await created(primary)
    with primary.standby() as standby:
        async with two_nodes(url_of(primary, standby, database=database)) as nodes:
            rewind = Rewind(nodes, changes=True)
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
        rewind = Rewind(nodes, changes=False)
        await rewind.prepare()
        backup = primary.socket / "backup"
        await asyncio.to_thread(primary.backup, backup)
        await rewind.make_tail()
        await asyncio.to_thread(primary.restore, backup)
        await rewind.check_nothing_counts()
        await rewind.check_the_same_numbers_again()


class Senders:
    """Callers of two servers who send each event until it is acknowledged, with the same idempotency key."""

    def __init__(self, clients: tuple[Client, ...]) -> None:
        self._clients = clients
        self._numbers = count(1)
        self._stopping = asyncio.Event()
        self.acknowledged: dict[int, int] = {}

    async def run(self) -> None:
        """Send until the senders are stopped."""
        await asyncio.gather(*(self._send(index) for index in range(4 * len(self._clients))))

    def stop(self) -> None:
        self._stopping.set()

    async def more(self, events: int) -> None:
        """Wait until more events are acknowledged."""
        wanted = len(self.acknowledged) + events
        async with asyncio.timeout(2 * RECONNECT_SECONDS):
            while len(self.acknowledged) < wanted:  # noqa: ASYNC110 - the senders have better to do than to tell
                await asyncio.sleep(0.02)

    async def check(self, client: Client) -> None:
        """Check that what was acknowledged is there, at its position, once, and nothing else."""
        log = await client.log()
        stored = {int(each.properties.fields["order_total"].number_value): each.position for each in log}
        assert stored == self.acknowledged
        assert [each.position for each in log] == list(range(1, len(log) + 1))

    async def _send(self, index: int) -> None:
        while not self._stopping.is_set():
            number = next(self._numbers)
            # Whoever takes the call: behind a balancer the next try is another server's.
            clients = cycle(self._clients[index % 2 :] + self._clients[: index % 2])
            receipt = await until_answered(
                partial(_send_by_next, clients, event({"order_total": number}, key=str(number)))
            )
            self.acknowledged[number] = receipt.event.position


async def _send_by_next(clients: Iterator[Client], sent: event_ingest_pb2.EventInput) -> event_ingest_pb2.EventReceipt:
    return await next(clients).send(sent)


async def until_states(node: Service, states: tuple[str, bool]) -> None:
    async with asyncio.timeout(RECONNECT_SECONDS):
        while await states_of(node) != states:  # noqa: ASYNC110 - a page has no event
            await asyncio.sleep(0.05)


async def test_a_synchronous_failover_loses_and_repeats_nothing(primary: Cluster) -> None:
    database = await created(primary)
    with primary.standby(synchronous=True) as standby:
        async with two_nodes(url_of(standby, primary, database=database)) as nodes:
            senders = Senders(nodes.clients)
            sending = asyncio.create_task(senders.run())
            await senders.more(50)
            assert await states_of(nodes.first) == ("ready", True)
            await asyncio.to_thread(primary.crash)
            await until_states(nodes.first, ("database read-only", False))
            with pytest.raises(StorageReadOnly):
                await open_database(url_of(standby, database=database))
            with pytest.raises(ValueError, match="standby"):
                await open_database(f"{url_of(standby, database=database)}?target_session_attrs=any")
            await asyncio.to_thread(standby.promote)
            await senders.more(50)
            senders.stop()
            await sending
            await until_states(nodes.first, ("ready", True))
            await senders.check(nodes.clients[1])


async def test_a_server_leaves_a_primary_that_may_no_longer_be_written(primary: Cluster) -> None:
    async with two_nodes(url_of(primary, database=await created(primary))) as nodes:
        await nodes.clients[0].send(about(ADA))
        await asyncio.to_thread(primary.execute, "ALTER SYSTEM SET default_transaction_read_only = on")
        await asyncio.to_thread(primary.execute, "SELECT pg_reload_conf()")
        await until_states(nodes.first, ("database read-only", False))
        refused = await verdict(nodes.clients[0].send(about(ADA)))
        assert refused == (StatusCode.UNAVAILABLE, "STORAGE_READ_ONLY")
        await asyncio.to_thread(primary.execute, "ALTER SYSTEM RESET default_transaction_read_only")
        await asyncio.to_thread(primary.execute, "SELECT pg_reload_conf()")
        await until_answered(lambda: nodes.clients[0].send(about(ADA)))
        await until_states(nodes.second, ("ready", True))


async def test_a_frozen_server_holds_up_the_others_for_two_seconds_at_most(
    postgres: Cluster, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    url = url_of(postgres, database=await created(postgres))
    (tmp_path / "frozen").mkdir()
    frozen_url = f"{url}?application_name=frozen"
    async with server_process(url, tmp_path) as other, server_process(frozen_url, tmp_path / "frozen") as frozen:
        shop = await other.service.shop()
        senders = Senders((frozen.service.client(shop.secret),))
        sending = asyncio.create_task(senders.run())
        await senders.more(50)
        usual = max([await timed_send(shop, senders) for _ in range(5)])
        await freeze_in_transaction(frozen, url)
        waited = await timed_send(shop, senders)
        record_property("waited_seconds", waited)
        assert waited - usual < FROZEN_SECONDS
        frozen.thaw()
        await senders.more(50)
        senders.stop()
        await sending
        await senders.check(shop)


async def test_one_transaction_of_a_server_at_a_time_waits_for_the_head_of_a_project(postgres: Cluster) -> None:
    """Each that waits in PostgreSQL when the server freezes would hold up the other servers for two seconds more."""
    waiting = """
        SELECT count(*) FROM pg_stat_activity
        WHERE application_name = 'signalbox' AND wait_event_type = 'Lock' AND datname = current_database()
    """
    url = url_of(postgres, database=await created(postgres))
    async with two_nodes(url) as nodes:
        # Within a transaction, PostgreSQL shows the activity that its first look has found.
        holder, watcher = await asyncpg.connect(url), await asyncpg.connect(url)
        try:
            async with holder.transaction():
                await holder.fetch("SELECT * FROM project_head FOR UPDATE")
                calls: list[asyncio.Task[object]]
                calls = [asyncio.create_task(nodes.clients[0].upsert(f"{number}@example.com")) for number in range(3)]
                calls.append(asyncio.create_task(nodes.clients[0].send(about(ADA))))
                calls.append(asyncio.create_task(nodes.clients[1].upsert(ADA)))
                async with asyncio.timeout(RECONNECT_SECONDS):
                    while await watcher.fetchval(waiting) < 2:  # noqa: ASYNC110 - a table has no event
                        await asyncio.sleep(0.05)
                # The others would be there by now: they were called before.
                await asyncio.sleep(0.2)
                assert await watcher.fetchval(waiting) == 2
                assert not any(call.done() for call in calls)
        finally:
            await holder.close()
            await watcher.close()
        await asyncio.gather(*calls)


async def timed_send(client: Client, senders: Senders) -> float:
    """Send an event and return how long it took; the senders check it with their own."""
    number = -next(_numbers)
    begun = time.monotonic()
    receipt = await client.send(event({"order_total": number}))
    senders.acknowledged[number] = receipt.event.position
    return time.monotonic() - begun


async def freeze_in_transaction(process: Process, url: str) -> None:
    """Stop a server while it holds the head of a project."""
    query = """
        SELECT count(*) FROM pg_stat_activity JOIN pg_locks USING (pid)
        WHERE application_name = 'frozen' AND state = 'idle in transaction' AND mode = 'RowShareLock'
    """
    connection = await asyncpg.connect(url)
    try:
        async with asyncio.timeout(RECONNECT_SECONDS):
            while True:
                process.freeze()
                if await connection.fetchval(query):
                    return
                process.thaw()
                await asyncio.sleep(random.uniform(0, 0.02))  # noqa: S311 - any moment will do
    finally:
        await connection.close()


async def test_a_silent_host_is_waited_for_once(postgres: Cluster) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        hosts = f"127.0.0.1:{silent.getsockname()[1]},{postgres.address}"
        connect = Connector()
        arguments = parse_postgres_url(f"postgresql://{USER}@{hosts}/postgres?connect_timeout=1").connect_args({})
        begun = time.monotonic()
        first = await connect(**arguments)
        waited = time.monotonic() - begun
        begun = time.monotonic()
        second = await connect(**arguments)
        assert waited >= 1 > time.monotonic() - begun
    for connection in (first, second):
        peer = socket_of(connection)
        assert peer.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == KEEPALIVE_IDLE_S
        await connection.close()


END_SESSIONS = """
    SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


@pytest.mark.parametrize("noticed", [False, True])
async def test_a_read_is_repeated_whose_session_is_ended_at_any_time(postgres: Cluster, noticed: bool) -> None:
    work = Interrupted(postgres, await created(postgres), noticed=noticed)
    database = await open_database(url_of(postgres, database=work.name))
    assert await database.read(work) == 2
    await database.close()


async def test_a_transaction_is_repeated_whose_session_was_ended_before_the_commit_was_sent(postgres: Cluster) -> None:
    work = Interrupted(postgres, await created(postgres), noticed=True)
    database = await open_database(url_of(postgres, database=work.name))
    assert await database.write(work) == 2
    await database.close()


@pytest.mark.parametrize(
    ("setting", "value", "failure"),
    [("search_path", "pg_catalog", StorageFailed), ("statement_timeout", "'100ms'", StorageBusy)],
)
async def test_a_setting_that_was_corrected_harms_no_session_that_began_before(
    postgres: Cluster, setting: str, value: str, failure: type[Exception]
) -> None:
    name = await created(postgres)
    database = await open_database(url_of(postgres, database=name))
    await asyncio.to_thread(postgres.execute, "CREATE TABLE kept AS SELECT 1 AS number", name)

    def work(connection: Connection) -> int:
        return int(connection.exec_driver_sql("SELECT number FROM kept, pg_sleep(0.2)").scalar_one())

    for call in (database.write, database.read):
        assert await asyncio.gather(*(call(work) for _ in range(3))) == [1, 1, 1]
        await asyncio.to_thread(postgres.execute, f"ALTER DATABASE {name} SET {setting} = {value}", "postgres")
        await asyncio.to_thread(postgres.execute, f"SET statement_timeout = 0; {END_SESSIONS}", name)
        failures = await asyncio.gather(*(call(work) for _ in range(3)), return_exceptions=True)
        assert {type(each) for each in failures} == {failure}
        await asyncio.to_thread(postgres.execute, f"ALTER DATABASE {name} RESET {setting}", "postgres")
        async with asyncio.timeout(RECONNECT_SECONDS):
            while await asyncio.gather(*(call(work) for _ in range(3)), return_exceptions=True) != [1, 1, 1]:
                pass
    await database.close()


async def test_sessions_that_are_used_while_all_are_replaced_are_closed_as_well(postgres: Cluster) -> None:
    name = await created(postgres)
    database = await open_database(url_of(postgres, database=name))

    async def use_sessions(times: int, seconds: float) -> None:
        def work(connection: Connection) -> None:
            connection.exec_driver_sql(f"SELECT pg_sleep({seconds})")

        for _ in range(times):
            await asyncio.gather(*(call(work) for call in (database.write, database.read) for _ in range(3)))

    for _ in range(3):
        await use_sessions(1, 0.05)
        used_before = asyncio.ensure_future(use_sessions(1, 0.2))
        await asyncio.sleep(0)
        leaving = [asyncio.ensure_future(left_by(database)) for _ in range(2)]
        await asyncio.gather(used_before, use_sessions(1, 0.2), *leaving)
    await database.close()
    sessions = f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{name}'"  # noqa: S608 - our own name
    async with asyncio.timeout(RECONNECT_SECONDS):
        while await asyncio.to_thread(postgres.execute, sessions) != "0":
            pass


async def test_sessions_that_are_opened_while_others_are_closed_are_closed_with_the_database(
    postgres: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = await created(postgres)
    database = await open_database(url_of(postgres, database=name))

    def work(connection: Connection) -> None:
        connection.exec_driver_sql("SELECT pg_sleep(0.05)")

    close, closing = asyncpg.Connection.close, count()

    async def close_late(connection: asyncpg.Connection, **named: Any) -> None:
        await asyncio.sleep(0.5 if next(closing) == 1 else 0)
        await close(connection, **named)

    await asyncio.gather(*(database.write(work) for _ in range(3)))
    monkeypatch.setattr(asyncpg.Connection, "close", close_late)
    leaving = [asyncio.ensure_future(left_by(database)) for _ in range(2)]
    await asyncio.wait(leaving, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.gather(*(database.write(work) for _ in range(3)))
    await asyncio.gather(*leaving)
    await database.close()
    sessions = f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{name}'"  # noqa: S608 - our own name
    async with asyncio.timeout(RECONNECT_SECONDS):
        while await asyncio.to_thread(postgres.execute, sessions) != "0":
            pass


@pytest.mark.parametrize(("code", "replaced"), [("XX001", False), ("58030", False), ("42501", True), ("42P01", True)])
async def test_sessions_are_replaced_for_failures_that_their_settings_may_cause_and_for_no_others(
    postgres: Cluster, monkeypatch: pytest.MonkeyPatch, code: str, *, replaced: bool
) -> None:
    monkeypatch.setattr(postgresql, "RENEW_SECONDS", 0.0)
    database = await open_database(url_of(postgres, database=await created(postgres)))

    def session(connection: Connection) -> int:
        return int(connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one())

    def failing(connection: Connection) -> None:
        connection.exec_driver_sql(f"DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '{code}'; END $$")

    before, epoch = await database.write(session), database.epoch
    with pytest.raises(StorageFailed):
        await database.write(failing)
    assert (await database.write(session) != before, database.epoch != epoch) == (replaced, replaced)
    await database.close()


async def left_by(database: Any) -> None:
    """Let a database close all sessions, as it does when its server has become a standby."""
    await database._leave()


class Interrupted:
    """Work whose session is ended the first time, after its last statement; the driver has `noticed` it or not."""

    def __init__(self, cluster: Cluster, name: str, *, noticed: bool) -> None:
        self.name = name
        self._cluster = cluster
        self._noticed = noticed
        self._runs = 0

    def __call__(self, connection: Connection) -> int:
        self._runs += 1
        connection.exec_driver_sql("SELECT 1").one()
        if self._runs == 1:
            # The event loop stands still meanwhile, so the message of the end is not read.
            self._cluster.execute(END_SESSIONS, self.name)
            driver: Any = connection.connection.driver_connection
            while self._noticed and not driver.is_closed():
                let_loop_run(connection)
        return self._runs


def socket_of(connection: Any) -> Any:
    return connection._transport.get_extra_info("socket")


async def test_a_database_without_utf8_is_refused(postgres: Cluster) -> None:
    options = "ENCODING SQL_ASCII TEMPLATE template0"
    await asyncio.to_thread(postgres.execute, f"CREATE DATABASE ascii {options}")
    with pytest.raises(ValueError, match="encoding SQL_ASCII: Signalbox needs one that was created with UTF8"):
        await open_database(url_of(postgres, database="ascii"))


async def test_settings_that_promises_need_hold_whatever_the_defaults_are(postgres: Cluster) -> None:
    name = await created(postgres)
    for setting in ("synchronous_commit = off", "default_transaction_isolation = 'serializable'"):
        await asyncio.to_thread(postgres.execute, f"ALTER DATABASE {name} SET {setting}")
    database = await open_database(url_of(postgres, database=name))
    query = "SELECT current_setting('synchronous_commit'), current_setting('transaction_isolation')"
    settings = await database.write(lambda connection: tuple(connection.exec_driver_sql(query).one()))
    await database.close()
    assert settings == ("on", "read committed")


@pytest.mark.parametrize("options", ["", "options=-c%20statement_timeout%3D200ms"])
async def test_a_time_limit_of_statements_does_not_end_a_migration(postgres: Cluster, options: str) -> None:
    name = await created(postgres)
    database = await open_database(f"{url_of(postgres, database=name)}?{options}")
    if not options:
        await asyncio.to_thread(postgres.execute, f"ALTER DATABASE {name} SET statement_timeout = '200ms'")
    async with database.maintenance() as maintenance:
        await maintenance.write(lambda connection: connection.exec_driver_sql("SELECT pg_sleep(0.3)").one())
    await database.close()


async def test_a_table_that_may_not_be_used_is_named_in_the_log_and_makes_the_server_unready(
    postgres: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    name = await created(postgres)
    await asyncio.to_thread(postgres.execute, "DROP ROLE IF EXISTS weak")
    await asyncio.to_thread(postgres.execute, "CREATE ROLE weak LOGIN")
    await asyncio.to_thread(postgres.execute, f"ALTER DATABASE {name} OWNER TO weak")
    url = url_of(postgres, database=name).replace("signalbox@", "weak@")
    async with serving(url) as service:
        shop = await service.shop()
        await shop.send()
        await asyncio.to_thread(postgres.execute, "REVOKE INSERT ON event FROM weak", name)
        assert await verdict(shop.send()) == (StatusCode.UNAVAILABLE, "STORAGE_FAILED")
        assert (await service.http.get("/readyz")).json() == {"status": "database failed"}
        assert "permission denied for table event" in capsys.readouterr().out
        await asyncio.to_thread(postgres.execute, "GRANT INSERT ON event TO weak", name)
        await shop.send()
        assert (await service.http.get("/readyz")).json() == {"status": "ready"}
