"""The composition root: builds every part of a server, starts it and stops it."""

from __future__ import annotations

import asyncio
import platform
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Protocol

import structlog

from server.api.server import GrpcServer
from server.audit.audited_changes import AuditedChanges
from server.audit.settings_changes import record_settings
from server.auth import admin_key
from server.auth.access import Access
from server.background.audit_retention import AuditRetention
from server.background.catalog_refresh import CatalogRefresh
from server.background.clock_watch import ClockWatch
from server.background.event_retention import EventRetention
from server.background.key_use import KeyUse
from server.background.loop_delay import LoopDelay
from server.background.match_retention import MatchRetention
from server.background.project_deletion import ProjectDeletion
from server.background.quarantine_retention import QuarantineRetention
from server.background.run_timeouts import RunTimeouts
from server.background.statistics import Statistics
from server.bridge.app import Bridge
from server.bridge.dialects import DIALECTS, KEY_PREFIXES
from server.bridge.dialects.demo_requests import demo_requests
from server.bridge.metrics_page import MetricsListener
from server.bridge.operations import Services
from server.bridge.sending import reread_request
from server.bridge.system_pages import SystemPages
from server.connect.app import Connect
from server.connect.openapi import rpc_paths
from server.current_call.call_log import CallLog
from server.delivery.deliveries import Deliveries
from server.delivery.dispatchers import Dispatchers
from server.delivery.match_notifier import MatchNotifier
from server.delivery.match_reader import MatchReader
from server.delivery.push.attempt_log import AttemptLog
from server.delivery.push.budget import PushBudget
from server.delivery.push.client import PushClient
from server.delivery.push.networks import PushNetworks
from server.delivery.push.push_settings import PushSettings
from server.delivery.push.pushers import Pushers
from server.delivery.push.resolver import Resolver
from server.delivery.push.session import PushTools
from server.delivery.recent_matches import RecentMatches
from server.http.body import Bodies
from server.http.connections import ConnectionLimits, HttpConnections, connection_limits
from server.http.cors import Cors
from server.http.path_router import PathRouter
from server.http.server import HttpServer
from server.ingest.catalog import Catalog
from server.ingest.group_commit import GroupCommit
from server.ingest.ingest import Ingest
from server.ingest.quarantine import QuarantineLimits
from server.ingest.quotas import Quotas
from server.ingest.refusal_log import RefusalLog
from server.logs.outages import Outages
from server.metrics import Metrics
from server.metrics.process import watch_process
from server.process import runtime
from server.process.shutdown import Shutdown
from server.rpc.calls import Calls
from server.rpc.messages.audited_resources import describe
from server.rpc.messages.pushes import push_body_writer
from server.rpc.messages.refused_events import reread_event
from server.rpc.messages.typed_properties import TypedReaders
from server.rpc.open_calls import OpenCalls
from server.rpc.servicers.audit_log import AuditLogServicer
from server.rpc.servicers.automations import AutomationsServicer
from server.rpc.servicers.contacts import ContactsServicer
from server.rpc.servicers.event_definitions import EventDefinitionsServicer
from server.rpc.servicers.event_ingest import EventIngestServicer
from server.rpc.servicers.match_stream import MatchStreamServicer
from server.rpc.servicers.projects import ProjectsServicer
from server.rpc.servicers.quarantine import QuarantineServicer
from server.services.audit_log import AuditLog
from server.services.automations import Automations
from server.services.backtests import Backtests
from server.services.contact_exports import ContactExports
from server.services.contacts import Contacts
from server.services.definitions import Definitions
from server.services.demo import make_demo
from server.services.erasures import Erasures
from server.services.events import Events
from server.services.explanations import Explanations
from server.services.generated_types import GeneratedTypes
from server.services.inferences import Inferences
from server.services.projects import Projects
from server.services.quarantine import EventApi, Quarantine
from server.services.runs import Runs
from server.services.subscriptions import Subscriptions
from server.settings import admin_key_file
from server.sharing.loop_time import LoopTime
from server.storage.database import open_database
from server.storage.health import StorageHealth
from server.storage.migrations import check_migrated, current, migrate
from server.storage.server_secrets import PAGE_TOKENS, read_or_make_secret
from server.tracing.tracer import open_tracer
from server.version import version

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from server.bridge.dialects.demo_requests import DemoRequest
    from server.bridge.metrics_page import MetricsPage
    from server.services.demo import Demo
    from server.settings import Settings
    from server.storage.database import Database, MeasuredDatabase
    from server.tracing.tracer import Tracer

