"""Pushes the matches of one subscription: a consumer of its dispatcher, as a stream of ConsumeMatches is.

    begin     take over the leases that an earlier server or session has left
    serve     request as many matches as may be in progress, write their bodies in order, send each in a task
    pause     request nothing, return what has not been sent (`retry_policy`)
    stop      send nothing more, return what has not been sent, wait STOP_SECONDS for responses, nack the rest

Rules:

- *Leases of all held matches are extended*: a match may wait for its body to be written or for the budget of requests,
  which all subscriptions share, and a receiver may take longer than a lease lasts.
- *Settlements are submitted at once*, those of one turn of the event loop together. The consumer may have twice as many
  leases as requests in progress: while acknowledgements become durable, the next matches are already sent.
- *A match that was never sent counts no attempt*: it is returned, not nacked. The exceptions are the requests that find
  a receiver unreachable (`retry_policy`).
- *A match is checked again before it is sent*, once there is a connection: while it waited for the budget or the
  connection, its contact may have been erased, or the session have been stopped because the push was changed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import structlog

from automation.subscriptions.push import PushAttempt
from automation.subscriptions.values import Ack, Extend, Nack, TakeOver
from registry.sql.unreadable_rows import UNREADABLE, describe_error
from registry.times.timestamps import now_micros
from server.current_call.context import as_server
from server.delivery.consumer import Consumer
from server.delivery.loading import load_deliveries, parking
from server.delivery.push.responses import PushWithdrawn
from server.delivery.push.retry_policy import RetryPolicy
from server.delivery.push.sender import PushSender
from server.errors import Stopping, StorageError
from server.process.shutdown import until
from server.sharing.current_project import work_for

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence

    from automation.subscriptions.push import Push
    from automation.subscriptions.values import Delivery, Settlement, Subscription
    from server.delivery.dispatcher import Dispatcher
    from server.delivery.dispatchers import Dispatchers
    from server.delivery.loading import LoadedDelivery
    from server.delivery.match_reader import MatchReader
    from server.delivery.push.attempt_log import AttemptLog
    from server.delivery.push.budget import PushBudget
    from server.delivery.push.client import PushClient
    from server.delivery.recent_matches import LoadedMatch, LoadStamp
    from server.metrics import Metrics
    from server.tracing.tracer import Tracer

log = structlog.get_logger()

CONSUMER_ID: Final = "push"
"""The consumer id of every server, so that one takes over the leases of another."""

STOP_SECONDS: Final = 1.0
"""How long a session that stops waits for responses; then the next one may begin."""

EXTENSIONS: Final = 3
"""How often the leases of held matches are extended within the ack deadline."""

CUT_OFF: Final = "the server did not wait for the response, because it stopped or the push was changed"

_SECOND: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class PushTools:
    """What the sessions of a server share."""

    dispatchers: Dispatchers
    reader: MatchReader
    client: PushClient
    budget: PushBudget
    attempts: AttemptLog
    metrics: Metrics
    write_body: Callable[[LoadedMatch], Awaitable[bytes]]
    tracer: Tracer | None = None


class PushSession:
    """One subscription while this server pushes it; `may_send` returns whether it still is the one that does."""

    def __init__(self, tools: PushTools, subscription: Subscription, push: Push, may_send: Callable[[], bool]) -> None:
        self.push = push
        self.subscription_id = subscription.id
        self.project_pk = subscription.project_pk
        self._tools = tools
        self._subscription = subscription
        self._may_send = may_send
        self._sender = PushSender(tools.client, tools.metrics, push, tools.tracer)
        self._consumer = Consumer(CONSUMER_ID, 2 * push.max_in_flight, pushes=True)
        self._held: dict[str, Delivery] = {}
        self._requests: set[asyncio.Task[None]] = set()
        self._acks: list[str] = []
        self._nacks: list[Settlement] = []
        self._stopping = asyncio.Event()
        self._policy = RetryPolicy(push.max_in_flight)

    async def run(self) -> str:
        """Push until `stop` is called, or until the receiver wants no further requests; return the reason then.

        Raise SubscriptionNotFound, and StorageError if a step fails.
        """
        as_server()
        work_for(self._subscription.project_pk)
        used = self._tools.dispatchers.used(self._subscription)
        with used as dispatcher, dispatcher.attached(self._consumer):
            keeping = asyncio.create_task(self._keep_leases(dispatcher), name="keep-push-leases")
            try:
                await dispatcher.take_over(TakeOver(CONSUMER_ID))
                await self._serve(dispatcher)
            finally:
                keeping.cancel()
                await self._end(dispatcher)
        return self._policy.gone

    def stop(self) -> None:
        """Let the session end soon: it sends nothing more."""
        self._stopping.set()
        self.wake()

    def wake(self) -> None:
        """Look again whether matches may be sent."""
        self._consumer.changed.set()

    async def _serve(self, dispatcher: Dispatcher) -> None:
        while not self._stopping.is_set():
            self._consumer.changed.clear()
            self._consumer.check()
            if deliveries := self._consumer.take():
                await self._send_all(dispatcher, deliveries)
            else:
                # Read once, and before the room: otherwise, if the pause ended in between, nothing would end the wait.
                paused_until = self._policy.paused_until if self._policy.is_paused() else None
                dispatcher.request(self._consumer, self._room())
                await self._wait(paused_until)

    def _room(self) -> int:
        """Return the number of further matches that may be in progress."""
        return max(0, self._policy.window - len(self._held)) if self._can_send() else 0

    def _can_send(self) -> bool:
        return not self._stopping.is_set() and not self._policy.is_paused() and self._may_send()

    async def _wait(self, paused_until: float | None) -> None:
        """Wait for deliveries, for the end of a request, or for the end of a pause."""
        with suppress(TimeoutError):
            async with asyncio.timeout_at(paused_until):
                await self._consumer.changed.wait()

    async def _send_all(self, dispatcher: Dispatcher, deliveries: Sequence[Delivery]) -> None:
        """Begin to send deliveries, in their order; return those that cannot be sent now."""
        self._held |= {delivery.id: delivery for delivery in deliveries}
        loaded: Sequence[LoadedDelivery] = ()
        stamp = self._tools.reader.load_stamp()
        try:
            loaded = await load_deliveries(self._tools.reader, dispatcher, deliveries)
        finally:
            readable = {delivery.id for delivery, _ in loaded}
            self._release(delivery.id for delivery in deliveries if delivery.id not in readable)
        waiting = deque(loaded)
        try:
            while waiting and self._can_send():
                delivery, match = waiting[0]
                body = await self._body(dispatcher, delivery, match)
                if body is not None:
                    confirm = partial(self._is_deliverable, dispatcher, delivery, stamp)
                    send = partial(self._send, dispatcher, delivery, body, match.event.traceparent, confirm)
                    if not await self._begin(len(body), send):
                        break
                waiting.popleft()
        finally:
            self._release(delivery.id for delivery, _ in waiting)
            dispatcher.return_undelivered([delivery for delivery, _ in waiting])

    async def _body(self, dispatcher: Dispatcher, delivery: Delivery, match: LoadedMatch) -> bytes | None:
        """Return the body of a request; None for a match that cannot be written, which is parked."""
        try:
            return await self._tools.write_body(match)
        except UNREADABLE as error:
            self._release([delivery.id])
            reason = f"It cannot be written: {describe_error(error)}"
            self._settle(dispatcher, parking([(delivery, reason)])[0])
            return None

    async def _begin(self, size: int, send: Callable[[], Coroutine[Any, Any, None]]) -> bool:
        """Begin a request once the budget has room for its body.

        Return False if it was not begun, because the session has stopped or paused, or may not send any more.
        """
        budget = self._tools.budget
        if not budget.take(self._subscription, size):
            try:
                await until(self._stopping, budget.acquire(self._subscription, size))
            except Stopping:
                return False
            if not self._can_send():
                budget.give(self._subscription, size)
                return False
        request = asyncio.create_task(send(), name="push")
        self._requests.add(request)
        request.add_done_callback(self._requests.discard)
        return True

    async def _is_deliverable(self, dispatcher: Dispatcher, delivery: Delivery, stamp: LoadStamp) -> bool:
        """Return whether a match loaded at a stamp may still be sent. If not, its delivery is settled or returned."""
        if self._stopping.is_set():
            dispatcher.return_undelivered([delivery])
            return False
        if not self._tools.reader.may_have_changed(stamp):
            return True
        try:
            return bool(await load_deliveries(self._tools.reader, dispatcher, [delivery]))
        except StorageError:
            return False

    async def _send(
        self,
        dispatcher: Dispatcher,
        delivery: Delivery,
        body: bytes,
        traceparent: str,
        confirm: Callable[[], Awaitable[bool]],
    ) -> None:
        settlement: Settlement | None = Nack([delivery.id], delay=0, reason=CUT_OFF)
        began, is_probe = now_micros(), self._policy.unreachable
        returned = False
        try:
            sent = await self._sender.send(delivery.match.id, body, delivery.attempt, traceparent, confirm)
            returned = sent.outcome.unsent and self._policy.unreachable and not is_probe
            if returned:
                return
            self._tools.attempts.add(self._subscription.key, sent.attempt)
            settlement = self._policy.settlement(delivery, sent.outcome, dispatcher.subscription.backoff)
            if self._policy.gone:
                self.stop()
        except PushWithdrawn:
            settlement = None
        except asyncio.CancelledError:
            cut = PushAttempt(delivery.match.id, delivery.attempt, began, now_micros() - began, 0, CUT_OFF)
            self._tools.attempts.add(self._subscription.key, cut)
            raise
        except Exception as error:
            log.exception("push_failed", subscription=self._subscription.id)
            settlement = Nack([delivery.id], reason=f"an internal error: {type(error).__name__}")
        finally:
            self._tools.budget.give(self._subscription, len(body))
            self._release([delivery.id])
            if returned:
                dispatcher.return_undelivered([delivery])
            elif settlement is not None:
                self._settle(dispatcher, settlement)
            self.wake()

    def _release(self, delivery_ids: Iterable[str]) -> None:
        for delivery_id in delivery_ids:
            self._held.pop(delivery_id, None)

    def _settle(self, dispatcher: Dispatcher, settlement: Settlement) -> None:
        """Submit a settlement, together with the others of this turn of the event loop."""
        if not self._acks and not self._nacks:
            asyncio.get_running_loop().call_soon(self._submit, dispatcher)
        if isinstance(settlement, Ack):
            self._acks += settlement.delivery_ids
        else:
            self._nacks.append(settlement)

    def _submit(self, dispatcher: Dispatcher) -> None:
        acks, nacks = self._acks, self._nacks
        self._acks, self._nacks = [], []
        if settlements := [*([Ack(acks)] if acks else []), *nacks]:
            dispatcher.submit(settlements)

    async def _keep_leases(self, dispatcher: Dispatcher) -> None:
        """Extend the leases of everything that is held, until cancelled."""
        while True:
            await asyncio.sleep(dispatcher.subscription.ack_deadline / _SECOND / EXTENSIONS)
            if self._held:
                dispatcher.submit([Extend([*self._held])])

    async def _end(self, dispatcher: Dispatcher) -> None:
        """Wait a little for the responses, and until everything is settled or returned."""
        self._stopping.set()
        dispatcher.stop_delivering(self._consumer)
        if self._requests:
            await asyncio.wait(self._requests, timeout=STOP_SECONDS)
        for request in self._requests:
            request.cancel()
        await asyncio.gather(*self._requests, return_exceptions=True)
        self._submit(dispatcher)
        # An empty settlement is done after a later step, which cannot deliver.
        await asyncio.wait({dispatcher.submit([])})
