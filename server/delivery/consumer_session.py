"""The rules of a consumer's stream, as plain values: requests in, responses out.

    phase      begins with                            responses
    opening    the consumer's old leases end,         Opened
               except those that it still holds
    serving                                           DeliveryBatch, SettleResults, Heartbeat
    stopped    StopRequest                            SettleResults, Heartbeat; ends when all is settled
    draining   a shutdown of the server               Drain, then as stopped; ends with Stopping when its time is up
    closed     the client ends its side               SettleResults, then the leases left over end

Why it is so:

- *One batch ahead.* The next batch is requested before the last one is sent, so that it is leased with the next commit
  and not with the one after that. It waits here while the transport takes the last one. If that takes long
  (LATE_SECONDS), it is returned, and no later step leases: leases of a slow reader do not end unread. From then on
  matches are requested only while there is nothing to send, until a response is taken in time. A step in progress may
  still deliver one batch; its leases wait here and are extended if they were sent late.
- *Results go before deliveries.* A client that waits for results before it settles more would otherwise wait until
  large batches are sent.
- *Nothing waits for matches that are loaded.* The database may be slow, or others be first; heartbeats and results are
  sent meanwhile. What is not loaded when the stream ends is returned before its leases end, which counts no attempt.
- *Reading has a window.* At most REQUEST_WINDOW requests of a consumer are unanswered; with that number, its stream is
  read no further, which slows the client down through HTTP/2's own flow control.
- *A step in progress may still deliver after a stop.* Its deliveries are returned (`Dispatcher.stop_delivering`), and
  the next step is the first that cannot deliver: the session ends only after that step.
- *A broken connection looks like a closed one at first.* The leases of a client that closed its side end at once, those
  of a broken connection are kept for the client to take over. So the session waits BROKEN_SECONDS: the call of a broken
  connection is cancelled in that time.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from automation.subscriptions.values import Extend, TakeOver
from server.delivery.consumer import Consumer
from server.delivery.heartbeats import heartbeat_time
from server.delivery.loading import load_deliveries, parking, recent_deliveries, trace_deliveries
from server.delivery.match_reader import MAX_LOADED
from server.errors import Stopping
from server.storage.clock import database_now

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence

    from automation.subscriptions.values import Delivery, Settlement, SettleResult
    from server.delivery.dispatcher import Dispatcher
    from server.delivery.loading import LoadedDelivery
    from server.delivery.match_reader import MatchReader
    from server.delivery.subscription_status import SubscriptionStatus
    from server.process.shutdown import Shutdown
    from server.tracing.tracer import Tracer

REQUEST_WINDOW: Final = 16
"""At most this many requests of a consumer are unanswered; its stream is read no further meanwhile."""

LATE_SECONDS: Final = 1.0
"""A response, or leases that wait to be sent, are late after this time, or after a tenth of the ack deadline."""

BROKEN_SECONDS: Final = 0.05
"""The time in which the call of a broken connection is cancelled, after it looked as if the client had closed it."""

LAST_WORD_SECONDS: Final = 0.05
"""Time between the last response and the end of a stream: once the status is there, grpcio's clients read nothing."""

_DRAIN_SHARE: Final = 0.9
"""The part of a server's grace period in which consumers may settle; the streams end in the rest."""


@dataclass(frozen=True, slots=True)
class Opening:
    """The settings with which a consumer opens its stream."""

    subscription: str
    consumer_id: str
    max_outstanding: int
    held_delivery_ids: Sequence[str]
    heartbeat_seconds: float


@dataclass(frozen=True, slots=True)
class SettleRequest:
    """Settles or extends deliveries; `sequence` is chosen by the client and returned with the results."""

    sequence: int
    settlement: Settlement


@dataclass(frozen=True, slots=True)
class StopRequest:
    """Asks for no more deliveries; those delivered can still be settled."""


ConsumerRequest: TypeAlias = SettleRequest | StopRequest


@dataclass(frozen=True, slots=True)
class Opened:
    """The first response: the subscription, and which of the deliveries that the consumer holds it keeps."""

    opening: Opening
    status: SubscriptionStatus
    held_delivery_ids: Sequence[str]


@dataclass(frozen=True, slots=True)
class SettleResults:
    """The results of one SettleRequest, one for each of its deliveries."""

    sequence: int
    results: Sequence[SettleResult]


