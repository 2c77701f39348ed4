"""What is begun and never ended: messages, connections, and streams on which nothing is sent."""

from __future__ import annotations

import asyncio
import resource
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING, ClassVar, Final

import grpc

from signalbox.v1 import event_ingest_pb2 as pb
from signalbox.v1 import match_stream_pb2
from tests.siege.attacks.attack import Attack
from tests.siege.attacks.floods import connected_often
from tests.siege.target import open_connection, outcome_of
from tests.support.messages import event
from tests.support.service import CHANNEL_OPTIONS
from tests.support.wire import call_raw

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.siege.target import Assault
    from tests.support.service import Client

MESSAGE_BYTES: Final = 16 * 1000 * 1000
SENT_BYTES: Final = 15 * 1000 * 1000
SPARE_FILES: Final = 1_000


@asynccontextmanager
async def stalling(address: str, passed: int) -> AsyncIterator[str]:
    """Forward connections to a server, of each only the first bytes; yield the address for clients."""
    tasks: set[asyncio.Task[None]] = set()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await open_connection(address)
        answers = asyncio.create_task(_copy(there, writer, None))
        tasks.add(answers)
        try:
            await _copy(reader, back, passed)
            await answers
        finally:
            back.transport.abort()
            writer.transport.abort()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.create_task(forward(reader, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        host, port = server.sockets[0].getsockname()
        yield f"{host}:{port}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, most: int | None) -> None:
    passed = 0
    with suppress(ConnectionError):
        while content := await reader.read(65_536):
            writer.write(content if most is None else content[: max(most - passed, 0)])
            passed += len(content)
            await writer.drain()


class UnfinishedMessages(Attack):
    """Large messages of which the last part never comes, without a key."""

    what: ClassVar = "20 connections without a key, each with 15 of the 16 MB of a message"
    peak_growth: ClassVar[int | None] = 100
    authorized: ClassVar = False

    async def prepare(self, assault: Assault) -> None:
        sent = event({"items": "x" * 100_000})
        self._batch = pb.SendEventsRequest(events=[sent] * (MESSAGE_BYTES // sent.ByteSize())).SerializeToString()

    async def run(self, assault: Assault) -> None:
        async with stalling(assault.target.grpc, SENT_BYTES) as address:
            await asyncio.gather(*(self._send(assault, address, number) for number in range(20)))

    async def _send(self, assault: Assault, address: str, number: int) -> None:
        secrets = assault.target.secrets
        metadata = [("authorization", f"Bearer {secrets[number % len(secrets)]}")] if self.authorized else []
        options = (*CHANNEL_OPTIONS, ("grpc.use_local_subchannel_pool", 1))
        channel = grpc.aio.insecure_channel(address, options=options)
        try:
            await assault.made(call_raw(channel, "EventIngest/SendEvents", self._batch, metadata))
        finally:
            await channel.close()


class UnfinishedMessagesOfATenant(UnfinishedMessages):
    """Large messages of which the last part never comes, with keys."""

    what: ClassVar = "20 connections with keys of a project, each with 15 of the 16 MB of a message"
    peak_growth: ClassVar[int | None] = None
    authorized: ClassVar = True


class IdleConnections(Attack):
    """Connections on which nothing is sent, and streams on which nothing is read."""

    what: ClassVar = "2,000 idle connections to the bridge, 2,000 to the gRPC server, and 1,000 streams of watchers"
    has_floor: ClassVar = False

    async def prepare(self, assault: Assault) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        self._each = min(assault.target.sized(2_000), max(hard - SPARE_FILES, soft) // 3)

    async def run(self, assault: Assault) -> None:
        writers: list[asyncio.StreamWriter] = []
        try:
            async with asyncio.timeout(assault.remaining), AsyncExitStack() as stack:
                clients = await connected_often(assault, stack, 10)
                streams = [asyncio.create_task(_watch(assault, next(clients))) for _ in range(self._each // 2)]
                for address in (assault.target.http, assault.target.grpc):
                    for _ in range(self._each):
                        await self._connect(assault, address, writers)
                await asyncio.gather(*streams, asyncio.Event().wait())
        except TimeoutError:
            pass
        finally:
            for writer in writers:
                writer.transport.abort()

    async def _connect(self, assault: Assault, address: str, writers: list[asyncio.StreamWriter]) -> None:
        try:
            reader, writer = await open_connection(address)
        except OSError as error:
            assault.answers[type(error).__name__] += 1
            return
        await asyncio.sleep(0)
        assault.answers["closed at once" if reader.at_eof() else "connected"] += 1
        writers.append(writer)


async def _watch(assault: Assault, client: Client) -> None:
    request = match_stream_pb2.WatchMatchesRequest()
    outcome = "streams that were kept"
    try:
        async for _ in client.matches.WatchMatches(request):
            pass
    except grpc.aio.AioRpcError as error:
        outcome = outcome_of(error)
    finally:
        assault.answers[outcome] += 1
