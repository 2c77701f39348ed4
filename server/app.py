"""The composition root: builds every part of a server, starts it and stops it."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import structlog

from server import admin_key
from server.access import Access
from server.api.automations import AutomationsServicer
from server.api.consume import Shutdown
from server.api.contacts import ContactsServicer
from server.api.event_definitions import EventDefinitionsServicer
from server.api.event_ingest import EventIngestServicer
from server.api.grpc_server import GrpcServer
from server.api.handlers import Streams
from server.api.match_stream import MatchStreamServicer
from server.api.projects import ProjectsServicer
from server.api.typed_properties import TypedReaders
from server.automations import Automations
from server.backtest import Backtests
from server.bridge.app import Bridge
from server.bridge.dialects import DIALECTS
from server.bridge.http_server import HttpServer
from server.bridge.services import Services
from server.bridge.system import READY_SECONDS, System
from server.catalog import Catalog
from server.contacts import Contacts
from server.definitions import Definitions
from server.demo import make_demo
from server.dispatcher import Dispatchers
from server.errors import StorageError
from server.events import Events
from server.explain import Explanations
from server.generated_types import GeneratedTypes
from server.ingest.group_commit import GroupCommit
from server.ingest.ingest import Ingest
from server.match_hub import MatchHub
from server.match_pruner import MatchPruner
from server.matches import Matches
from server.metrics import Metrics
from server.projects import Projects
from server.recurring import Recurring
from server.run_timer import RunTimer
from server.runs import Runs
from server.settings import admin_key_file
from server.storage.database import open_database
from server.storage.migrations import check_migrated, migrate
from server.subscriptions import Subscriptions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from server.settings import Settings
    from server.storage.database import Database

log = structlog.get_logger()

REFRESH_SECONDS = 1.0
"""How long another server's change of keys may go unnoticed; changes of schemas are noticed by the commit itself."""


@dataclass(frozen=True, slots=True)
class Server:
    """A running server, and where it listens; `demo_contact` is the id of the demo's contact, if there is a demo.

    `leave` makes health and readiness report that the server is about to stop, and keeps it serving.
    """

    grpc_address: str
    http_address: str
    leave: Callable[[], Awaitable[None]]
    demo_contact: str = ""


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Server]:
    """Run a server until the context is left, then let calls end, store what waits, and close.

    Raises StorageError, ValueError and OSError if it cannot start.
    """
    async with AsyncExitStack() as stack:
        database = await open_database(settings.database)
        stack.push_async_callback(_in_time, database.close, settings.grace_seconds)
        await (migrate(database) if settings.migrate else check_migrated(database))

        given = settings.admin_key
        secret = admin_key.check_strength(given) if given else admin_key.read_or_make(admin_key_file(settings.database))
        access = Access(database, secret, demo=settings.demo)
        catalog = Catalog(database)
        projects = Projects(database, catalog, access)
        contacts = Contacts(database)
        definitions = Definitions(database, catalog)
        automations = Automations(database, catalog)
        demo_contact = await make_demo(projects, definitions, contacts, automations) if settings.demo else ""

        hub = MatchHub(database)
        hub.start()
        stack.push_async_callback(hub.close)
        metrics = Metrics()
        queue = GroupCommit(database, catalog, hub, metrics, settings.queue_events)
        queue.start()
        stack.push_async_callback(_in_time, queue.close, settings.grace_seconds)
        timer = RunTimer(database, hub, metrics)
        timer.start()
        stack.push_async_callback(timer.close)
        if settings.match_retention_seconds is not None:
            pruner = MatchPruner(database, settings.match_retention_seconds)
            pruner.start()
            stack.push_async_callback(pruner.close)
        await stack.enter_async_context(_following(database, catalog, access))

        types = GeneratedTypes(database, catalog)
        typed = TypedReaders(types)
        streams = Streams()
        matches = Matches(database, hub)
        dispatchers = Dispatchers(database, hub)
        stack.push_async_callback(_in_time, dispatchers.close, settings.grace_seconds)
        ingest, runs = Ingest(catalog, queue), Runs(database)
        grpc_server = GrpcServer(
            access,
            streams,
            {
                "Automations": AutomationsServicer(automations, Explanations(database, catalog), runs, typed),
                "Contacts": ContactsServicer(contacts),
                "EventDefinitions": EventDefinitionsServicer(definitions, Backtests(database, streams.stopping), types),
                "EventIngest": EventIngestServicer(ingest, Events(database), typed, streams.stopping),
                "MatchStream": MatchStreamServicer(
                    matches=matches,
                    subscriptions=Subscriptions(database, dispatchers, matches, streams.stopping),
                    shutdown=Shutdown(streams.stopping, settings.grace_seconds),
                ),
                "Projects": ProjectsServicer(projects),
            },
        )
        bridge = Bridge(
            access,
            Services(ingest, definitions, contacts, automations, runs),
            System(database, metrics, streams.leaving, DIALECTS),
            metrics,
            leaving=streams.leaving,
            rate_limits=settings.rate_limits,
            max_body=settings.http_body_bytes,
        )
        http_server = HttpServer(bridge, settings.grace_seconds)
        grpc_address = await grpc_server.start(settings.grpc, settings.tls)
        stack.push_async_callback(_stop_doors, grpc_server, http_server, settings.grace_seconds)
        if database.shared:
            readiness = Recurring("readiness", partial(_report_ready, database, grpc_server))
            readiness.start()
            stack.push_async_callback(readiness.close)
        http_address = await http_server.start(settings.http, settings.tls)
        yield Server(grpc_address, http_address, grpc_server.leave, demo_contact)


async def _report_ready(database: Database, grpc_server: GrpcServer) -> float:
    """Report whether the database can be written. Return the seconds after which to do so again."""
    ready = True
    try:
        async with asyncio.timeout(READY_SECONDS):
            await database.check()
    except (StorageError, TimeoutError):
        ready = False
    await grpc_server.report_ready(ready=ready)
    return REFRESH_SECONDS


async def _stop_doors(grpc_server: GrpcServer, http_server: HttpServer, grace_seconds: float) -> None:
    await asyncio.gather(grpc_server.stop(grace_seconds), http_server.stop())


async def _in_time(close: Callable[[], Awaitable[None]], grace_seconds: float) -> None:
    """Close what a database that does not answer might hold up; only what nobody was told is stored can be lost."""
    try:
        async with asyncio.timeout(grace_seconds + 1):
            await close()
    except TimeoutError:
        log.error("not_closed_in_time", what=str(close.__qualname__), waited_seconds=grace_seconds + 1)  # noqa: TRY400 - where it hangs is known


@asynccontextmanager
async def _following(database: Database, catalog: Catalog, access: Access) -> AsyncIterator[None]:
    """Follow the changes that other servers on the same database make."""
    if not database.shared:
        yield
        return

    async def refresh() -> float:
        access.forget_outdated(await catalog.refresh())
        return REFRESH_SECONDS

    task = Recurring("catalogue", refresh)
    task.start()
    try:
        yield
    finally:
        await task.close()
