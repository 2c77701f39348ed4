"""The short form of `make torture`, and its checks, each shown to fail over a journal that breaks its promise."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from tests.support.automations import automate
from tests.support.command_line import forker
from tests.support.consumers import EARLIEST, pull, subscribe
from tests.support.history import SeenMatch
from tests.support.messages import ADA, ORDER
from tests.support.postgres import find_binaries
from tests.torture import checks
from tests.torture.checks import CHECKS, Evidence
from tests.torture.databases import SqliteFile
from tests.torture.journal import Intent, Journal, Receipt, StoredEvent
from tests.torture.launcher import CLOCK_READS, FAILPOINTS, Failpoint
from tests.torture.nodes import ROOT, Node
from tests.torture.scenario import EXPECTATIONS, expected_matches

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Check = Callable[[Evidence], None]
    Fault = Callable[[Evidence], None]

KILLS = int(os.environ.get("SIGNALBOX_TORTURE_KILLS", "2"))
PACE = 1.0
"""Senders rest for this time, so that the short form tests servers and readers rather than many events."""


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_every_promise_holds_while_servers_are_killed(kind: str) -> None:
    if kind == "postgresql" and find_binaries() is None:
        pytest.skip("PostgreSQL is not installed: neither initdb on the PATH nor /usr/lib/postgresql/*/bin")
    words = ["--database", kind, "--kills", str(KILLS), "--pace", str(PACE)]
    environment = os.environ | forker.shared()
    code, out, err = await asyncio.to_thread(
        forker.run, words, environment, ROOT, stdin="", timeout=900, module="tests.torture"
    )
    assert code == 0, out + err


# Checks that can fail


def sound_evidence() -> Evidence:
    """Two events of a batch and a single one, each with its matches; another batch was refused."""
    journal = Journal()
    expensive: dict[str, Any] = {"total": 500, "currency": "EUR"}
    for number, properties, batch in ((1, expensive, 1), (2, {}, 1), (3, {"first": True}, None)):
        sent = {"number": number, **properties}
        journal.intend([Intent(number, "SendEvents", ORDER, ADA, sent, sent, f"key-{number}", batch)])
    journal.intend([Intent(4, "SendEvents", ORDER, ADA, {}, {"number": 4}, batch=2)])
    journal.intend([Intent(5, "SendEvents", ORDER, ADA, {}, {"number": 5}, batch=2, valid=False)])
    journal.refuse(4, "PAYLOAD_REJECTED")
    journal.refuse(5, "PAYLOAD_REJECTED")
    events = [
        StoredEvent(number, f"event-{number}", ORDER, ADA, journal.intents[number].expected, 1_000 + number)
        for number in (1, 2, 3)
    ]
    matches: list[SeenMatch] = []
    automations = {f"automation of {each.name}": each.name for each in EXPECTATIONS}
    for position, names in expected_matches(events).items():
        for name in (each.name for each in EXPECTATIONS if each.name in names):
            number = len(matches) + 1
            automation = f"automation of {name}"
            matches.append(
                SeenMatch(number, f"match-{number}", automation, (), f"event-{position}", position, ORDER, "ada")
            )
    for event in events:
        told = tuple(automations[each.automation_id] for each in matches if each.event_id == event.id)
        journal.acknowledge(Receipt(event.position, event.id, event.position, len(told), told, at=1))
    return Evidence(journal, events, matches, automations)


def lose_the_last_event(evidence: Evidence) -> None:
    lost = evidence.events.pop()
    evidence.matches = [each for each in evidence.matches if each.event_id != lost.id]


def acknowledge_under_another_position(evidence: Evidence) -> None:
    evidence.journal.acknowledge(Receipt(3, "event-3", 2))


def acknowledge_under_another_id(evidence: Evidence) -> None:
    evidence.journal.acknowledge(Receipt(3, "event-1"))


def leave_a_gap(evidence: Evidence) -> None:
    evidence.events[2] = replace(evidence.events[2], position=4)


def leave_a_gap_between_matches(evidence: Evidence) -> None:
    evidence.matches[-1] = replace(evidence.matches[-1], position=len(evidence.matches) + 1)


def store_what_nobody_sent(evidence: Evidence) -> None:
    evidence.events.append(replace(evidence.events[0], position=4, id="event-4", properties={"number": 9}))


def store_other_properties(evidence: Evidence) -> None:
    evidence.events[0] = replace(evidence.events[0], properties={"number": 1, "total": 501, "currency": "EUR"})


def store_a_key_twice(evidence: Evidence) -> None:
    evidence.events.append(replace(evidence.events[0], position=4, id="event-4"))


def store_the_refused(evidence: Evidence) -> None:
    evidence.events.append(replace(evidence.events[0], position=4, id="event-4", properties={"number": 5}))


def acknowledge_the_refused(evidence: Evidence) -> None:
    evidence.journal.acknowledge(Receipt(4, "event-4"))


def refuse_the_valid(evidence: Evidence) -> None:
    evidence.journal.refuse(3, "INTERNAL")


def store_half_of_a_batch(evidence: Evidence) -> None:
    del evidence.events[1]


def tear_a_batch_apart(evidence: Evidence) -> None:
    first, second, third = evidence.events
    evidence.events = [first, replace(third, position=2), replace(second, position=3)]


def forget_a_match(evidence: Evidence) -> None:
    evidence.matches.pop()


def match_what_does_not(evidence: Evidence) -> None:
    evidence.matches.append(replace(evidence.matches[-1], automation_id="automation of large", position=9))


def match_twice(evidence: Evidence) -> None:
    evidence.matches.append(replace(evidence.matches[-1], position=9))


def match_an_event_that_is_not_there(evidence: Evidence) -> None:
    evidence.matches.append(replace(evidence.matches[-1], event_id="event-9", position=9))


def count_too_many(evidence: Evidence) -> None:
    evidence.journal.acknowledge(Receipt(1, "event-1", match_count=9))


def name_another_match(evidence: Evidence) -> None:
    evidence.journal.acknowledge(Receipt(1, "event-1", automations=("large",)))


def let_time_fall(evidence: Evidence) -> None:
    evidence.events[2] = replace(evidence.events[2], received_at=1_001)


FAULTS: list[tuple[Check, Fault]] = [
    (checks.no_acknowledged_event_is_missing, lose_the_last_event),
    (checks.no_acknowledged_event_is_missing, acknowledge_under_another_position),
    (checks.no_acknowledged_event_is_missing, acknowledge_under_another_id),
    (checks.positions_are_gapless, leave_a_gap),
    (checks.positions_are_gapless, leave_a_gap_between_matches),
    (checks.every_event_was_sent, store_what_nobody_sent),
    (checks.every_event_was_sent, store_other_properties),
    (checks.nothing_is_stored_twice, store_a_key_twice),
    (checks.nothing_refused_is_stored, store_the_refused),
    (checks.nothing_refused_is_stored, acknowledge_the_refused),
    (checks.nothing_refused_is_stored, refuse_the_valid),
    (checks.batches_are_whole, store_half_of_a_batch),
    (checks.batches_are_whole, tear_a_batch_apart),
    (checks.events_have_their_matches, forget_a_match),
    (checks.events_have_their_matches, match_what_does_not),
    (checks.events_have_their_matches, match_twice),
    (checks.events_have_their_matches, match_an_event_that_is_not_there),
    (checks.receipts_tell_the_matches, count_too_many),
    (checks.receipts_tell_the_matches, name_another_match),
    (checks.received_at_never_falls, let_time_fall),
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_sound_evidence_passes_every_check(check: Check) -> None:
    check(sound_evidence())


@pytest.mark.parametrize(("check", "fault"), FAULTS, ids=lambda each: each.__name__)
def test_a_check_finds_its_fault(check: Check, fault: Fault) -> None:
    evidence = sound_evidence()
    fault(evidence)
    with pytest.raises(AssertionError):
        check(evidence)


def test_every_check_has_a_fault_that_it_finds() -> None:
    assert {check for check, _ in FAULTS} == set(CHECKS)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", FAILPOINTS)
async def test_a_server_dies_at_each_failpoint(name: str, tmp_path: Path) -> None:
    node = Node(SqliteFile(tmp_path), tmp_path)
    try:
        shop = await (await node.start("--kill-at", f"{name}:1")).shop()
        await automate(shop)
        await subscribe(shop, start=EARLIEST)
        with suppress(grpc.aio.AioRpcError):
            await shop.send()
            await pull(shop, wait=5)
        assert await node.died(30)
    finally:
        await node.kill()


def test_a_failpoint_dies_when_its_time_has_come(monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[int] = []
    monkeypatch.setattr("os.kill", lambda _process, number: killed.append(number))
    failpoint = Failpoint(FAILPOINTS[0], 2)
    failpoint.reach(FAILPOINTS[1])
    failpoint.reach(FAILPOINTS[0])
    assert killed == []
    failpoint.reach(FAILPOINTS[0])
    assert len(killed) == 1


async def test_the_clock_of_a_server_is_stepped_while_it_runs(tmp_path: Path) -> None:
    node = Node(SqliteFile(tmp_path), tmp_path)
    try:
        shop = await (await node.start()).shop()
        await shop.send()
        for hours in (2, -2):
            node.set_clock(hours * 3_600)
            await asyncio.sleep(2 * CLOCK_READS)
            await shop.send()
        first, later, last = [each.received_at.ToSeconds() for each in await shop.log()]
    finally:
        await node.kill()
    # The server saw the steps, and follows them by a hundredth of the time that passes.
    assert first <= later <= last < first + 60


def test_an_unknown_failpoint_is_refused() -> None:
    with pytest.raises(ValueError, match="use one of"):
        Failpoint("before-lunch", 1)
