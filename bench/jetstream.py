"""A client of NATS JetStream: `python -m bench.jetstream COMMAND ADDRESS ...`.

    publish ADDRESS SECONDS              publish with 64 in flight, each confirmed by the server
    fill ADDRESS COUNT                   store messages to consume
    consume ADDRESS KIND COUNT           consume them with 1,000 outstanding; each `ack`, or `ack confirmed`
    lag ADDRESS RATE SECONDS             publish at a rate, confirmed, and receive by a push consumer

Streams are stored in files. Each command prints its figures as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
from importlib import import_module
from time import perf_counter
from typing import Any
from uuid import uuid4

import uvloop

from bench.open_loop import IN_FLIGHT, Arrivals, payloads, saturate
from bench.peers import CONFIRMED

nats: Any = import_module("nats")
api: Any = import_module("nats.js.api")

OUTSTANDING = 1_000
FETCHED, FETCHERS = 240, 4
"""Together a little less than may be outstanding, since a fetch waits until it has all that it asked for."""


async def publish(jetstream: Any, seconds: str) -> dict[str, float]:
    await jetstream.add_stream(name="published", subjects=["published"])
    return await saturate(lambda payload: jetstream.publish("published", payload), float(seconds))


async def fill(jetstream: Any, count: str) -> dict[str, float]:
    await jetstream.add_stream(name="filled", subjects=["filled"])
    bodies = iter(payloads(int(count)))

    async def sender() -> None:
        for body in bodies:
            await jetstream.publish("filled", body)

    await asyncio.gather(*(sender() for _ in range(IN_FLIGHT)))
    return {}


async def consume(jetstream: Any, kind: str, count: str) -> dict[str, float]:
    durable = uuid4().hex
    config = api.ConsumerConfig(max_ack_pending=OUTSTANDING, ack_policy=api.AckPolicy.EXPLICIT)
    # A subscription for each fetcher: concurrent fetches of one would take each other's messages.
    subscriptions = [await jetstream.pull_subscribe("filled", durable, config=config) for _ in range(FETCHERS)]
    left = int(count)
    began = perf_counter()

    async def fetcher(subscription: Any) -> None:
        nonlocal left
        while left > 0:
            wanted = min(FETCHED, left)
            left -= wanted
            messages = await subscription.fetch(wanted, timeout=2)
            left += wanted - len(messages)
            acks = [message.ack_sync(30) if kind == CONFIRMED else message.ack() for message in messages]
            await asyncio.gather(*acks)

    await asyncio.gather(*(fetcher(subscription) for subscription in subscriptions))
    # Acks without confirmation are on their way: they count once the consumer has them.
    while (info := await subscriptions[0].consumer_info()).num_ack_pending or info.num_pending:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    seconds = perf_counter() - began
    await jetstream.delete_consumer("filled", durable)
    return {"events": int(count), "seconds": seconds}


async def lag(jetstream: Any, rate: str, seconds: str) -> dict[str, float]:
    name = uuid4().hex
    await jetstream.add_stream(name=name, subjects=[name])
    arrivals = Arrivals(float(rate), float(seconds))

    async def receive(message: Any) -> None:
        arrivals.delivered(message.data)
        await message.ack()

    await jetstream.subscribe(name, durable=name, cb=receive, manual_ack=True)
    figures = await arrivals.run(lambda payload: jetstream.publish(name, payload))
    await jetstream.delete_stream(name)
    return figures


async def main(command: str, address: str, *arguments: str) -> None:
    connection = await nats.connect(f"nats://{address}")
    run: Any = {"publish": publish, "fill": fill, "consume": consume, "lag": lag}[command]
    print(json.dumps(await run(connection.jetstream(), *arguments)))
    await connection.close()


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
