"""Matches in memory, for those who have caught up: the same as those that are read back."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from automation.automations import Automation, AutomationState, EntryRule
from automation.matches import Match, MatchFilter, MatchKind
from server.delivery import match_reader, recent_matches
from server.delivery.recent_matches import RECENT_CHARACTERS, RECENT_SECONDS, RecentMatch, RecentMatches
from server.model import Event
from signalbox.v1 import match_stream_pb2
from tests.support.automations import automate
from tests.support.messages import event

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.service import Client

pytestmark = pytest.mark.lasting


def recent(position: int, characters: int = 10, label: str = "") -> RecentMatch:
    match = Match(position, f"m{position}", MatchKind.STARTED, 1, position, "r", position, "e", 0, 1)
    labels = {"team": label} if label else {}
    automation = Automation(
        1, 1, "a", "a", "e", "", AutomationState.ACTIVE, EntryRule.EVERY_TIME, labels, {}, 0, 1, 1, 1
    )
    return RecentMatch.of(match, automation, Event("e", position, "e", "", 0, "c", "", {}, (), 1, 1, 1), characters)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(recent_matches, "monotonic", clock)
    return clock


def positions(matches: RecentMatches, after: int, last: int) -> list[int]:
    return [each.match.position for each in matches.between(1, after, last)]


def test_only_matches_without_a_gap_are_known() -> None:
    matches = RecentMatches()
    matches.record(1, [recent(5), recent(6)], 0)
    matches.record(1, [recent(7)], 0)
    assert positions(matches, 4, 7) == [5, 6, 7]
    assert (positions(matches, 3, 7), positions(matches, 6, 8), positions(matches, 7, 7)) == ([], [], [])
    matches.record(1, [recent(9)], 0)
    assert (positions(matches, 4, 7), positions(matches, 8, 9)) == ([], [9])


def test_old_and_many_matches_are_dropped(clock: Clock) -> None:
    matches = RecentMatches()
    matches.record(1, [recent(1)], 0)
    clock.now += RECENT_SECONDS / 2
    matches.record(1, [recent(2)], 0)
    clock.now += RECENT_SECONDS * 0.75
    assert (positions(matches, 0, 2), positions(matches, 1, 2)) == ([], [2])
    assert matches.find(1, recent(1).match) is None
    matches.record(1, [recent(3, RECENT_CHARACTERS)], 0)
    assert (positions(matches, 1, 3), positions(matches, 2, 3)) == ([], [3])


def test_what_was_forgotten_while_a_commit_ran_is_not_recorded() -> None:
    matches = RecentMatches()
    before = matches.version
    matches.record(1, [recent(1)], before)
    matches.forget(1)
    assert positions(matches, 0, 1) == []
    matches.record(1, [recent(1)], before)
    assert positions(matches, 0, 1) == []
    matches.record(1, [recent(1)], matches.version)
    assert positions(matches, 0, 1) == [1]


def test_another_match_at_the_same_position_is_not_found() -> None:
    matches = RecentMatches()
    matches.record(1, [recent(1)], 0)
    assert matches.find(1, recent(1).match) is matches.between(1, 0, 1)[0]
    other = Match(1, "other", MatchKind.STARTED, 1, 1, "r", 1, "e", 0, 1)
    assert matches.find(1, other) is None


@pytest.mark.parametrize(
    ("wanted", "passes"),
    [
        (MatchFilter(), True),
        (MatchFilter(event_names=("e",)), True),
        (MatchFilter(event_names=("f",)), False),
        (MatchFilter(automation_ids=("a",)), True),
        (MatchFilter(automation_ids=("b",)), False),
        (MatchFilter(labels={"team": "growth"}), True),
        (MatchFilter(labels={"team": "sales"}), False),
    ],
)
def test_a_filter_passes_in_memory_what_it_passes_in_the_database(wanted: MatchFilter, passes: bool) -> None:
    assert recent(1, label="growth").passes(wanted) is passes


async def watching(shop: Client) -> AsyncIterator[match_stream_pb2.WatchMatchesResponse]:
    async for response in shop.matches.WatchMatches(match_stream_pb2.WatchMatchesRequest()):
        yield response


async def test_watchers_get_from_memory_what_others_read_back(shop: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    await automate(shop, labels={"team": "growth"})
    updates = watching(shop)
    await anext(updates)
    reads = 0
    read_on = match_reader.read_on

    def counted(*arguments: object) -> object:
        nonlocal reads
        reads += 1
        return read_on(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(match_reader, "read_on", counted)
    # The watcher waits at the end of the log once it has read it; which no message tells.
    await asyncio.sleep(0.2)
    reads = 0
    await shop.send(event({"order_total": "12.5", "is_first_purchase": True}))
    live = await anext(updates)
    assert (len(live.matches), reads) == (1, 0)
    start = match_stream_pb2.StartPoint(after_position=live.matches[0].position - 1)
    async for again in shop.matches.WatchMatches(match_stream_pb2.WatchMatchesRequest(start=start)):
        assert again.matches == live.matches
        assert again.cursor == live.cursor
        break
    await shop.forget()
    async for erased in shop.matches.WatchMatches(match_stream_pb2.WatchMatchesRequest(start=start)):
        assert erased.matches[0].contact_deleted
        assert not erased.matches[0].event.email
        break