@dataclass(frozen=True, slots=True)
class DeliveryBatch:
    """Deliveries that fit into one response.

    Whoever writes the response adds the deliveries that it cannot write to `unwritable`, with the reasons; they are
    parked.
    """

    deliveries: Sequence[LoadedDelivery]
    max_attempts: int
    unwritable: list[tuple[Delivery, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Sent when nothing else was sent for the heartbeat interval."""

    floor_position: int
    head_position: int
    outstanding_count: int


@dataclass(frozen=True, slots=True)
class Drain:
    """The server shuts down: nothing more is delivered, and what was delivered can be settled for `grace_seconds`."""

    grace_seconds: float


ConsumerResponse: TypeAlias = Opened | SettleResults | DeliveryBatch | Heartbeat | Drain


@dataclass(frozen=True, slots=True)
class _UnansweredRequest:
    sequence: int
    results: asyncio.Future[list[list[SettleResult]]]


class ConsumerSession:
    """One stream of a consumer, attached to the dispatcher of its subscription while it is used."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        reader: MatchReader,
        shutdown: Shutdown,
        opening: Opening,
        tracer: Tracer | None = None,
    ) -> None:
        self._tracer = tracer
        self.consumer = Consumer(opening.consumer_id, opening.max_outstanding)
        self._dispatcher = dispatcher
        self._reader = reader
        self._shutdown = shutdown
        self._heartbeat_seconds = opening.heartbeat_seconds
        self._unanswered: deque[_UnansweredRequest] = deque()
        self._request_window = asyncio.Semaphore(REQUEST_WINDOW)
        self._batch_size = MAX_LOADED
        self._loading: asyncio.Future[DeliveryBatch | None] | None = None
        self._stop_step: asyncio.Future[Any] | None = None
        self._drain_ends_at: float | None = None
        self._sent_at = 0.0
        self._reads_promptly = True

    async def responses(self, requests: AsyncIterator[ConsumerRequest]) -> AsyncGenerator[ConsumerResponse, None]:
        """Yield the responses after Opened. A response counts as sent when the next response is requested.

        Raise SubscriptionNotFound and ConsumerReplaced, the errors of reading requests, and Stopping at a shutdown.
        """
        reading = asyncio.create_task(self._read(requests), name="read-consumer")
        stopping = asyncio.create_task(self._shutdown.stopping.wait(), name="await-shutdown")
        for task in (reading, stopping):
            task.add_done_callback(self._notice)
        self._note_sent()
        try:
            while (response := await self._next(reading)) is not None:
                with self._sending():
                    if not isinstance(response, DeliveryBatch):
                        yield response
                        self._note_sent()
                        continue
                    try:
                        yield response
                    finally:
                        if response.unwritable:
                            self._dispatcher.submit(parking(response.unwritable))
                if len(response.unwritable) < len(response.deliveries):
                    self._renew_late(response)
                    if self._tracer is not None:
                        trace_deliveries(self._tracer, response.deliveries, self._dispatcher.subscription.id)
                    self._note_sent()
        finally:
            reading.cancel()
            stopping.cancel()
            await asyncio.gather(reading, stopping, self._stop_loading(), return_exceptions=True)

    @contextmanager
    def _sending(self) -> Iterator[None]:
        """Send a response while the context is open; the next batch is requested if the last one was taken in time."""
        if self._reads_promptly:
            self._request()
        self._reads_promptly = True
        late = asyncio.get_running_loop().call_later(self._late_micros / 1_000_000, self._give_way)
        try:
            yield
        finally:
            late.cancel()

    def _give_way(self) -> None:
        """Return the next batch, because the transport is slow to take the last one, and request nothing more."""
        self._reads_promptly = False
        self._dispatcher.request(self.consumer, 0)
        self._dispatcher.return_undelivered(self.consumer.take())

    def _request(self) -> None:
        """Request as many matches as the next batch has room for."""
        if self._stop_step is None and self._loading is None:
            self._dispatcher.request(self.consumer, max(0, self._batch_size - len(self.consumer.deliveries)))

    async def _read(self, requests: AsyncIterator[ConsumerRequest]) -> None:
        async for request in requests:
            if isinstance(request, StopRequest):
                self._stop()
                continue
            await self._request_window.acquire()
            results = self._dispatcher.submit([request.settlement])
            results.add_done_callback(self._notice)
            self._unanswered.append(_UnansweredRequest(request.sequence, results))

    async def _next(self, reading: asyncio.Task[None]) -> ConsumerResponse | None:
        """Wait for the next response; None when the stream is over."""
        while True:
            # Cleared before the state is looked at: a change from here on ends the wait below.
            self.consumer.changed.clear()
            self.consumer.check()
            if self._unanswered and self._unanswered[0].results.done():
                return self._take_results()
            if self._shutdown.stopping.is_set() and self._drain_ends_at is None:
                return self._drain()
            if reading.done() and not self._unanswered:
                # The next batch may have been requested already: what is returned would be leased to it again.
                self._dispatcher.stop_delivering(self.consumer)
                await self._stop_loading()
                await self._end_leases(reading)
                return None
            if self._is_over():
                await self._leave_last_word()
                if self._drain_ends_at is not None:
                    raise Stopping
                return None
            if self._is_loaded():
                if batch := self._take_loaded():
                    return batch
            elif not await self._wait():
                return await self._heartbeat()

    def _take_results(self) -> SettleResults:
        answered = self._unanswered.popleft()
        self._request_window.release()
        return SettleResults(answered.sequence, answered.results.result()[0])

    def _drain(self) -> Drain:
        grace_seconds = self._shutdown.grace_seconds * _DRAIN_SHARE
        self._drain_ends_at = asyncio.get_running_loop().time() + grace_seconds
        self._stop()
        return Drain(grace_seconds)

    def _stop(self) -> None:
        """Request no more matches, and return deliveries of a step in progress."""
        if self._stop_step is None:
            self._dispatcher.stop_delivering(self.consumer)
            # An empty settlement is done after a later step, which cannot deliver.
            self._stop_step = self._dispatcher.submit([])
            self._stop_step.add_done_callback(self._notice)

    def _is_over(self) -> bool:
        """Return whether the drain has taken too long, or a stopped consumer has settled everything."""
        if self._drain_ends_at is not None and asyncio.get_running_loop().time() >= self._drain_ends_at:
            return True
        answered = self._stop_step is not None and self._stop_step.done() and not self._unanswered
        holds = self.consumer.outstanding or self.consumer.deliveries or self._loading is not None
        return answered and not holds

    async def _leave_last_word(self) -> None:
        """Wait until the client has had time to read the last response."""
        await asyncio.sleep(self._sent_at + LAST_WORD_SECONDS - asyncio.get_running_loop().time())

    async def _end_leases(self, reading: asyncio.Task[None]) -> None:
        """End the leases left over, since the client has closed its side. Raise the error of its last request."""
        await reading
        await asyncio.sleep(BROKEN_SECONDS)
        # If a newer stream has replaced this one, the leases are its own by now. One on another server has newer ones:
        # this may take as long as the database is away.
        self.consumer.check()
        await self._dispatcher.take_over(TakeOver(self.consumer.id, newest_serial=self.consumer.newest_serial))

    def _is_loaded(self) -> bool:
        """Begin to load deliveries if there are any. Return whether they are loaded."""
        if self._loading is None and self.consumer.deliveries:
            if batch := self._recent_batch():
                self._loading = asyncio.get_running_loop().create_future()
                self._loading.set_result(batch)
                return True
            self._loading = asyncio.create_task(self._load(), name="load-deliveries")
            self._loading.add_done_callback(self._notice)
        return self._loading is not None and self._loading.done()

    def _take_loaded(self) -> DeliveryBatch | None:
        loading, self._loading = self._loading, None
        return loading.result() if loading is not None else None

    async def _stop_loading(self) -> None:
        """Return deliveries that are being loaded, or are loaded and not sent."""
        if self._loading is None:
            return
        self._loading.cancel()
        await asyncio.wait({self._loading})
        with suppress(Exception, asyncio.CancelledError):
            if batch := self._take_loaded():
                self._dispatcher.return_undelivered([delivery for delivery, _ in batch.deliveries])

    async def _load(self) -> DeliveryBatch | None:
        """Load the deliveries that fit into a response; None if none of them can be read.

        The next request is for as many as fitted, so that few are returned. It grows again while all fit.
        """
        deliveries = self.consumer.take()
        return self._batch(deliveries, await load_deliveries(self._reader, self._dispatcher, deliveries))

    def _recent_batch(self) -> DeliveryBatch | None:
        """Return the deliveries that wait if their matches are in memory, as they are after a commit."""
        deliveries = self.consumer.deliveries
        loaded = recent_deliveries(self._reader, self._dispatcher, deliveries)
        if not loaded:
            return None
        self.consumer.take()
        return self._batch(deliveries, loaded)

    def _batch(self, deliveries: Sequence[Delivery], loaded: Sequence[LoadedDelivery]) -> DeliveryBatch | None:
        all_fit = len(loaded) == len(deliveries)
        self._batch_size = min(MAX_LOADED, 2 * self._batch_size) if all_fit else max(1, len(loaded))
        return DeliveryBatch(loaded, self._dispatcher.subscription.max_attempts) if loaded else None

    def _renew_late(self, batch: DeliveryBatch) -> None:
        """Extend the leases of a batch if the transport took it long after they began."""
        leased_at = batch.deliveries[0].delivery.lease_expires_at - self._dispatcher.subscription.ack_deadline
        if database_now() - leased_at > self._late_micros:
            self._dispatcher.submit([Extend([delivery.id for delivery, _ in batch.deliveries])])

    @property
    def _late_micros(self) -> float:
        return min(LATE_SECONDS * 1_000_000, self._dispatcher.subscription.ack_deadline / 10)

    async def _wait(self) -> bool:
        """Request matches unless some wait, and wait for a change. Return False if a heartbeat is due."""
        self._request()
        heartbeat_at = heartbeat_time(self._sent_at + self._heartbeat_seconds)
        until = heartbeat_at if self._drain_ends_at is None else min(heartbeat_at, self._drain_ends_at)
        # A timer takes a quarter of the time of `asyncio.timeout_at`.
        loop = asyncio.get_running_loop()
        timer = loop.call_at(until, self.consumer.changed.set)
        try:
            await self.consumer.changed.wait()
        finally:
            timer.cancel()
        if loop.time() < until:
            return True
        self._dispatcher.request(self.consumer, 0)
        return until < heartbeat_at

    async def _heartbeat(self) -> Heartbeat:
        floor_position = self._dispatcher.subscription.floor_position
        head_position = await self._dispatcher.head_position()
        return Heartbeat(floor_position, head_position, self.consumer.outstanding)

    def _note_sent(self) -> None:
        self._sent_at = asyncio.get_running_loop().time()

    def _notice(self, _: asyncio.Future[Any]) -> None:
        self.consumer.changed.set()
