"""A server under siege: its projects, the process that observes it, and the process that attacks it."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import time
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from tests.siege.attacks.rows import ATTACKS
from tests.siege.memory import Memory
from tests.siege.neighbour import SUBSCRIPTION, observe
from tests.siege.report import Felt, Report, Resident
from tests.siege.samples import SEND, Period, Sample, Samples
from tests.siege.target import Assault, Target
from tests.support.automations import automate
from tests.support.consumers import subscribe
from tests.support.postgres import find_binaries, running_cluster
from tests.support.process import server_process
from tests.support.service import ADMIN_KEY

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from multiprocessing.connection import Connection
    from pathlib import Path

    from tests.siege.report import Bounds
    from tests.support.postgres import Cluster
    from tests.support.process import Process
    from tests.support.service import Service

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["__main__", "tests.siege.rows"])

NICENESS: Final = 5
KEYS: Final = 8
READY_SECONDS: Final = 60.0
PREPARING_SECONDS: Final = 120.0
GIVING_BACK_SECONDS: Final = 30.0
"""How long a row waits for memory that is still too much."""

GIVEN_BACK: Final = 64
"""Memory counts as given back once no more than this many MiB are left of it."""


@dataclass(frozen=True)
class Plan:
    """How a row is run: on which kind of database, or on which, and for how many seconds."""

    database: str
    folder: Path
    bounds: Bounds
    seconds: float
    alone: float
    scale: float = 1.0


@dataclass(frozen=True)
class Stage:
    """A server, and what is needed to besiege it. `cluster` is its PostgreSQL server, if that is the row's own."""

    plan: Plan
    server: Process
    target: Target
    url: str
    cluster: Cluster | None

    @property
    def service(self) -> Service:
        """The server as its clients see it."""
        return self.server.service


@asynccontextmanager
async def staged(plan: Plan, *options: str) -> AsyncIterator[Stage]:
    """Start a server on an empty database, with an attacker and a neighbour."""
    async with empty_database(plan) as (url, cluster), server_process(url, plan.folder, *options) as server:
        yield Stage(plan, server, await populated(server, plan.scale), url, cluster)


@asynccontextmanager
async def empty_database(plan: Plan) -> AsyncIterator[tuple[str, Cluster | None]]:
    """Make a database; yield its URL, and its server if that is the row's own."""
    if plan.database == "sqlite":
        yield f"sqlite:///{plan.folder}/signalbox.db", None
        return
    if plan.database != "postgresql":
        yield plan.database, None
        return
    binaries = find_binaries()
    assert binaries, "PostgreSQL is not installed: neither initdb on the PATH nor /usr/lib/postgresql/*/bin"
    with ExitStack() as stack:
        cluster = await asyncio.to_thread(stack.enter_context, running_cluster(binaries))
        yield cluster.url("postgres"), cluster


async def populated(server: Process, scale: float) -> Target:
    """Make both projects; the neighbour has an automation that every event matches, and a subscription."""
    service = server.service
    attacker, neighbour = await service.shop(), await service.shop()
    await automate(neighbour)
    await subscribe(neighbour, SUBSCRIPTION)
    secrets = [attacker.secret, *[(await service.key(attacker.project)).secret for _ in range(KEYS - 1)]]
    return Target(
        service.address,
        service.http_address,
        ADMIN_KEY,
        attacker.project,
        tuple(secrets),
        neighbour.secret,
        server.pid,
        scale,
    )


@asynccontextmanager
async def observing(target: Target) -> AsyncIterator[Observer]:
    """Run the neighbour and the probe in a process of their own."""
    async with _forked(observe, target) as pipe:
        yield Observer(pipe)


