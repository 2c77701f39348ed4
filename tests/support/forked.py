"""Functions in processes of their own, each connected by a pipe.

python -m tests.support.forked     run the function that is received from standard input, which is the pipe
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import sys
from contextlib import asynccontextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.command_line import ENVIRONMENT, forker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@asynccontextmanager
async def forked(work: Any, *arguments: Any) -> AsyncIterator[Connection]:
    """Run a function in a process of its own, connected by a pipe; it is killed when the context is left."""
    ours, theirs = multiprocessing.Pipe()
    with ours:
        with theirs:
            files = (theirs.fileno(), sys.stdout.fileno(), sys.stderr.fileno())
            process = await asyncio.to_thread(forker.start, (), ENVIRONMENT, Path.cwd(), files, __name__)
        try:
            ours.send((work, arguments))
            yield ours
        finally:
            process.kill()
            await asyncio.to_thread(process.wait)


def main() -> None:
    """Receive a function and its arguments, and call it with the pipe as the last one."""
    with Connection(os.dup(sys.stdin.fileno())) as pipe:
        work, arguments = pipe.recv()
        work(*arguments, pipe)


if __name__ == "__main__":
    main()
