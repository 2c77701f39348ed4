from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from server.errors import InternalError, StorageBusy, StorageUnavailable
from server.logs import outages
from server.process import recurring
from server.process.recurring import Recurring, try_each

if TYPE_CHECKING:
    from collections.abc import Sequence


async def outcomes_logged(outcomes: Sequence[Exception | None], monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """End recurring work in each of these ways, in turn, and return the log."""
    monkeypatch.setattr(recurring, "RETRY_SECONDS", 0.0)
    done = asyncio.Event()
    waiting = list(outcomes)

    async def work() -> float:
        if not waiting:
            done.set()
            return 60.0
        if (outcome := waiting.pop(0)) is not None:
            raise outcome
        return 0.0

    task = Recurring("sweeping", work)
    with capture_logs() as logged:
        task.start()
        async with asyncio.timeout(10):
            await done.wait()
        await task.close()
    return [(entry["event"], entry.get("work", ""), "exc_info" in entry) for entry in logged]


async def test_an_outage_is_logged_at_its_start_and_at_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outages, "SETTLE_SECONDS", 0.0)
    away = [StorageUnavailable(), StorageBusy(), StorageUnavailable()]
    began, ended = ("storage_outage", "sweeping", False), ("storage_outage_over", "", False)
    assert await outcomes_logged([*away, None, None, *away], monkeypatch) == [began, ended, began, ended]


async def test_each_defect_is_logged_with_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    defects = [InternalError(), ValueError("7 is no length"), ValueError("8 is no length")]
    assert await outcomes_logged(defects, monkeypatch) == [("work_failed", "sweeping", True)] * 3


async def test_work_that_never_began_is_closed() -> None:
    async def work() -> float:
        raise AssertionError

    await Recurring("sweeping", work).close()


async def test_work_that_waits_is_done_when_its_time_has_come() -> None:
    loop = asyncio.get_running_loop()
    done: asyncio.Future[float] = loop.create_future()

    async def work() -> float:
        done.set_result(loop.time())
        return 60.0

    task, started = Recurring("sweeping", work, wait_seconds=0.02), loop.time()
    task.start()
    # The clock of the loop has milliseconds.
    assert await done >= started + 0.019
    await task.close()


async def test_every_item_is_tried_and_the_last_failure_raised() -> None:
    tried: list[int] = []

    async def work(number: int) -> None:
        tried.append(number)
        if number % 2:
            raise ValueError(f"{number} is odd")

    with pytest.raises(ValueError, match="3 is odd"):
        await try_each(range(5), work)
    assert tried == [0, 1, 2, 3, 4]
    await try_each([0, 2], work)
    assert tried[5:] == [0, 2]
