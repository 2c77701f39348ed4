"""The real server, as a process of its own."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from tests.support.service import ADMIN_KEY, connected

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support.service import Service

READY = re.compile(r"signalbox ready grpc=(\S+) http=(\S+)")


class Process:
    """A server that was started and said that it is ready."""

    def __init__(self, process: asyncio.subprocess.Process, service: Service, log: Path) -> None:
        self.service = service
        self._process = process
        self._log = log

    def kill(self) -> None:
        self._process.kill()

    def freeze(self) -> None:
        """Stop the process in the middle of whatever it does."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Resume the process."""
        self._process.send_signal(signal.SIGCONT)

    def terminate(self) -> None:
        self._process.terminate()

    async def exit_code(self) -> int:
        return await self._process.wait()

    def log(self) -> str:
        return self._log.read_text()


@asynccontextmanager
async def server_process(
    database_url: str, folder: Path, *arguments: str, source: Path | None = None
) -> AsyncIterator[Process]:
    """Start a server and wait until it is ready; what still runs at the end is killed.

    `source` is the checkout of another release, to run its code.
    """
    command = [
        sys.executable,
        "-m",
        "server",
        "serve",
        "--grpc",
        "127.0.0.1:0",
        "--http",
        "127.0.0.1:0",
        "--database",
        database_url,
    ]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SIGNALBOX_")}
    if source is not None:
        environment["PYTHONPATH"] = f"{source}:{source / 'generated'}"
    with (folder / "server.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            *command,
            *arguments,
            cwd=folder,
            env={"SIGNALBOX_DRAIN": "0"} | environment | {"SIGNALBOX_ADMIN_KEY": ADMIN_KEY},
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
        )
    try:
        assert process.stdout is not None
        line = (await asyncio.wait_for(process.stdout.readline(), 90)).decode()
        ready = READY.match(line)
        assert ready, f"instead of being ready: {line}{(folder / 'server.log').read_text()}"
        async with connected(ready[1], ready[2]) as service:
            yield Process(process, service, folder / "server.log")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
