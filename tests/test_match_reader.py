"""How many matches fit into one response, and when a watch sends one."""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager, aclosing, nullcontext, suppress
from itertools import pairwise
from typing import Any

import pytest

from automation.automations import Automation, AutomationState, EntryRule
from automation.matches import Match, MatchKind
from server.delivery.match_reader import MatchReader, WatchQuery, WatchUpdate, fitting
from server.delivery.recent_matches import RecentMatches
from server.delivery.start_points import Place
from server.paging import MAX_RESPONSE_BYTES
from tests.support.virtual_time import VirtualTimeLoop

MATCH_BYTES, CHARACTER_BYTES = 1_000, 6
"""What a match and each character beside it take at most."""

PART = (MAX_RESPONSE_BYTES // 4 - MATCH_BYTES) // CHARACTER_BYTES
"""The characters of each of four matches that fill a response to the last byte."""

MATCHES = [Match(at, f"m{at}", MatchKind.STARTED, 1, at, f"r{at}", 10 * at, "paid", 0, 0) for at in range(1, 6)]


def automation(name: str, labels: dict[str, str]) -> Automation:
    return Automation(
        key=1,
        project_pk=1,
        id="a",
        name=name,
        event_name="paid",
        condition="",
        state=AutomationState.ACTIVE,
        entry_rule=EntryRule.EVERY_TIME,
        labels=labels,
        attributes={},
        version=1,
        activated_position=0,
        created_at=0,
        updated_at=0,
    )


@pytest.mark.parametrize(
    ("by_name", "labels", "of_event", "text"),
    [
        (0, {}, PART, 0),
        (0, {}, 0, PART),
        (0, {}, PART - 100, 100),
        (PART - 100, {}, 60, 40),
        # A label takes two characters more than its key and value.
        (PART - 114, {"key": "value", "k": "v"}, 60, 40),
    ],
)
def test_matches_fit_up_to_the_last_byte(by_name: int, labels: dict[str, str], of_event: int, text: int) -> None:
    def count(more: int = 0) -> int:
        sizes = {match.event_position: of_event + more * (match.position == 2) for match in MATCHES}
        return len(fitting(MATCHES, {1: automation("x" * by_name, labels)}, sizes, ["x" * text] * 5))

    assert 4 * (MATCH_BYTES + CHARACTER_BYTES * PART) == MAX_RESPONSE_BYTES
    assert [count(), count(1)] == [4, 3]


def test_what_is_missing_takes_no_room() -> None:
    texts = ["x" * PART] * 5
    assert len(fitting(MATCHES, {}, {}, texts)) == 4
    assert len(fitting(MATCHES, {}, {20: 1}, texts)) == 3
    assert fitting(MATCHES[:1], {}, {}, ["x" * MAX_RESPONSE_BYTES]) == MATCHES[:1]
    assert fitting(MATCHES, {}, {}, [""] * 5) == MATCHES


# When a watch sends something, in virtual time


class TimedLog(MatchReader):
    """A log of which each reading takes a time; `ends` is the position of its newest match."""

    def __init__(self, reading_seconds: float) -> None:
        self.ends = self.epoch = 0
        self.shared = True
        self.recent = RecentMatches()
        self.moved = asyncio.Event()
        self.reads = 0
        self.readings = 0
        self._reading_seconds = reading_seconds

        log: Any = self
        super().__init__(log, log)

    def known_position(self, project_pk: int) -> int:
        """Return the position of the newest match."""
        return self.ends

    def following(self, project_pk: int) -> AbstractContextManager[None]:
        """Follow the log."""
        return nullcontext()

    async def wait_turn(self, project_pk: int, position: int, seconds: float) -> int:
        """Wait for a match after a position."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.ends == position:
                    self.moved.clear()
                    await self.moved.wait()
        return self.ends

    def record(self) -> None:
        self.ends += 1
        self.moved.set()

    async def _begin(self, project_pk: int, start: Any) -> tuple[Place, int]:
        return Place(self.ends, ""), self.ends

    async def _read(self, project_pk: int, query: WatchQuery, after: Place) -> WatchUpdate:
        self.reads += 1
        self.readings += 1
        ends = self.ends
        try:
            await asyncio.sleep(self._reading_seconds)
        finally:
            self.readings -= 1
        found: Any = MATCHES[after.position : ends]
        return WatchUpdate(found, Place(ends, ""), ends)


def watched(reading_seconds: float, recorded_at: tuple[float, ...], until: float) -> tuple[list[Any], TimedLog]:
    """Watch for a time with heartbeats of ten seconds; return when something was sent, and how many matches."""
    loop = VirtualTimeLoop()

    async def work() -> tuple[list[Any], TimedLog]:
        log = TimedLog(reading_seconds)
        for seconds in recorded_at:
            loop.call_later(seconds, log.record)
        sent: dict[float, int] = {}
        async with aclosing(log.watch(1, WatchQuery(heartbeat_seconds=10))) as updates:
            with suppress(TimeoutError):
                async with asyncio.timeout(until):
                    async for update in updates:
                        sent[loop.time()] = len(update.matches)
        await asyncio.sleep(0)
        assert log.readings == 0
        return list(sent.items()), log

    try:
        return loop.run_until_complete(work())
    finally:
        loop.close()


def test_a_quiet_log_has_a_heartbeat_at_once_and_before_each_interval_ends() -> None:
    sent, log = watched(0, (), 31)
    assert sent == [(0, 0), (7.5, 0), (15, 0), (22.5, 0), (30, 0)]
    assert log.reads <= 2 * len(sent)


def test_a_match_is_sent_at_once_and_the_next_heartbeat_is_due_after_it() -> None:
    sent, _ = watched(0, (3, 3, 5), 13)
    assert sent == [(0, 0), (3, 2), (5, 1), (12.5, 0)]


def test_heartbeats_come_in_time_while_a_reading_takes_long() -> None:
    sent, log = watched(25, (1,), 60)
    times = [seconds for seconds, _ in sent]
    assert times[:3] == [1.25, 10, 18.75]
    assert max(later - earlier for earlier, later in pairwise(times)) <= 10
    assert [count for _, count in sent if count] == [1]
    assert log.reads <= 3


def test_a_reading_that_is_a_little_late_spares_a_heartbeat() -> None:
    assert watched(1, (), 2)[0] == [(1, 0)]
    assert watched(2, (), 3)[0] == [(1.25, 0)]
