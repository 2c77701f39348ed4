"""The quarantine of a project: refused events are listed, counted, sent again and discarded.

Each call examines a limited number of events, in small transactions, and returns the id to continue after. An event
that is sent again leaves the quarantine in the transaction that records it, and one that is discarded is deleted under
the lock of the project's head, so nothing is done twice or by halves, whenever a server ends.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from uuid_utils import uuid7

from registry.errors import RowUnreadable, SignalboxError
from registry.sql.unreadable_rows import UNREADABLE_ROWS
from registry.times.timestamps import format_millis
from server.audit.audited_changes import AuditedValues
from server.errors import InvalidArgument, ProjectRateExceeded, RefusedEventNotFound, ServiceError
from server.ingest.draft import Draft
from server.ingest.draft_decisions import preview
from server.model import UNLIMITED
from server.storage.damaged_text import to_valid_text
from server.storage.projects.heads import lock_heads
from server.storage.quarantine import refused_events as store
from server.storage.quarantine import search as refused_event_search
from server.storage.quarantine.refused_events import RefusedEvent, RefusedFilter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from sqlalchemy import Connection

    from server.audit.audited_changes import AuditedChanges, AuditRecorder
    from server.ingest.ingest import Ingest
    from server.ingest.quarantine import QuarantineLimits
    from server.model import Quota, Rules
    from server.paging import Page, PageRequest
    from server.storage.database import Database
    from server.storage.quarantine.refused_events import QuarantineUse, RefusalCounts

CALL_EVENTS: Final = 1_000
"""The most events that one call sends again or discards."""

DISCARD_BYTES: Final = 4 * 1024 * 1024
"""The most bytes of events, unless they are named, that one call discards: it takes a few milliseconds."""

COUNTED_EVENTS: Final = 5_000
"""The events that one call counts: about 10 ms of a reading connection."""

PORTION_EVENTS: Final = 100
PORTION_BYTES: Final = 512 * 1024
"""The limits of events that are read and sent again together, or deleted in one transaction."""

REINGEST_SECONDS: Final = 5.0
"""A call sends nothing more after this time, and returns where to continue: it may wait for the project's quota."""

_COUNTED: Final = "refusedEventCount"

FIRST_WAIT_SECONDS: Final = 5.0
"""The first events of a call wait this long for the project's rate, before they are refused."""

MAX_REPORTED: Final = 100
"""The most events that are still refused of which a call reports the errors."""

Reread: TypeAlias = Callable[[int, RefusedEvent], Awaitable[Draft]]
"""Reads a request of a project that could not be read before; what is still refused has its error in the draft."""


_Send: TypeAlias = Callable[[int, int, float, Sequence[Draft]], Awaitable[None]]
"""Records or previews drafts of a project, with the bytes of their requests, within some seconds."""


class EventApi(NamedTuple):
    """An API that events are sent to: the rules in place of the project's, if any, and how its requests are read."""

    rules: Rules | None
    reread: Reread


@dataclass(frozen=True, slots=True)
class Selection:
    """The refused events that a call is about: those of ids, or those of a filter after an id."""

    ids: Sequence[str] = ()
    filter: RefusedFilter = field(default_factory=RefusedFilter)
    after: str = ""


class StillRefused(NamedTuple):
    """An event that was sent again and refused again."""

    id: str
    name: str
    error: Exception


@dataclass(slots=True)
class Reingested:
    """The outcomes of events that were sent again, and the id to continue after, if any."""

    recorded: int = 0
    duplicates: int = 0
    refused: int = 0
    still_refused: list[StillRefused] = field(default_factory=list)
    last: str = ""

    def add(self, draft: Draft, name: str) -> None:
        """Add the result of a draft that was decided."""
        if draft.error is not None:
            self.refused += 1
            if len(self.still_refused) < MAX_REPORTED:
                self.still_refused.append(StillRefused(draft.refused_id, name, draft.error))
        elif draft.duplicate:
            self.duplicates += 1
        else:
            self.recorded += 1


