"""When a group commit begins: refused events are not waited for, and do not have commits to themselves."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import pytest

from registry.errors import InvalidName
from server.ingest import commit_timer
from server.ingest.commit_queue import CommitQueue
from server.ingest.commit_timer import CommitTimer
from server.ingest.draft import Batch, BatchMode, Draft

SENDERS = 5
"""Enough that the next commit waits for all of them but one."""


class Gathered:
    """A queue whose groups are taken when the test says so; `woken` is how often one was due."""

    def __init__(self) -> None:
        self.queue = CommitQueue(1_000)
        self.woken = 0
        self.timer = CommitTimer(self.queue, self._wake)

    def _wake(self) -> None:
        self.woken += 1

    def send(self, *, refused: bool = False, project_pk: int = 1) -> None:
        snapshot: Any = SimpleNamespace(project_pk=project_pk)
        draft = Draft("viewed", "", "ada@example.com", {}, error=InvalidName("no") if refused else None)
        done = asyncio.get_running_loop().create_future()
        batch = Batch(snapshot, (draft,), BatchMode.INDEPENDENT, done)
        self.queue.push(batch)
        self.timer.schedule(batch)

    def commit(self, seconds: float = 0.0) -> None:
        self.timer.took(self.queue.take())
        time.sleep(seconds)
        self.timer.committed()
        self.woken = 0


@pytest.fixture
def gathered(monkeypatch: pytest.MonkeyPatch) -> Gathered:
    monkeypatch.setattr(commit_timer, "GATHER_SECONDS", 60)
    return Gathered()


async def test_refused_events_are_not_among_the_senders_that_a_commit_waits_for(gathered: Gathered) -> None:
    for refused in [False, True] * SENDERS:
        gathered.send(refused=refused)
    gathered.commit()
    for refused in [True, False, True] * (SENDERS - 2):
        gathered.send(refused=refused)
    assert gathered.woken == 0
    gathered.send()
    assert gathered.woken == 1


async def test_refused_events_alone_are_stored_for_a_share_of_the_time(gathered: Gathered) -> None:
    gathered.send()
    gathered.commit()
    gathered.send(refused=True)
    assert gathered.woken == 1
    gathered.commit(seconds=0.01)
    for project_pk in (1, 2):
        gathered.send(refused=True, project_pk=project_pk)
    assert (gathered.woken, gathered.timer.waiting) == (0, True)
    async with asyncio.timeout(10):
        while gathered.woken == 0:  # noqa: ASYNC110 - what is waited for counts and does not tell
            await asyncio.sleep(0.001)
    gathered.commit(seconds=0.01)
    gathered.send(refused=True)
    assert gathered.woken == 0
    gathered.send(project_pk=3)
    assert (gathered.woken, gathered.timer.waiting, len(gathered.queue.take())) == (1, False, 2)


async def test_refused_events_wait_for_nobody_where_nothing_is_recorded(gathered: Gathered) -> None:
    for _ in range(3):
        gathered.send(refused=True)
        assert gathered.woken == 1
        gathered.commit(seconds=0.01)
