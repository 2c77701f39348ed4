"""The ports of a server: gRPC, HTTP with Connect and the dialects, and the listener for metrics."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, NamedTuple

from server.api.server import GrpcServer
from server.background.statistics import Statistics
from server.bridge.app import Bridge
from server.bridge.dialects import DIALECTS
from server.bridge.metrics_page import MetricsListener
from server.bridge.operations import Services
from server.bridge.system_pages import SystemPages
from server.connect.app import Connect
from server.connect.openapi import rpc_paths
from server.current_call.call_log import CallLog
from server.http.body import Bodies
from server.http.connections import ConnectionLimits, HttpConnections, connection_limits
from server.http.cors import Cors
from server.http.path_router import PathRouter
from server.http.server import HttpServer
from server.metrics.process import watch_process
from server.process import runtime
from server.rpc.calls import Calls

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from server.app.ingestion import Ingestion
    from server.app.management import Management
    from server.app.measures import Measures
    from server.app.storage import Storage
    from server.bridge.metrics_page import MetricsPage
    from server.metrics import Metrics
    from server.rpc.open_calls import OpenCalls
    from server.settings import Settings
    from server.sharing.loop_time import LoopTime
    from server.storage.database import MeasuredDatabase
    from server.storage.health import StorageHealth

METRICS_CONNECTIONS: Final = 100
"""The most connections to the listener for metrics."""


class Listeners(NamedTuple):
    """The addresses, with their actual ports, and how to announce that the server will stop while it keeps serving."""

    grpc_address: str
    http_address: str
    leave: Callable[[], Awaitable[None]]
    metrics_address: str


@asynccontextmanager
async def serving(
    settings: Settings,
    storage: Storage,
    management: Management,
    measures: Measures,
    ingestion: Ingestion,
    servicers: Mapping[str, object],
    calls: OpenCalls,
    loop_time: LoopTime,
) -> AsyncIterator[Listeners]:
    """Serve calls. At the end, let those in progress end. Raise OSError if it cannot listen."""
    metrics, tracer, access, health = measures.metrics, measures.tracer, management.access, ingestion.health
    _watch(metrics, storage.database, health, calls)
    statistics = Statistics(storage.database, metrics, storage.outages)
    system = SystemPages(health, metrics, calls.leaving, DIALECTS, rpc_paths, statistics.refresh)
    rpcs = Calls(access, calls, metrics, loop_time, CallLog(settings.log_calls), tracer, health.check_open)
    bridge = Bridge(
        access,
        Services(
            health,
            ingestion.ingest,
            management.definitions,
            management.contacts,
            management.automations,
            management.runs,
        ),
        system,
        metrics,
        bodies=Bodies(loop_time, settings.http_body_bytes),
        rate_limits=settings.rate_limits,
        call_log=CallLog(settings.log_calls),
        tracer=tracer,
    )
    connect = Connect(rpcs, servicers, max_json=settings.http_body_bytes)
    http_server = _http_server(settings, metrics, PathRouter([connect], bridge, Cors(settings.cors_origins)))
    grpc_server = GrpcServer(rpcs, servicers)
    async with (
        rpcs,
        _listening(settings, grpc_server, http_server, health) as (grpc_address, http_address),
        _listening_for_metrics(settings, system.metrics_page) as metrics_address,
    ):
        yield Listeners(grpc_address, http_address, grpc_server.leave, metrics_address)


def _watch(metrics: Metrics, database: MeasuredDatabase, health: StorageHealth, calls: OpenCalls) -> None:
    """Register the values that are read whenever the metrics are requested."""
    watch_process(metrics.registry, database.kind)
    metrics.database.watch(database.connections)
    database.on_checkpoint(metrics.database.checkpoints.observe)
    watch = metrics.watch
    watch("signalbox_ready", "1 if an event can be stored, else 0.", lambda: health.problem is None)
    watch("signalbox_commit_running_seconds", "Age of the commit in progress, 0 if there is none.", health.commit_age)
    watch("signalbox_rpcs_in_flight", "Calls of RPCs in progress, streams included.", lambda: len(calls))


def _http_server(settings: Settings, metrics: Metrics, front: PathRouter) -> HttpServer:
    files = runtime.raise_file_limit()
    limits = connection_limits(files, settings.http_connections, settings.http_address_connections)
    connections = HttpConnections(limits, metrics)
    metrics.watch("signalbox_http_requests_in_flight", "Requests over HTTP in progress.", lambda: front.requests)
    metrics.watch("signalbox_http_connections", "Open connections to the HTTP port.", lambda: len(connections))
    return HttpServer(front, settings.grace_seconds, connections)


@asynccontextmanager
async def _listening(
    settings: Settings, grpc_server: GrpcServer, http_server: HttpServer, health: StorageHealth
) -> AsyncIterator[tuple[str, str]]:
    """Listen for calls, and yield the addresses of gRPC and HTTP."""
    grpc_address = await grpc_server.start(settings.grpc, settings.tls)
    try:
        health.on_change(grpc_server.report_ready)
        yield grpc_address, await http_server.start(settings.http, settings.tls)
    finally:
        await asyncio.gather(grpc_server.stop(settings.grace_seconds), http_server.stop())


@asynccontextmanager
async def _listening_for_metrics(settings: Settings, page: MetricsPage) -> AsyncIterator[str]:
    """Serve the metrics on their own address if there is one, and yield it with its actual port."""
    if settings.metrics is None:
        yield ""
        return
    limits = ConnectionLimits(METRICS_CONNECTIONS, METRICS_CONNECTIONS)
    server = HttpServer(MetricsListener(page), settings.grace_seconds, HttpConnections(limits))
    address = await server.start(settings.metrics, settings.tls)
    try:
        yield address
    finally:
        await server.stop()
