"""A clock that is stepped disturbs neither the times of a running server nor those of another."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from registry.times import timestamps
from registry.times.steady_clock import SLEW_DIVISOR, STEP_MICROS, SteadyClock
from server.background import clock_watch
from signalbox.v1 import automations_pb2
from tests.support.automations import automate, await_event, started
from tests.support.bridge import http_client
from tests.support.consumers import EARLIEST, Engine, positions, pull, record, seconds, subscribe
from tests.support.process import server_process

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from tests.support.process import Process
    from tests.support.service import Client, Service

SECOND = 1_000_000
HOUR = 3_600 * SECOND
WAIT = 10
CHECK_SECONDS = 0.05
"""The interval at which the servers of the tests look for steps of the clock."""


class Clocks:
    """A system clock and the time since boot, which a test moves."""

    def __init__(self) -> None:
        self.system, self.running = 1_780_000_000 * SECOND, 5_000 * SECOND
        self.steady = SteadyClock(lambda: self.system)
        self.steady._since_boot = lambda: self.running * 1_000
        self.steady.now()

    def pass_time(self, micros: int) -> int:
        """Let time pass, and return how much passed on the steady clock."""
        before = self.steady.now()
        self.system += micros
        self.running += micros
        return self.steady.now() - before


STEPS = st.integers(-2 * HOUR, 2 * HOUR).filter(lambda step: abs(step) > 2 * STEP_MICROS)


@given(STEPS, st.lists(st.integers(0, 10 * HOUR), max_size=20))
def test_no_period_is_wrong_by_more_than_a_hundredth_after_a_step(step: int, periods: list[int]) -> None:
    clocks = Clocks()
    clocks.system += step
    for period in periods:
        wrong = clocks.pass_time(period) - period
        assert abs(wrong) <= period // SLEW_DIVISOR + STEP_MICROS
        # It moves towards the system clock.
        assert wrong * step >= 0


@given(STEPS, st.integers(0, 60 * SECOND))
def test_a_step_and_its_correction_leave_the_time_as_it_was(step: int, between: int) -> None:
    clocks = Clocks()
    true = clocks.system
    clocks.system += step
    clocks.pass_time(between)
    assert clocks.steady.skew_micros != 0
    clocks.system -= step
    assert clocks.steady.now() == true + between
    assert clocks.steady.skew_micros == 0


@given(st.lists(st.integers(-STEP_MICROS, STEP_MICROS)))
def test_corrections_are_followed_at_once(corrections: list[int]) -> None:
    clocks = Clocks()
    for correction in corrections:
        clocks.system += correction
        assert clocks.steady.now() == clocks.system
        assert clocks.steady.skew_micros == 0


@pytest.mark.parametrize("step", [HOUR, -HOUR])
def test_a_step_that_stays_is_followed_in_a_hundred_times_its_length(step: int) -> None:
    clocks = Clocks()
    clocks.system += step
    for _ in range(101):
        clocks.pass_time(HOUR)
    assert clocks.steady.now() == clocks.system


def test_a_process_that_is_stopped_while_it_reads_the_clocks_sees_no_step() -> None:
    clocks = Clocks()
    stops = iter([HOUR, 0])

    def system() -> int:
        now = clocks.system
        stopped = next(stops, 0)
        clocks.system += stopped
        clocks.running += stopped
        return now

    clocks.steady._system = system
    assert clocks.steady.now() == clocks.system
    assert clocks.steady.skew_micros == 0


class SystemClock:
    """The system clock of the servers of this process."""

    def __init__(self) -> None:
        self.ahead = 0

    def time_ns(self) -> int:
        return time.time_ns() + self.ahead * 1_000


@pytest.fixture
def system_clock(monkeypatch: pytest.MonkeyPatch) -> SystemClock:
    clock = SystemClock()
    monkeypatch.setattr(clock_watch, "CHECK_SECONDS", CHECK_SECONDS)
    monkeypatch.setattr(timestamps, "_CLOCK", SteadyClock(lambda: clock.time_ns() // 1_000))
    return clock


def true_micros() -> int:
    return time.time_ns() // 1_000


async def assert_times_are_true(client: Client, name: str) -> None:
    """Check the times of an event, of its default, of a lease and of a wait, made now."""
    before = true_micros()
    receipt = await client.send()
    event = await client.get(receipt.event.id)
    assert abs(event.received_at.ToMicroseconds() - before) < 10 * SECOND
    assert event.occurred_at == event.received_at
    await subscribe(client, name, EARLIEST, ack_deadline=seconds(30))
    (delivery, *_) = await pull(client, name=name)
    assert abs(delivery.lease_expires_at.ToMicroseconds() - before - 30 * SECOND) < 10 * SECOND
    assert 20 * SECOND < delivery.lease_duration.ToMicroseconds() <= 30 * SECOND
    run = await await_event(client, await started(client), "order_completed", seconds=30)
    assert abs(run.wait.timeout_at.ToMicroseconds() - before - 30 * SECOND) < 10 * SECOND


def of_clock(logs: Sequence[Mapping[str, Any]]) -> list[str]:
    return [entry["event"] for entry in logs if entry["event"].startswith("clock_")]


async def test_a_clock_that_is_stepped_by_an_hour_and_back_changes_no_time(
    system_clock: SystemClock, service: Service
) -> None:
    shop = await service.shop()
    await automate(shop)
    await subscribe(shop, ack_deadline=seconds(60))
    holder = await Engine.open(shop, consumer_id="a")
    await record(shop, 1)
    held = await holder.deliveries()
    waiting = await await_event(shop, await started(shop), "other", seconds=60)
    await holder.deliveries()
    for ahead, name in ((HOUR, "forward"), (-HOUR, "back"), (0, "again")):
        with capture_logs() as logs:
            system_clock.ahead = ahead
            async with asyncio.timeout(WAIT):
                while not of_clock(logs):  # noqa: ASYNC110 - a log does not tell
                    await asyncio.sleep(CHECK_SECONDS)
            await assert_times_are_true(shop, name)
            # Neither the lease nor the wait has ended.
            assert not set(positions(held)) & set(positions(await pull(shop)))
        assert of_clock(logs) == ["clock_agrees" if ahead == 0 else "clock_stepped"]
        run = await shop.automations.GetRun(automations_pb2.GetRunRequest(id=waiting.id))
        assert run.run.status == automations_pb2.RUN_STATUS_WAITING
        async with http_client(service) as http:
            metrics = (await http.get("/metrics")).text
        (skew,) = [line.split()[1] for line in metrics.splitlines() if line.startswith("signalbox_clock_skew_seconds ")]
        assert abs(float(skew) - ahead / SECOND) < 2
    await holder.close()


def server_ahead(database_url: str, folder: Path, ahead: int) -> AbstractAsyncContextManager[Process]:
    """Run a server, as a process of its own, whose clock is a number of seconds ahead."""
    folder.mkdir()
    clock = folder / "clock"
    clock.write_text(str(ahead))
    return server_process(database_url, folder, launching=("--clock", str(clock)))


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
async def test_servers_whose_clocks_differ_by_a_minute_agree_on_leases_waits_and_times(
    database_url: str, tmp_path: Path
) -> None:
    async with (
        server_ahead(database_url, tmp_path / "first", 0) as first,
        server_ahead(database_url, tmp_path / "second", 60) as second,
    ):
        shop = await first.service.shop()
        there = second.service.client(shop.secret, shop.project)
        await automate(shop)
        await subscribe(shop, ack_deadline=seconds(10))
        waiting = await await_event(shop, await started(shop), "other", seconds=10)
        here, other = await Engine.open(shop, consumer_id="here"), await Engine.open(there, consumer_id="there")
        lost = await asyncio.gather(here.some(1), other.some(1))
        assert sorted(map(len, lost)) == [0, 1]
        # Each server takes a step at least every second, and looks for ended waits as often.
        assert list(await asyncio.gather(here.some(1.5), other.some(1.5))) == [[], []]
        for client in (there, shop):
            await assert_times_are_true(client, "there" if client is there else "here")
        run = await shop.automations.GetRun(automations_pb2.GetRunRequest(id=waiting.id))
        assert run.run.status == automations_pb2.RUN_STATUS_WAITING
