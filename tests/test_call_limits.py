"""What the calls of one caller may hold, and how calls beyond that are answered."""

from __future__ import annotations

import asyncio
import re
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from grpc import StatusCode

from server.api import health_and_reflection
from server.rpc import call_limits
from server.storage import connection_turns
from signalbox.v1 import event_ingest_pb2, match_stream_pb2, projects_pb2
from tests.support.consumers import Engine, seconds, subscribe
from tests.support.messages import event, orders
from tests.support.raw_http2 import PING, message_head, raw_connection
from tests.support.refusals import Refusal, read_refusal, refusal, verdict
from tests.support.service import serving
from tests.support.wire import call_raw, field

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterator, Sequence

    from tests.support.service import Client, Service
    from tests.support.stores import Store

SEND_EVENT = "/signalbox.v1.EventIngest/SendEvent"
SEND_EVENTS = "/signalbox.v1.EventIngest/SendEvents"
STREAM_EVENTS = "/signalbox.v1.EventIngest/StreamEvents"
CHECK = "/grpc.health.v1.Health/Check"
WATCH = "/grpc.health.v1.Health/Watch"
REFLECT = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
UNREAD = 64 * 1024
"""What the transport takes of a message that nobody reads."""

pytestmark = pytest.mark.lasting
on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
on_postgresql = pytest.mark.parametrize("backend", ["postgresql"], indirect=True)


@pytest.fixture
def patch() -> Iterator[pytest.MonkeyPatch]:
    """Change limits of a running server, which other tests use afterwards."""
    with pytest.MonkeyPatch.context() as changes:
        yield changes


# Before a message is read


@on_sqlite
@pytest.mark.parametrize("key", ["", "Bearer sb_nobody_ever_made_this_one", "Basic abc"])
async def test_a_caller_without_a_valid_key_is_refused_before_its_message_arrives(service: Service, key: str) -> None:
    headers = [("authorization", key)] if key else []
    async with raw_connection(service.address) as connection, asyncio.timeout(10):
        for _ in range(20):
            for method in (SEND_EVENTS, STREAM_EVENTS):
                await connection.ending(await connection.open(method, *headers))


@on_sqlite
async def test_a_client_that_pings_without_a_pause_is_disconnected(service: Service) -> None:
    async with raw_connection(service.address) as connection, asyncio.timeout(10):
        await connection.greeted.wait()
        while not connection.closed.is_set():
            await connection.frame(PING, 0, 0, bytes(8))
            if not connection.closed.is_set():
                await connection.next_frame()
        assert connection.goaway.is_set()


@on_sqlite
async def test_the_refusal_of_a_large_message_says_why(service: Service) -> None:
    call = call_raw(service.channel, "EventIngest/SendEvents", bytes(15 << 20), [])
    assert await verdict(call) == (StatusCode.UNAUTHENTICATED, "API_KEY_MISSING")


@on_sqlite
async def test_a_message_that_does_not_arrive_in_time_ends_its_call(
    service: Service, shop: Client, patch: pytest.MonkeyPatch
) -> None:
    patch.setattr("server.rpc.message_reader.ARRIVAL_SECONDS", 0.5)
    patch.setattr("server.rpc.message_reader.FIRST_MESSAGE_SECONDS", 0.5)
    before = await counted_too_slow(service)
    async with raw_connection(service.address) as connection, asyncio.timeout(10):
        for method in (SEND_EVENTS, STREAM_EVENTS):
            stream = await connection.open(method, ("authorization", f"Bearer {shop.secret}"))
            await connection.send(stream, message_head(15 << 20) + bytes(UNREAD))
            await connection.ending(stream)
    channel: Any = service.channel
    idle = channel.stream_stream(STREAM_EVENTS)(metadata=shop.metadata)
    assert await ended(idle) == (StatusCode.DEADLINE_EXCEEDED, "REQUEST_TOO_SLOW")
    assert await counted_too_slow(service) == before + 3


