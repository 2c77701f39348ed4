"""Run `signalbox` with failpoints and a clock that can be moved.

    python -m tests.torture.launcher [--kill-at NAME:COUNT] [--clock FILE] [--checkpoint-pages N]
        [--push-claim SECONDS] -- serve ...

The product has no code for tests. This wraps two of its seams before its main function is called: the one method
through which every transaction goes (`write` of a database), and the one function that reads the clock.

A failpoint kills the process with SIGKILL at the COUNTth time that it is reached:

| part | `before-commit` | `after-commit` | `answering` |
|---|---|---|---|
| `ingest` | events are written, not committed | committed, no answer has left | some answers have left |
| `settle` | acknowledgements are written, not committed | committed, not confirmed | some are confirmed |
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

from registry.times import timestamps
from server.ingest.group_transaction import GroupTransaction

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

STEP: Final = "server.delivery.steps"
"""The module of the transactions that are a step of a subscription alone."""

MOMENTS: Final = ("before-commit", "after-commit", "answering")
FAILPOINTS: Final = tuple(f"{part}.{moment}" for part in ("ingest", "settle") for moment in MOMENTS)

ANSWERING_SECONDS: Final = 0.003
CLOCK_READS: Final = 0.02
"""The interval in seconds at which the file of the clock is read."""


class Failpoint:
    """The place at which this process dies."""

    def __init__(self, name: str, count: int) -> None:
        if name and name not in FAILPOINTS:
            raise ValueError(f"{name} is not a failpoint: use one of {', '.join(FAILPOINTS)}")
        self._name, self._count = name, count
        self._reached: Counter[str] = Counter()

    def reach(self, name: str) -> None:
        """Kill the process if this is the failpoint, and its time has come."""
        self._reached[name] += 1
        if name == self._name and self._reached[name] >= self._count:
            os.kill(os.getpid(), signal.SIGKILL)


def parts_of(work: Any) -> list[str]:
    """Return the parts of the server whose work a transaction does: a group commit may do both."""
    if isinstance(work, GroupTransaction):
        return ["ingest"] * bool(work._batches) + ["settle"] * bool(work._steps)
    return ["settle"] if getattr(work, "__module__", "") == STEP else []


def add_failpoints(database: type[Any], failpoint: Failpoint) -> None:
    """Wrap `write` of a kind of database."""
    write = database.write

    async def failing_write(self: Any, work: Callable[[Any], Any], **options: Any) -> Any:
        parts = parts_of(work)

        def reach(moment: str) -> None:
            for part in parts:
                failpoint.reach(f"{part}.{moment}")

        def failing_work(connection: Any) -> Any:
            result = work(connection)
            reach("before-commit")
            return result

        result = await write(self, failing_work if parts else work, **options)
        reach("after-commit")
        delay = random.random() * ANSWERING_SECONDS  # noqa: S311 - any moment will do
        asyncio.get_running_loop().call_later(delay, reach, "answering")
        return result

    database.write = failing_write


def move_clock(file: Path) -> None:
    """Shift the product's clock by the number of seconds in a file."""
    read_at, offset = 0.0, 0

    def time_ns() -> int:
        nonlocal read_at, offset
        if time.monotonic() - read_at > CLOCK_READS:
            offset = round(float(file.read_text()) * 1_000_000_000)
            read_at = time.monotonic()
        return time.time_ns() + offset

    vars(timestamps)["time"] = SimpleNamespace(time_ns=time_ns)


def main(arguments: Sequence[str]) -> None:
    """Run the product's main function with failpoints and clock."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture.launcher", description=__doc__)
    parser.add_argument("--kill-at", metavar="NAME:COUNT", default="")
    parser.add_argument("--clock", type=Path, metavar="FILE")
    parser.add_argument("--checkpoint-pages", type=int, metavar="N")
    parser.add_argument("--push-claim", type=float, metavar="SECONDS")
    parser.add_argument("command", nargs="+", metavar="COMMAND")
    options = parser.parse_args(arguments)
    if options.clock:
        move_clock(options.clock)
    from server.storage.postgresql.database import PostgresDatabase
    from server.storage.sqlite.database import SqliteDatabase

    if options.checkpoint_pages:
        from server.storage.sqlite import writer as sqlite_writer

        vars(sqlite_writer)["CHECKPOINT_PAGES"] = options.checkpoint_pages
    if options.push_claim:
        from server.delivery.push import pushers

        vars(pushers)["CLAIM_SECONDS"] = options.push_claim
    name, _, count = options.kill_at.partition(":")
    failpoint = Failpoint(name, int(count or 1))
    for database in (SqliteDatabase, PostgresDatabase):
        add_failpoints(database, failpoint)
    from server.__main__ import main as product

    sys.argv = ["signalbox", *options.command]
    product()


if __name__ == "__main__":
    main(sys.argv[1:])
