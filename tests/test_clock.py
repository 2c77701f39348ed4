"""The system clock may step back, under a running server or between two starts: no recorded time falls."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from registry.log_ids import position_of
from signalbox.v1 import automations_pb2 as pb
from tests.support.automations import automate, match_log
from tests.support.messages import event
from tests.support.service import serving

if TYPE_CHECKING:
    from signalbox.v1.event_pb2 import Event
    from tests.support.service import Client, Service
    from tests.support.stores import Store

pytestmark = pytest.mark.lasting

NOON = 1_780_315_200_000_000
HOUR = 3_600_000_000
STEPS = (0, -HOUR, 1, -2 * HOUR, HOUR, -1)
"""Where the clock stands at each send, relative to noon."""


class Clock:
    """The clock of the server, which a test moves."""

    def __init__(self) -> None:
        self.micros = NOON

    def __call__(self) -> int:
        return self.micros


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("server.ingest.commit.log_time", lambda _read_at: clock())
    for module in ("services.runs", "services.automations"):
        monkeypatch.setattr(f"server.{module}.now_micros", clock)
    return clock


def received(log: list[Event]) -> list[int]:
    return [each.received_at.ToMicroseconds() - NOON for each in log]


async def test_received_at_does_not_fall_while_positions_rise(clock: Clock, shop: Client, store: Store) -> None:
    await automate(shop)
    for step in STEPS:
        clock.micros = NOON + step
        await shop.send()
    log = await shop.log()
    assert received(log) == [0, 0, 1, 1, HOUR, HOUR]
    assert [each.occurred_at for each in log] == [each.received_at for each in log]
    assert [position_of(each.id) for each in log] == [1, 2, 3, 4, 5, 6]
    assert all(one.id < other.id for one, other in pairwise(log))
    assert [match.matched_at - NOON for match in await match_log(store)] == received(log)


async def test_received_at_does_not_fall_over_a_restart(clock: Clock, database_url: str) -> None:
    async with serving(database_url) as service:
        client = await service.shop()
        await client.send()
    clock.micros -= HOUR
    async with serving(database_url) as service:
        again = service.client(client.secret, client.project)
        await again.send()
        assert received(await again.log()) == [0, 0]


async def test_a_time_is_found_in_the_log_after_the_clock_stepped_back(clock: Clock, shop: Client) -> None:
    for step in (0, HOUR, -HOUR, 2 * HOUR):
        clock.micros = NOON + step
        await shop.send()
    log = await shop.log()
    late = log[1].received_at
    assert [each.position for each in await shop.log(received_from=late)] == [2, 3, 4]
    assert [each.position for each in await shop.log(received_until=late)] == [1]


async def test_projects_keep_their_own_time(clock: Clock, shop: Client, service: Service) -> None:
    clock.micros = NOON + HOUR
    await shop.send()
    clock.micros = NOON
    other = await service.shop()
    await other.send()
    assert (received(await shop.log()), received(await other.log())) == ([HOUR], [0])


async def test_a_run_does_not_end_before_it_began(clock: Clock, shop: Client) -> None:
    automation = await automate(shop)
    runs = []
    for _ in range(3):
        await shop.send(event())
    listed = await shop.automations.ListRuns(pb.ListRunsRequest(automation_id=automation.id))
    completed, cancelled, parked = (run.id for run in listed.runs)
    clock.micros -= HOUR
    done = pb.CompleteRunRequest(run_id=completed, outcome=pb.RUN_OUTCOME_COMPLETED)
    runs.append((await shop.automations.CompleteRun(done)).run)
    runs.append((await shop.automations.CancelRun(pb.CancelRunRequest(run_id=cancelled))).run)
    waiting = pb.AwaitEventRequest(run_id=parked, event_name="other")
    runs.append((await shop.automations.AwaitEvent(waiting)).run)
    await shop.automations.PauseAutomation(pb.PauseAutomationRequest(id=automation.id))
    await shop.automations.DeleteAutomation(pb.DeleteAutomationRequest(id=automation.id))
    runs.append((await shop.automations.GetRun(pb.GetRunRequest(id=parked))).run)
    assert [run.status for run in runs] == [
        pb.RUN_STATUS_COMPLETED,
        pb.RUN_STATUS_CANCELLED,
        pb.RUN_STATUS_WAITING,
        pb.RUN_STATUS_CANCELLED,
    ]
    for run in runs:
        assert run.created_at.ToMicroseconds() == run.updated_at.ToMicroseconds() == NOON
        assert not run.HasField("finished_at") or run.finished_at == run.updated_at
