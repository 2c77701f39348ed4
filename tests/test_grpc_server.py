from __future__ import annotations

import asyncio
import gc
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc import StatusCode
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from server.api.interceptor import _GrpcCall
from server.api.server import GrpcServer
from server.auth.access import Access
from server.errors import Stopping
from server.model import Rules
from server.rpc.calls import Calls
from server.rpc.open_calls import OpenCalls
from server.storage.projects.projects import insert_project
from signalbox.v1 import event_ingest_pb2 as pb
from signalbox.v1 import match_stream_pb2
from tests.support.contract import METHODS, SERVICES, met
from tests.support.messages import orders
from tests.support.refusals import refusal, verdict
from tests.support.service import ADMIN_KEY, Service, connected, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable
    from pathlib import Path

    from server.storage.database import Database
    from tests.support.service import Client
    from tests.support.stores import Store

    Watch = grpc.aio.UnaryStreamCall[health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse]

NAMES = sorted(service.full_name for service in SERVICES)
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
STOPPING = (StatusCode.UNAVAILABLE, "SERVER_STOPPING")

on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)


# Health


def check(service: Service, name: str) -> Awaitable[health_pb2.HealthCheckResponse]:
    call: grpc.aio.UnaryUnaryMultiCallable[health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse]
    call = service.channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        health_pb2.HealthCheckRequest.SerializeToString,
        health_pb2.HealthCheckResponse.FromString,
    )
    return call(health_pb2.HealthCheckRequest(service=name))


def watch(service: Service, name: str) -> Watch:
    call: grpc.aio.UnaryStreamMultiCallable[health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse]
    call = service.channel.unary_stream(
        "/grpc.health.v1.Health/Watch",
        health_pb2.HealthCheckRequest.SerializeToString,
        health_pb2.HealthCheckResponse.FromString,
    )
    return call(health_pb2.HealthCheckRequest(service=name))


async def next_states(watches: list[Watch]) -> list[int]:
    answers = await asyncio.gather(*(each.read() for each in watches))
    return [answer.status for answer in answers if isinstance(answer, health_pb2.HealthCheckResponse)]


@on_sqlite
async def test_each_service_is_healthy_and_none_needs_a_key(service: Service) -> None:
    for name in ("", *NAMES):
        assert (await check(service, name)).status == SERVING
    assert (await refusal(check(service, "signalbox.v1.Nothing"))).code is StatusCode.NOT_FOUND


@on_sqlite
async def test_health_is_not_serving_before_the_server_stops(database_url: str, store: Store) -> None:
    async with AsyncExitStack() as server:
        service = await server.enter_async_context(serving(database_url))
        shop = await service.shop()
        watches = [watch(service, name) for name in ("", *NAMES)]
        assert await next_states(watches) == [SERVING] * len(watches)
        async with store.held():
            under_way = asyncio.create_task(shop.send())
            await asyncio.sleep(0.1)
            stopping = asyncio.create_task(server.aclose())
            assert await next_states(watches) == [NOT_SERVING] * len(watches)
            assert not under_way.done()
        assert (await under_way).event.position == 1
        for each in watches:
            each.cancel()
        await stopping


# Reflection


async def reflect(service: Service, version: str, **asked: Any) -> reflection_pb2.ServerReflectionResponse:
    call = service.channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        reflection_pb2.ServerReflectionRequest.SerializeToString,
        reflection_pb2.ServerReflectionResponse.FromString,
    )
    async for answer in call(iter([reflection_pb2.ServerReflectionRequest(**asked)])):
        assert isinstance(answer, reflection_pb2.ServerReflectionResponse)
        return answer
    raise AssertionError("no answer")


@on_sqlite
@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_lists_the_services(service: Service, version: str) -> None:
    answer = await reflect(service, version, list_services="")
    listed = {each.name for each in answer.list_services_response.service}
    assert {*NAMES, "grpc.health.v1.Health"} <= listed


@on_sqlite
@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_gives_the_files(service: Service, version: str) -> None:
    answer = await reflect(service, version, file_containing_symbol="signalbox.v1.EventIngest")
    files = [FileDescriptorProto.FromString(each) for each in answer.file_descriptor_response.file_descriptor_proto]
    assert "signalbox/v1/event_ingest.proto" in [file.name for file in files]


# What is not served


@on_sqlite
async def test_a_method_without_a_servicer_is_unimplemented(database: Database) -> None:
    project = await database.write(lambda connection: insert_project(connection, "id", "shop", Rules(), 1))
    bare = GrpcServer(Calls(Access(database, ADMIN_KEY, b"page secret"), OpenCalls()), {})
    address = await bare.start("127.0.0.1:0", None)
    async with connected(address) as service:
        metadata = service.client(ADMIN_KEY, project.id).metadata
        for method in METHODS.values():
            refused = await met(service.channel, method, metadata)
            assert refused is not None
            assert refused.code is StatusCode.UNIMPLEMENTED
        await bare.stop(0)


