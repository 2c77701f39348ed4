from __future__ import annotations

import asyncio
import subprocess
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc import StatusCode
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from server.access import Access
from server.api.grpc_server import GrpcServer
from server.api.handlers import Streams
from server.model import Rules
from server.settings import Tls
from server.storage.projects import insert_project
from signalbox.v1 import event_ingest_pb2 as pb
from signalbox.v1 import projects_pb2
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
async def test_health_says_not_serving_before_the_server_goes(database_url: str, store: Store) -> None:
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
async def test_a_method_without_a_servicer_says_so(database: Database) -> None:
    project = await database.write(lambda connection: insert_project(connection, "id", "shop", Rules(), 1))
    bare = GrpcServer(Access(database, ADMIN_KEY), Streams(), {})
    address = await bare.start("127.0.0.1:0", None)
    async with connected(address) as service:
        metadata = service.client(ADMIN_KEY, project.id).metadata
        for name, method in METHODS.items():
            refused = await met(service.channel, method, metadata)
            assert refused is not None
            assert (refused.code, refused.reason) == (StatusCode.UNIMPLEMENTED, "METHOD_NOT_IMPLEMENTED")
            assert name in refused.message
        await bare.stop(0)


@on_sqlite
async def test_a_port_that_is_taken_is_an_error(service: Service, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="Cannot listen on"):
        async with serving(f"sqlite:///{tmp_path}/other.db", grpc=service.address):
            pass


# Shutdown


async def test_an_open_stream_is_told_that_the_server_stops(database_url: str) -> None:
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


# TLS


class Authority:
    """Certificates of one name, each its own authority."""

    def __init__(self, folder: Path) -> None:
        self.certificate = folder / "cert.pem"
        self.key = folder / "key.pem"
        folder.mkdir()
        self.renew()

    def renew(self) -> None:
        """Make another certificate and key in the same files."""
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        names = ["-days", "1", "-subj", "/CN=signalbox", "-addext", "subjectAltName=IP:127.0.0.1"]
        files: list[str | Path] = ["-keyout", self.key, "-out", self.certificate]
        subprocess.run([*command, *names, *files], check=True, capture_output=True)

    def credentials(self, client: Authority | None = None) -> grpc.ChannelCredentials:
        """Trust this certificate, and show a client's if there is one."""
        shown = (client.key.read_bytes(), client.certificate.read_bytes()) if client else (None, None)
        return grpc.ssl_channel_credentials(self.certificate.read_bytes(), *shown)


async def reaches(address: str, credentials: grpc.ChannelCredentials | None) -> bool:
    """Say whether a call arrives, over a connection of its own."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    channel = (
        grpc.aio.secure_channel(address, credentials, options)
        if credentials
        else grpc.aio.insecure_channel(address, options)
    )
    async with channel:
        client = Service(address, channel).admin
        outcome = client.projects.ListProjects(projects_pb2.ListProjectsRequest(), timeout=5)
        code = await outcome.code()
        assert code in (StatusCode.OK, StatusCode.UNAVAILABLE)
        return code is StatusCode.OK


@pytest.fixture
def host(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "host")


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/signalbox.db"


async def test_tls_keeps_out_who_speaks_plainly_or_trusts_another(host: Authority, url: str, tmp_path: Path) -> None:
    other = Authority(tmp_path / "other")
    async with serving(url, tls=Tls(host.certificate, host.key)) as service:
        assert await reaches(service.address, host.credentials())
        assert not await reaches(service.address, other.credentials())
        assert not await reaches(service.address, None)


async def test_mtls_keeps_out_who_shows_no_certificate_or_a_strangers(
    host: Authority, url: str, tmp_path: Path
) -> None:
    friend, stranger = Authority(tmp_path / "friend"), Authority(tmp_path / "stranger")
    async with serving(url, tls=Tls(host.certificate, host.key, friend.certificate)) as service:
        assert await reaches(service.address, host.credentials(friend))
        assert not await reaches(service.address, host.credentials(stranger))
        assert not await reaches(service.address, host.credentials())


async def test_a_renewed_certificate_is_shown_from_the_next_connection_on(host: Authority, url: str) -> None:
    async with serving(url, tls=Tls(host.certificate, host.key)) as service:
        old = host.credentials()
        assert await reaches(service.address, old)
        host.renew()
        assert await reaches(service.address, host.credentials())
        assert not await reaches(service.address, old)


async def test_a_certificate_that_goes_missing_leaves_the_old_one_in_use(host: Authority, url: str) -> None:
    async with serving(url, tls=Tls(host.certificate, host.key)) as service:
        old = host.credentials()
        host.certificate.unlink()
        assert await reaches(service.address, old)


async def test_a_server_without_its_certificate_does_not_start(url: str, tmp_path: Path) -> None:
    nothing = tmp_path / "nothing.pem"
    with pytest.raises(FileNotFoundError):
        async with serving(url, tls=Tls(nothing, nothing)):
            pass
