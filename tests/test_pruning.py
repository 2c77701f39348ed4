"""The task that deletes old matches: what it deletes, and how it leaves the database to others, in virtual time."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import pytest
from structlog.testing import capture_logs

from server.background import match_retention
from server.background.match_retention import LOOK_SECONDS, PORTION_MATCHES, MatchRetention
from server.logs.outages import Outages
from server.storage import paced_writes
from server.storage.paced_writes import REST_FACTOR
from tests.support.virtual_time import VirtualTimeLoop

NOW: Final = 1_000_000_000_000


class Logs:
    """Stands for the match logs of some projects: each write takes a tenth of a second."""

    def __init__(self, deletable: dict[int, list[int]]) -> None:
        self.deletable = deletable
        self.own_periods: dict[int, int] = {}
        self.moved: list[tuple[int, int]] = []
        self.deleted: list[tuple[int, list[int]]] = []
        self.written_at: list[float] = []

    async def read(self, work: Any, *, brief: bool = False) -> Any:
        return work(self)

    async def now(self) -> int:
        """Return the time by which ages are counted."""
        return NOW

    async def write(self, work: Any) -> None:
        self.written_at.append(asyncio.get_running_loop().time())
        await asyncio.sleep(0.1)
        work(self)

    def install(self, monkeypatch: pytest.MonkeyPatch, loop: asyncio.AbstractEventLoop) -> None:
        """Take the place of the tables."""
        replaced: dict[str, Any] = {
            "match_positions": lambda _: dict.fromkeys(self.deletable, 100),
            "match_retentions": lambda _: self.own_periods,
            "next_start": lambda _, key, before, head: (before, head) if key == 1 else None,
            "_move_start": lambda _, key, before: self.moved.append((key, before)),
            "deletable_matches": self._deletable,
            "delete_matches": lambda _, key, positions: self.deleted.append((key, positions)),
        }
        monkeypatch.setattr(paced_writes, "monotonic", loop.time)
        for name, value in replaced.items():
            monkeypatch.setattr(match_retention, name, value)

    def _deletable(self, _: Any, key: int, after: int, limit: int) -> tuple[list[int], int | None]:
        """Return the next matches that may be deleted, of two that are looked at."""
        assert limit == PORTION_MATCHES
        looked_at = list(range(after + 1, after + 3))
        found = [position for position in looked_at if position in self.deletable[key]]
        return found, looked_at[-1] if looked_at[-1] < 6 else None


def pruned(monkeypatch: pytest.MonkeyPatch, logs: Logs, retention_seconds: float | None) -> tuple[float, list[Any]]:
    """Prune once; return the seconds until the next time, and the log."""
    loop = VirtualTimeLoop()
    database: Any = logs
    logs.install(monkeypatch, loop)
    try:
        with capture_logs() as logged:
            seconds = loop.run_until_complete(
                MatchRetention(database, retention_seconds, database, Outages())._prune_all()
            )
    finally:
        loop.close()
    return seconds, [(entry["event"], entry["count"]) for entry in logged]


def test_matches_older_than_the_retention_are_deleted_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    logs = Logs({1: [1, 2, 5], 2: [4]})
    _, logged = pruned(monkeypatch, logs, 90.5)
    assert logs.moved == [(1, NOW - 90_500_000)]
    assert logs.deleted == [(1, [1, 2]), (1, [5]), (2, [4])]
    assert logged == [("matches_pruned", 4)]


def test_after_each_write_the_database_is_left_to_others_four_times_as_long(monkeypatch: pytest.MonkeyPatch) -> None:
    logs = Logs({1: [1, 2, 5]})
    pruned(monkeypatch, logs, 60)
    assert REST_FACTOR == 4
    assert [round(seconds, 6) for seconds in logs.written_at] == [0, 0.5, 1]


def test_matches_are_kept_no_longer_than_a_project_keeps_its_events(monkeypatch: pytest.MonkeyPatch) -> None:
    logs = Logs({1: []})
    logs.own_periods = {1: 30_000_000}
    assert pruned(monkeypatch, logs, 90)[0] == 30
    assert pruned(monkeypatch, logs, 20)[0] == 20
    assert pruned(monkeypatch, logs, None)[0] == 30
    assert logs.moved == [(1, NOW - 30_000_000), (1, NOW - 20_000_000), (1, NOW - 30_000_000)]


def test_nothing_is_logged_where_nothing_was_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    logs = Logs({2: []})
    assert pruned(monkeypatch, logs, 60) == (60, [])
    assert (logs.moved, logs.deleted, logs.written_at) == ([], [], [])


def test_the_counts_of_two_rounds_are_not_added(monkeypatch: pytest.MonkeyPatch) -> None:
    logs = Logs({2: [1]})
    loop = VirtualTimeLoop()
    database: Any = logs
    logs.install(monkeypatch, loop)
    task = MatchRetention(database, 60, database, Outages())
    try:
        with capture_logs() as logged:
            for _ in range(2):
                loop.run_until_complete(task._prune_all())
    finally:
        loop.close()
    assert [entry["count"] for entry in logged] == [1, 1]


@pytest.mark.parametrize(("retention", "seconds"), [(0.02, 0.02), (60, 60), (86_400, LOOK_SECONDS)])
def test_all_projects_are_looked_at_each_minute_or_more_often_for_a_short_retention(
    monkeypatch: pytest.MonkeyPatch, retention: float, seconds: float
) -> None:
    assert pruned(monkeypatch, Logs({2: []}), retention)[0] == seconds
