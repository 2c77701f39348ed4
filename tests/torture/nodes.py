"""Servers that are started as users start them, killed, and started again; each has a clock that can be stepped."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.support.command_line import ENVIRONMENT, forker
from tests.support.process import READY
from tests.support.service import ADMIN_KEY, connected

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.support.forking import ForkedProcess
    from tests.support.service import Client, Service
    from tests.torture.databases import TorturedDatabase
    from tests.torture.senders import TortureWorld

ROOT: Final = Path(__file__).resolve().parents[2]
START_SECONDS: Final = 180.0


class Node:
    """One server process at a time, to which the clients of a world are led while it runs."""

    def __init__(self, database: TorturedDatabase, folder: Path, *options: str) -> None:
        self._database, self._folder, self._options = database, folder, options
        self._process: ForkedProcess | None = None
        self._lives = 0
        self._stack = AsyncExitStack()
        self.service: Service | None = None
        self.log = folder / f"node-{id(self)}.log"
        self._clock = folder / f"node-{id(self)}.clock"
        self.set_clock(0)

    def set_clock(self, seconds: float) -> None:
        """Set the server's clock to a number of seconds after the true time."""
        written = self._clock.with_suffix(".new")
        written.write_text(str(seconds))
        # The server may read the file at any moment.
        written.replace(self._clock)

    async def start(self, *launching: str) -> Service:
        """Start the server and wait until it is ready, again and again while its database is away."""
        async with asyncio.timeout(START_SECONDS):
            while not (addresses := await self._start_once(launching)):  # noqa: ASYNC110 - a database comes when it comes
                await asyncio.sleep(0.2)
        self.service = await self._stack.enter_async_context(connected(*addresses))
        return self.service

    async def _start_once(self, launching: Sequence[str]) -> tuple[str, str] | None:
        listen = ["--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0"]
        launch = ["--clock", str(self._clock), *launching]
        serve = ["serve", *listen, "--database", self._database.url, *self._options]
        self._lives += 1
        out = self._folder / f"node-{id(self)}-{self._lives}.out"
        self._process = await asyncio.to_thread(self._forked, [*launch, "--", *serve], out)
        while self._process.poll() is None:
            if ready := READY.match(out.read_text()):
                return ready[1], ready[2]
            await asyncio.sleep(0.02)
        await self.kill()
        return None

    def _forked(self, words: Sequence[str], out: Path) -> ForkedProcess:
        variables = ENVIRONMENT | {"SIGNALBOX_ADMIN_KEY": ADMIN_KEY}
        with open(os.devnull) as nothing, out.open("w") as written, self.log.open("a") as log:
            files = [each.fileno() for each in (nothing, written, log)]
            return forker.start(words, variables, self._folder, files, "tests.torture.launcher")

    async def died(self, within: float) -> bool:
        """Return whether the server ended by itself within a time."""
        until = time.monotonic() + within
        while alive := self._running():
            if time.monotonic() > until:
                break
            await asyncio.sleep(0.01)
        return not alive

    async def kill(self) -> None:
        """Kill the server, if it still runs, and close the connections to it."""
        if self._process is not None:
            self._process.kill()
            await self.died(START_SECONDS)
        await self.leave()

    async def stop(self) -> int | None:
        """Stop the server as users do and return its exit code."""
        assert self._process is not None
        self._process.terminate()
        await self.died(START_SECONDS)
        code = self._process.poll()
        await self.leave()
        return code

    async def leave(self) -> None:
        """Close the connections to the server."""
        self.service = None
        await self._stack.aclose()

    def _running(self) -> bool:
        return self._process is not None and self._process.poll() is None


class Membership:
    """Leads the clients of a world to a node while it runs."""

    def __init__(self, world: TortureWorld, node: Node) -> None:
        self._world, self._node = world, node
        self._client: Client | None = None
        self._bridge = ""

    async def begin(self, *launching: str) -> None:
        """Start the node and lead clients to it."""
        service = await self._node.start(*launching)
        self._client, self._bridge = service.client(self._world.secret), service.http_address
        self._world.clients.append(self._client)
        self._world.bridges.append(self._bridge)

    async def died(self, within: float) -> bool:
        """Return whether the node ended by itself within a time."""
        return await self._node.died(within)

    async def end(self) -> None:
        """Lead no more clients to the node, and kill it."""
        if self._client is not None:
            self._world.clients.remove(self._client)
            self._world.bridges.remove(self._bridge)
            self._client = None
        await self._node.kill()
