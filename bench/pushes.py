"""Deliveries a second of a subscription that pushes: `python -m bench.pushes`. See bench/README.md.

The receiver is a process of its own, which answers 200 over HTTP/1.1 connections that stay open, and verifies nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import grpc
import uvloop

from bench.data import MATCHES, SEND_EVENTS, matching_requests
from bench.harness import machine, progress, server
from bench.results import Failed
from bench.subjects import METADATA, signalbox
from signalbox.v1 import match_stream_pb2 as pb
from signalbox.v1.match_stream_pb2_grpc import MatchStreamStub

SUBSCRIPTION = "bench"
IN_FLIGHT = 32
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


async def measure(address: str, receiver: str, rounds: int) -> list[float]:
    """Push the same stored matches again and again. Return the deliveries a second."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = MatchStreamStub
        matches: Any = stub(channel)
        send: Any = channel.unary_unary(SEND_EVENTS)
        push = pb.Push(url=f"http://{receiver}/", max_in_flight=IN_FLIGHT, paused=True)
        new = pb.CreateSubscriptionRequest(subscription=pb.Subscription(name=SUBSCRIPTION, push=push))
        await matches.CreateSubscription(new, metadata=METADATA)
        for request in matching_requests():
            await send(request.body, metadata=METADATA)
        rates = []
        for number in range(rounds):
            progress(f"round {number + 1} of {rounds}")
            rates.append(await _round(matches))
        progress("")
        return rates


async def _round(matches: Any) -> float:
    """Push all matches, and return the deliveries a second."""
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


def main() -> None:
    """Run the server and the receiver, measure, and print the median."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="rounds (5)")
    parser.add_argument("--receive", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.receive:
        uvloop.run(receive())
        return
    os.environ["SIGNALBOX_PUSH_NETWORKS"] = "127.0.0.0/8"
    print(machine(), end="\n\n", flush=True)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="signalbox-bench-")))
        receiver = stack.enter_context(server(folder, "bench.pushes", "--receive"))
        running = stack.enter_context(signalbox(folder))
        try:
            rates = uvloop.run(measure(running.grpc, receiver["http"], arguments.rounds))
        except (Failed, grpc.RpcError) as error:
            sys.exit(f"The benchmark failed: {error}")
    print(f"{median(rates):,.0f} deliveries/s with {IN_FLIGHT} in flight ({min(rates):,.0f} to {max(rates):,.0f})")


if __name__ == "__main__":
    main()
