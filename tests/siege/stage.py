"""A server under siege: its projects, the process that observes it, and the process that attacks it."""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from server.settings import Tls
from tests.siege.attacks.rows import ATTACKS
from tests.siege.floor import floor_of
from tests.siege.memory import Memory
from tests.siege.neighbour import OVER, SO_FAR, SUBSCRIPTION, observe
from tests.siege.processes import attacking
from tests.siege.report import Felt, Report, Resident
from tests.siege.samples import SEND, Period, Sample, Samples
from tests.siege.target import Target
from tests.support.authority import Authority
from tests.support.automations import automate
from tests.support.consumers import subscribe
from tests.support.forked import forked
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

KEYS: Final = 8
GIVING_BACK_SECONDS: Final = 30.0
"""How long a row waits for memory that is still too much."""

ASKING_SECONDS: Final = 0.5
"""How often the observer is asked whether the neighbour is served as before."""

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
    floor: float = 0.0
    """For how many seconds each attack is repeated against a server that does nothing; 0 if it is not."""


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
async def staged(plan: Plan, tls: Tls | None = None) -> AsyncIterator[Stage]:
    """Start a server on an empty database, with an attacker and a neighbour."""
    options = () if tls is None else ("--tls-cert", str(tls.certificate), "--tls-key", str(tls.key))
    trusted = "" if tls is None else tls.certificate.read_text()
    async with (
        empty_database(plan) as (url, cluster),
        server_process(url, plan.folder, *options, trusted=trusted) as server,
    ):
        yield Stage(plan, server, replace(await populated(server, plan.scale), tls=tls), url, cluster)


def _made_tls(folder: Path) -> Tls:
    authority = Authority(folder / "tls")
    return Tls(authority.certificate, authority.key)


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
    async with forked(observe, target) as pipe:
        yield Observer(pipe)


class Observer:
    """The process of the neighbour and the probe."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    async def samples(self, word: str = OVER) -> Samples:
        """Return what was measured, and end the observation unless the word is SO_FAR."""
        self._pipe.send(word)
        found: list[Sample] = await asyncio.to_thread(self._pipe.recv)
        return Samples(found)


async def besiege(row: str, plan: Plan) -> Report:
    """Run the attack of a row, and compare what the neighbour felt before it and during it."""
    attack = ATTACKS[row]
    report = Report(row, attack.what)
    tls = _made_tls(plan.folder) if attack.over_tls else None
    async with staged(plan, tls) as stage, attacking(stage.target, row) as attacker:
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
            await _recovered(observer, alone, during.end, plan.bounds)
            samples = await observer.samples()
    if attack.has_floor and plan.floor:
        report.floor = await floor_of(row, stage.target, plan.floor)
    report.alone, report.during = Felt.of(samples, alone), Felt.of(samples, during)
    report.back = samples.normal_after(during.end, plan.bounds.allowed(report.alone.send_p99), SEND)
    bounds = plan.bounds
    if attack.peak_growth is not None:
        bounds = replace(bounds, peak_growth=attack.peak_growth)
    report.check(bounds)
    return report


async def _recovered(observer: Observer, alone: Period, end: float, bounds: Bounds) -> None:
    """Wait until the neighbour's sends of a whole second are as before, or until that is too late."""
    allowed = bounds.allowed(Felt.of(await observer.samples(SO_FAR), alone).send_p99)
    latest = end + bounds.back + 1
    while (now := time.monotonic()) < latest:
        if end + (await observer.samples(SO_FAR)).normal_after(end, allowed, SEND) + 1 <= now:
            return
        await asyncio.sleep(min(ASKING_SECONDS, latest - now))


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
