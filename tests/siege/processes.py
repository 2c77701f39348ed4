"""The processes beside the server under siege: of its attacker, and others, each connected by a pipe."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from tests.siege.attacks.rows import ATTACKS
from tests.siege.target import Assault, Target
from tests.support.forked import forked

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from multiprocessing.connection import Connection

    from tests.siege.report import Report

NICENESS: Final = 5
READY_SECONDS: Final = 60.0
PREPARING_SECONDS: Final = 120.0


async def received(pipe: Connection, within: float) -> Any:
    """Receive from another process. Raise TimeoutError if that takes longer than a number of seconds."""
    if not await asyncio.to_thread(pipe.poll, within):
        raise TimeoutError(f"the other process did nothing for {within:.0f} s")
    return await asyncio.to_thread(pipe.recv)


class Attacker:
    """The process of an attack."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    async def prepared(self) -> None:
        """Wait until the attack can begin."""
        assert await received(self._pipe, PREPARING_SECONDS) == "prepared"

    async def attack(self, seconds: float, report: Report) -> None:
        """Attack for some seconds; put into the report what the attacker was answered and found."""
        self._pipe.send(seconds)
        report.answers, report.facts, report.misses = await received(self._pipe, seconds + READY_SECONDS)


@asynccontextmanager
async def attacking(target: Target, row: str) -> AsyncIterator[Attacker]:
    """Run an attack in a process of its own."""
    async with forked(run_attack, target, row) as pipe:
        yield Attacker(pipe)


def run_attack(target: Target, row: str, pipe: Connection) -> None:
    """Attack in this process, which gives way to the server and to the observer."""
    os.nice(NICENESS)
    asyncio.run(_attack(target, row, pipe))


async def _attack(target: Target, row: str, pipe: Connection) -> None:
    assault, attack = Assault(target), ATTACKS[row]()
    await attack.prepare(assault)
    pipe.send("prepared")
    seconds = await asyncio.to_thread(pipe.recv)
    assault.until = time.monotonic() + seconds
    await attack.run(assault)
    pipe.send((assault.answers, assault.facts, assault.misses))
