"""ConsumeMatches: one consumer of a subscription over one stream."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from uuid_utils import uuid7

from automation.subscriptions.values import Extend
from registry.errors import Violation
from registry.timestamps import now_micros
from server.api.messages.subscriptions import (
    duration,
    read_consumer_id,
    read_settle,
    write_deliveries,
    write_result,
    write_subscription,
)
from server.api.messages.watches import read_heartbeat_seconds
from server.delivery.dispatcher import Consumer
from server.delivery.match_reader import MAX_LOADED
from server.errors import InvalidArgument, InvalidConsumer, Stopping
from signalbox.v1 import match_stream_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Sequence

    from automation.subscriptions.values import Delivery, SettleResult
    from server.delivery.dispatcher import Dispatcher
    from server.delivery.match_reader import LoadedMatch
    from server.delivery.subscriptions import Subscriptions

DEFAULT_OUTSTANDING: Final = 100
MAX_OUTSTANDING: Final = 10_000

REQUEST_WINDOW: Final = 16
"""So many messages of one consumer are being settled at once; it is read no further meanwhile."""

LATE_SECONDS: Final = 1.0
"""Leases that began so long, or a tenth of the ack deadline, before they were handed over begin anew."""

BROKEN_SECONDS: Final = 0.05
"""A connection that breaks looks at first as if the client had closed its side; then the call is cancelled."""

_CLOSING_SHARE: Final = 0.9
"""The part of a server's grace in which consumers may settle; in the rest the streams end."""


@dataclass(frozen=True, slots=True)
class Shutdown:
    """When the server shuts down, and how long calls then have to end."""

    stopping: asyncio.Event
    grace_seconds: float


@dataclass(frozen=True, slots=True)
class Opening:
    """What a consumer opens with; the heartbeat interval is in seconds."""

    subscription: str
    consumer_id: str
    max_outstanding: int
    held_delivery_ids: Sequence[str]
    heartbeat_seconds: float


