"""The operations that send events, called by every API."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from server.errors import QueueFull, StorageRefused
from server.ingest.draft import Batch, BatchMode
from server.ingest.validate import validate_batch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from server.ingest.catalog import Catalog
    from server.ingest.draft import Draft
    from server.ingest.group_commit import GroupCommit
    from server.model import Event


class Ingest:
    """Records events. An event that is returned is durable; where an error is raised, nothing was stored.

    The one exception is StorageUnavailable: the connection broke before the database confirmed.
    """

    def __init__(self, catalog: Catalog, queue: GroupCommit) -> None:
        self._catalog = catalog
        self._queue = queue

    async def send(self, project_pk: int, draft: Draft) -> Event:
        """Record one event and return it; it is set in the draft, too.

        Raise the error that the draft is refused with, QueueFull, Stopping or StorageError.
        """
        batch = await self._validated(project_pk, (draft,), BatchMode.INDEPENDENT)
        if batch.worth_storing():
            self._queue.submit(batch)
            await batch.done
        if draft.event is None:
            raise draft.error or StorageRefused
        return draft.event

    async def send_batch(self, project_pk: int, drafts: Sequence[Draft], mode: BatchMode) -> None:
        """Record events in one transaction; each draft has its `event` or `error` set.

        Raise BatchRejected if the mode is ALL_OR_NOTHING and a draft is refused, QueueFull, Stopping or StorageError.
        """
        batch = await self._validated(project_pk, drafts, mode)
        if batch.worth_storing():
            self._queue.submit(batch)
            await batch.done
        batch.check()

    async def enqueue(self, project_pk: int, drafts: Sequence[Draft], mode: BatchMode) -> Batch:
        """Queue a batch, waiting while the queue is full. Batches are stored in the order of the calls.

        After its `done`, the result is that of `send_batch`: call `check`, then read the drafts.
        """
        batch = await self._validated(project_pk, drafts, mode)
        if not batch.worth_storing():
            batch.done.set_result(None)
            return batch
        while True:
            await self._queue.wait_for_room()
            try:
                self._queue.submit(batch)
            except QueueFull:
                continue
            return batch

    async def _validated(self, project_pk: int, drafts: Sequence[Draft], mode: BatchMode) -> Batch:
        snapshot = self._catalog.cached(project_pk) or await self._catalog.load(project_pk)
        batch = Batch(snapshot, drafts, mode, asyncio.get_running_loop().create_future())
        validate_batch(batch)
        if not batch.worth_storing():
            # A commit would have noticed an outdated snapshot; this batch reaches none.
            batch.snapshot = await self._catalog.current(snapshot)
            if batch.snapshot is not snapshot:
                validate_batch(batch)
        return batch
