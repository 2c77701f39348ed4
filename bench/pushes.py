"""Deliveries a second of a subscription that pushes: `python -m bench.pushes`. See bench/README.md.

The receiver is a process of its own, which answers 200 over HTTP/1.1 connections that stay open, and verifies nothing.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import contextmanager
from time import perf_counter
from typing import TYPE_CHECKING, Any

import grpc
import uvloop

from bench.data import MATCHES
from bench.harness import Group, main, server
from bench.results import Failed, Ratio
from bench.subjects import METADATA, signalbox
from signalbox.v1 import match_stream_pb2 as pb
from signalbox.v1.match_stream_pb2_grpc import MatchStreamStub

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bench.harness import Round

SUBSCRIPTION = "pushes"
IN_FLIGHT = 32
PUSHED = f"pushes, {IN_FLIGHT} in flight"
WANTED = "wanted"
WANTED_RATE = 1_000.0
_RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


class Receiver(asyncio.Protocol):
    """Answers every request of one connection; requests come one after the other."""

    def __init__(self) -> None:
        self._received = b""

    def connection_made(self, transport: Any) -> None:
        """Remember where to answer."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer a request that has arrived whole."""
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if end and len(body) >= int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]):
            self._received = b""
            self._transport.write(_RESPONSE)


async def receive() -> None:
    """Run the receiver until SIGTERM."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    listening = await loop.create_server(Receiver, "127.0.0.1", 0)
    print(f"receiver ready http=127.0.0.1:{listening.sockets[0].getsockname()[1]}", flush=True)
    await stop.wait()


@contextmanager
def pushed(folder: Path, _seconds: float) -> Iterator[Round]:
    """Push the same stored matches again and again to a receiver on this machine."""
    with (
        _local_networks(),
        server(folder, "bench.pushes", "--receive") as receiver,
        signalbox(folder) as subject,
    ):
        subject.store_matches()
        uvloop.run(_subscribe(subject.grpc, receiver["http"]))
        yield lambda: {PUSHED: uvloop.run(_push_all(subject.grpc)), WANTED: WANTED_RATE}


@contextmanager
def _local_networks() -> Iterator[None]:
    """Let servers that are started meanwhile push to this machine."""
    before = os.environ.get("SIGNALBOX_PUSH_NETWORKS")
    os.environ["SIGNALBOX_PUSH_NETWORKS"] = "127.0.0.0/8"
    try:
        yield
    finally:
        if before is None:
            del os.environ["SIGNALBOX_PUSH_NETWORKS"]
        else:
            os.environ["SIGNALBOX_PUSH_NETWORKS"] = before


async def _subscribe(address: str, receiver: str) -> None:
    """Create the subscription, which does not push yet."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = MatchStreamStub
        push = pb.Push(url=f"http://{receiver}/", max_in_flight=IN_FLIGHT, paused=True)
        new = pb.CreateSubscriptionRequest(subscription=pb.Subscription(name=SUBSCRIPTION, push=push))
        await stub(channel).CreateSubscription(new, metadata=METADATA)


async def _push_all(address: str) -> float:
    """Push all stored matches, and return the deliveries a second."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = MatchStreamStub
        return await _pushed(stub(channel))


async def _pushed(matches: Any) -> float:
    start = pb.StartPoint(after_position=0)
    await matches.SeekSubscription(
        pb.SeekSubscriptionRequest(subscription=SUBSCRIPTION, start=start), metadata=METADATA
    )
    await _pause(matches, paused=False)
    began = perf_counter()
    request = pb.GetSubscriptionRequest(subscription=SUBSCRIPTION)
    while True:
        stats = (await matches.GetSubscription(request, metadata=METADATA)).subscription.stats
        if stats.floor_position == stats.head_position:
            break
        if stats.retrying_count:
            raise Failed("the receiver does not answer")
        await asyncio.sleep(0.05)
    seconds = perf_counter() - began
    await _pause(matches, paused=True)
    if stats.head_position != MATCHES or stats.parked_count:
        raise Failed(f"{stats.head_position} matches with {stats.parked_count} parked instead of {MATCHES}")
    return MATCHES / seconds


async def _pause(matches: Any, *, paused: bool) -> None:
    changes = pb.PushChanges(paused=paused)
    request = pb.UpdateSubscriptionRequest(subscription=SUBSCRIPTION, push=changes)
    await matches.UpdateSubscription(request, metadata=METADATA)


PUSHES = Group("Pushed deliveries", "matches/s", (Ratio(PUSHED, WANTED, 1.0),), pushed)

if __name__ == "__main__":
    if "--receive" in sys.argv:
        uvloop.run(receive())
    else:
        main(__doc__, (PUSHES,))
