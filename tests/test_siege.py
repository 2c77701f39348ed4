"""The short form of `make siege`, and its verdicts, each shown to be able to fail."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import time
from collections import Counter
from dataclasses import replace
from math import inf, nan
from typing import TYPE_CHECKING

import pytest

from tests.siege.neighbour import OVER, SO_FAR, Neighbour, until_over
from tests.siege.report import GENEROUS, STRICT, Felt, Floor, Report, Resident
from tests.siege.rows import ROWS, chosen
from tests.siege.samples import OK, SEND, Period, Sample, Samples, quantile
from tests.support.command_line import forker
from tests.support.postgres import find_binaries
from tests.torture.nodes import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ALONE = Felt(0.003, 0.010, 0.005, 0.012, 0.005, 1.0, 0.001, Counter())
DURING = replace(ALONE, send_p99=0.050, delivery_p99=0.060, probe=0.2, silence=2.0)
RESIDENT = Resident(100, 1_124, 356, 2.0)


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("database", "rows"), [("sqlite", "1,3a,4a"), ("postgresql", "5b")])
async def test_a_neighbour_is_served_while_the_server_is_attacked(database: str, rows: str) -> None:
    if database == "postgresql" and find_binaries() is None:
        pytest.skip("PostgreSQL is not installed: neither initdb on the PATH nor /usr/lib/postgresql/*/bin")
    words = ["--short", "--seconds", "0.7", "--alone", "0.5", "--rows", rows, "--database", database]
    environment = os.environ | forker.shared()
    code, out, err = await asyncio.to_thread(
        forker.run, words, environment, ROOT, stdin="", timeout=300, module="tests.siege"
    )
    assert code == 0, out + err


def report(felt: Felt = DURING, resident: Resident = RESIDENT, answers: Mapping[str, int] | None = None) -> Report:
    return Report("1", "an attack", ALONE, felt, resident=resident, answers=Counter(answers or {}))


def test_what_is_just_within_the_bounds_held() -> None:
    found = report(answers={"OK": 3, "QUEUE_FULL": 9})
    found.check(STRICT)
    assert found.misses == []
    assert found.line().endswith("| held |")


MISSES: list[tuple[str, Callable[[], Report]]] = [
    ("the neighbour was refused: QUEUE_FULL 1", lambda: report(replace(DURING, refused=Counter(QUEUE_FULL=1)))),
    ("send p99 51 ms, wanted 50 ms", lambda: report(replace(DURING, send_p99=0.051))),
    ("send p99 nan ms, wanted 50 ms", lambda: report(replace(DURING, send_p99=nan))),
    ("delivery p99 61 ms, wanted 60 ms", lambda: report(replace(DURING, delivery_p99=0.061))),
    ("the probe waited 201 ms, wanted 200 ms", lambda: report(replace(DURING, probe=0.201))),
    ("the consumer heard nothing for 2,001 ms, wanted 2,000 ms", lambda: report(replace(DURING, silence=2.001))),
    ("1025 MiB more memory at the peak, wanted 1024 MiB", lambda: report(resident=replace(RESIDENT, peak=1_125))),
    ("257 MiB more memory afterwards, wanted 256 MiB", lambda: report(resident=replace(RESIDENT, after=357))),
    (
        "unhelpful refusals: CANCELLED without reason, QUEUE_FULL (no RetryInfo)",
        lambda: report(answers={"QUEUE_FULL (no RetryInfo)": 1, "CANCELLED without reason": 1}),
    ),
    ("not as before 3 s after the attack", lambda: replace(report(), back=4.0)),
]


@pytest.mark.parametrize(("miss", "broken"), MISSES)
def test_each_bound_is_missed_when_it_is_crossed(miss: str, broken: Callable[[], Report]) -> None:
    found = broken()
    found.check(STRICT)
    assert found.misses == [miss]
    assert miss in found.line()


def test_a_quick_neighbour_may_be_as_slow_as_a_timer() -> None:
    assert STRICT.allowed(0.001) == STRICT.timers
    assert STRICT.allowed(1.0) == 5.0


@pytest.mark.parametrize(("floor", "excused"), [(0.044, True), (0.040, False)])
def test_what_a_server_that_does_nothing_has_too_is_excused(floor: float, *, excused: bool) -> None:
    found = report(replace(DURING, send_p99=0.052))
    found.floor = Floor(0.001, floor)
    found.check(STRICT)
    late = f"send p99 52 ms, wanted 50 ms or by the floor {1_250 * floor:.0f} ms"
    assert (found.misses, found.excuses) == (([], [late]) if excused else ([late], []))
    assert found.verdict() == (f"held by the floor alone: {late}" if excused else late)


def test_generous_bounds_compare_the_usual_answers() -> None:
    found = report(replace(DURING, send_p99=9.0, send_p50=1.0, delivery_p50=3.001))
    found.check(GENEROUS)
    assert found.misses == ["delivery p50 3,001 ms, wanted 3,000 ms"]


def test_samples_belong_to_the_period_in_which_they_began() -> None:
    samples = Samples([Sample(SEND, 1.0, 9.0), Sample(SEND, 2.0, 0.5, "QUEUE_FULL"), Sample(SEND, 3.0, 0.1)])
    assert samples.seconds(Period(1.0, 3.0), SEND) == [0.5, 9.0]
    assert samples.seconds(Period(1.0, 3.0), SEND, answered=True) == [9.0]
    assert samples.refused(Period(0.0, 9.0), SEND) == Counter(QUEUE_FULL=1)
    assert samples.first_refusal(1.5, SEND) == 1.0
    assert samples.first_refusal(2.5, SEND) is None
    assert samples.last_refusal(1.5, SEND) == 1.0
    assert samples.normal_after(0.5, 1.0, SEND) == 2.0
    assert samples.normal_after(3.5, 1.0, SEND) == inf
    assert OK not in samples.refused(Period(0.0, 9.0), SEND)


@pytest.mark.parametrize(("share", "expected"), [(0.5, 50), (0.99, 99), (1, 100), (0.001, 1)])
def test_a_quantile_is_one_of_the_numbers(share: float, expected: int) -> None:
    assert quantile(range(1, 101), share) == expected


def test_the_observer_goes_on_after_it_was_asked() -> None:
    ours, theirs = multiprocessing.Pipe()

    def ask() -> None:
        for word in (SO_FAR, SO_FAR, OVER):
            ours.send(word)
            if word != OVER:
                assert ours.recv() == []
                time.sleep(0.3)

    async def observe() -> float:
        """Return the longest time for which the loop was stopped."""
        neighbour = Neighbour(None)  # type: ignore[arg-type]  # sends nothing
        observing = asyncio.create_task(until_over(theirs, neighbour, asyncio.create_task(asyncio.sleep(60))))
        asking = asyncio.create_task(asyncio.to_thread(ask))
        longest, before = 0.0, time.monotonic()
        while not observing.done():
            await asyncio.sleep(0.01)
            longest, before = max(longest, time.monotonic() - before), time.monotonic()
        await asyncio.gather(observing, asking)
        return longest

    with ours, theirs, asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        assert runner.run(observe()) < 0.25


def test_a_number_names_all_its_rows() -> None:
    assert chosen("3,1") == ["3a", "3b", "3c", "3d", "3e", "3f", "3g", "3h", "3i", "3j", "1"]
    assert chosen("5b") == ["5b"]
    assert chosen("") == list(ROWS)


def test_an_unknown_row_is_refused() -> None:
    with pytest.raises(ValueError, match="There is no row 99; there are 1, "):
        chosen("99")
