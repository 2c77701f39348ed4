"""The limits of calls, over gRPC and Connect.

    what                       limit                                    crossing it
    calls in progress          MAX_CALLS, shared fairly by projects     the call waits before its message is read
    calls that wait for that   MAX_WAITING_CALLS, shared likewise       TOO_MANY_CALLS, also after WAITING_SECONDS
    open streams               MAX_STREAMS, shared likewise             TOO_MANY_STREAMS
    size of one message        MAX_MESSAGE_BYTES, by the transports     RESOURCE_EXHAUSTED
    a call's message           ARRIVAL_SECONDS until it is complete     REQUEST_TOO_SLOW
    a stream's first message   FIRST_MESSAGE_SECONDS                    REQUEST_TOO_SLOW
    messages that arrive       8 to 256, shared likewise                the call waits before its message is read
    large ones of a project    as many as its latest ones               the call waits before its message is read
    messages in work           32 to 64 MiB, shared likewise            the call waits before its message is parsed
    streams' messages before   a 64th of the memory, shared likewise    TOO_MANY_LARGE_MESSAGES

All of it comes after authentication, which needs the headers alone: of a caller without a key no message is read.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

from server.errors import RequestTooSlow, Stopping, TooManyCalls, TooManyLargeMessages, TooManyStreams
from server.process.memory import usable_memory
from server.process.recurring import Recurring
from server.rpc.receive_limits import SLOW_SECONDS, ReceiveLimits
from server.sharing.fair_budget import FairBudget
from server.sharing.rounds import Rounds

if TYPE_CHECKING:
    from collections.abc import Callable

    from server.metrics import Metrics
    from server.rpc.open_calls import OpenCalls
    from server.sharing.loop_time import LoopTime

MAX_CALLS: Final = 2_000
"""Calls with one response that are in progress. Each takes 50 KB."""

MAX_WAITING_CALLS: Final = 8_000
"""Calls that wait until their project may have one more in progress, at 20 KB each. To refuse a call costs as much as
to serve it, and a client without patience sends it again at once: a flood that waits is cheaper for everybody."""

WAITING_SECONDS: Final = 10.0
"""As long as requests of REST wait for their turn. With 2,000 calls of one project in flight, 320 a second are refused
after two seconds and 17 after ten, which takes a quarter less of the processor."""

MAX_STREAMS: Final = 2_000
"""Open streams. Each takes 100 KB, and one tick of the loop for its heartbeat."""

MAX_MESSAGE_BYTES: Final = 16 * 1024 * 1024
"""The largest message that is received, by each of the transports."""

SMALL_BYTES: Final = 16 * 1024
"""Up to this size, a message is not counted: those of all calls in progress take 32 MB."""

ARRIVAL_SECONDS: Final = 30.0
"""16 MiB arrive in this time over 5 Mbit/s."""

FIRST_MESSAGE_SECONDS: Final = 300.0
"""A producer may open its stream before it has something to send."""

STOPPING_SECONDS: Final = 1.0
"""How old a call without a message may become during a shutdown, which would wait for it."""

_ARRIVING_PART: Final = 4
"""Messages that arrive may take a quarter of the memory, if each has the largest size."""

_WORKING_PART: Final = 64
"""Messages in work may take a 64th of the memory: as objects they take up to 12 times their size."""

_WAITING_PART: Final = 64
"""Messages of streams that wait to be in work may take as much. A stream is read whenever something comes."""

_MOST_ARRIVING: Final = 256
"""Of which one project has a half. Every call takes a place for a moment: with fewer than are in flight they wait."""
_LEAST_ARRIVING: Final = 8
_MOST_WORKING: Final = 4 * MAX_MESSAGE_BYTES
"""More would not be faster: one message has the loop at a time."""
_LEAST_WORKING: Final = 2 * MAX_MESSAGE_BYTES
_LEAST_WAITING: Final = 4 * MAX_MESSAGE_BYTES


class Sending(Protocol):
    """A transport of calls."""

    def on_sent(self, call: Callable[[], None]) -> None:
        """Call something once the response is sent."""
        ...


class CallLimits:
    """The limits that all calls of one server share."""

    def __init__(self, calls: OpenCalls, metrics: Metrics, loop_time: LoopTime) -> None:
        memory = usable_memory()
        self.metrics = metrics
        self.loop_time = loop_time
        self.calls = FairBudget(MAX_CALLS)
        self.waiting_calls = FairBudget(MAX_WAITING_CALLS)
        self.streams = FairBudget(MAX_STREAMS)
        arriving = memory // _ARRIVING_PART // MAX_MESSAGE_BYTES
        self.arriving = FairBudget(_between(_LEAST_ARRIVING, arriving, _MOST_ARRIVING))
        self.receiving = ReceiveLimits()
        self.beginning = Rounds()
        """Calls that are about to receive their message."""
        self.working = FairBudget(_between(_LEAST_WORKING, memory // _WORKING_PART, _MOST_WORKING))
        self._waiting_messages = FairBudget(max(_LEAST_WAITING, memory // _WAITING_PART))
        self.expected: dict[asyncio.Task[Any], tuple[float, float]] = {}
        """The calls that wait for their message: since when, by the loop's time, and for how many seconds."""
        self._open_calls = calls
        self._sweep = Recurring("slow-requests", self._end_slow)

    def start(self) -> None:
        """Begin to end calls whose messages are late."""
        self._sweep.start()

    async def close(self) -> None:
        """Stop ending calls."""
        await self._sweep.close()

    async def enter_call(self, project_pk: int) -> None:
        """Count a call until `leave_call`; wait a short time for its turn. Raise TooManyCalls.

        Callers try `calls.take` first, which does not wait.
        """
        if self.calls.take(project_pk):
            return
        if not self.waiting_calls.take(project_pk):
            raise TooManyCalls(self.calls.held_by(project_pk), self.calls.total)
        try:
            async with asyncio.timeout(WAITING_SECONDS):
                await self.calls.acquire(project_pk)
        except TimeoutError:
            raise TooManyCalls(self.calls.held_by(project_pk), self.calls.total) from None
        finally:
            self.waiting_calls.give(project_pk)

    def leave_call(self, transport: Sending, project_pk: int) -> None:
        """Count a call no longer once its response is sent.

        A client that opens no window keeps responses in the memory of this server.
        """
        transport.on_sent(partial(self.calls.give, project_pk))

    def enter_stream(self, project_pk: int) -> None:
        """Count a stream, which is given back to `streams`. Raise TooManyStreams."""
        if not self.streams.take(project_pk):
            raise TooManyStreams.of_project(self.streams.held_by(project_pk), self.streams.total)

    async def enter_work(self, project_pk: int, size: int) -> None:
        """Wait until a message of a stream may be in work, which ends by `working.give`. Raise TooManyLargeMessages."""
        if self.working.take(project_pk, size):
            return
        if not self._waiting_messages.take(project_pk, size):
            raise TooManyLargeMessages
        try:
            await self.working.acquire(project_pk, size)
        finally:
            self._waiting_messages.give(project_pk, size)

    # One look a second at all calls: a timer for each would cost every call 10 microseconds.
    async def _end_slow(self) -> float:
        now = asyncio.get_running_loop().time()
        stopping = self._open_calls.stopping.is_set()
        for task, (since, seconds) in list(self.expected.items()):
            if now - since > SLOW_SECONDS:
                self.receiving.leave(task)
            if now - since > seconds:
                self._open_calls.end(task, RequestTooSlow(seconds))
            elif stopping and now - since > STOPPING_SECONDS:
                self._open_calls.end(task, Stopping())
        return 1.0


def _between(least: int, wanted: int, most: int) -> int:
    return max(least, min(wanted, most))
