"""Which server pushes a subscription, and what happens to requests when it stops, dies or is busy with others."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from automation.subscriptions import push_store
from server.background import project_deletion
from server.delivery.push import http_client, pushers
from server.delivery.push.attempt_log import AttemptLog
from server.delivery.push.session import PushSession
from server.delivery.push.shares import STEP_SUBSCRIPTIONS, PushClaim, keys_to_ask_for
from server.errors import StorageFailed
from signalbox.v1 import match_stream_pb2 as pb
from signalbox.v1.projects_pb2 import DeleteProjectRequest, GetProjectRequest
from tests.support.automations import automate
from tests.support.consumers import WAIT, get, pull, record, seconds, stats
from tests.support.process import server_process
from tests.support.pushes import SHORT_CLAIMS, settled
from tests.support.receiver import LOOPBACK, Received, Receiver, answer, change_push, push_to, receiving
from tests.support.service import serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support.service import Client, Service
    from tests.support.stores import Store

on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
on_postgresql = pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
AT_ONCE = pb.Backoff(initial_delay=seconds(0))
NETWORKS = ("--push-networks", "127.0.0.0/8")
TAKEOVER_SECONDS = 10.0


@pytest_asyncio.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as running:
        yield running


async def till(service: Service) -> Client:
    """Make a shop with an automation on orders."""
    shop = await service.shop()
    await automate(shop)
    return shop


async def owners(store: Store) -> set[str]:
    """Return who pushes the subscriptions."""
    return {row[9] for row in await store.rows("subscription_push")}


class HeldBack:
    """Holds a function back from when a thread of the server, which has them on SQLite, calls it until `go` is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> None:
        self.go = threading.Event()
        self.called = threading.Event()
        self._function = getattr(module, name)
        monkeypatch.setattr(module, name, self._wait)

    def _wait(self, *values: Any, **named: Any) -> Any:
        self.called.set()
        assert self.go.wait(WAIT)
        return self._function(*values, **named)