class Quarantine:
    """Reads and repairs refused events. `apis` are the APIs that events are sent to, by name."""

    def __init__(
        self,
        database: Database,
        ingest: Ingest,
        apis: Mapping[str, EventApi],
        limits: QuarantineLimits,
        changes: AuditedChanges,
    ) -> None:
        self._database = database
        self._changes = changes
        self._ingest = ingest
        self._apis = apis
        self.limits = limits
        self._turns: dict[int, asyncio.Lock] = defaultdict(asyncio.Lock)

    def forget(self, project_pk: int) -> None:
        """Forget a project that is deleted for good."""
        self._turns.pop(project_pk, None)

    async def list(self, project_pk: int, refused: RefusedFilter, request: PageRequest) -> Page[RefusedEvent]:
        """List refused events, newest first."""
        limit = request.limit()
        filters = ("refused_events", project_pk, refused)
        (before,) = request.cursor(filters, str) or ("",)
        found, more, resume = await self._database.read(
            lambda connection: refused_event_search.list_refused(connection, project_pk, refused, limit, before)
        )
        return request.page(found, filters, lambda event: (event.id,), more=more, resume=(resume,))

    async def get(self, project_pk: int, refused_id: str) -> RefusedEvent:
        """Read one refused event. Raise RefusedEventNotFound."""
        return await self._database.read(lambda connection: store.get_refused(connection, project_pk, refused_id))

    async def count(self, project_pk: int, refused: RefusedFilter, after: str) -> tuple[RefusalCounts, QuarantineUse]:
        """Count the next refused events after an id. Return the counts, and how much is in quarantine."""

        def work(connection: Connection) -> tuple[RefusalCounts, QuarantineUse]:
            counts = refused_event_search.count_refused(connection, project_pk, refused, after, COUNTED_EVENTS)
            return counts, store.use_of(connection, project_pk)

        return await self._database.read(work)

    async def reingest(self, project_pk: int, selection: Selection, *, validate_only: bool) -> Reingested:
        """Send refused events again, or find out what would become of them.

        Raise RefusedEventNotFound, QueueFull, BatchTooCostly, AutomationsChanging, ProjectRateExceeded and
        ProjectQuotaExceeded if nothing was sent: else the call ends before them, as it does after REINGEST_SECONDS.
        """
        end = monotonic() + REINGEST_SECONDS
        selected, last = await self._select(project_pk, selection)
        send = await self._previewing(project_pk, selection, selected) if validate_only else self._sending(selection)
        quota = UNLIMITED if validate_only else await self._ingest.quota(project_pk)
        result, done = Reingested(last=last), ""
        for ids, size in _portions(selected, _most_of(quota)):
            if done and monotonic() > end:
                result.last = done
                break
            until = end if done else monotonic() + FIRST_WAIT_SECONDS
            try:
                async with self._turn(project_pk, quota, until):
                    within = until - monotonic()
                    await self._send_again(project_pk, ids, partial(send, project_pk, size, within), result)
            except ServiceError:
                if not done:
                    raise
                # The counts are returned, and the next call begins with what failed.
                result.last = done
                break
            done = ids[-1]
        return result

    @asynccontextmanager
    async def _turn(self, project_pk: int, quota: Quota, until: float) -> AsyncIterator[None]:
        """Wait while another call sends at the rate of the project: it may send the same events, which costs the quota.

        Raise ProjectRateExceeded if that takes too long.
        """
        if not quota.events_per_second:
            yield
            return
        turn = self._turns[project_pk]
        try:
            async with asyncio.timeout(until - monotonic()):
                await turn.acquire()
        except TimeoutError:
            rate, burst = quota.events_per_second, quota.event_burst or quota.events_per_second
            raise ProjectRateExceeded(rate, burst, 2 * _most_of(quota) / rate) from None
        try:
            yield
        finally:
            turn.release()

    async def _send_again(
        self,
        project_pk: int,
        ids: Sequence[str],
        send: Callable[[Sequence[Draft]], Awaitable[None]],
        result: Reingested,
    ) -> None:
        events = await self._read(project_pk, ids)
        if not events:
            return
        drafts = [await self._draft(project_pk, event) for event in events]
        await send(drafts)
        for draft, event in zip(drafts, events, strict=True):
            # Events that were recorded or deleted meanwhile, perhaps by another server, are not refused any more.
            if not isinstance(draft.error, RefusedEventNotFound):
                result.add(draft, event.name)

    def _sending(self, selection: Selection) -> _Send:
        """Return the function that records the drafts of a call, and its effect in the audit log."""
        recorder, entry_id = self._changes.recorder("ReingestRefusedEvents"), str(uuid7())
        selected = {"idCount": len(set(selection.ids))} if selection.ids else {"filter": _plain(selection.filter)}

        async def send(project_pk: int, size: int, within: float, drafts: Sequence[Draft]) -> None:
            def record(connection: Connection, released: Sequence[str]) -> None:
                effect = AuditedValues("refused_events", released[0], {_COUNTED: len(released), **selected})
                recorder.add(connection, project_pk, entry_id, effect, _COUNTED)

            await self._ingest.reingest(project_pk, drafts, size, record, within)

        return send

    async def _previewing(self, project_pk: int, selection: Selection, selected: Sequence[tuple[str, int]]) -> _Send:
        """Return the function that decides drafts as if previous calls had recorded theirs, and records nothing."""
        previewed: dict[str, str] = {}

        async def send(project_pk: int, size: int, _within: float, drafts: Sequence[Draft]) -> None:
            batch = await self._ingest.validated(project_pk, drafts, size)
            await self._database.read(lambda connection: preview(connection, batch, previewed))

        if selection.after and selected:
            ids = [refused_id for refused_id, _ in selected]
            earlier = await self._database.read(
                lambda connection: refused_event_search.first_of_keys(
                    connection, project_pk, selection.filter, ids, selection.after, selection.ids
                )
            )
            for portion, size in _portions(earlier, PORTION_EVENTS):
                await self._send_again(project_pk, portion, partial(send, project_pk, size, 0.0), Reingested())
        return send

    async def discard(self, project_pk: int, selection: Selection, *, validate_only: bool) -> tuple[int, str]:
        """Delete refused events. Return how many, and the id to continue after, if any. Raise RefusedEventNotFound."""
        selected, last = await self._select(project_pk, selection)
        if validate_only:
            return len(selected), last
        # One transaction, and one entry of the audit log: no more than a send can wait for.
        ids = [refused_id for refused_id, _ in _first(selected, DISCARD_BYTES)]
        if len(ids) < len(selected) and not selection.ids:
            last = ids[-1]

        def work(connection: Connection, record: AuditRecorder) -> int:
            deleted = delete(connection, project_pk, ids)
            discarded = AuditedValues("refused_events", to_valid_text(ids[0]), {"refusedEventCount": deleted})
            record(connection, project_pk, discarded if deleted else None, None)
            return deleted

        return (await self._changes.write("DiscardRefusedEvents", work), last) if ids else (0, last)

    async def _select(self, project_pk: int, selection: Selection) -> tuple[Sequence[tuple[str, int]], str]:
        """Return the ids and sizes of the events that a call is about, and the id to continue after."""
        if selection.ids:
            after = selection.after
            ids = {refused_id for refused_id in selection.ids if not after or refused_id > after}
            return await self._database.read(lambda connection: (store.sizes_of(connection, project_pk, ids), ""))
        return await self._database.read(
            lambda connection: refused_event_search.select_refused(
                connection, project_pk, selection.filter, selection.after, CALL_EVENTS
            )
        )

    async def _read(self, project_pk: int, ids: Sequence[str]) -> Sequence[RefusedEvent]:
        """Read events, without those that were deleted meanwhile."""
        return await self._database.read(lambda connection: store.read_refused(connection, project_pk, ids))

    async def _draft(self, project_pk: int, event: RefusedEvent) -> Draft:
        """Return a refused event as it was sent, by the rules of its API."""
        api = self._apis.get(event.door) or self._apis[""]
        content = event.content
        if event.unreadable:
            draft = _unreadable(event, event.unreadable)
        elif content.properties is None:
            try:
                draft = await api.reread(project_pk, event)
            except SignalboxError as error:
                draft = _unreadable(event, UNREADABLE_ROWS.report("refused_event", event.id, error))
        else:
            draft = Draft(
                name=content.name,
                contact_id=content.contact_id,
                email=content.email,
                given=content.properties,
                occurred_at=content.occurred_at,
                idempotency_key=event.idempotency_key,
                rules=api.rules,
            )
        draft.refused_id, draft.sent_at = event.id, event.received_at
        return draft


