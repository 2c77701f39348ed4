"""The entrance to the log that every front door calls."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from server.errors import QueueFull, StorageRefused
from server.ingest.draft import BatchMode, Unit
from server.ingest.validate import judge_all

if TYPE_CHECKING:
    from collections.abc import Sequence

    from server.ingest.catalog import Catalog
    from server.ingest.draft import Draft
    from server.ingest.group_commit import GroupCommit
    from server.model import Event


class Ingest:
    """Takes events in. What it says is recorded is durable; where it raises, nothing was stored.

    The one exception is StorageUnavailable: then the database did not say.
    """

    def __init__(self, catalog: Catalog, queue: GroupCommit) -> None:
        self._catalog = catalog
        self._queue = queue

    async def send(self, project_pk: int, draft: Draft) -> Event:
        """Record one event: its draft has `event` set, and that is returned.

        Raises why it is refused, QueueFull, Stopping or StorageError.
        """
        unit = await self._judged(project_pk, (draft,), BatchMode.INDEPENDENT)
        if unit.worth_storing():
            self._queue.submit(unit)
            await unit.done
        if draft.event is None:
            raise draft.error or StorageRefused
        return draft.event

    async def send_batch(self, project_pk: int, drafts: Sequence[Draft], mode: BatchMode) -> None:
        """Record events in one transaction; each draft has its `event` or `error` set.

        Raises BatchRejected if the mode is ALL_OR_NOTHING and a draft is refused, QueueFull, Stopping or StorageError.
        """
        unit = await self._judged(project_pk, drafts, mode)
        if unit.worth_storing():
            self._queue.submit(unit)
            await unit.done
        unit.check()

    async def enqueue(self, project_pk: int, drafts: Sequence[Draft], mode: BatchMode) -> Unit:
        """Queue a batch, waiting while the queue is full; units keep the order of the calls.

        Await its `done`, then call its `check`, to have what `send_batch` gives.
        """
        unit = await self._judged(project_pk, drafts, mode)
        if not unit.worth_storing():
            unit.done.set_result(None)
            return unit
        while True:
            await self._queue.room()
            try:
                self._queue.submit(unit)
            except QueueFull:
                continue
            return unit

    async def _judged(self, project_pk: int, drafts: Sequence[Draft], mode: BatchMode) -> Unit:
        state = self._catalog.known(project_pk) or await self._catalog.state(project_pk)
        unit = Unit(state, drafts, mode, asyncio.get_running_loop().create_future())
        judge_all(unit)
        if not unit.worth_storing():
            # The commit would have noticed a stale state; what never gets there is asked about here.
            unit.state = await self._catalog.current(state)
            if unit.state is not state:
                judge_all(unit)
        return unit