log = structlog.get_logger()

METRICS_CONNECTIONS = 100
"""The most connections to the listener for metrics."""


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


class _Measures(NamedTuple):
    """What shows an operator how a server is: its metrics, and the spans of its calls if they are exported."""

    metrics: Metrics
    tracer: Tracer | None


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Server]:
    """Run a server until the context is left; then let calls end, store queued events, and close.

    Raise StorageError, ValueError or OSError if it cannot start.
    """
    async with AsyncExitStack() as stack:
        database = await open_database(settings.database)
        stack.push_async_callback(_in_time, database.close, settings.grace_seconds)
        await (migrate(database) if settings.migrate else check_migrated(database))

        access = await stack.enter_async_context(_authenticating(database, settings))
        changes, recent = await _changes(database, settings), RecentMatches()
        catalog = Catalog(database, recent.forget, changes)
        projects = Projects(database, catalog, access, KEY_PREFIXES)
        contacts = Contacts(database, recent.forget, changes)
        definitions, automations = Definitions(database, catalog), Automations(database, catalog)
        demo = await make_demo(projects, definitions, contacts, automations) if settings.demo else None

        outages = Outages()
        notifier = MatchNotifier(database, outages, recent)
        notifier.start()
        stack.push_async_callback(notifier.close)
        metrics, tracer = measures = await stack.enter_async_context(_measuring(settings))
        loop_time = LoopTime()
        health = await stack.enter_async_context(_watching(database, outages))
        queue = GroupCommit(database, catalog, notifier, metrics, settings.queue_events, loop_time, health, tracer)
        queue.limits = limits = QuarantineLimits(settings.quarantine_events, settings.quarantine_bytes)
        await stack.enter_async_context(_committing(queue, settings.grace_seconds))
        await stack.enter_async_context(_background(settings, database, notifier, metrics, outages))
        _begin(stack, CatalogRefresh(database, catalog, access, outages))

        calls, types = OpenCalls(), GeneratedTypes(database, catalog)
        typed = TypedReaders(types)
        matches = MatchReader(database, notifier)
        dispatchers = queue.steps = Dispatchers(
            database, notifier, schedule=queue.schedule_steps, times=metrics.subscriptions.times
        )
        stack.push_async_callback(_in_time, dispatchers.close, settings.grace_seconds)
        shutdown = Shutdown(calls.stopping, settings.grace_seconds)
        pushes = await stack.enter_async_context(
            _pushing(settings, database, dispatchers, matches, measures, loop_time, shutdown, outages)
        )
        subscriptions = Subscriptions(database, dispatchers, matches, pushes, changes)
        deliveries = Deliveries(subscriptions, dispatchers, matches, shutdown, tracer)
        ingest, runs = (
            Ingest(catalog, queue, Quotas(database, metrics), loop_time, tracer, RefusalLog(metrics)),
            Runs(database, catalog.thread, metrics.count_runs),
        )
        servicers = {
            "AuditLog": AuditLogServicer(AuditLog(database)),
            "Automations": AutomationsServicer(automations, Explanations(database, catalog), runs, typed),
            "Contacts": ContactsServicer(
                contacts,
                await stack.enter_async_context(_erasing(database, recent, outages, changes)),
                ContactExports(database),
                calls.stopping,
            ),
            "EventDefinitions": EventDefinitionsServicer(
                definitions, Backtests(database, calls.stopping), types, Inferences(database, loop_time)
            ),
            "EventIngest": EventIngestServicer(ingest, Events(database), typed, calls.stopping, loop_time),
            "MatchStream": MatchStreamServicer(matches, subscriptions, deliveries, shutdown),
            "Projects": ProjectsServicer(projects),
            "Quarantine": QuarantineServicer(Quarantine(database, ingest, _event_apis(typed), limits, changes)),
        }
        rpcs = Calls(access, calls, metrics, loop_time, CallLog(settings.log_calls), tracer)
        await stack.enter_async_context(rpcs)
        grpc_server = GrpcServer(rpcs, servicers)
        _watch(metrics, database, health, calls)
        system = SystemPages(
            health, metrics, calls.leaving, DIALECTS, rpc_paths, Statistics(database, metrics, outages).refresh
        )
        bridge = Bridge(
            access,
            Services(ingest, definitions, contacts, automations, runs),
            system,
            metrics,
            bodies=Bodies(loop_time, settings.http_body_bytes),
            rate_limits=settings.rate_limits,
            call_log=CallLog(settings.log_calls),
            tracer=tracer,
        )
        connect = Connect(rpcs, servicers, max_json=settings.http_body_bytes)
        http_server = _http_server(settings, metrics, PathRouter([connect], bridge, Cors(settings.cors_origins)))
        grpc_address = await grpc_server.start(settings.grpc, settings.tls)
        stack.push_async_callback(_stop_listeners, grpc_server, http_server, settings.grace_seconds)
        health.on_change(grpc_server.report_ready)
        started = Server(
            grpc_address,
            await http_server.start(settings.http, settings.tls),
            grpc_server.leave,
            await stack.enter_async_context(_listening_for_metrics(settings, system.metrics_page)),
            demo,
            () if demo is None else demo_requests(demo),
        )
        yield await _started(database, started)