def _unreadable(event: RefusedEvent, reason: str) -> Draft:
    """Return the draft of an event that cannot be read as it is stored: it is still refused."""
    return Draft(event.name, "", "", {}, invalid=RowUnreadable("refused_event", event.id, reason))


def _plain(refused: RefusedFilter) -> dict[str, Any]:
    """Return a filter as an entry of the audit log has it."""
    named = {
        "name": refused.name,
        "reason": refused.reason,
        "path": refused.path,
        "door": refused.door,
        "receivedFrom": refused.received_from,
        "receivedUntil": refused.received_until,
    }
    return {name: value if isinstance(value, str) else format_millis(value) for name, value in named.items() if value}


def delete(connection: Connection, project_pk: int, ids: Sequence[str]) -> int:
    """Delete refused events in a transaction of their own. Return how many there were."""
    lock_heads(connection, [project_pk])
    return store.delete_refused(connection, project_pk, ids)


def check_ids(ids: Sequence[str]) -> Sequence[str]:
    """Return the ids. Raise InvalidArgument if there are none or too many."""
    if not 1 <= len(ids) <= CALL_EVENTS:
        message = f"ids has {len(ids):,} IDs; it must have 1 to {CALL_EVENTS:,}"
        raise InvalidArgument.at("ids", "OUT_OF_RANGE", message)
    return ids


def _most_of(quota: Quota) -> int:
    """Return the number of events to send again together: half a second's worth, at half of the rate."""
    rate = quota.events_per_second
    return min(PORTION_EVENTS, max(1, rate // 4)) if rate else PORTION_EVENTS


def _first(selected: Sequence[tuple[str, int]], room: int) -> Sequence[tuple[str, int]]:
    """Return the first events that have at most `room` bytes together, at least one if there are any."""
    for index, (_, size) in enumerate(selected):
        room -= size
        if index and room < 0:
            return selected[:index]
    return selected


def _portions(selected: Sequence[tuple[str, int]], most: int) -> Sequence[tuple[list[str], int]]:
    """Divide events into portions of at most `most`, each with its size."""
    portions: list[tuple[list[str], int]] = []
    for refused_id, size in selected:
        if not portions or len(portions[-1][0]) == most or portions[-1][1] + size > PORTION_BYTES:
            portions.append(([], 0))
        ids, before = portions[-1]
        ids.append(refused_id)
        portions[-1] = ids, before + size
    return portions
