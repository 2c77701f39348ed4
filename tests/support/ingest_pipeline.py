"""The ingest pipeline on its own, over a database whose writes can be held back."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

from server.delivery.match_notifier import MatchNotifier
from server.ingest.catalog import Catalog
from server.ingest.draft import Batch, BatchMode, Draft
from server.ingest.group_commit import GroupCommit
from server.ingest.ingest import Ingest
from server.ingest.quotas import Quotas
from server.metrics import Metrics
from server.model import Rules, UndefinedEvents, UnknownContacts
from server.services.automations import Automations
from server.storage.projects.projects import insert_project

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from sqlalchemy import Connection

    from automation.automations import NewAutomation
    from server.storage.database import Database

T = TypeVar("T")


class GatedDatabase:
    """A database that counts its writes and lets none begin while the gate is shut."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.shared, self.epoch = database.shared, database.epoch
        self.gate = asyncio.Event()
        self.gate.set()
        self.writes = 0

    async def read(self, work: Callable[[Connection], T], *, brief: bool = False, delivery: bool = False) -> T:
        return await self._database.read(work, brief=brief, delivery=delivery)

    async def write(self, work: Callable[[Connection], T]) -> T:
        self.writes += 1
        await self.gate.wait()
        return await self._database.write(work)

    async def write_past(self, work: Callable[[Connection], T]) -> T:
        """Write without being counted or held back."""
        return await self._database.write(work)

    async def check(self) -> None:
        await self._database.check()

    async def close(self) -> None:
        await self._database.close()


class IngestPipeline:
    """A queue and its entrance, for one project that takes every event."""

    def __init__(self, database: GatedDatabase, project_pk: int, limit: int) -> None:
        catalog = Catalog(database)
        self.metrics = Metrics()
        self.notifier = MatchNotifier(database)
        self.queue = GroupCommit(database, catalog, self.notifier, self.metrics, limit)
        self.gate = database.gate
        self.project_pk = project_pk
        self._database = database
        self._automations = Automations(database, catalog)
        self._ingest = Ingest(catalog, self.queue, Quotas(database, self.metrics))

    @property
    def writes(self) -> int:
        return self._database.writes

    @property
    def queued(self) -> float:
        """The number of events in the queue."""
        return self.metrics.registry.get_sample_value("signalbox_queue_events") or 0

    async def send(self, drafts: Sequence[Draft], mode: BatchMode = BatchMode.ALL_OR_NOTHING) -> None:
        await self._ingest.send_batch(self.project_pk, drafts, mode)

    async def enqueue(self, drafts: Sequence[Draft], mode: BatchMode = BatchMode.ALL_OR_NOTHING) -> Batch:
        return await self._ingest.enqueue(self.project_pk, drafts, mode)

    async def neighbour(self, name: str, rules: Rules | None = None) -> Neighbour:
        """Make another project that sends through the same queue; by default it takes every event."""
        rules = rules or Rules(UndefinedEvents.ACCEPT, UnknownContacts.CREATE)
        project = await self._database.write_past(lambda connection: insert_project(connection, name, name, rules, 1))
        return Neighbour(self._ingest, project.pk)

    async def automate(self, wanted: NewAutomation) -> None:
        await self._automations.create(self.project_pk, wanted)

    def begin(self, drafts: Sequence[Draft]) -> asyncio.Task[None]:
        return asyncio.create_task(self.send(drafts))

    async def stored(self) -> list[str]:
        """Read the names of the project's events, in the order of the log, which must be gapless."""
        query = f"SELECT position, name FROM event WHERE project_key = {self.project_pk} ORDER BY position"  # noqa: S608 - a number
        rows = await self._database.read(lambda connection: connection.exec_driver_sql(query).fetchall())
        assert [row.position for row in rows] == list(range(1, len(rows) + 1))
        return [row.name for row in rows]


class Neighbour:
    """Another project of a pipeline."""

    def __init__(self, ingest: Ingest, project_pk: int) -> None:
        self._ingest = ingest
        self.project_pk = project_pk

    async def send(self, drafts: Sequence[Draft], mode: BatchMode = BatchMode.ALL_OR_NOTHING) -> None:
        await self._ingest.send_batch(self.project_pk, drafts, mode)

    async def enqueue(self, drafts: Sequence[Draft], mode: BatchMode = BatchMode.ALL_OR_NOTHING) -> Batch:
        return await self._ingest.enqueue(self.project_pk, drafts, mode)

    def begin(self, drafts: Sequence[Draft]) -> asyncio.Task[None]:
        return asyncio.create_task(self.send(drafts))


def drafts(count: int = 1, name: str = "page_viewed", text: str = "") -> list[Draft]:
    """Return `count` events about Ada."""
    return [Draft(name, "", "ada@example.com", {"text": text}) for _ in range(count)]


@asynccontextmanager
async def ingest_pipeline_over(database: GatedDatabase, limit: int = 1_000) -> AsyncIterator[IngestPipeline]:
    rules = Rules(UndefinedEvents.ACCEPT, UnknownContacts.CREATE)
    project = await database.write(lambda connection: insert_project(connection, "id", "shop", rules, 1))
    database.writes = 0
    pipeline = IngestPipeline(database, project.pk, limit)
    pipeline.queue.start()
    try:
        yield pipeline
    finally:
        await pipeline.queue.close()
