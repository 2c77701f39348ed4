"""The parts of an explanation, without a database: the state at the event's time, and what stood in the way."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from automation.automations import Automation, AutomationState, AutomationVersion, EntryRule
from automation.conditions.tracing import Clause, Shown
from automation.conditions.values import Verdict
from server.model import Event
from server.services import match_reasons
from server.services.match_reasons import BlockingKind, BlockingReason, Explanation

DRAFT, ACTIVE, PAUSED = AutomationState.DRAFT, AutomationState.ACTIVE, AutomationState.PAUSED
ONCE, ALONE = EntryRule.ONCE_PER_CONTACT, EntryRule.ONCE_WHILE_RUNNING

NOW = Automation(
    key=4,
    project_pk=1,
    id="a1",
    name="Welcome",
    event_name="paid",
    condition="true",
    state=ACTIVE,
    entry_rule=EntryRule.EVERY_TIME,
    labels={},
    attributes={},
    activated_position=20,
    version=3,
    created_at=1,
    updated_at=2,
)
DELETED = replace(NOW, deleted_at=3)


def then(state: AutomationState) -> AutomationVersion:
    return AutomationVersion(4, 1, 0, state, "sent", "false", ONCE)


@pytest.mark.parametrize("state", [ACTIVE, PAUSED])
def test_an_automation_is_as_it_was_when_the_event_came(state: AutomationState) -> None:
    past = match_reasons._as_of_event(NOW, then(state))
    assert past == replace(NOW, state=state, event_name="sent", condition="false", entry_rule=ONCE)


@pytest.mark.parametrize("earlier", [None, then(DRAFT)])
def test_an_automation_that_had_not_been_active_was_a_draft_of_what_it_is_now(
    earlier: AutomationVersion | None,
) -> None:
    assert match_reasons._as_of_event(NOW, earlier) == replace(NOW, state=DRAFT)
    assert match_reasons._as_of_event(DELETED, earlier) is None


def test_a_deleted_automation_is_explained_if_it_was_active_then() -> None:
    past = match_reasons._as_of_event(DELETED, then(ACTIVE))
    assert past is not None
    assert (past.state, past.event_name) == (ACTIVE, "sent")
    assert match_reasons._as_of_event(DELETED, then(PAUSED)) is None


def kinds(*reasons: BlockingReason) -> list[BlockingKind]:
    return [reason.kind for reason in reasons]


@pytest.mark.parametrize(
    ("state", "activated", "expected"),
    [
        (ACTIVE, 20, []),
        (PAUSED, 20, [BlockingKind.PAUSED]),
        (PAUSED, None, [BlockingKind.PAUSED]),
        (DRAFT, None, [BlockingKind.DRAFT]),
        (DRAFT, 0, [BlockingKind.ACTIVATED_LATER]),
        (DRAFT, 20_000, [BlockingKind.ACTIVATED_LATER]),
    ],
)
def test_a_draft_and_a_paused_automation_are_blocked(
    state: AutomationState, activated: int | None, expected: list[BlockingKind]
) -> None:
    found = list(match_reasons._state_reasons(replace(NOW, state=state, activated_position=activated)))
    assert kinds(*found) == expected
    if activated == 20_000:
        assert "after position 20,000" in found[0].message


@pytest.mark.parametrize(
    ("name", "ignore_case", "expected"),
    [
        ("paid", False, []),
        ("paid", True, []),
        ("Paid", True, []),
        ("Paid", False, [BlockingKind.OTHER_CASE]),
    ],
)
def test_a_name_in_another_case_blocks_a_match_where_case_counts(
    name: str, ignore_case: bool, expected: list[BlockingKind]
) -> None:
    event = Event("e1", 1, name, "", 0, "", "", {}, (), 1, 1, 0, ignore_case=ignore_case)
    matched: Any = match_reasons.MatchedEvent(event, 1, 0, None, {})  # type: ignore[arg-type]  # nothing reads the subject
    assert kinds(*match_reasons._case_reasons(NOW, matched)) == expected


@pytest.mark.parametrize(
    ("rule", "blocking", "expected"),
    [
        (ONCE, {}, []),
        (ONCE, {5: "r5"}, []),
        (ONCE, {4: "r4", 5: "r5"}, [(BlockingKind.ONCE_PER_CONTACT, "r4")]),
        (ALONE, {4: "r4"}, [(BlockingKind.ONCE_WHILE_RUNNING, "r4")]),
    ],
)
def test_a_blocking_run_is_named(
    rule: EntryRule, blocking: dict[int, str], expected: list[tuple[BlockingKind, str]]
) -> None:
    found = match_reasons._once_reasons(replace(NOW, entry_rule=rule), blocking)
    assert [(reason.kind, reason.run_id) for reason in found] == expected


def explanation(verdict: Verdict, *reasons: BlockingReason, trace: list[Clause] | None = None) -> Explanation:
    return Explanation(NOW, "paid", "12345", verdict, trace or [], reasons, None)


def test_an_event_matches_if_the_condition_is_true_and_nothing_blocks_it() -> None:
    paused = BlockingReason(BlockingKind.PAUSED, "It was paused")
    for verdict in Verdict:
        assert explanation(verdict).matched is (verdict is Verdict.TRUE)
        assert not explanation(verdict, paused).matched


def test_the_size_of_an_explanation_counts_all_its_texts() -> None:
    assert explanation(Verdict.TRUE).size == 5
    clause = Clause(0, "a > 1", 1, 1, Verdict.TRUE, ">", "a", Shown(7), None, "")
    size = 100 + len("a > 1") + len(str(Shown(7))) + len(str(None))
    assert explanation(Verdict.TRUE, trace=[clause]).size == 5 + size
    assert explanation(Verdict.TRUE, trace=[clause] * 3).size == 5 + 3 * size


def test_an_empty_condition_is_true() -> None:
    assert match_reasons.verdict_of([]) is Verdict.TRUE
    first, second = (
        Clause(depth, "a", 1, 1, verdict, "", "", None, None, "")
        for depth, verdict in ((0, Verdict.MISSING), (1, Verdict.TRUE))
    )
    assert match_reasons.verdict_of([first, second]) is Verdict.MISSING
