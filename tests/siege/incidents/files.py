"""The files of an SQLite database deleted or replaced under the server."""

from __future__ import annotations

import asyncio
import math
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.siege.report import Report
from tests.siege.samples import OK, READY, SEND, Period
from tests.siege.stage import observing, staged
from tests.siege.target import Assault
from tests.support.process import server_process

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.siege.samples import Samples
    from tests.siege.stage import Plan, Stage

WATCHED_SECONDS: Final = 4.0
WANTED_SECONDS: Final = 1.2
STARTING_SECONDS: Final = 10.0


async def deleted_file(plan: Plan) -> Report:
    """Delete the database's file."""
    return await _changed(plan, "7a", "the database's file deleted", lambda path: path.unlink())


async def replaced_file(plan: Plan) -> Report:
    """Put a copy in the place of the database's file."""
    return await _changed(plan, "7b", "the database's file replaced by a copy", _replace)


def _replace(path: Path) -> None:
    copy = path.with_suffix(".copy")
    shutil.copy(path, copy)
    copy.replace(path)


async def _changed(plan: Plan, row: str, what: str, change: Callable[[Path], None]) -> Report:
    report = Report(row, what)
    if plan.database != "sqlite":
        report.facts.append("only for SQLite")
        return report
    async with staged(plan) as stage:
        begun, samples, lines = await _watched(stage, change)
    for name, kind in (("the first send was refused", SEND), ("unready", READY)):
        seconds = samples.first_refusal(begun, kind)
        report.facts.append(f"{name} after {'no time' if seconds is None else f'{seconds:.2f} s'}")
        if seconds is None or seconds > WANTED_SECONDS:
            report.misses.append(f"{name}: {seconds}, wanted within {WANTED_SECONDS} s")
    late = Period(begun + WANTED_SECONDS, math.inf)
    if lost := sum(each.outcome == OK for each in samples.within(late, SEND)):
        report.misses.append(f"{lost} events were acknowledged later than {WANTED_SECONDS} s after it")
    report.answers = samples.refused(Period(begun, math.inf), SEND)
    report.facts.append(f"{lines} log lines")
    if not 0 < lines <= 5:
        report.misses.append(f"{lines} log lines, wanted a clear one")
    return report


async def _watched(stage: Stage, change: Callable[[Path], None]) -> tuple[float, Samples, int]:
    async with observing(stage.target) as observer:
        await asyncio.sleep(1.5)
        logged = stage.server.log().count("\n")
        begun = time.monotonic()
        change(Path(stage.url.removeprefix("sqlite:///")))
        await asyncio.sleep(WATCHED_SECONDS)
        lines = stage.server.log().count("\n") - logged
        return begun, await observer.samples(), lines


async def removed_lock(plan: Plan) -> Report:
    """Remove the lock file alone; a second server must not work on the file beside the first."""
    report = Report("7c", "the lock file removed, and a second server started")
    if plan.database != "sqlite":
        report.facts.append("only for SQLite")
        return report
    async with staged(plan) as stage:
        _remove(stage.url.removeprefix("sqlite:///") + ".lock")
        await asyncio.sleep(WANTED_SECONDS)
        folder = plan.folder / "other"
        folder.mkdir()
        try:
            async with asyncio.timeout(STARTING_SECONDS), server_process(stage.url, folder):
                second = "started"
        except AssertionError:
            second = "refused to start"
        report.facts.append(f"the second server {second}")
        if second == "started":
            outcome = await _send(stage)
            report.facts.append(f"the first one answered a send with {outcome}")
            if outcome == OK:
                report.misses.append("two servers work on one file")
    return report


def _remove(name: str) -> None:
    Path(name).unlink()


async def _send(stage: Stage) -> str:
    assault = Assault(stage.target, time.monotonic() + STARTING_SECONDS)
    async with assault.client() as client:
        return await assault.made(client.send())
