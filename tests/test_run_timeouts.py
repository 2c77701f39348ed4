"""The task that ends waits of runs: the times at which it looks for them, in virtual time."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import pytest

from server.background import run_timeouts
from server.background.run_timeouts import POLL_SECONDS, RunTimeouts
from server.logs.outages import Outages
from tests.support.virtual_time import run_virtually

SECOND: Final = 1_000_000


class WaitsDatabase:
    """A database with one wait, which ends at a time in microseconds; it records when it is read."""

    shared = False

    def __init__(self, due_at: int, looks: int) -> None:
        self.read_at: list[float] = []
        self.done = asyncio.Event()
        self._due_at = due_at
        self._looks = looks

    async def read(self, work: Any, *, brief: bool = False, delivery: bool = False) -> tuple[list[int], int | None]:
        self.read_at.append(asyncio.get_running_loop().time())
        if len(self.read_at) == self._looks:
            self.done.set()
            await asyncio.Event().wait()
        return [], self._due_at if _now() < self._due_at else None


def _now() -> int:
    return round(asyncio.get_running_loop().time() * SECOND)


async def looks_of(due_at: int, count: int) -> list[float]:
    """Return the times of the first looks for waits that have ended."""
    database: Any = WaitsDatabase(due_at, count)
    nobody: Any = None
    timeouts = RunTimeouts(database, nobody, nobody, Outages())
    timeouts.start()
    await database.done.wait()
    await timeouts.close()
    return [round(seconds, 3) for seconds in database.read_at]


@pytest.mark.parametrize(
    ("due_at", "looks"),
    [
        (SECOND // 4, [0, 0.25, 0.25 + POLL_SECONDS]),
        (SECOND * 9 // 4, [0, POLL_SECONDS, 2 * POLL_SECONDS, 2.25, 2.25 + POLL_SECONDS]),
        (3_600 * SECOND, [0, POLL_SECONDS, 2 * POLL_SECONDS]),
        (0, [0, POLL_SECONDS, 2 * POLL_SECONDS]),
    ],
)
def test_waits_are_looked_for_when_the_next_one_ends_and_at_each_interval(
    due_at: int, looks: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_timeouts, "database_now", _now)
    assert run_virtually(looks_of(due_at, len(looks))) == looks