async def counted_too_slow(service: Service) -> float:
    """Return how many messages have not arrived in time."""
    numbers = (await service.http.get("/metrics")).text
    found = re.search(r'^signalbox_refused_total\{reason="REQUEST_TOO_SLOW"\} (\S+)$', numbers, re.MULTILINE)
    return 0.0 if found is None else float(found[1])


@on_sqlite
async def test_messages_that_do_not_arrive_leave_room_for_another_project(service: Service, shop: Client) -> None:
    neighbour = await service.shop()
    async with raw_connection(service.address) as connection, asyncio.timeout(10):
        for _ in range(300):
            stream = await connection.open(SEND_EVENTS, ("authorization", f"Bearer {shop.secret}"))
            await connection.send(stream, message_head(15 << 20))
        assert (await neighbour.send()).event.position == 1


@on_sqlite
@pytest.mark.parametrize("method", [CHECK, WATCH, REFLECT])
async def test_messages_of_services_without_a_key_arrive_at_once(
    service: Service, method: str, patch: pytest.MonkeyPatch
) -> None:
    patch.setattr(health_and_reflection, "MESSAGE_SECONDS", 0.2)
    patch.setattr(health_and_reflection, "IDLE_SECONDS", 0.2)
    async with raw_connection(service.address) as connection, asyncio.timeout(10):
        stream = await connection.open(method)
        await connection.send(stream, message_head(15 << 20) + bytes(UNREAD))
        await connection.ending(stream)
    channel: Any = service.channel
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await channel.unary_unary(method)(field(1, bytes(10_000)))
    assert (caught.value.code(), read_refusal(caught.value).reason) == (
        StatusCode.INVALID_ARGUMENT,
        "MALFORMED_REQUEST",
    )


# Calls in progress