@on_sqlite
async def test_a_port_that_is_taken_is_an_error(service: Service, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="Cannot listen on"):
        async with serving(f"sqlite:///{tmp_path}/other.db", grpc=service.address):
            pass


# Shutdown


async def test_an_open_stream_ends_with_stopping_at_a_shutdown(database_url: str) -> None:
    async with AsyncExitStack() as server:
        service = await server.enter_async_context(serving(database_url))
        shop = await service.shop()
        call = shop.ingest.StreamEvents()
        await call.write(pb.StreamEventsRequest(sequence=1, events=orders(2)))
        answer = await call.read()
        assert isinstance(answer, pb.StreamEventsResponse)
        stopping = asyncio.create_task(server.aclose())
        assert await verdict(call.read()) == STOPPING
        async with asyncio.timeout(2):
            await stopping


async def test_what_a_stream_sent_before_the_stop_is_stored_and_answered(database_url: str, store: Store) -> None:
    answered: list[int] = []
    async with AsyncExitStack() as server:
        service = await server.enter_async_context(serving(database_url))
        shop = await service.shop()
        call = shop.ingest.StreamEvents()

        async def read() -> None:
            async for answer in call:
                answered.extend(result.receipt.event.position for result in answer.results)

        async with store.held():
            for number in range(4):
                await call.write(pb.StreamEventsRequest(sequence=number, events=orders(5)))
            await asyncio.sleep(0.2)
            stopping = asyncio.create_task(server.aclose())
            await asyncio.sleep(0.1)
        assert await verdict(read()) == STOPPING
        await stopping
    assert answered == list(range(1, 21))
    assert len(await store.rows("event")) == 20


async def test_every_event_acknowledged_during_a_stop_is_there_afterwards(database_url: str, store: Store) -> None:
    acknowledged: list[int] = []

    async def send(shop: Client) -> None:
        while True:
            acknowledged.append((await shop.send()).event.position)

    async def send_batches(shop: Client) -> None:
        while True:
            acknowledged.extend(result.receipt.event.position for result in await shop.send_all(orders(7)))

    async def stream(shop: Client) -> None:
        async def messages() -> AsyncIterator[pb.StreamEventsRequest]:
            while True:
                yield pb.StreamEventsRequest(events=orders(3))
                await asyncio.sleep(0.001)

        async for answer in shop.ingest.StreamEvents(messages()):
            acknowledged.extend(result.receipt.event.position for result in answer.results)

    async with serving(database_url) as service:
        shop = await service.shop()
        senders = [asyncio.create_task(sender(shop)) for sender in (send, send_batches, stream) * 2]
        await asyncio.sleep(0.5)
    outcomes = await asyncio.gather(*senders, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {grpc.aio.AioRpcError}
    stored = sorted(row[1] for row in await store.rows("event"))
    assert stored == list(range(1, len(stored) + 1))
    assert len(acknowledged) > 50
    assert set(acknowledged) <= set(stored)


class SlowContext:
    """Stands for a context of the library whose first response is on its way until `sent` is set."""

    def __init__(self) -> None:
        self.sent = asyncio.Event()
        self.done: list[str] = []

    def invocation_metadata(self) -> tuple[()]:
        return ()

    def set_trailing_metadata(self, metadata: Any) -> None:
        pass

    async def write(self, response: str) -> None:
        await self.sent.wait()
        self.done.append(response)

    async def abort(self, code: Any, message: str, trailing: Any) -> None:
        self.done.append(code.name)


async def test_a_stream_that_ends_while_its_first_response_is_sent_has_its_status_after_that() -> None:
    context: Any = SlowContext()
    call = _GrpcCall(context)
    writing = asyncio.ensure_future(call.write("first"))
    await asyncio.sleep(0)
    writing.cancel()
    failing = asyncio.create_task(call.fail(Stopping()))
    await asyncio.sleep(0.01)
    assert context.done == []
    context.sent.set()
    await failing
    assert context.done == ["first", "UNAVAILABLE"]


@on_sqlite
async def test_failed_streams_leave_nothing_to_the_garbage_collection(service: Service) -> None:
    shop = await service.shop()

    async def fail() -> None:
        stream = shop.matches.ConsumeMatches()
        await stream.write(
            match_stream_pb2.ConsumeMatchesRequest(open=match_stream_pb2.OpenConsumer(subscription="missing"))
        )
        assert await verdict(stream.read()) == (StatusCode.NOT_FOUND, "SUBSCRIPTION_NOT_FOUND")
        watch = shop.matches.WatchMatches(
            match_stream_pb2.WatchMatchesRequest(start=match_stream_pb2.StartPoint(after_position=9))
        )
        assert (await verdict(watch.read()))[0] is StatusCode.OUT_OF_RANGE

    def calls() -> int:
        return sum(isinstance(each, _GrpcCall) for each in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        for _ in range(5):
            await fail()
        async with asyncio.timeout(5):
            while calls():  # noqa: ASYNC110 - a handler ends without a word
                await asyncio.sleep(0.01)
    finally:
        gc.enable()
