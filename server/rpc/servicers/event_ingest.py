"""The service EventIngest."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

from registry.errors import SignalboxError
from server.errors import ContactRequired, InvalidArgument
from server.ingest.commit_queue import SMALL_BYTES, SMALL_EVENTS
from server.ingest.draft import Draft
from server.paging import PageRequest
from server.process.shutdown import until
from server.rpc.messages.enums import BATCH_MODE, RESULT_VIEW, View
from server.rpc.messages.events import (
    event_message,
    read_draft_or_refuse,
    unreadable_draft,
    write_error,
    write_event,
)
from server.rpc.messages.receipts import result_slices, write_results
from server.rpc.messages.response_size import write_page
from server.rpc.messages.send_event_json import SentEvent
from server.rpc.messages.times import read_timestamp
from server.rpc.request_size import request_size
from server.services.emails import normalize_email
from server.storage.events.reading import EventFilter
from signalbox.v1 import event_ingest_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence

    from server.auth.caller import Caller
    from server.ingest.draft import Batch, BatchMode
    from server.ingest.ingest import Ingest
    from server.rpc.messages.structs import Later
    from server.rpc.messages.typed_properties import TypedReaders
    from server.services.events import Events
    from server.sharing.loop_time import LoopTime, Slices

MAX_BATCH = 10_000

_FREED_AT_ONCE = 50
"""Drafts of small events between two looks at the clock."""

STREAM_WINDOW = 8
"""How many messages of one stream are on their way to the log at once."""


class EventIngestServicer:
    """Sends and reads events."""

    def __init__(
        self, ingest: Ingest, events: Events, typed: TypedReaders, stopping: asyncio.Event, loop_time: LoopTime
    ) -> None:
        self._ingest = ingest
        self._events = events
        self._batches = _Batches(typed, loop_time)
        self._loop_time = loop_time
        self._typed = typed
        self._stopping = stopping

    async def SendEvent(self, request: pb.SendEventRequest | Draft, caller: Caller) -> pb.SendEventResponse | SentEvent:
        size = request_size()
        if isinstance(request, Draft):
            await self._ingest.send(caller.project_pk, request, size)
            return SentEvent(request, View.COERCED)
        event = request.event
        typed = event.HasField("typed_properties")
        readers = await self._typed.needed(caller.project_pk, (event,)) if typed else {}
        if size <= SMALL_BYTES:
            draft = read_draft_or_refuse(event, readers)
        else:
            later: Later = []
            async with self._loop_time.slices(caller.project_pk) as slices:
                draft = read_draft_or_refuse(event, readers, later)
                draft = await _finished(event, draft, chain.from_iterable(later), slices)
        view = RESULT_VIEW.read_optional(request.view, "view") or View.COERCED
        await self._ingest.send(caller.project_pk, draft, size)
        sent = SentEvent(draft, view)
        return sent if size <= SMALL_BYTES else sent.message()

    async def SendEvents(self, request: pb.SendEventsRequest, caller: Caller) -> pb.SendEventsResponse:
        await self._ingest.admit(caller.project_pk, len(request.events), request_size())
        drafts, mode, view = await self._batches.read(request, caller.project_pk)
        del request
        response = pb.SendEventsResponse()
        try:
            await self._ingest.send_batch(caller.project_pk, drafts, mode, request_size())
            await self._batches.write(caller.project_pk, drafts, view, response)
        except SignalboxError as error:
            raise error.detached() from None
        finally:
            # A copy, because the commit of a batch whose caller has gone goes on.
            held, drafts = list(drafts), ()
            await self._batches.free(caller.project_pk, held)
        return response

    async def StreamEvents(
        self, requests: AsyncIterator[pb.StreamEventsRequest], caller: Caller
    ) -> AsyncGenerator[pb.StreamEventsResponse, None]:
        stream = _EventStream(self._ingest, caller.project_pk, self._batches, self._stopping)
        async with aclosing(stream.responses(requests)) as responses:
            async for response in responses:
                yield response

    async def GetEvent(self, request: pb.GetEventRequest, caller: Caller) -> pb.GetEventResponse:
        response = pb.GetEventResponse()
        write_event(await self._events.get(caller.project_pk, request.id), response.event)
        return response

    async def ListEvents(self, request: pb.ListEventsRequest, caller: Caller) -> pb.ListEventsResponse:
        page = await self._events.list(
            caller.project_pk,
            _read_filter(request),
            PageRequest(request.page_size, request.page_token),
            after=request.after_position if request.HasField("after_position") else None,
        )
        response = pb.ListEventsResponse()
        response.next_page_token = write_page(page, event_message, response.events)
        return response


class _EventStream:
    """One StreamEvents call: reads up to a window ahead of its responses, so that commits and the network overlap."""

    def __init__(self, ingest: Ingest, project_pk: int, batches: _Batches, stopping: asyncio.Event) -> None:
        self._ingest = ingest
        self._project_pk = project_pk
        self._batches = batches
        self._stopping = stopping
        self._window = asyncio.Semaphore(STREAM_WINDOW)
        self._pending: asyncio.Queue[_Pending | None] = asyncio.Queue()

    async def responses(
        self, requests: AsyncIterator[pb.StreamEventsRequest]
    ) -> AsyncGenerator[pb.StreamEventsResponse, None]:
        """Yield the responses in the order of the messages; at a shutdown of those read, then raise Stopping."""
        reading = asyncio.create_task(until(self._stopping, self._read(requests)))
        try:
            while (pending := await self._pending.get()) is not None:
                yield await self._response(pending)
                self._window.release()
            await reading
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _read(self, requests: AsyncIterator[pb.StreamEventsRequest]) -> None:
        try:
            await self._window.acquire()
            async for request in requests:
                self._pending.put_nowait(await self._enqueue(request))
                del request
                # Before the next message is taken over: the bytes of a message count until it is queued.
                await self._window.acquire()
        finally:
            self._pending.put_nowait(None)

    async def _enqueue(self, request: pb.StreamEventsRequest) -> _Pending:
        try:
            drafts, mode, view = await self._batches.read(request, self._project_pk)
            batch = await self._ingest.enqueue(self._project_pk, drafts, mode, request_size())
        except SignalboxError as error:
            return _Pending(request.sequence, View.RECEIPT, error.detached())
        return _Pending(request.sequence, view, batch)

    async def _response(self, pending: _Pending) -> pb.StreamEventsResponse:
        """Return the response to a message once it is decided and durable."""
        response = pb.StreamEventsResponse(sequence=pending.sequence)
        if isinstance(pending.outcome, SignalboxError):
            response.error.CopyFrom(write_error(pending.outcome))
            return response
        batch = pending.outcome
        try:
            await batch.done
            batch.check()
        except SignalboxError as error:
            response.error.CopyFrom(write_error(error))
            return response
        await self._batches.write(self._project_pk, batch.drafts, pending.view, response)
        held, batch.drafts = list(batch.drafts), ()
        await self._batches.free(self._project_pk, held)
        return response


@dataclass(frozen=True, slots=True)
class _Pending:
    """A message of a stream that was read and is yet to be answered."""

    sequence: int
    view: View
    outcome: Batch | SignalboxError


class _Batches:
    """Reads and answers batches, large ones in slices of the loop's time."""

    def __init__(self, typed: TypedReaders, loop_time: LoopTime) -> None:
        self._typed = typed
        self._loop_time = loop_time

    async def read(
        self, request: pb.SendEventsRequest | pb.StreamEventsRequest, project_pk: int
    ) -> tuple[Sequence[Draft], BatchMode, View]:
        """Read a batch; an event that cannot be read becomes a draft that is refused. Raise InvalidArgument."""
        if not 1 <= len(request.events) <= MAX_BATCH:
            message = f"events has {len(request.events):,} events; it must have 1 to {MAX_BATCH:,}"
            raise InvalidArgument.at("events", "OUT_OF_RANGE", message)
        mode = BATCH_MODE.read(request.mode, "mode")
        view = RESULT_VIEW.read_optional(request.view, "view") or View.RECEIPT
        # Each pass over the repeated field wraps every event anew.
        events = list(request.events)
        readers = await self._typed.needed(project_pk, events)
        if len(events) <= SMALL_EVENTS and request_size() <= SMALL_BYTES:
            return [read_draft_or_refuse(event, readers) for event in events], mode, view
        drafts: list[Draft] = []
        later: Later = []
        async with self._loop_time.slices(project_pk) as slices:
            for event in events:
                draft = read_draft_or_refuse(event, readers, later)
                drafts.append(await _finished(event, draft, later.pop(), slices) if later else draft)
                if slices.used_up():
                    await slices.pause()
        return drafts, mode, view

    async def write(
        self,
        project_pk: int,
        drafts: Sequence[Draft],
        view: View,
        response: pb.SendEventsResponse | pb.StreamEventsResponse,
    ) -> None:
        """Write the results of a batch that is decided."""
        if len(drafts) <= SMALL_EVENTS:
            write_results(drafts, view, response.results)
            return
        async with self._loop_time.slices(project_pk) as slices:
            for _ in result_slices(drafts, view, response.results):
                if slices.used_up():
                    await slices.pause()

    async def free(self, project_pk: int, held: list[Draft]) -> None:
        """Let go of drafts, of which the list has the last references: freeing all at once takes up to 100 ms."""
        if len(held) <= SMALL_EVENTS:
            return
        async with self._loop_time.slices(project_pk) as slices:
            while held:
                del held[-_FREED_AT_ONCE:]
                if slices.used_up():
                    await slices.pause()


async def _finished(event: pb.EventInput, draft: Draft, work: Iterator[object], slices: Slices) -> Draft:
    """Read the rest of a large event; return a draft that is refused if that cannot be read."""
    try:
        await slices.run(work)
    except SignalboxError as error:
        return unreadable_draft(event, error.detached())
    return draft


def _read_filter(request: pb.ListEventsRequest) -> EventFilter:
    if request.HasField("contact_id") and not request.contact_id:
        raise ContactRequired
    if request.after_position < 0:
        message = f"after_position is {request.after_position}; it must not be negative"
        raise InvalidArgument.at("after_position", "OUT_OF_RANGE", message)
    times: dict[str, Any] = {
        field: read_timestamp(request, field)
        for field in ("received_from", "received_until", "occurred_from", "occurred_until")
    }
    return EventFilter(
        name=request.name,
        contact_id=request.contact_id,
        email=normalize_email(request.email) if request.HasField("email") else "",
        **times,
    )
