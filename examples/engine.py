"""An automation engine: says whom it would mail. `python examples/engine.py [HOST:PORT [KEY]]`; Ctrl-C drains it."""

from __future__ import annotations

import asyncio
import signal
import sys

import grpc

from signalbox.v1 import match_stream_pb2 as pb
from signalbox.v1.match_stream_pb2_grpc import MatchStreamStub

SUBSCRIPTION = "mailer"
ADDRESS, KEY = (*sys.argv[1:], *("127.0.0.1:50051", "sb_demo_key_for_ada")[len(sys.argv) - 1 :])
METADATA = (("authorization", f"Bearer {KEY}"),)


async def subscribe(matches: MatchStreamStub) -> None:
    """Make the subscription, the first time; it remembers how far this engine is."""
    wanted = pb.Subscription(name=SUBSCRIPTION)
    try:
        await matches.CreateSubscription(pb.CreateSubscriptionRequest(subscription=wanted), metadata=METADATA)
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.ALREADY_EXISTS:
            raise


async def consume(matches: MatchStreamStub, stop: asyncio.Event) -> None:
    """Act on matches and acknowledge them, until told to stop or the connection breaks."""
    call = matches.ConsumeMatches(metadata=METADATA)
    await call.write(pb.ConsumeMatchesRequest(open=pb.OpenConsumer(subscription=SUBSCRIPTION, consumer_id="mailer-1")))
    stopping = asyncio.create_task(stop.wait())
    stopping.add_done_callback(lambda _: asyncio.ensure_future(drain(call)) if stop.is_set() else None)
    async for answer in call:
        for delivery in answer.deliveries.deliveries:
            print(f"would mail {delivery.match.event.email} for {delivery.match.automation_name}", flush=True)
            done = pb.AckDeliveries(delivery_ids=[delivery.delivery_id])
            await call.write(pb.ConsumeMatchesRequest(ack=done))
    stopping.cancel()


async def drain(call: grpc.aio.StreamStreamCall[pb.ConsumeMatchesRequest, pb.ConsumeMatchesResponse]) -> None:
    """Ask for no more: the server closes when all that was delivered is acknowledged."""
    await call.write(pb.ConsumeMatchesRequest(stop=pb.StopDeliveries()))


async def main() -> None:
    """Run until Ctrl-C; connect again whenever the server goes away."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, stop.set)
    async with grpc.aio.insecure_channel(ADDRESS) as channel:
        matches = MatchStreamStub(channel)
        while not stop.is_set():
            try:
                await subscribe(matches)
                await consume(matches, stop)
            except grpc.aio.AioRpcError as error:
                print(f"{error.code().name}: {error.details()}; trying again", flush=True)
                await asyncio.sleep(1)


asyncio.run(main())
