"""A client of procrastinate, a queue of jobs in PostgreSQL: `python -m bench.job_queue COMMAND URL ...`.

The commands are those of `jetstream.py` without `lag`. A job is the event as JSON, deferred in a transaction of its
own. A worker with LISTEN does 64 jobs at once, none of which does anything.
"""

from __future__ import annotations

import asyncio
import json
import sys
from importlib import import_module
from time import perf_counter
from typing import Any

from bench.open_loop import IN_FLIGHT, payloads, saturate

procrastinate: Any = import_module("procrastinate")

CONNECTIONS = 16


class Jobs:
    """The application of procrastinate."""

    def __init__(self, url: str) -> None:
        connector = procrastinate.PsycopgConnector(conninfo=url, max_size=CONNECTIONS)
        self.app = procrastinate.App(connector=connector)
        self.done = 0
        self.task = self.app.task(name="act")(self._act)

    async def _act(self, event: str) -> None:
        assert event
        self.done += 1

    async def publish(self, seconds: str) -> dict[str, float]:
        return await saturate(self._defer, float(seconds))

    async def fill(self, count: str) -> dict[str, float]:
        await self.task.batch_defer_async(*({"event": body.hex()} for body in payloads(int(count))))
        return {}

    async def consume(self, _kind: str, count: str) -> dict[str, float]:
        began = perf_counter()
        await self.app.run_worker_async(concurrency=IN_FLIGHT, wait=False, install_signal_handlers=False)
        seconds = perf_counter() - began
        assert self.done >= int(count)
        await self.fill(count)
        return {"events": self.done, "seconds": seconds}

    async def _defer(self, body: bytes) -> None:
        await self.task.defer_async(event=body.hex())


async def main(command: str, url: str, *arguments: str) -> None:
    jobs = Jobs(url)
    async with jobs.app.open_async():
        if not await jobs.app.check_connection_async():
            await jobs.app.schema_manager.apply_schema_async()
        run: Any = {"publish": jobs.publish, "fill": jobs.fill, "consume": jobs.consume}[command]
        print(json.dumps(await run(*arguments)))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
