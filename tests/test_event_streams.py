"""Streams of events as the API reads them: how far ahead of the responses, and how they end; and filters of events."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from server.errors import ContactRequired, InvalidArgument, MalformedRequest, QueueFull, Stopping
from server.ingest.draft import Batch, BatchMode
from server.rpc.servicers.event_ingest import STREAM_WINDOW, _Batches, _EventStream, _read_filter
from server.sharing.loop_time import LoopTime
from server.storage.events.reading import EventFilter
from signalbox.v1 import event_ingest_pb2 as pb
from tests.support.messages import event

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from server.ingest.draft import Draft


class Ingest:
    """Stands for the log: batches wait until a test decides them."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.full = False

    async def enqueue(self, _project_pk: int, drafts: Sequence[Draft], mode: BatchMode, size: int) -> Batch:
        if self.full:
            raise QueueFull
        snapshot: Any = None
        batch = Batch(snapshot, drafts, mode, asyncio.get_running_loop().create_future(), size)
        self.batches.append(batch)
        return batch

    def decide(self, error: Exception | None = None) -> None:
        """Decide the oldest batch: all of its events are refused, so that there is nothing to write but that."""
        batch = self.batches.pop(0)
        for draft in batch.drafts:
            draft.error = error or InvalidArgument("It is refused")
        batch.done.set_result(None)


class NoTyped:
    async def needed(self, _project_pk: int, _events: Any) -> dict[Any, Any]:
        return {}


class Stream:
    """A stream of messages of one event each."""

    def __init__(self, count: int, failure: Exception | None = None) -> None:
        self.ingest = Ingest()
        self.stopping = asyncio.Event()
        self.read = 0
        self._count = count
        self._failure = failure
        ingest: Any = self.ingest
        typed: Any = NoTyped()
        self.responses = _EventStream(ingest, 1, _Batches(typed, LoopTime()), self.stopping).responses(self._requests())

    async def _requests(self) -> AsyncIterator[pb.StreamEventsRequest]:
        for sequence in range(1, self._count + 1):
            self.read += 1
            yield pb.StreamEventsRequest(sequence=sequence, events=[event()], mode=pb.BATCH_MODE_INDEPENDENT)
        if self._failure is not None:
            raise self._failure


async def settle() -> None:
    """Let everything go on that can."""
    for _ in range(50):
        await asyncio.sleep(0)


async def test_a_stream_is_read_up_to_a_window_ahead_of_its_responses() -> None:
    stream = Stream(20)
    first = asyncio.ensure_future(anext(stream.responses))
    await settle()
    # The next message is not taken over: it waits in the transport, whose bounds hold for it.
    assert (len(stream.ingest.batches), stream.read) == (STREAM_WINDOW, STREAM_WINDOW)
    stream.ingest.decide()
    assert (await first).sequence == 1
    second = asyncio.ensure_future(anext(stream.responses))
    await settle()
    assert (len(stream.ingest.batches), stream.read) == (STREAM_WINDOW, STREAM_WINDOW + 1)
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)


async def test_responses_come_in_the_order_of_the_messages() -> None:
    stream = Stream(20)
    found: list[int] = []
    reading = asyncio.create_task(sequences(stream, found))
    for _ in range(20):
        await settle()
        stream.ingest.decide()
    await reading
    assert found == list(range(1, 21))


async def sequences(stream: Stream, found: list[int]) -> None:
    async for response in stream.responses:
        assert response.results[0].error.reason == "INVALID_ARGUMENT"
        found.append(response.sequence)


async def test_a_message_that_is_refused_at_once_is_answered_in_its_turn() -> None:
    stream = Stream(2)
    stream.ingest.full = True
    found = [(each.sequence, each.error.reason) async for each in stream.responses]
    assert found == [(1, "QUEUE_FULL"), (2, "QUEUE_FULL")]


@pytest.mark.parametrize("failure", [MalformedRequest("It is no message"), Stopping()])
async def test_a_stream_that_fails_is_answered_as_far_as_it_was_read(failure: Exception) -> None:
    stream = Stream(2, failure)
    found: list[int] = []
    reading = asyncio.create_task(sequences(stream, found))
    await settle()
    for _ in range(2):
        stream.ingest.decide()
    with pytest.raises(type(failure)):
        await reading
    assert found == [1, 2]


async def test_at_a_shutdown_what_was_read_is_answered() -> None:
    stream = Stream(20)
    found: list[int] = []
    reading = asyncio.create_task(sequences(stream, found))
    await settle()
    stream.stopping.set()
    await settle()
    while stream.ingest.batches:
        stream.ingest.decide()
        await settle()
    with pytest.raises(Stopping):
        await reading
    assert found == list(range(1, STREAM_WINDOW + 1))


async def test_a_caller_that_goes_leaves_nothing_running() -> None:
    stream = Stream(20)
    reading = asyncio.ensure_future(anext(stream.responses))
    await settle()
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []


# Filters


def test_a_filter_has_what_the_request_names() -> None:
    assert _read_filter(pb.ListEventsRequest()) == EventFilter()
    request = pb.ListEventsRequest(name="paid", email=" Ada@Example.com", after_position=0)
    for seconds, field in enumerate(("received_from", "received_until", "occurred_from", "occurred_until"), 1):
        getattr(request, field).seconds = seconds
    assert _read_filter(request) == EventFilter(
        name="paid",
        email="ada@example.com",
        received_from=1_000_000,
        received_until=2_000_000,
        occurred_from=3_000_000,
        occurred_until=4_000_000,
    )
    assert _read_filter(pb.ListEventsRequest(contact_id="c1")) == EventFilter(contact_id="c1")


def test_a_filter_that_names_nobody_or_no_position_is_refused() -> None:
    with pytest.raises(ContactRequired):
        _read_filter(pb.ListEventsRequest(contact_id=""))
    with pytest.raises(InvalidArgument, match="email"):
        _read_filter(pb.ListEventsRequest(email=""))
    with pytest.raises(InvalidArgument, match="after_position is -1; it must not be negative"):
        _read_filter(pb.ListEventsRequest(after_position=-1))
