"""The parts of the composition root that wait for others, in virtual time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from server.app.lifecycle import close_in_time
from server.background.catalog_refresh import CatalogRefresh
from server.logs.outages import Outages
from tests.support.virtual_time import VirtualTimeLoop

if TYPE_CHECKING:
    from collections.abc import Coroutine


def timed(work: Coroutine[Any, Any, Any]) -> tuple[Any, float]:
    """Run work; return its result and how long it took."""
    loop = VirtualTimeLoop()
    try:
        return loop.run_until_complete(work), loop.time()
    finally:
        loop.close()


@pytest.mark.parametrize(
    ("takes", "took", "logged"), [(2, 2, []), (5.9, 5.9, []), (7, 6, [("not_closed_in_time", "closing", 6)])]
)
def test_parts_have_a_second_more_than_the_grace_period_to_close(takes: float, took: float, logged: list[Any]) -> None:
    async def closing() -> None:
        await asyncio.sleep(takes)

    closing.__qualname__ = "closing"
    with capture_logs() as logs:
        assert timed(close_in_time(closing, 5)) == (None, took)
    assert [(each["event"], each["what"], each["waited_seconds"]) for each in logs] == logged


class Followed:
    """Stands for the catalog and the access of a server."""

    def __init__(self, *, shared: bool) -> None:
        self.shared = shared
        self.refreshed_at: list[float] = []
        self.versions: list[dict[int, int]] = []

    async def refresh(self) -> dict[int, int]:
        self.refreshed_at.append(asyncio.get_running_loop().time())
        return {1: len(self.refreshed_at)}

    def invalidate_outdated(self, versions: dict[int, int]) -> None:
        self.versions.append(versions)


@pytest.mark.parametrize(
    ("shared", "refreshed_at", "versions"), [(True, [0, 0.5, 1], [{1: 1}, {1: 2}, {1: 3}]), (False, [], [])]
)
def test_the_changes_of_other_servers_are_followed_twice_a_second_where_there_may_be_any(
    shared: bool, refreshed_at: list[float], versions: list[dict[int, int]]
) -> None:
    followed: Any = Followed(shared=shared)

    async def work() -> None:
        refresh = CatalogRefresh(followed, followed, followed, Outages())
        refresh.start()
        await asyncio.sleep(1.25)
        await refresh.close()
        await asyncio.sleep(5)

    timed(work())
    assert (followed.refreshed_at, followed.versions) == (refreshed_at, versions)