async def read_open(requests: AsyncIterator[pb.ConsumeMatchesRequest], shutdown: Shutdown) -> Opening:
    """Read the first message of a stream. Raises InvalidArgument, InvalidConsumer and Stopping."""
    reading = asyncio.ensure_future(anext(requests, None))
    stopping = asyncio.create_task(shutdown.stopping.wait())
    try:
        await asyncio.wait({reading, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not reading.done():
            raise Stopping
        first = await reading
    finally:
        reading.cancel()
        stopping.cancel()
        await asyncio.gather(reading, stopping, return_exceptions=True)
    if first is None or first.WhichOneof("message") != "open":
        message = "The first message of the stream must be `open`"
        raise InvalidArgument(message, violations=[Violation("message", "INVALID_MESSAGE", message)])
    return _read_opening(first.open)


def _read_opening(message: pb.OpenConsumer) -> Opening:
    window = message.max_outstanding if message.HasField("max_outstanding") else DEFAULT_OUTSTANDING
    if not 1 <= window <= MAX_OUTSTANDING:
        raise _refused("max_outstanding", f"max_outstanding is {window:,}; it must be 1 to {MAX_OUTSTANDING:,}")
    held = len(message.held_delivery_ids)
    if held > MAX_OUTSTANDING:
        raise _refused(
            "held_delivery_ids", f"held_delivery_ids has {held:,} IDs; at most {MAX_OUTSTANDING:,} are allowed"
        )
    try:
        heartbeat = read_heartbeat_seconds(message)
    except InvalidArgument as error:
        raise InvalidConsumer(error.message, violations=error.violations) from None
    return Opening(
        message.subscription,
        read_consumer_id(message.consumer_id) or str(uuid7()),
        window,
        list(message.held_delivery_ids),
        heartbeat,
    )


def _refused(field: str, message: str) -> InvalidConsumer:
    return InvalidConsumer(message, violations=[Violation(field, "OUT_OF_RANGE", message)])


class ConsumerStream:
    """One ConsumeMatches call behind its first message.

    It asks for deliveries only while it has nothing to hand over: so no lease waits in a queue.
    """

    def __init__(self, subscriptions: Subscriptions, shutdown: Shutdown, opening: Opening) -> None:
        self._subscriptions = subscriptions
        self._shutdown = shutdown
        self._opening = opening
        self._consumer = Consumer(opening.consumer_id, opening.max_outstanding)
        self._answers: deque[tuple[int, asyncio.Future[list[list[SettleResult]]]]] = deque()
        self._window = asyncio.Semaphore(REQUEST_WINDOW)
        self._room = MAX_LOADED
        self._stopped: asyncio.Future[Any] | None = None
        self._close_at: float | None = None
        self._sent_at = 0.0

    async def answers(
        self, requests: AsyncIterator[pb.ConsumeMatchesRequest], project_pk: int
    ) -> AsyncGenerator[pb.ConsumeMatchesResponse, None]:
        """Give the messages of the server.

        Raises SubscriptionNotFound, ConsumerReplaced, InvalidArgument, and Stopping when the server shuts down.
        """
        name = self._opening.subscription
        current = await self._subscriptions.find(project_pk, name)
        with self._subscriptions.used(current, name) as dispatcher, dispatcher.attached(self._consumer):
            held = await dispatcher.take_over(self._consumer.id, self._opening.held_delivery_ids)
            described, _ = await self._subscriptions.get(project_pk, current.id)
            opened = pb.ConsumerOpened(
                subscription=write_subscription(described),
                consumer_id=self._consumer.id,
                max_outstanding=self._opening.max_outstanding,
                held_delivery_ids=held,
                heartbeat_interval=duration(round(self._opening.heartbeat_seconds * 1_000_000)),
            )
            yield pb.ConsumeMatchesResponse(opened=opened)
            reading = asyncio.create_task(self._read(requests, dispatcher))
            stopping = asyncio.create_task(self._shutdown.stopping.wait())
            for task in (reading, stopping):
                task.add_done_callback(lambda _: self._consumer.changed.set())
            try:
                async with aclosing(self._serve(dispatcher, reading)) as responses:
                    async for response in responses:
                        yield response
            finally:
                reading.cancel()
                stopping.cancel()
                await asyncio.gather(reading, stopping, return_exceptions=True)

    async def _serve(
        self, dispatcher: Dispatcher, reading: asyncio.Task[None]
    ) -> AsyncGenerator[pb.ConsumeMatchesResponse, None]:
        """Hand over whatever is there, results first, until the stream is over."""
        self._note_sent()
        while True:
            self._consumer.changed.clear()
            self._consumer.check()
            if self._answers and self._answers[0][1].done():
                yield self._write_results()
            elif self._shutdown.stopping.is_set() and self._close_at is None:
                yield self._drain(dispatcher)
            elif reading.done() and not self._answers:
                await self._end(dispatcher, reading)
                return
            elif self._is_over():
                if self._close_at is not None:
                    raise Stopping
                return
            elif self._consumer.deliveries:
                handed = await self._load(dispatcher)
                response = self._write_deliveries(dispatcher, handed)
                if not response.deliveries.deliveries:
                    continue
                yield response
                self._renew_late(dispatcher, handed)
            elif await self._wait(dispatcher):
                continue
            else:
                yield await self._heartbeat(dispatcher)
            self._note_sent()

    async def _read(self, requests: AsyncIterator[pb.ConsumeMatchesRequest], dispatcher: Dispatcher) -> None:
        async for request in requests:
            if request.WhichOneof("message") == "stop":
                self._stop(dispatcher)
                continue
            settle = read_settle(request)
            await self._window.acquire()
            done = dispatcher.submit([settle])
            done.add_done_callback(lambda _: self._consumer.changed.set())
            self._answers.append((request.sequence, done))

    def _write_results(self) -> pb.ConsumeMatchesResponse:
        sequence, done = self._answers.popleft()
        self._window.release()
        response = pb.ConsumeMatchesResponse()
        response.results.sequence = sequence
        for each in done.result()[0]:
            write_result(each, response.results.results.add())
        return response

    def _drain(self, dispatcher: Dispatcher) -> pb.ConsumeMatchesResponse:
        grace = self._shutdown.grace_seconds * _CLOSING_SHARE
        self._close_at = asyncio.get_running_loop().time() + grace
        self._stop(dispatcher)
        return pb.ConsumeMatchesResponse(drain=pb.ConsumerDrain(grace_period=duration(round(grace * 1_000_000))))

    def _stop(self, dispatcher: Dispatcher) -> None:
        """Ask for no more; what a step under way still delivers goes back."""
        if self._stopped is None:
            dispatcher.stop_delivering(self._consumer)
            # The next step is the first one that cannot deliver.
            self._stopped = dispatcher.submit([])
            self._stopped.add_done_callback(lambda _: self._consumer.changed.set())

    def _is_over(self) -> bool:
        if self._close_at is not None and asyncio.get_running_loop().time() >= self._close_at:
            return True
        settled = self._stopped is not None and self._stopped.done() and not self._answers
        return settled and not self._consumer.outstanding and not self._consumer.deliveries

    async def _end(self, dispatcher: Dispatcher, reading: asyncio.Task[None]) -> None:
        """End the leases left, since the client has closed its side. Raises what was wrong with its last message."""
        await reading
        await asyncio.sleep(BROKEN_SECONDS)
        # The leases are those of a newer stream by now, if there is one.
        self._consumer.check()
        await dispatcher.take_over(self._consumer.id)

    async def _load(self, dispatcher: Dispatcher) -> Sequence[tuple[Delivery, LoadedMatch]]:
        """Load what was delivered and fits a message, and see to it that as much is delivered next time."""
        deliveries = self._consumer.take()
        loaded = await self._subscriptions.load(dispatcher, deliveries)
        self._room = min(MAX_LOADED, 2 * self._room) if len(loaded) == len(deliveries) else max(1, len(loaded))
        return loaded

    def _write_deliveries(
        self, dispatcher: Dispatcher, handed: Sequence[tuple[Delivery, LoadedMatch]]
    ) -> pb.ConsumeMatchesResponse:
        response = pb.ConsumeMatchesResponse()
        unreadable = write_deliveries(handed, dispatcher.current.max_attempts, response.deliveries)
        self._subscriptions.park(dispatcher, unreadable)
        return response

    def _renew_late(self, dispatcher: Dispatcher, handed: Sequence[tuple[Delivery, LoadedMatch]]) -> None:
        """Let leases begin anew that were not handed to the transport soon after they began."""
        deadline = dispatcher.current.ack_deadline
        late = now_micros() - (handed[0][0].lease_expires_at - deadline)
        if late > min(LATE_SECONDS * 1_000_000, deadline / 10):
            dispatcher.submit([Extend([delivery.id for delivery, _ in handed])])

    async def _wait(self, dispatcher: Dispatcher) -> bool:
        """Ask for deliveries and wait for news; False when a heartbeat is due."""
        latest = self._sent_at + self._opening.heartbeat_seconds
        if self._stopped is None:
            dispatcher.request(self._consumer, self._room)
        try:
            async with asyncio.timeout_at(latest if self._close_at is None else min(latest, self._close_at)):
                await self._consumer.changed.wait()
        except TimeoutError:
            return self._close_at is not None and asyncio.get_running_loop().time() < latest
        finally:
            dispatcher.request(self._consumer, 0)
        return True

    async def _heartbeat(self, dispatcher: Dispatcher) -> pb.ConsumeMatchesResponse:
        current = dispatcher.current
        return pb.ConsumeMatchesResponse(
            heartbeat=pb.ConsumerHeartbeat(
                floor_position=current.floor_position,
                head_position=await dispatcher.head_position(),
                outstanding_count=self._consumer.outstanding,
            )
        )

    def _note_sent(self) -> None:
        self._sent_at = asyncio.get_running_loop().time()
