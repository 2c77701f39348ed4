"""Starts the parts of a server in order, and closes them in reverse."""

from __future__ import annotations

import platform
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from server.app.background import background_work
from server.app.delivery import delivering
from server.app.ingestion import ingesting
from server.app.listeners import serving
from server.app.management import managing
from server.app.measures import measuring
from server.app.servicers import make_servicers
from server.app.storage import storing
from server.bridge.dialects.demo_requests import demo_requests
from server.process.shutdown import Shutdown
from server.rpc.open_calls import OpenCalls
from server.sharing.loop_time import LoopTime
from server.storage.migrations import current
from server.version import version

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from server.bridge.dialects.demo_requests import DemoRequest
    from server.services.demo import Demo
    from server.settings import Settings
    from server.storage.database import MeasuredDatabase

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Server:
    """A running server: the addresses that it listens on, and how to announce that it will stop.

    `leave` makes health and readiness report that the server is about to stop, while it keeps serving.
    `metrics_address` is that of the listener for metrics, empty if there is none.
    """

    grpc_address: str
    http_address: str
    leave: Callable[[], Awaitable[None]]
    metrics_address: str = ""
    demo: Demo | None = None
    demo_requests: tuple[DemoRequest, ...] = ()


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Server]:
    """Run a server until the context is left; then let calls end, store queued events, and close.

    Each part uses those before it, and is closed before them. Raise StorageError, ValueError or OSError if one cannot
    start.
    """
    calls, loop_time = OpenCalls(), LoopTime()
    shutdown = Shutdown(calls.stopping, settings.grace_seconds)
    async with (
        storing(settings) as storage,
        measuring(settings) as measures,
        managing(settings, storage, measures.metrics) as management,
        ingesting(settings, storage, management, measures, loop_time) as ingestion,
        delivering(settings, storage, management, measures, ingestion, shutdown, loop_time) as delivery,
        background_work(settings, storage, management, measures.metrics, ingestion.notifier) as erasures,
    ):
        servicers = make_servicers(storage, management, ingestion, delivery, erasures, shutdown, loop_time)
        async with serving(settings, storage, management, measures, ingestion, servicers, calls, loop_time) as ports:
            demo = management.demo
            server = Server(*ports, demo, () if demo is None else demo_requests(demo))
            await _log_start(storage.database, server)
            yield server


async def _log_start(database: MeasuredDatabase, server: Server) -> None:
    log.info(
        "started",
        version=version(),
        python=platform.python_version(),
        database=database.kind,
        database_version=await database.version(),
        migration=await database.read(current, brief=True),
        grpc=server.grpc_address,
        http=server.http_address,
        metrics=server.metrics_address or None,
    )
