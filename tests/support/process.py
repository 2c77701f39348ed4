"""The real server, as a process of its own."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from contextlib import asynccontextmanager
from functools import cache
from typing import TYPE_CHECKING

from tests.support.command_line import ENVIRONMENT, forker
from tests.support.forking import Forker
from tests.support.service import ADMIN_KEY, connected

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from tests.support.forking import ForkedProcess
    from tests.support.service import Service

READY = re.compile(r"signalbox ready grpc=(\S+) http=(\S+)")


class Process:
    """A server that was started and said that it is ready."""

    def __init__(self, process: ForkedProcess, service: Service, log: Path) -> None:
        self.service = service
        self._process = process
        self._log = log

    @property
    def pid(self) -> int:
        return self._process.pid

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
        return await asyncio.to_thread(self._process.wait)

    def log(self) -> str:
        return self._log.read_text()


@asynccontextmanager
async def server_process(
    database_url: str,
    folder: Path,
    *arguments: str,
    source: Path | None = None,
    launching: Sequence[str] = (),
    trusted: str = "",
) -> AsyncIterator[Process]:
    """Start a server and wait until it is ready; what still runs at the end is killed.

    `source` is the checkout of another release, to run its code. `launching` are options of `tests.torture.launcher`.
    `trusted` is the certificate of a server that speaks TLS.
    """
    listening = ("--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0")
    launch = (*launching, "--") if launching else ()
    words = (*launch, "serve", *listening, "--database", database_url, *arguments)
    environment = {"SIGNALBOX_DRAIN": "0"} | ENVIRONMENT | {"SIGNALBOX_ADMIN_KEY": ADMIN_KEY}
    reading, writing = os.pipe()
    with (folder / "server.log").open("ab") as log, os.fdopen(reading) as out:
        try:
            process = await asyncio.to_thread(_start, words, environment, folder, (writing, log.fileno()), source)
        finally:
            os.close(writing)
        try:
            line = await asyncio.to_thread(out.readline)
            ready = READY.match(line)
            assert ready, f"instead of being ready: {line}{(folder / 'server.log').read_text()}"
            async with connected(ready[1], ready[2], trusted=trusted) as service:
                yield Process(process, service, folder / "server.log")
        finally:
            process.kill()
            await asyncio.to_thread(process.wait)


def _start(
    words: Sequence[str], environment: dict[str, str], folder: Path, files: tuple[int, int], source: Path | None
) -> ForkedProcess:
    with open(os.devnull) as nothing:
        if source is None:
            module = "" if words[0] == "serve" else "tests.torture.launcher"
            return forker.start(words, environment, folder, (nothing.fileno(), *files), module)
        return _forker_of(source).start(words, environment, folder, (nothing.fileno(), *files))


@cache
def _forker_of(source: Path) -> Forker:
    return Forker(source)