@on_sqlite
async def test_nothing_is_pushed_by_settings_that_are_answered_as_changed(
    store: Store, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(store.url, push_networks=LOOPBACK) as service:
        shop = await till(service)
        await push_to(shop, receiver.url)
        await record(shop, 1)
        await receiver.received(1)
        reading = HeldBack(monkeypatch, pushers, "active_pushes")
        await change_push(shop, paused=True)
        await record(shop, 1)
        assert await asyncio.to_thread(reading.called.wait, WAIT)
        # The match can be leased by nobody else if it is pushed.
        assert [delivery.match.position for delivery in await pull(shop)] == [2]
        reading.go.set()
        assert receiver.positions == [1]


@on_sqlite
async def test_a_request_that_waits_for_its_connection_is_not_sent_by_settings_from_before(
    store: Store, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    connected, go = asyncio.Event(), asyncio.Event()
    send = http_client._Request.send

    async def slowly(request: Any, connection: Any) -> Any:
        connected.set()
        await go.wait()
        return await send(request, connection)

    async with serving(store.url, push_networks=LOOPBACK) as service:
        shop = await till(service)
        await push_to(shop, receiver.url)
        monkeypatch.setattr(http_client._Request, "send", slowly)
        await record(shop, 1)
        await asyncio.wait_for(connected.wait(), WAIT)
        await change_push(shop, paused=True)
        go.set()
        (delivery,) = await pull(shop)
        assert delivery.attempt == 1
        assert receiver.requests == []


async def test_nothing_is_pushed_of_a_deleted_project(
    store: Store, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the server that deletes it from the response on, and before long by another one."""
    connected, stopped, go, ended = asyncio.Event(), asyncio.Event(), asyncio.Event(), asyncio.Event()
    send, stop = http_client._Request.send, PushSession.stop

    async def slowly(request: Any, connection: Any) -> Any:
        connected.set()
        await go.wait()
        try:
            return await send(request, connection)
        finally:
            ended.set()

    def stopping(session: PushSession) -> None:
        stopped.set()
        stop(session)

    monkeypatch.setattr(project_deletion, "deleted_projects", lambda _: [])
    async with AsyncExitStack() as stack:
        pushing = await stack.enter_async_context(serving(store.url, push_networks=LOOPBACK))
        shop = await till(pushing)
        await push_to(shop, receiver.url)
        monkeypatch.setattr(http_client._Request, "send", slowly)
        monkeypatch.setattr(PushSession, "stop", stopping)
        await record(shop, 1)
        await asyncio.wait_for(connected.wait(), WAIT)
        deleting = pushing
        if store.url.startswith("postgresql"):
            deleting = await stack.enter_async_context(serving(store.url))
        project = (await deleting.admin.projects.GetProject(GetProjectRequest(project=shop.project))).project
        request = DeleteProjectRequest(project=shop.project, confirm_name=project.name)
        await deleting.admin.projects.DeleteProject(request)
        if deleting is not pushing:
            await asyncio.wait_for(stopped.wait(), WAIT)
        assert stopped.is_set()
        go.set()
        await asyncio.wait_for(ended.wait(), WAIT)
        assert receiver.requests == []


@on_sqlite
async def test_a_push_that_is_cleared_while_the_server_reads_it_is_not_begun(
    store: Store, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, go = threading.Event(), threading.Event()

    def slowly(connection: Any) -> Any:
        found = push_store.active_pushes(connection)
        if any(each.owner for each in found):
            read.set()
            assert go.wait(WAIT)
        return found

    async with serving(store.url, push_networks=LOOPBACK) as service:
        shop = await till(service)
        monkeypatch.setattr(pushers, "active_pushes", slowly)
        await push_to(shop, receiver.url)
        assert await asyncio.to_thread(read.wait, WAIT)
        await shop.matches.UpdateSubscription(pb.UpdateSubscriptionRequest(subscription="engine", clear_push=True))
        refreshed = asyncio.Event()
        monkeypatch.setattr(AttemptLog, "keep", lambda *_: refreshed.set())
        go.set()
        await asyncio.wait_for(refreshed.wait(), WAIT)
        await record(shop, 1)
        assert [delivery.match.position for delivery in await pull(shop)] == [1]
        assert receiver.requests == []


@on_sqlite
async def test_a_subscription_whose_creation_was_cancelled_too_late_is_pushed(
    store: Store, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pushers, "POLL_SECONDS", 10 * WAIT)
    async with serving(store.url, push_networks=LOOPBACK) as service:
        shop = await till(service)
        writing = HeldBack(monkeypatch, push_store, "write_push")
        creating = asyncio.ensure_future(push_to(shop, receiver.url))
        assert await asyncio.to_thread(writing.called.wait, WAIT)
        creating.cancel()
        with pytest.raises(asyncio.CancelledError):
            await creating
        writing.go.set()
        await record(shop, 1)
        await receiver.received(1)


@on_postgresql
async def test_one_of_two_servers_pushes_and_the_other_takes_over_when_it_stops(
    store: Store, receiver: Receiver
) -> None:
    async with serving(store.url, push_networks=LOOPBACK) as second:
        async with serving(store.url, push_networks=LOOPBACK) as first:
            shop = await till(first)
            other = second.client(shop.secret)
            await push_to(shop, receiver.url, push={"max_in_flight": 2})
            await record(shop, 20)
            await settled(other, 20)
            (owner,) = await owners(store)
            assert receiver.connections <= 2
            assert len(receiver.requests) == 20
        await record(other, 1)
        await settled(other, 21)
        assert await owners(store) != {owner}


@on_postgresql
async def test_new_subscriptions_spread_over_the_servers(store: Store, receiver: Receiver) -> None:
    async with AsyncExitStack() as stack:
        first, _ = [await stack.enter_async_context(serving(store.url, push_networks=LOOPBACK)) for _ in range(2)]
        shop = await till(first)
        number = 0
        # Which server is the first to look is chance; the more one has, the longer it leaves the next one to others.
        async with asyncio.timeout(3 * WAIT):
            while len(await owners(store)) < 2:
                await push_to(shop, receiver.url, f"engine-{number}")
                number += 1
                while "" in await owners(store):  # noqa: ASYNC110 - it must be asked
                    await asyncio.sleep(0.05)


@on_postgresql
async def test_a_server_that_joins_takes_its_share_and_no_match_waits_for_long(
    store: Store, receiver: Receiver
) -> None:
    async with serving(store.url, push_networks=LOOPBACK) as first:
        shop = await till(first)
        for number in range(6):
            await push_to(shop, receiver.url, f"engine-{number}")
        while "" in await owners(store):  # noqa: ASYNC110 - it must be asked
            await asyncio.sleep(0.05)
        async with serving(store.url, push_networks=LOOPBACK):
            sent, longest = 0, 0.0
            async with asyncio.timeout(3 * WAIT):
                while sorted(Counter(row[9] for row in await store.rows("subscription_push")).values()) != [3, 3]:
                    began = time.monotonic()
                    await record(shop, 1)
                    sent += 1
                    await receiver.received(6 * sent)
                    longest = max(longest, time.monotonic() - began)
                    await asyncio.sleep(0.1)
            assert longest < 4
            await record(shop, 10)
            await receiver.received(6 * (sent + 10))
            for number in range(6):
                await settled(shop, sent + 10, f"engine-{number}")
            assert len(receiver.requests) == 6 * (sent + 10)
            assert {row[12] for row in await store.rows("subscription_push")} == {""}


@pytest.mark.parametrize("count", [0, 1, 2, 7, 40])
def test_servers_that_join_one_after_another_push_as_many_and_move_none_twice(count: int) -> None:
    owned = dict.fromkeys(range(count), "0")
    for servers in range(2, 6):
        moved: Counter[int] = Counter()
        for _ in range(count):
            wanted: dict[int, str] = {}
            for server in map(str, range(servers)):
                claims = [PushClaim(key, owner, wanted.get(key, "")) for key, owner in owned.items()]
                asked = keys_to_ask_for(claims, server)
                assert len(asked) <= STEP_SUBSCRIPTIONS
                wanted |= dict.fromkeys(asked, server)
            owned |= wanted
            moved.update(wanted.keys())
        pushed = Counter(owned.values())
        assert max(pushed.values(), default=0) - min(pushed[str(server)] for server in range(servers)) <= 1
        assert max(moved.values(), default=0) <= 1


@on_postgresql
async def test_a_change_on_another_server_takes_effect_within_a_second(store: Store, receiver: Receiver) -> None:
    async with AsyncExitStack() as stack:
        pushing, asked = [await stack.enter_async_context(serving(store.url, push_networks=LOOPBACK)) for _ in range(2)]
        shop = await till(pushing)
        await push_to(shop, receiver.url)
        await record(shop, 1)
        await receiver.received(1)
        other = asked.client(shop.secret)
        await change_push(other, paused=True)
        await asyncio.sleep(1)
        await record(shop, 1)
        await change_push(other, paused=False)
        assert len(receiver.requests) == 1
        began = time.monotonic()
        await receiver.received(2)
        assert time.monotonic() - began < 3
        async with asyncio.timeout(WAIT):
            while len((await get(other)).push_attempts) < 2:  # noqa: ASYNC110 - it must be asked
                await asyncio.sleep(0.05)


@on_postgresql
@pytest.mark.parametrize("dies", [True, False])
async def test_another_server_takes_over_within_ten_seconds(
    store: Store, tmp_path: Path, receiver: Receiver, dies: bool
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    hangs = asyncio.Event()

    async def hang_first(request: Received) -> bytes:
        if request.position == 2 and request.attempt == 1:
            hangs.set()
            await asyncio.sleep(60)
        return answer()

    receiver.answering = hang_first
    # Claims of the product's own length end for a server that dies; those of a frozen one end in the same way.
    claims = () if dies else SHORT_CLAIMS
    async with server_process(store.url, tmp_path / "a", *NETWORKS, launching=claims) as first:
        shop = await till(first.service)
        await push_to(shop, receiver.url, backoff=AT_ONCE)
        await record(shop, 1)
        await receiver.received(1)
        async with server_process(store.url, tmp_path / "b", *NETWORKS, launching=claims) as second:
            other = second.service.client(shop.secret)
            await record(other, 1)
            await asyncio.wait_for(hangs.wait(), WAIT)
            began = time.monotonic()
            first.kill() if dies else first.freeze()
            # Its lease ends at once, although it lasts for 30 seconds.
            await receiver.received(3, TAKEOVER_SECONDS)
            assert time.monotonic() - began < TAKEOVER_SECONDS
            assert [(each.position, each.attempt) for each in receiver.requests] == [(1, 1), (2, 1), (2, 2)]
            await settled(other, 2)
            if not dies:
                first.thaw()
                await record(other, 20)
                await settled(other, 22)
                assert len(receiver.requests) == 23


async def test_a_server_that_starts_again_goes_on_at_once(store: Store, tmp_path: Path, receiver: Receiver) -> None:
    hangs = asyncio.Event()

    async def hang_first(request: Received) -> bytes:
        if request.attempt == 1:
            hangs.set()
            await asyncio.sleep(60)
        return answer()

    receiver.answering = hang_first
    async with server_process(store.url, tmp_path, *NETWORKS, launching=SHORT_CLAIMS) as server:
        shop = await till(server.service)
        await push_to(shop, receiver.url, backoff=AT_ONCE)
        await record(shop, 1)
        await asyncio.wait_for(hangs.wait(), WAIT)
        # Addresses, secrets and headers are those of somebody else.
        await change_push(shop, rotate_secret=True)
        assert "whsec_" not in server.log()
        server.kill()
        await server.exit_code()
    async with server_process(store.url, tmp_path, *NETWORKS, launching=SHORT_CLAIMS) as server:
        await settled(server.service.client(shop.secret), 1)
    assert [request.attempt for request in receiver.requests] == [1, 2]


async def test_a_server_that_stops_waits_a_little_for_responses_and_returns_the_rest(
    store: Store, receiver: Receiver
) -> None:
    hangs = asyncio.Event()

    async def answer_some(request: Received) -> bytes:
        if request.position == 2 and request.attempt == 1:
            hangs.set()
            await asyncio.sleep(60)
        await asyncio.sleep(0.3)
        return answer()

    receiver.answering = answer_some
    async with serving(store.url, push_networks=LOOPBACK) as service:
        shop = await till(service)
        await push_to(shop, receiver.url, backoff=AT_ONCE)
        await record(shop, 2)
        await receiver.received(2)
        await hangs.wait()
        began = time.monotonic()
    assert time.monotonic() - began < 4
    async with serving(store.url, push_networks=LOOPBACK) as service:
        client = service.client(shop.secret)
        await settled(client, 2)
        attempts = (await get(client)).push_attempts
    assert [(each.position, each.attempt) for each in receiver.requests] == [(1, 1), (2, 1), (2, 2)]
    assert [each.status for each in attempts] == [200, 0, 200]  # the request that was cut off had no response


@on_sqlite
async def test_a_failure_to_store_the_last_requests_of_a_session_is_logged(
    store: Store, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pushers, "SAVE_SECONDS", WAIT)
    monkeypatch.setattr(pushers, "write_attempts", fail)
    with capture_logs() as logged:
        async with serving(store.url, push_networks=LOOPBACK) as service:
            shop = await till(service)
            await push_to(shop, receiver.url)
            await record(shop, 1)
            await settled(shop, 1)
    failures = [entry for entry in logged if entry["event"] == "work_failed"]
    assert [(entry["work"], str(entry["exc_info"])) for entry in failures] == [("push-attempts", "no room")]


@on_sqlite
async def test_requests_that_could_not_be_stored_are_stored_later_although_their_session_has_ended(
    store: Store, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(store.url, push_networks=LOOPBACK) as service:
        shop = await till(service)
        await push_to(shop, receiver.url)
        with monkeypatch.context() as failing, capture_logs() as logged:
            failing.setattr(pushers, "write_attempts", fail)
            await record(shop, 1)
            await settled(shop, 1)
            await change_push(shop, paused=True)
            async with asyncio.timeout(WAIT):
                while not any(entry["event"] == "work_failed" for entry in logged):  # noqa: ASYNC110 - it must be read
                    await asyncio.sleep(0.02)
        async with asyncio.timeout(WAIT):
            while await stored_attempts(store) == ["[]"]:  # noqa: ASYNC110 - it must be read
                await asyncio.sleep(0.02)
    assert [attempt["status"] for attempt in json.loads((await stored_attempts(store))[0])] == [200]


def fail(*_: Any, **__: Any) -> None:
    raise RuntimeError("no room")


async def stored_attempts(store: Store) -> list[str]:
    """Return the stored requests of the subscriptions."""
    return [row[11] for row in await store.rows("subscription_push")]


@on_sqlite
async def test_an_address_that_is_no_longer_allowed_is_not_connected_to(store: Store, receiver: Receiver) -> None:
    async with serving(store.url, push_networks=LOOPBACK) as service:
        shop = await till(service)
        await push_to(shop, receiver.url, push={"paused": True})
    async with serving(store.url) as service:
        client = service.client(shop.secret)
        await change_push(client, paused=False)
        await record(client, 1)
        async with asyncio.timeout(WAIT):
            while not (attempts := (await get(client)).push_attempts):  # noqa: ASYNC110 - it must be asked
                await asyncio.sleep(0.02)
    assert attempts[0].failure == "the address 127.0.0.1 is not public, and --push-networks does not allow it"
    assert receiver.connections == 0


@on_sqlite
async def test_receivers_that_hang_hold_up_no_other_subscription(store: Store, receiver: Receiver) -> None:
    async def never(_: Received) -> bytes:
        await asyncio.sleep(60)
        return answer()

    async with AsyncExitStack() as stack:
        service = await stack.enter_async_context(serving(store.url, push_networks=LOOPBACK))
        hanging = await stack.enter_async_context(receiving())
        hanging.answering = never
        shop, neighbour = await till(service), await till(service)
        for number in range(5):
            await push_to(shop, hanging.url, f"slow{number}", push={"max_in_flight": 128, "timeout": seconds(60)})
        await record(shop, 200)
        await hanging.received(240)
        for client in (shop, neighbour):
            await push_to(client, receiver.url, "quick")
            before = len(receiver.requests)
            await record(client, 40)
            await receiver.received(before + 40)
            await settled(client, (await stats(client, "quick")).head_position, "quick")


@on_sqlite
async def test_a_receiver_that_does_not_answer_gets_one_request_at_a_time(store: Store, receiver: Receiver) -> None:
    now, most = 0, 0

    async def dead(request: Received) -> bytes | None:
        nonlocal now, most
        if request.position <= 8:
            return None
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.01)
        now -= 1
        return answer() if request.position > 20 else None

    receiver.answering = dead
    async with serving(store.url, push_networks=LOOPBACK) as service:
        shop = await till(service)
        later = pb.Backoff(initial_delay=seconds(3_600), max_delay=seconds(3_600))
        await push_to(shop, receiver.url, backoff=later, push={"max_in_flight": 8})
        await record(shop, 8)
        await receiver.received(8)
        await record(shop, 12)
        await receiver.received(20)
        assert most == 1
        await record(shop, 30)
        await receiver.received(50)
        assert most > 1


@on_postgresql
async def test_an_outage_of_deliveries_alone_is_one_outage_in_the_log(
    store: Store, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures: asyncio.Queue[Exception] = asyncio.Queue()
    run = PushSession.run

    async def observed(session: PushSession) -> str:
        try:
            return await run(session)
        except Exception as error:
            failures.put_nowait(error)
            raise

    monkeypatch.setattr(PushSession, "run", observed)
    async with serving(store.url, push_networks=LOOPBACK) as service:
        shop = await till(service)
        for number in range(3):
            await push_to(shop, receiver.url, f"engine{number}")
        await record(shop, 1)
        await receiver.received(3)
        with capture_logs() as logs:
            await store.execute("ALTER TABLE subscription_delivery RENAME TO away")
            async with asyncio.timeout(WAIT):
                found = [await failures.get() for _ in range(6)]
            await store.execute("ALTER TABLE away RENAME TO subscription_delivery")
            await record(shop, 1)
            await receiver.received(6)
    assert {type(each) for each in found} == {StorageFailed}
    assert [each["event"] for each in logs if each["event"] != "call"] == ["storage_outage"]
