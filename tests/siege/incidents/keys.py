"""A key that is revoked while streams are open on which its clients send nothing."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import grpc

from signalbox.v1 import match_stream_pb2 as pb
from signalbox.v1 import projects_pb2
from tests.siege.report import Report
from tests.siege.stage import staged
from tests.support.automations import automate
from tests.support.consumers import EARLIEST, subscribe
from tests.support.process import server_process
from tests.support.recorders import reason_of

if TYPE_CHECKING:
    from tests.siege.stage import Plan, Stage
    from tests.support.process import Process
    from tests.support.service import Client

SEND_INTERVAL: Final = 0.02
WANTED_SECONDS: Final = 1.2
"""A second, and what a busy machine needs to report it."""

PATIENCE: Final = 5.0
OPENING: Final = pb.OpenConsumer(subscription="engine", max_outstanding=10_000)


@dataclass
class _Stream:
    """A stream of the revoked key: when matches arrived, and how it ended."""

    name: str
    matches: list[float] = field(default_factory=list)
    ended: float | None = None
    outcome: str = "no end"

    async def read(self, call: Any) -> None:
        try:
            async for answer in call:
                # Every answer with matches of the three streams has them in one of these fields.
                found = len(getattr(answer, "matches", ())) + len(
                    getattr(getattr(answer, "deliveries", None), "deliveries", ())
                )
                self.matches += [time.monotonic()] * found
            self.outcome = "OK"
        except grpc.aio.AioRpcError as error:
            self.outcome = reason_of(error)
        self.ended = time.monotonic()


async def revoked_key(plan: Plan) -> Report:
    """Revoke a key on one server; its streams there, and on another server of the same database, must end."""
    report = Report(
        "6", "a key revoked with silent ConsumeMatches, WatchMatches and StreamEvents open, 50 events a second"
    )
    async with staged(plan) as stage, AsyncExitStack() as stack:
        owner = stage.service.client(stage.target.secrets[0])
        await automate(owner)
        await subscribe(owner)
        request = projects_pb2.CreateApiKeyRequest(project=stage.target.project)
        made = await stage.service.admin.projects.CreateApiKey(request)
        servers = [stage.server, *await _others(stage, stack)]
        sending = asyncio.create_task(_send(owner))
        streams, tasks = await _open(servers, made.secret)
        await asyncio.sleep(1)
        revocation = projects_pb2.RevokeApiKeyRequest(id=made.api_key.id)
        await stage.service.admin.projects.RevokeApiKey(revocation)
        revoked = time.monotonic()
        await asyncio.wait(tasks, timeout=PATIENCE)
        for task in (sending, *tasks):
            task.cancel()
        await asyncio.gather(sending, *tasks, return_exceptions=True)
    for stream in streams:
        _check(stream, revoked, report)
    return report


async def _others(stage: Stage, stack: AsyncExitStack) -> list[Process]:
    """Start a second server, if the database may have several."""
    if stage.url.startswith("sqlite"):
        return []
    folder = stage.plan.folder / "other"
    folder.mkdir()
    return [await stack.enter_async_context(server_process(stage.url, folder))]


async def _send(client: Client) -> None:
    while True:
        await client.send()
        await asyncio.sleep(SEND_INTERVAL)


async def _open(servers: list[Process], secret: str) -> tuple[list[_Stream], list[asyncio.Task[None]]]:
    streams: list[_Stream] = []
    tasks: list[asyncio.Task[None]] = []
    for number, server in enumerate(servers, 1):
        client = server.service.client(secret)
        consuming = client.matches.ConsumeMatches()
        await consuming.write(pb.ConsumeMatchesRequest(open=OPENING))
        calls: dict[str, Any] = {
            "ConsumeMatches": consuming,
            "WatchMatches": client.matches.WatchMatches(pb.WatchMatchesRequest(start=EARLIEST)),
            "StreamEvents": client.ingest.StreamEvents(),
        }
        for name, call in calls.items():
            stream = _Stream(f"{name} on server {number}")
            streams.append(stream)
            tasks.append(asyncio.create_task(stream.read(call)))
    return streams, tasks


def _check(stream: _Stream, revoked: float, report: Report) -> None:
    late = sum(arrived > revoked for arrived in stream.matches)
    if stream.ended is None:
        report.misses.append(f"{stream.name} did not end in {PATIENCE:.0f} s, {late} matches after the revocation")
        return
    seconds = stream.ended - revoked
    report.facts.append(f"{stream.name} ended {seconds:.2f} s later ({stream.outcome}), {late} matches meanwhile")
    if not 0 <= seconds <= WANTED_SECONDS:
        report.misses.append(f"{stream.name} ended after {seconds:.2f} s, wanted {WANTED_SECONDS} s")