class Observer:
    """The process of the neighbour and the probe."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    async def samples(self) -> Samples:
        """End the observation, and return what was measured."""
        self._pipe.send("over")
        found: list[Sample] = await asyncio.to_thread(self._pipe.recv)
        return Samples(found)


class Attacker:
    """The process of an attack."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    async def prepared(self) -> None:
        """Wait until the attack can begin."""
        assert await self._received(PREPARING_SECONDS) == "prepared"

    async def attack(self, seconds: float, report: Report) -> None:
        """Attack for some seconds; put into the report what the attacker was answered and found."""
        self._pipe.send(seconds)
        report.answers, report.facts, report.misses = await self._received(seconds + READY_SECONDS)

    async def _received(self, within: float) -> Any:
        if not await asyncio.to_thread(self._pipe.poll, within):
            raise TimeoutError(f"the attacker did nothing for {within:.0f} s")
        return await asyncio.to_thread(self._pipe.recv)


@asynccontextmanager
async def attacking(target: Target, row: str) -> AsyncIterator[Attacker]:
    """Run an attack in a process of its own."""
    async with _forked(run_attack, target, row) as pipe:
        yield Attacker(pipe)


def run_attack(target: Target, row: str, pipe: Connection) -> None:
    """Attack in this process, which gives way to the server and to the observer."""
    os.nice(NICENESS)
    asyncio.run(_attack(target, row, pipe))


async def _attack(target: Target, row: str, pipe: Connection) -> None:
    assault, attack = Assault(target), ATTACKS[row]()
    await attack.prepare(assault)
    pipe.send("prepared")
    seconds = await asyncio.to_thread(pipe.recv)
    assault.until = time.monotonic() + seconds
    await attack.run(assault)
    pipe.send((assault.answers, assault.facts, assault.misses))


@asynccontextmanager
async def _forked(work: Any, *arguments: Any) -> AsyncIterator[Connection]:
    """Run a function in a process of its own, connected by a pipe; it is killed when the context is left."""
    ours, theirs = FORKS.Pipe()
    process = FORKS.Process(target=work, args=(*arguments, theirs))
    await asyncio.to_thread(process.start)
    theirs.close()
    try:
        yield ours
    finally:
        process.kill()
        await asyncio.to_thread(process.join)
        ours.close()


async def besiege(row: str, plan: Plan) -> Report:
    """Run the attack of a row, and compare what the neighbour felt before it and during it."""
    attack = ATTACKS[row]
    report = Report(row, attack.what)
    async with staged(plan) as stage, attacking(stage.target, row) as attacker:
        await attacker.prepared()
        memory = Memory(stage.target.process)
        async with observing(stage.target) as observer:
            await asyncio.sleep(1)  # connections are made, and caches filled
            alone = await _period(asyncio.sleep(plan.alone))
            before = memory.now()
            memory.forget_peak()
            begun = time.monotonic()
            await attacker.attack(plan.seconds, report)
            during = Period(begun, time.monotonic())
            peak = memory.peak()
            report.resident = Resident(before, peak, *await _after(memory, before, plan))
            await asyncio.sleep(during.end + plan.bounds.back + 1 - time.monotonic())
            samples = await observer.samples()
    report.alone, report.during = Felt.of(samples, alone), Felt.of(samples, during)
    report.back = samples.normal_after(during.end, plan.bounds.allowed(report.alone.send_p99), SEND)
    bounds = plan.bounds
    if attack.peak_growth is not None:
        bounds = replace(bounds, peak_growth=attack.peak_growth)
    report.judge(bounds)
    return report


async def _after(memory: Memory, before: int, plan: Plan) -> tuple[int, float]:
    """Wait until memory is given back; return what is resident then, and after how many seconds."""
    now, seconds = await memory.fallen(before + GIVEN_BACK, plan.seconds)
    if now <= before + plan.bounds.kept_growth:
        return now, seconds
    now, more = await memory.fallen(before + plan.bounds.kept_growth, GIVING_BACK_SECONDS - seconds)
    return now, seconds + more


async def _period(waiting: Any) -> Period:
    begun = time.monotonic()
    await waiting
    return Period(begun, time.monotonic())
