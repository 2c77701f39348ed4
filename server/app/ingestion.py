"""How the events of a server get into the log."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from server.app.lifecycle import begin, close_in_time
from server.delivery.match_notifier import MatchNotifier
from server.ingest.group_commit import GroupCommit
from server.ingest.ingest import Ingest
from server.ingest.quarantine import QuarantineLimits
from server.ingest.quotas import Quotas
from server.ingest.refusal_log import RefusalLog
from server.storage.health import StorageHealth

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from server.app.management import Management
    from server.app.measures import Measures
    from server.app.storage import Storage
    from server.settings import Settings
    from server.sharing.loop_time import LoopTime


@dataclass(frozen=True, slots=True)
class Ingestion:
    """The ingest, its group commit, the notifier of its matches, and the health of the storage."""

    notifier: MatchNotifier
    health: StorageHealth
    queue: GroupCommit
    quarantine_limits: QuarantineLimits
    ingest: Ingest


@asynccontextmanager
async def ingesting(
    settings: Settings, storage: Storage, management: Management, measures: Measures, loop_time: LoopTime
) -> AsyncIterator[Ingestion]:
    """Store events. At the end, store those that are still queued."""
    database, outages, catalog = storage.database, storage.outages, management.catalog
    metrics, tracer = measures.metrics, measures.tracer
    async with AsyncExitStack() as stack:
        notifier = MatchNotifier(database, outages, management.recent)
        begin(stack, notifier)
        health = StorageHealth(database, outages)
        begin(stack, health)

        queue = GroupCommit(database, catalog, notifier, metrics, settings.queue_events, loop_time, health, tracer)
        queue.limits = QuarantineLimits(settings.quarantine_events, settings.quarantine_bytes)
        queue.start()
        stack.push_async_callback(close_in_time, queue.close, settings.grace_seconds)

        quotas = Quotas(database, metrics)
        ingest = Ingest(catalog, queue, quotas, loop_time, tracer, RefusalLog(metrics))

        def forget(project_id: str, project_pk: int) -> None:
            for part in (queue, notifier, quotas):
                part.forget(project_pk)
            metrics.forget(project_id)

        catalog.on_forget.append(forget)
        yield Ingestion(notifier, health, queue, queue.limits, ingest)
