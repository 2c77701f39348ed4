"""How many matches fit into one response."""

from __future__ import annotations

import pytest

from automation.automations import Automation, AutomationState, EntryRule
from automation.matches import Match, MatchKind
from server.budgets import MAX_RESPONSE_BYTES
from server.delivery.match_reader import fitting

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
