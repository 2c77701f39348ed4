"""An automation engine: prints whom it would mail, and completes the run. Ctrl-C drains it."""

from __future__ import annotations

import asyncio
import os
import signal

import grpc

from signalbox.v1 import automations_pb2, automations_pb2_grpc, match_stream_pb2_grpc
from signalbox.v1 import match_stream_pb2 as pb

ADDRESS = os.environ.get("SIGNALBOX_SERVER", "127.0.0.1:50051")
METADATA = (("authorization", f"Bearer {os.environ.get('SIGNALBOX_KEY', 'sb_demo_key_for_ada')}"),)


async def call(method, request, done: grpc.StatusCode) -> None:
    """Call a method; the status `done` means that there is nothing left to do."""
    try:
        await method(request, metadata=METADATA)
    except grpc.aio.AioRpcError as error:
        if error.code() is not done:
            raise


async def consume(channel: grpc.aio.Channel, stop: asyncio.Event) -> None:
    """Act on matches and acknowledge them. Once `stop` is set, take no more and return when all are acknowledged."""
    matches = match_stream_pb2_grpc.MatchStreamStub(channel)
    automations = automations_pb2_grpc.AutomationsStub(channel)
    subscription = pb.CreateSubscriptionRequest(subscription=pb.Subscription(name="mailer"))
    await call(matches.CreateSubscription, subscription, grpc.StatusCode.ALREADY_EXISTS)
    stream = matches.ConsumeMatches(metadata=METADATA)
    await stream.write(pb.ConsumeMatchesRequest(open=pb.OpenConsumer(subscription="mailer", consumer_id="mailer-1")))

    async def drain() -> None:
        await stop.wait()
        await stream.write(pb.ConsumeMatchesRequest(stop=pb.StopDeliveries()))

    draining = asyncio.create_task(drain())
    try:
        async for response in stream:
            for delivery in response.deliveries.deliveries:
                match = delivery.match
                if not match.contact_deleted:  # else there is no address, and the run has been cancelled
                    print(f"would mail {match.event.email}", flush=True)
                    run = automations_pb2.CompleteRunRequest(run_id=match.run_id, match_id=match.id)
                    await call(automations.CompleteRun, run, grpc.StatusCode.FAILED_PRECONDITION)  # it was cancelled
                await stream.write(pb.ConsumeMatchesRequest(ack=pb.AckDeliveries(delivery_ids=[delivery.delivery_id])))
    finally:
        draining.cancel()


async def main() -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, stop.set)
    async with grpc.aio.insecure_channel(ADDRESS) as channel:
        while not stop.is_set():
            try:
                await consume(channel, stop)
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:  # the latter: a write after the end
                details = error.details() if isinstance(error, grpc.aio.AioRpcError) else error
                print(f"{details}; trying again", flush=True)
                await asyncio.sleep(1)


asyncio.run(main())
