"""An automation engine: says whom it would mail. `python examples/engine.py [HOST:PORT [KEY]]`; Ctrl-C drains it."""

from __future__ import annotations

import asyncio
import signal
import sys

import grpc

from signalbox.v1 import match_stream_pb2 as pb
from signalbox.v1.match_stream_pb2_grpc import MatchStreamStub

ADDRESS, KEY = (*sys.argv[1:], *("127.0.0.1:50051", "sb_demo_key_for_ada")[len(sys.argv) - 1 :])
METADATA = (("authorization", f"Bearer {KEY}"),)


async def subscribe(matches: MatchStreamStub) -> None:
    """Make the subscription, the first time; it remembers how far this engine is."""
    request = pb.CreateSubscriptionRequest(subscription=pb.Subscription(name="mailer"))
    try:
        await matches.CreateSubscription(request, metadata=METADATA)
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.ALREADY_EXISTS:
            raise


async def consume(matches: MatchStreamStub, stop: asyncio.Event) -> None:
    """Act on matches and acknowledge them; told to stop, take no more and end when all are acknowledged."""
    call = matches.ConsumeMatches(metadata=METADATA)
    await call.write(pb.ConsumeMatchesRequest(open=pb.OpenConsumer(subscription="mailer", consumer_id="mailer-1")))

    async def drain() -> None:
        await stop.wait()
        await call.write(pb.ConsumeMatchesRequest(stop=pb.StopDeliveries()))

    draining = asyncio.create_task(drain())
    async for answer in call:
        for delivery in answer.deliveries.deliveries:
            if not delivery.match.contact_deleted:  # else there is no address, and the run has ended
                print(f"would mail {delivery.match.event.email}", flush=True)
            await call.write(pb.ConsumeMatchesRequest(ack=pb.AckDeliveries(delivery_ids=[delivery.delivery_id])))
    draining.cancel()


async def main() -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, stop.set)
    async with grpc.aio.insecure_channel(ADDRESS) as channel:
        while not stop.is_set():
            try:
                await subscribe(MatchStreamStub(channel))
                await consume(MatchStreamStub(channel), stop)
            except grpc.aio.AioRpcError as error:
                print(f"{error.details()}; trying again", flush=True)
                await asyncio.sleep(1)


asyncio.run(main())
