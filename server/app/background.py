"""The recurring work of a server."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from server.app.lifecycle import begin
from server.background.audit_retention import AuditRetention
from server.background.catalog_refresh import CatalogRefresh
from server.background.event_retention import EventRetention
from server.background.match_retention import MatchRetention
from server.background.project_deletion import ProjectDeletion
from server.background.quarantine_retention import QuarantineRetention
from server.background.retention_clock import RetentionClock
from server.background.run_timeouts import RunTimeouts
from server.services.erasures import Erasures

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from server.app.management import Management
    from server.app.storage import Storage
    from server.delivery.match_notifier import MatchNotifier
    from server.metrics import Metrics
    from server.settings import Settings


@asynccontextmanager
async def background_work(
    settings: Settings, storage: Storage, management: Management, metrics: Metrics, notifier: MatchNotifier
) -> AsyncIterator[Erasures]:
    """Do the recurring work; erase persons, and continue erasures that were interrupted."""
    database, outages = storage.database, storage.outages
    erasures = Erasures(database, management.recent.forget, outages, management.changes)
    async with AsyncExitStack() as stack:
        begin(stack, RunTimeouts(database, notifier, metrics, outages))
        clock = RetentionClock(database)
        begin(stack, MatchRetention(database, settings.match_retention_seconds, clock, outages))
        begin(stack, EventRetention(database, clock, outages))
        begin(stack, ProjectDeletion(database, management.catalog.forget, outages))
        begin(stack, AuditRetention(database, settings.audit_retention_seconds, clock, outages))
        begin(stack, QuarantineRetention(database, settings.quarantine_retention_seconds, clock, outages))
        begin(stack, CatalogRefresh(database, management.catalog, management.access, outages))
        begin(stack, erasures)
        yield erasures
