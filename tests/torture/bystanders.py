"""Clients that behave badly: one that reads slowly, and one that stops reading for good."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import grpc

from signalbox.v1 import match_stream_pb2 as pb
from tests.support.consumers import EARLIEST
from tests.support.forked import forked
from tests.support.recorders import HEARTBEAT, raise_if_cancelled, raise_unless_away
from tests.support.service import connected

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from multiprocessing.connection import Connection

    from tests.support.service import Client
    from tests.torture.senders import TortureWorld

WINDOW = 20


class SlowReader:
    """Watches the log with pauses that are long enough for the server to end the stream; misses no match."""

    def __init__(self, world: TortureWorld) -> None:
        self._world = world
        self._cursor = ""
        self._position = 0
        self.ended = 0

    async def run(self) -> None:
        while not self._world.over:
            client = await self._world.client()
            try:
                await self._watch(client)
            except grpc.aio.AioRpcError as error:
                raise_unless_away(self._world, error)
                self.ended += 1
            except asyncio.CancelledError:
                raise_if_cancelled()
            await self._world.pause(0.1)

    async def _watch(self, client: Client) -> None:
        start = pb.StartPoint(cursor=self._cursor) if self._cursor else EARLIEST
        call = client.matches.WatchMatches(
            pb.WatchMatchesRequest(start=start, max_matches=20, heartbeat_interval=HEARTBEAT)
        )
        async for answer in call:
            for match in answer.matches:
                assert match.position == self._position + 1, ("a slow reader missed a match", self._position, match)
                self._position = match.position
            self._cursor = answer.cursor
            if self._world.over:
                call.cancel()
                return
            await self._world.pause(0.05 if self._world.calm else 2)


class FrozenConsumer:
    """A process that consumes a subscription, and freezes while it holds deliveries. It loads its modules at once."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    async def freeze(self, address: str, secret: str, subscription: str) -> None:
        """Let it consume a subscription, and wait until it has frozen."""
        self._pipe.send((address, secret, subscription))
        assert await asyncio.to_thread(self._pipe.poll, 30), "the consumer that is to be frozen was not served"
        assert await asyncio.to_thread(self._pipe.recv)


@asynccontextmanager
async def frozen_consumer() -> AsyncIterator[FrozenConsumer]:
    """Start the process; it ends with the context."""
    async with forked(run_holder) as pipe:
        yield FrozenConsumer(pipe)


def run_holder(pipe: Connection) -> None:
    """Hold deliveries, frozen, until the process is killed."""
    address, secret, subscription = pipe.recv()
    asyncio.run(hold(address, secret, subscription, pipe))


async def hold(address: str, secret: str, subscription: str, served: Connection) -> None:
    """Receive deliveries, settle none; report and freeze this process once there were some, or none were due."""

    async def requests() -> AsyncIterator[pb.ConsumeMatchesRequest]:
        opening = pb.OpenConsumer(
            subscription=subscription,
            consumer_id="frozen",
            max_outstanding=WINDOW,
            heartbeat_interval=HEARTBEAT,
        )
        yield pb.ConsumeMatchesRequest(open=opening)
        await asyncio.Event().wait()

    async with connected(address) as service:
        client = service.client(secret)
        watching = client.matches.WatchMatches(pb.WatchMatchesRequest(start=EARLIEST))
        async for message in client.matches.ConsumeMatches(requests()):
            if message.WhichOneof("message") in ("deliveries", "heartbeat"):
                served.send(True)
                os.kill(os.getpid(), signal.SIGSTOP)
        watching.cancel()