async def _started(database: MeasuredDatabase, server: Server) -> Server:
    """Log what has started, and return it."""
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
    return server


@asynccontextmanager
async def _measuring(settings: Settings) -> AsyncIterator[_Measures]:
    """Yield the metrics, and the tracer if there is one.

    The delay of the event loop and steps of the clock are watched while the context is open.
    """
    metrics = Metrics()
    tracer = open_tracer() if settings.otel else None
    async with AsyncExitStack() as stack:
        _begin(stack, ClockWatch(metrics))
        if tracer is not None:
            stack.push_async_callback(tracer.close)
        delay = LoopDelay(metrics)
        delay.start()
        stack.callback(delay.stop)
        yield _Measures(metrics, tracer)


def _watch(metrics: Metrics, database: MeasuredDatabase, health: StorageHealth, calls: OpenCalls) -> None:
    """Report what is read whenever the metrics are."""
    watch_process(metrics.registry, database.kind)
    metrics.database.watch(database.connections)
    database.on_checkpoint(metrics.database.checkpoints.observe)
    watch = metrics.watch
    watch("signalbox_ready", "1 if an event can be stored, else 0.", lambda: health.problem is None)
    watch("signalbox_commit_running_seconds", "Age of the commit in progress, 0 if there is none.", health.commit_age)
    watch("signalbox_rpcs_in_flight", "Calls of RPCs in progress, streams included.", lambda: len(calls))


def _event_apis(typed: TypedReaders) -> dict[str, EventApi]:
    """Return the APIs that events are sent to: the rules of each, and how its requests are read again."""
    native = EventApi(None, partial(reread_event, typed))
    dialects = {dialect.name.value: EventApi(dialect.rules, partial(reread_request, dialect)) for dialect in DIALECTS}
    return {"": native, "grpc": native, "connect": native, **dialects}


@asynccontextmanager
async def _watching(database: Database, outages: Outages) -> AsyncIterator[StorageHealth]:
    """Watch whether events can be stored."""
    health = StorageHealth(database, outages)
    health.start()
    try:
        yield health
    finally:
        await health.close()


@asynccontextmanager
async def _committing(queue: GroupCommit, grace_seconds: float) -> AsyncIterator[None]:
    """Commit queued batches; at the end, store those that are still queued."""
    queue.start()
    try:
        yield
    finally:
        await _in_time(queue.close, grace_seconds)


class _Task(Protocol):
    """A part that works in the background."""

    def start(self) -> None: ...

    async def close(self) -> None: ...


def _begin(stack: AsyncExitStack, task: _Task) -> None:
    """Start a task, and close it when the stack is left."""
    task.start()
    stack.push_async_callback(task.close)


