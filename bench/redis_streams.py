"""A client of Redis Streams: `python -m bench.redis_streams COMMAND ADDRESS ...`, with the commands of `jetstream.py`.

The server writes every command to disk before it answers. Entries are read by XREADGROUP, 250 at a time by four
consumers of one group, and acknowledged by one XACK for each read.
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

redis: Any = import_module("redis.asyncio")

READ, READERS = 250, 4


async def publish(client: Any, seconds: str) -> dict[str, float]:
    return await saturate(lambda payload: client.xadd("published", {"event": payload}), float(seconds))


async def fill(client: Any, count: str) -> dict[str, float]:
    pipeline = client.pipeline(transaction=False)
    for body in payloads(int(count)):
        pipeline.xadd("filled", {"event": body})
    await pipeline.execute()
    return {}


async def consume(client: Any, _kind: str, count: str) -> dict[str, float]:
    group = uuid4().hex
    await client.xgroup_create("filled", group, "0")
    acknowledged = 0
    began = perf_counter()

    async def reader(name: str) -> None:
        nonlocal acknowledged
        while read := await client.xreadgroup(group, name, {"filled": ">"}, count=READ):
            ((_, entries),) = read
            settled = await client.xack("filled", group, *(entry_id for entry_id, _ in entries))
            acknowledged += settled

    await asyncio.gather(*(reader(f"reader{number}") for number in range(READERS)))
    seconds = perf_counter() - began
    assert acknowledged == int(count), f"{acknowledged} entries were acknowledged"
    await client.xgroup_destroy("filled", group)
    return {"events": acknowledged, "seconds": seconds}


async def lag(client: Any, rate: str, seconds: str) -> dict[str, float]:
    name = uuid4().hex
    await client.xgroup_create(name, name, "0", mkstream=True)
    arrivals = Arrivals(float(rate), float(seconds))

    async def receive() -> None:
        while True:
            for _, entries in await client.xreadgroup(name, name, {name: ">"}, count=READ, block=1_000):
                for _, fields in entries:
                    arrivals.delivered(fields[b"event"])
                await client.xack(name, name, *(entry_id for entry_id, _ in entries))

    receiving = asyncio.create_task(receive())
    figures = await arrivals.run(lambda payload: client.xadd(name, {"event": payload}))
    receiving.cancel()
    await client.delete(name)
    return figures


async def main(command: str, address: str, *arguments: str) -> None:
    host, _, port = address.rpartition(":")
    pool = redis.BlockingConnectionPool(host=host, port=int(port), max_connections=IN_FLIGHT + READERS)
    client = redis.Redis(connection_pool=pool)
    run: Any = {"publish": publish, "fill": fill, "consume": consume, "lag": lag}[command]
    print(json.dumps(await run(client, *arguments)))
    await client.aclose()
    await pool.disconnect()


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