@on_sqlite
async def test_calls_beyond_a_projects_share_wait_and_the_rest_is_refused_with_a_time_to_try_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of eight calls that the server takes, four are for a project that is alone, and of eight that may wait, too."""
    monkeypatch.setattr(call_limits, "MAX_CALLS", 8)
    monkeypatch.setattr(call_limits, "MAX_WAITING_CALLS", 8)
    monkeypatch.setattr(call_limits, "WAITING_SECONDS", 30.0)
    async with serving(store.url) as service:
        shop, neighbour = await service.shop(), await service.shop()
        async with store.held():
            calls = [asyncio.ensure_future(_answer(shop.send())) for _ in range(20)]
            refused = await _refusals(calls, 12)
            sending = asyncio.create_task(neighbour.send())
            await asyncio.sleep(0.1)
            assert not sending.done()
        assert (await sending).event.position == 1
        assert (await asyncio.gather(*calls)).count(None) == 8
    assert {(each.code, each.reason, each.retry_after) for each in refused} == {
        (StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_CALLS", 0.5)
    }


@on_sqlite
async def test_calls_that_waited_too_long_are_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call_limits, "MAX_CALLS", 8)
    monkeypatch.setattr(call_limits, "WAITING_SECONDS", 0.1)
    async with serving(store.url) as service:
        shop = await service.shop()
        async with store.held():
            calls = [asyncio.ensure_future(_answer(shop.send())) for _ in range(20)]
            refused = await _refusals(calls, 16)
        assert (await asyncio.gather(*calls)).count(None) == 4
        assert (await shop.send()).event.position == 5
    assert {each.reason for each in refused} == {"TOO_MANY_CALLS"}


@on_sqlite
async def test_calls_whose_responses_are_not_let_through_are_in_progress(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(call_limits, "MAX_CALLS", 8)
    monkeypatch.setattr(call_limits, "WAITING_SECONDS", 0.1)
    async with asyncio.timeout(30), serving(store.url) as service:
        shop, neighbour = await service.shop(), await service.shop()
        async with raw_connection(service.address, window=0) as connection:
            message = event_ingest_pb2.SendEventRequest(event=event()).SerializeToString()
            for _ in range(4):
                stream = await connection.open(SEND_EVENT, ("authorization", f"Bearer {shop.secret}"))
                await connection.send(stream, message_head(len(message)) + message)
            while (refused := await _answer(shop.send())) is None:
                pass
            assert refused.reason == "TOO_MANY_CALLS"
            assert (await neighbour.send()).event.position == 1
        while await _answer(shop.send()) is not None:
            pass


@on_sqlite
async def test_many_calls_with_a_key_that_is_not_cached_look_it_up_once(
    service: Service, shop: Client, patch: pytest.MonkeyPatch
) -> None:
    patch.setattr("server.auth.access.MAX_LOOKUPS", 1)
    client = service.client((await created(service, shop.project)).secret)
    answers = await asyncio.gather(*(_answer(client.send()) for _ in range(50)))
    assert answers == [None] * 50


@on_sqlite
async def test_no_call_of_more_than_a_thousand_at_once_ends_without_a_reason(
    service: Service, shop: Client, patch: pytest.MonkeyPatch
) -> None:
    patch.setattr(connection_turns, "TURN_SECONDS", 60.0)
    request = event_ingest_pb2.GetEventRequest(id="nothing").SerializeToString()
    async with AsyncExitStack() as stack:
        calls = []
        for _ in range(3):
            options = (("grpc.use_local_subchannel_pool", 1),)
            channel: Any = await stack.enter_async_context(grpc.aio.insecure_channel(service.address, options=options))
            get = channel.unary_unary("/signalbox.v1.EventIngest/GetEvent")
            calls += [_answer(get(request, metadata=shop.metadata)) for _ in range(450)]
        answers = await asyncio.gather(*calls)
    assert {each.reason for each in answers if each is not None} <= {"EVENT_NOT_FOUND", "TOO_MANY_CALLS"}


async def _answer(call: Awaitable[Any]) -> Refusal | None:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return read_refusal(error)
    return None


async def _refusals(calls: Sequence[asyncio.Future[Refusal | None]], count: int) -> list[Refusal]:
    async with asyncio.timeout(30):
        while sum(call.done() for call in calls) < count:
            await asyncio.wait([call for call in calls if not call.done()], return_when=asyncio.FIRST_COMPLETED)
    return [refused for call in calls if call.done() and (refused := call.result()) is not None]


@on_sqlite
async def test_streams_beyond_a_projects_share_are_refused(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call_limits, "MAX_STREAMS", 8)
    async with serving(database_url) as small:
        shop, neighbour = await small.shop(), await small.shop()
        streams = [watch(shop) for _ in range(4)]
        for each in streams:
            await each.read()
        refused = await refusal(_read(watch(shop)))
        assert (refused.code, refused.reason) == (StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_STREAMS")
        assert refused.retry_after == 5
        other = watch(neighbour)
        assert await other.read() is not grpc.aio.EOF
        for each in (*streams, other):
            each.cancel()
        async with asyncio.timeout(5):
            while await _answer(_read(again := watch(shop))) is not None:
                pass
        again.cancel()


@on_sqlite
async def test_watches_of_health_are_bounded_and_checks_are_answered(
    service: Service, patch: pytest.MonkeyPatch
) -> None:
    patch.setattr(health_and_reflection, "MAX_WATCHES", 3)
    channel: Any = service.channel
    watches = [channel.unary_stream(WATCH)(b"") for _ in range(3)]
    for each in watches:
        await each.read()
    assert await verdict(_read(channel.unary_stream(WATCH)(b""))) == (
        StatusCode.RESOURCE_EXHAUSTED,
        "TOO_MANY_STREAMS",
    )
    assert await channel.unary_unary(CHECK)(b"") == b"\x08\x01"
    for each in watches:
        each.cancel()


# Keys that are revoked while nobody speaks


async def test_a_silent_stream_ends_within_a_second_after_its_key_is_revoked(
    service: Service, shop: Client, database_url: str
) -> None:
    """On the server that revokes it, and on another one that shares the database."""
    await subscribe(shop)
    async with AsyncExitStack() as stack:
        servers = [service]
        if database_url.startswith("postgresql"):
            servers.append(await stack.enter_async_context(serving(database_url)))
        revoked, other = await created(service, shop.project), await created(service, shop.project)
        doomed: dict[tuple[str, int], Any] = {}
        staying: dict[str, Any] = {}
        for method in ("ConsumeMatches", "WatchMatches", "StreamEvents"):
            for number, each in enumerate(servers):
                doomed[method, number] = await opened(each.client(revoked.secret), method, number)
            staying[method] = await opened(service.client(other.secret), method, 9)
        await service.admin.projects.RevokeApiKey(projects_pb2.RevokeApiKeyRequest(id=revoked.api_key.id))
        async with asyncio.timeout(1.5):
            for name, call in doomed.items():
                assert await ended(call) == (StatusCode.UNAUTHENTICATED, "API_KEY_INVALID"), name
        assert [method for method, call in staying.items() if call.done()] == []
        for call in staying.values():
            call.cancel()


@on_sqlite
async def test_no_match_is_delivered_with_a_revoked_key(service: Service, shop: Client) -> None:
    await subscribe(shop)
    revoked = await created(service, shop.project)
    engine = await Engine.open(service.client(revoked.secret), heartbeat_interval=seconds(1))
    await service.admin.projects.RevokeApiKey(projects_pb2.RevokeApiKeyRequest(id=revoked.api_key.id))
    await shop.send_all(orders(3))
    assert await verdict(_exhausted(engine)) == (StatusCode.UNAUTHENTICATED, "API_KEY_INVALID")
    assert not engine.batches


@on_sqlite
async def test_a_key_works_as_soon_as_it_is_created_although_it_was_tried_before(service: Service) -> None:
    shop = await service.shop()
    early = service.client("sb_a_secret_that_is_used_too_early_by_somebody")
    assert await verdict(early.send()) == (StatusCode.UNAUTHENTICATED, "API_KEY_INVALID")
    request = projects_pb2.CreateApiKeyRequest(project=shop.project, secret=early.secret)
    await service.admin.projects.CreateApiKey(request)
    assert (await early.send()).event.position == 1


@on_sqlite
async def test_a_flood_of_invented_keys_is_bounded(service: Service, shop: Client, patch: pytest.MonkeyPatch) -> None:
    patch.setattr("server.auth.access.MAX_LOOKUPS", 5)
    await shop.send()
    calls = [service.client(f"sb_invented_{number}").send() for number in range(200)]
    told = {each.reason for each in await asyncio.gather(*map(_answer, calls)) if each is not None}
    assert told == {"API_KEY_INVALID", "TOO_MANY_KEY_LOOKUPS"}
    assert (await shop.send()).event.position == 2


async def created(service: Service, project: str) -> projects_pb2.CreateApiKeyResponse:
    return await service.admin.projects.CreateApiKey(projects_pb2.CreateApiKeyRequest(project=project))


def watch(client: Client) -> Any:
    return client.matches.WatchMatches(match_stream_pb2.WatchMatchesRequest(heartbeat_interval=seconds(60)))


async def opened(client: Client, method: str, number: int) -> Any:
    """Open a stream, and read its first response if it has one before anything happens."""
    if method == "WatchMatches":
        call: Any = watch(client)
        await call.read()
    elif method == "ConsumeMatches":
        call = client.matches.ConsumeMatches()
        opening = match_stream_pb2.OpenConsumer(
            subscription="engine", consumer_id=f"c{number}", heartbeat_interval=seconds(60)
        )
        await call.write(match_stream_pb2.ConsumeMatchesRequest(open=opening))
        await call.read()
    else:
        call = client.ingest.StreamEvents()
        await call.write(event_ingest_pb2.StreamEventsRequest(sequence=1, events=orders(1)))
        await call.read()
    return call


async def ended(call: Any) -> tuple[StatusCode, str]:
    """Wait until a call is ended, and return how."""
    return await verdict(_drained(call))


async def _drained(call: Any) -> None:
    while await call.read() is not grpc.aio.EOF:
        pass


async def _exhausted(engine: Engine) -> None:
    while await engine.read():
        pass


async def _read(call: Any) -> Any:
    return await call.read()