@asynccontextmanager
async def _background(
    settings: Settings, database: Database, notifier: MatchNotifier, metrics: Metrics, outages: Outages
) -> AsyncIterator[None]:
    """Do the recurring work."""
    async with AsyncExitStack() as stack:
        _begin(stack, RunTimeouts(database, notifier, metrics, outages))
        _begin(stack, MatchRetention(database, settings.match_retention_seconds, outages))
        _begin(stack, EventRetention(database, outages))
        _begin(stack, ProjectDeletion(database, outages))
        _begin(stack, AuditRetention(database, settings.audit_retention_seconds, outages))
        _begin(stack, QuarantineRetention(database, settings.quarantine_retention_seconds, outages))
        yield


@asynccontextmanager
async def _erasing(
    database: Database, recent: RecentMatches, outages: Outages, changes: AuditedChanges
) -> AsyncIterator[Erasures]:
    """Erase persons, and continue erasures that were interrupted."""
    erasures = Erasures(database, recent.forget, outages, changes)
    erasures.start()
    try:
        yield erasures
    finally:
        await erasures.close()


@asynccontextmanager
async def _pushing(
    settings: Settings,
    database: Database,
    dispatchers: Dispatchers,
    matches: MatchReader,
    measures: _Measures,
    loop_time: LoopTime,
    shutdown: Shutdown,
    outages: Outages,
) -> AsyncIterator[PushSettings]:
    """Push the matches of the subscriptions that want it."""
    write_body = push_body_writer(loop_time)
    client = PushClient(Resolver(PushNetworks(settings.push_networks)))
    tools = PushTools(
        dispatchers, matches, client, PushBudget(), AttemptLog(), measures.metrics, write_body, measures.tracer
    )
    measures.metrics.watch_pushes(lambda: tools.budget.used)
    pushes = PushSettings(tools)
    pushers = Pushers(database, tools, pushes.changed, shutdown, outages)
    pushers.start()
    try:
        yield pushes
    finally:
        await _in_time(pushers.close, settings.grace_seconds)
        await client.close()


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


def _http_server(settings: Settings, metrics: Metrics, front: PathRouter) -> HttpServer:
    files = runtime.raise_file_limit()
    limits = connection_limits(files, settings.http_connections, settings.http_address_connections)
    connections = HttpConnections(limits, metrics)
    metrics.watch("signalbox_http_requests_in_flight", "Requests over HTTP in progress.", lambda: front.requests)
    metrics.watch("signalbox_http_connections", "Open connections to the HTTP port.", lambda: len(connections))
    return HttpServer(front, settings.grace_seconds, connections)


@asynccontextmanager
async def _authenticating(database: Database, settings: Settings) -> AsyncIterator[Access]:
    """Authenticate callers, and store which keys are used."""
    given = settings.admin_key
    secret = admin_key.check_strength(given) if given else admin_key.read_or_make(admin_key_file(settings.database))
    page_secret = await database.write(partial(read_or_make_secret, name=PAGE_TOKENS))
    access = Access(database, secret, page_secret, demo=settings.demo)
    use = KeyUse(database, access)
    use.start()
    try:
        yield access
    finally:
        await _in_time(use.close, settings.grace_seconds)
        await access.close()


async def _changes(database: Database, settings: Settings) -> AuditedChanges:
    changes = AuditedChanges(database, describe)
    await record_settings(changes, settings)
    return changes


async def _stop_listeners(grpc_server: GrpcServer, http_server: HttpServer, grace_seconds: float) -> None:
    await asyncio.gather(grpc_server.stop(grace_seconds), http_server.stop())


async def _in_time(close: Callable[[], Awaitable[None]], grace_seconds: float) -> None:
    """Close something that waits for the database, within the grace period. Only unconfirmed events can be lost."""
    try:
        async with asyncio.timeout(grace_seconds + 1):
            await close()
    except TimeoutError:
        log.error("not_closed_in_time", what=str(close.__qualname__), waited_seconds=grace_seconds + 1)  # noqa: TRY400 - where it hangs is known
