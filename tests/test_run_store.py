"""The SQL of runs, with another project that has runs of the same numbers, automations and contacts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import pytest
import pytest_asyncio
from sqlalchemy import insert

from automation import run_store, run_transitions
from automation.errors import RunMovedOn, RunNotFound
from automation.match_log import match_values
from automation.matches import Match, MatchKind
from automation.run_pages import RunFilter, list_runs
from automation.runs import Run, RunStatus
from automation.tables import automation_match, run
from registry.log_ids import LogIds

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection

    from server.storage.database import Database

T = TypeVar("T")

OWN, OTHER = 7, 8
ADA, BOB, EVE = 1, 2, 3
FIRST, SECOND, THIRD = 11, 12, 13
NOW = 1_000
QUEUED, RUNNING, WAITING = RunStatus.QUEUED, RunStatus.RUNNING, RunStatus.WAITING
COMPLETED, CANCELLED = RunStatus.COMPLETED, RunStatus.CANCELLED

RUNS: dict[int, dict[str, Any]] = {
    1: {"automation_key": FIRST, "contact_key": ADA, "status": COMPLETED, "finished_at": 50, "finished_position": 20},
    2: {"automation_key": FIRST, "contact_key": ADA, "status": WAITING, "wait_event": "paid", "wait_condition": "true"},
    3: {"automation_key": SECOND, "contact_key": BOB, "status": WAITING, "wait_event": "paid", "timeout_at": NOW},
    4: {"automation_key": SECOND, "contact_key": ADA, "status": WAITING, "wait_event": "seen", "timeout_at": NOW - 1},
    5: {"automation_key": FIRST, "contact_key": BOB, "status": QUEUED},
    6: {"automation_key": THIRD, "contact_key": EVE, "status": RUNNING},
    7: {"automation_key": SECOND, "contact_key": EVE, "status": WAITING, "timeout_at": NOW + 1, "updated_at": NOW + 5},
}
"""The runs of the project by their numbers. Each was started by the match and the event of its number times ten."""

_ids = {OWN: LogIds(1_000_000), OTHER: LogIds(1_000_001)}


def row(project: int, number: int, **changes: Any) -> dict[str, Any]:
    match = Match(number, "", MatchKind.STARTED, 0, number, _ids[project].make(number), 10 * number, "", 0, number)
    names = [column.name for column in run.columns]
    return dict(zip(names, run_transitions.new_run_values(project, match), strict=True)) | changes


class Runs:
    """The rows of the tables, read and written in one transaction at a time."""

    def __init__(self, database: Database) -> None:
        self.database = database

    async def do(self, work: Callable[..., T], *arguments: Any, **named: Any) -> T:
        return await self.database.write(lambda connection: work(connection, *arguments, **named))

    async def get(self, number: int, project: int = OWN) -> Run:
        return next(each for each in await self.all(project) if each.number == number)

    async def all(self, project: int) -> list[Run]:
        return (await self.do(list_runs, project, RunFilter(), 100))[0]


def fill(connection: Connection) -> None:
    connection.execute(insert(run), [row(OWN, number, **changes) for number, changes in RUNS.items()])
    statuses = [WAITING, WAITING, QUEUED, QUEUED, WAITING, WAITING, RUNNING, WAITING]
    busy = {"wait_event": "other", "wait_condition": "false", "timeout_at": 1}
    rows = [
        row(OTHER, number, **RUNS.get(number, RUNS[1]) | busy | {"status": status})
        for number, status in enumerate(statuses, start=1)
    ]
    connection.execute(insert(run), rows)


@pytest_asyncio.fixture
async def runs(database: Database) -> Runs:
    filled = Runs(database)
    await filled.do(fill)
    return filled


def numbers(found: list[Run]) -> list[int]:
    return [each.number for each in found]


# Reading


async def test_a_run_is_found_by_its_whole_id_in_its_own_project(runs: Runs) -> None:
    own, other = await runs.get(2), await runs.get(2, OTHER)
    assert await runs.do(run_store.get_run, OWN, own.id) == own
    for unknown in (other.id, "", own.id[:-1] + ("0" if own.id[-1] != "0" else "1")):
        with pytest.raises(RunNotFound):
            await runs.do(run_store.get_run, OWN, unknown)


@pytest.mark.parametrize(
    ("wanted", "before", "expected"),
    [
        (RunFilter(), None, [7, 6, 5, 4, 3, 2, 1]),
        (RunFilter(), 4, [3, 2, 1]),
        (RunFilter(statuses=[WAITING, QUEUED]), None, [7, 5, 4, 3, 2]),
        (RunFilter(automation_key=SECOND), None, [7, 4, 3]),
        (RunFilter(contact_key=ADA), 4, [2, 1]),
        (RunFilter(statuses=[WAITING], automation_key=SECOND, contact_key=ADA), None, [4]),
    ],
)
async def test_runs_are_listed_newest_first(
    runs: Runs, wanted: RunFilter, before: int | None, expected: list[int]
) -> None:
    page, resume = await runs.do(list_runs, OWN, wanted, len(expected), before)
    assert (numbers(page), resume) == (expected, None)
    if expected[1:]:
        page, resume = await runs.do(list_runs, OWN, wanted, len(expected) - 1, before)
        assert (numbers(page), resume) == (expected[:-1], expected[-2])


async def test_runs_are_counted_for_the_given_automations(runs: Runs) -> None:
    await runs.do(lambda connection: connection.execute(run.delete().where(run.c.project_key == OTHER)))
    assert await runs.do(run_store.run_counts, [FIRST, THIRD]) == {FIRST: (3, 1), THIRD: (1, 0)}


async def test_the_newest_run_is_read_for_the_given_automations(runs: Runs) -> None:
    await runs.do(lambda connection: connection.execute(run.delete().where(run.c.number == 8)))
    newest = await runs.do(run_store.newest_runs, OWN, [FIRST, SECOND])
    assert newest == {FIRST: await runs.get(5), SECOND: await runs.get(7)}


async def test_waiting_runs_of_contacts_are_read_oldest_first(runs: Runs) -> None:
    assert numbers(await runs.do(run_store.waiting_runs, OWN, [BOB, ADA])) == [2, 3, 4]


async def test_a_contact_that_entered_an_automation_is_found_with_whether_a_run_is_open(runs: Runs) -> None:
    found = await runs.do(run_store.entries_of, OWN, [FIRST, SECOND], [ADA, EVE])
    assert found == {(FIRST, ADA): True, (SECOND, ADA): True, (SECOND, EVE): True}
    await runs.do(run_transitions.cancel_runs, OWN, FIRST, "", 30, NOW)
    assert await runs.do(run_store.entries_of, OWN, [FIRST], [ADA]) == {(FIRST, ADA): False}


async def test_the_first_run_before_an_event_is_found(runs: Runs) -> None:
    async def entries_before(position: int, *, open_only: bool = False) -> dict[int, int]:
        found = await runs.do(run_store.entries_before, OWN, [FIRST, SECOND], ADA, position, open_only=open_only)
        ids = {each.id: each.number for each in await runs.all(OWN)}
        return {key: ids[run_id] for key, run_id in found.items()}

    assert [await entries_before(position) for position in (10, 11, 40, 41)] == [
        {},
        {FIRST: 1},
        {FIRST: 1},
        {FIRST: 1, SECOND: 4},
    ]
    # The first run of FIRST ended when the event at position 20 was the newest; the second one began with it.
    assert [await entries_before(position, open_only=True) for position in (20, 21, 41)] == [
        {FIRST: 1},
        {FIRST: 2},
        {FIRST: 2, SECOND: 4},
    ]


async def test_conditions_of_waiting_runs_are_read(runs: Runs) -> None:
    assert await runs.do(run_store.awaited_conditions, OWN) == [(FIRST, "paid", "true")]


async def test_a_wait_is_due_at_its_time(runs: Runs) -> None:
    assert numbers(await runs.do(run_store.due_runs, OWN, NOW, 10)) == [4, 3]
    assert numbers(await runs.do(run_store.due_runs, OWN, NOW, 1)) == [4]
    assert numbers(await runs.do(run_store.due_runs, OWN, NOW + 1, 10)) == [4, 3, 7]
    assert sorted(await runs.do(run_store.due_projects, NOW)) == [OWN, OTHER]
    await runs.do(lambda connection: connection.execute(run.delete().where(run.c.project_key == OTHER)))
    assert await runs.do(run_store.next_timeout) == NOW - 1
    assert [await runs.do(run_store.due_projects, now) for now in (NOW - 2, NOW - 1)] == [[], [OWN]]


# Writing; other runs stay unchanged


async def changed(runs: Runs, work: Callable[..., Any], *arguments: Any) -> dict[int, Run]:
    """Return the runs of the project that the work changed, by number; those of the other one must not change."""
    before, beside = await runs.all(OWN), await runs.all(OTHER)
    await runs.do(work, *arguments)
    assert await runs.all(OTHER) == beside
    return {now.number: now for now, then in zip(await runs.all(OWN), before, strict=True) if now != then}


async def test_resumed_runs_are_queued_with_their_match(runs: Runs) -> None:
    resumed = await changed(runs, run_transitions.resume_runs, OWN, {2: 21, 3: 22}, NOW)
    facts = {number: (each.status, each.match_position, each.updated_at) for number, each in resumed.items()}
    assert facts == {2: (QUEUED, 21, NOW), 3: (QUEUED, 22, NOW)}
    assert [each.version for each in resumed.values()] == [2, 2]
    rows = await runs.do(lambda connection: connection.execute(run.select().where(run.c.number.in_([2, 3]))).all())
    waits = [(each.wait_event, each.wait_condition, each.timeout_at) for each in rows if each.project_key == OWN]
    assert waits == [("", "", 0)] * 2
    assert await changed(runs, run_transitions.resume_runs, OWN, {}, NOW) == {}


async def test_a_queued_run_is_running_once_its_newest_match_is_delivered(runs: Runs) -> None:
    def match(number: int, position: int) -> Match:
        return Match(position, "", MatchKind.STARTED, 0, number, "", 0, "", 0, 0)

    assert await changed(runs, run_transitions.mark_running, OWN, [match(5, 4), match(2, 2), match(1, 1)]) == {}
    running = await changed(runs, run_transitions.mark_running, OWN, [match(5, 5)])
    assert {number: each.status for number, each in running.items()} == {5: RUNNING}


@pytest.mark.parametrize(
    ("cancel", "of", "expected"),
    [
        (run_transitions.cancel_runs, SECOND, {3, 4, 7}),
        (run_transitions.cancel_runs_of_contacts, [ADA, EVE], {2, 4, 6, 7}),
        (run_transitions.cancel_runs_of_contacts, [], set()),
    ],
)
async def test_open_runs_are_cancelled_and_counted(
    runs: Runs, cancel: Callable[..., int], of: Any, expected: set[int]
) -> None:
    cancelled = await changed(runs, cancel, OWN, of, "gone", 90, NOW)
    assert cancelled.keys() == expected
    for number, each in cancelled.items():
        # The clock may step back; the times of a run must not.
        at = max(NOW, RUNS[number].get("updated_at", 0))
        facts = (each.status, each.reason, each.finished_position, each.wait, each.version)
        assert facts == (CANCELLED, "gone", 90, None, 2)
        assert (each.updated_at, each.finished_at) == (at, at)
    assert await runs.do(cancel, OWN, of, "gone", 90, NOW) == 0


async def test_a_run_that_has_a_newer_match_has_moved_on(runs: Runs) -> None:
    ids = LogIds(5)
    kept = Match(5, ids.make(5), MatchKind.STARTED, FIRST, 5, "", 50, "paid", BOB, NOW)
    names = [column.name for column in automation_match.columns]
    values = dict(zip(names, match_values(OWN, kept), strict=True))
    await runs.do(lambda connection: connection.execute(insert(automation_match), [values]))
    current, without = await runs.get(5), await runs.get(2)
    for accepted in ("", kept.id):
        await runs.do(run_transitions.check_newest, OWN, current, accepted)
    for moved_on in (ids.make(4), LogIds(6).make(5)):
        with pytest.raises(RunMovedOn):
            await runs.do(run_transitions.check_newest, OWN, current, moved_on)
    # Its match was deleted: the position in the id decides.
    await runs.do(run_transitions.check_newest, OWN, without, ids.make(2))
    with pytest.raises(RunMovedOn):
        await runs.do(run_transitions.check_newest, OWN, without, ids.make(3))
