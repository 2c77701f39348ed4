"""Storage that cannot be written for some seconds: who hears of it when, and what is logged."""

from __future__ import annotations

import asyncio
import resource
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tests.siege.report import Report
from tests.siege.samples import HEALTH, READY, SEND, Period, quantile
from tests.siege.stage import observing, staged
from tests.support.stores import PostgresStore, SqliteStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    from tests.siege.samples import Samples
    from tests.siege.stage import Plan, Stage

OUTAGE_SECONDS: Final = 10.0
HEARD_SECONDS: Final = 2.0
"""When the first caller hears: a second until a commit counts as late, and the answer."""

UNREADY_SECONDS: Final = 2.5
BROKEN_SECONDS: Final = 1.5
"""How long a call waits that is made while the outage is known already."""

KNOWN_AFTER: Final = 2.5
RECOVERED_SECONDS: Final = 5.0
FEW_LINES: Final = 6
FILE_BYTES: Final = 64 * 1024


async def full_disk(plan: Plan) -> Report:
    """Let no file of the server grow, as a full disk does."""
    return await _outage(plan, "9a", "no file may grow for 10 s, by RLIMIT_FSIZE", _files_limited, "sqlite")


async def held_lock(plan: Plan) -> Report:
    """Hold a lock that every write needs."""
    return await _outage(plan, "9b", "the database's lock held from outside for 10 s", _locked)


async def frozen_database(plan: Plan) -> Report:
    """Freeze PostgreSQL."""
    return await _outage(plan, "9c", "PostgreSQL frozen by SIGSTOP for 10 s", _frozen, "postgresql")


@asynccontextmanager
async def _files_limited(stage: Stage) -> AsyncIterator[None]:
    before = resource.prlimit(stage.target.process, resource.RLIMIT_FSIZE)
    resource.prlimit(stage.target.process, resource.RLIMIT_FSIZE, (FILE_BYTES, before[1]))
    try:
        yield
    finally:
        resource.prlimit(stage.target.process, resource.RLIMIT_FSIZE, before)


def _locked(stage: Stage) -> AbstractAsyncContextManager[None]:
    if stage.url.startswith("sqlite:///"):
        return SqliteStore(Path(stage.url.removeprefix("sqlite:///"))).held()
    return PostgresStore(stage.url).held()


@asynccontextmanager
async def _frozen(stage: Stage) -> AsyncIterator[None]:
    assert stage.cluster
    stage.cluster.freeze()
    try:
        yield
    finally:
        stage.cluster.thaw()


async def _outage(
    plan: Plan, row: str, what: str, fault: Callable[[Stage], AbstractAsyncContextManager[Any]], only: str = ""
) -> Report:
    report = Report(row, what)
    if only and plan.database != only:
        report.facts.append(f"only for {only}")
        return report
    async with staged(plan) as stage, observing(stage.target) as observer:
        await asyncio.sleep(1.5)
        logged = len(stage.server.log())
        begun = time.monotonic()
        async with fault(stage):
            await asyncio.sleep(OUTAGE_SECONDS)
        ended = time.monotonic()
        await asyncio.sleep(RECOVERED_SECONDS + 1)
        log = stage.server.log()[logged:]
        _check(report, await observer.samples(), begun, ended)
    _check_log(report, log)
    return report


def _check(report: Report, samples: Samples, begun: float, ended: float) -> None:
    _check_first(report, "a caller hears", samples.first_refusal(begun, SEND), HEARD_SECONDS)
    _check_first(report, "unready", samples.first_refusal(begun, READY), UNREADY_SECONDS)
    slowest = quantile(samples.seconds(Period(begun + KNOWN_AFTER, ended), SEND), 1)
    report.facts.append(f"callers wait {slowest:.2f} s at most once it is known")
    if not slowest <= BROKEN_SECONDS:
        report.misses.append(f"a caller waited {slowest:.2f} s while the outage was known, wanted {BROKEN_SECONDS} s")
    recovered = samples.last_refusal(ended, SEND, READY)
    report.facts.append(f"back {recovered:.2f} s after its end")
    if recovered > RECOVERED_SECONDS:
        report.misses.append(f"back after {recovered:.2f} s, wanted {RECOVERED_SECONDS} s")
    health = samples.seconds(Period(begun, ended), HEALTH)
    if not quantile(health, 1) <= 0.2:
        report.misses.append(f"/healthz took {quantile(health, 1):.2f} s, wanted 0.2 s")
    report.answers = samples.refused(Period(begun, ended), SEND)
    report.check_answers()


def _check_first(report: Report, what: str, seconds: float | None, wanted: float) -> None:
    found = "never" if seconds is None else f"after {seconds:.2f} s"
    report.facts.append(f"{what} {found}")
    if seconds is None or seconds > wanted:
        report.misses.append(f"{what} {found}, wanted within {wanted} s")


def _check_log(report: Report, log: str) -> None:
    lines, tracebacks = log.count("\n"), log.count("Traceback")
    report.facts.append(f"{lines} log lines, {tracebacks} tracebacks")
    if lines > FEW_LINES or tracebacks:
        report.misses.append(f"{lines} log lines with {tracebacks} tracebacks, wanted {FEW_LINES} at most and none")
