"""The event loop serves others while a large batch is decided and stored, also on PostgreSQL, where it does both."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from server.ingest import commit
from server.ingest.commit import ProjectCommit
from server.storage.events import appending
from tests.support.messages import ALL_OR_NOTHING, orders

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.service import Client

pytestmark = pytest.mark.lasting

SLICE = 10
EVENTS = 95


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
async def test_the_loop_runs_between_slices_of_a_batch_that_is_one_transaction(
    shop: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = 0
    within: dict[str, int] = {}

    async def count() -> None:
        nonlocal rounds
        while True:
            rounds += 1
            await asyncio.sleep(0)

    def counted(name: str, stage: Callable[[ProjectCommit], None]) -> Callable[[ProjectCommit], None]:
        def run(project: ProjectCommit) -> None:
            before = rounds
            stage(project)
            within[name] = rounds - before

        return run

    monkeypatch.setattr(commit, "SLICE_EVENTS", SLICE)
    monkeypatch.setattr(appending, "_POSTGRESQL_CHUNK", SLICE)
    for stage in ("run", "store"):
        monkeypatch.setattr(ProjectCommit, stage, counted(stage, getattr(ProjectCommit, stage)))
    counting = asyncio.create_task(count())
    results = await shop.send_all(orders(EVENTS), ALL_OR_NOTHING)
    counting.cancel()
    assert [result.receipt.event.position for result in results] == [*range(1, EVENTS + 1)]
    assert within["run"] >= EVENTS // SLICE
    assert within["store"] >= EVENTS // SLICE
    stored = await shop.log()
    assert [each.properties["order_total"] for each in stored] == [*range(EVENTS)]
