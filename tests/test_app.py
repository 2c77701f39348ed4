"""The parts of the composition root that wait for others, in virtual time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from server.app import REFRESH_SECONDS, _following, _in_time, _report_ready
from server.bridge.system import READY_SECONDS
from server.errors import StorageUnavailable
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
def test_what_closes_has_a_second_more_than_the_grace_period(takes: float, took: float, logged: list[Any]) -> None:
    async def closing() -> None:
        await asyncio.sleep(takes)

    closing.__qualname__ = "closing"
    with capture_logs() as logs:
        assert timed(_in_time(closing, 5)) == (None, took)
    assert [(each["event"], each["what"], each["waited_seconds"]) for each in logs] == logged


class Checked:
    """A database whose check takes a time, and may fail."""

    shared = True

    def __init__(self, seconds: float = 0, failure: Exception | None = None) -> None:
        self.reported: list[bool] = []
        self._seconds = seconds
        self._failure = failure

    async def check(self) -> None:
        await asyncio.sleep(self._seconds)
        if self._failure is not None:
            raise self._failure

    async def report_ready(self, *, ready: bool) -> None:
        """Stand for the gRPC server, too."""
        self.reported.append(ready)


@pytest.mark.parametrize(
    ("seconds", "failure", "ready", "took"),
    [
        (0, None, True, 0),
        (READY_SECONDS / 2, None, True, READY_SECONDS / 2),
        (READY_SECONDS * 2, None, False, READY_SECONDS),
        (0, StorageUnavailable(), False, 0),
    ],
)
def test_a_server_is_ready_while_its_database_answers_in_time(
    seconds: float, failure: Exception | None, ready: bool, took: float
) -> None:
    database: Any = Checked(seconds, failure)
    assert timed(_report_ready(database, database)) == (REFRESH_SECONDS, took)
    assert database.reported == [ready]


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
    ("shared", "refreshed_at", "versions"), [(True, [0, 1, 2], [{1: 1}, {1: 2}, {1: 3}]), (False, [], [])]
)
def test_the_changes_of_other_servers_are_followed_each_second_where_there_may_be_any(
    shared: bool, refreshed_at: list[float], versions: list[dict[int, int]]
) -> None:
    followed: Any = Followed(shared=shared)

    async def work() -> None:
        async with _following(followed, followed, followed):
            await asyncio.sleep(2.5)
        await asyncio.sleep(5)

    timed(work())
    assert (followed.refreshed_at, followed.versions) == (refreshed_at, versions)
