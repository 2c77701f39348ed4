"""A receiver of a history: it notes what it gets, and answers late, wrongly, or not at all."""

from __future__ import annotations

import asyncio
from itertools import count
from typing import TYPE_CHECKING, Final

from registry.times.timestamps import now_micros
from tests.support.history import Delivered, Opening, Said, seen
from tests.support.receiver import answer

if TYPE_CHECKING:
    from signalbox.v1 import match_stream_pb2 as pb
    from tests.support.receiver import Received, Receiver
    from tests.support.recorders import World

UNLIMITED: Final = 3_600_000_000
"""A receiver reads no heartbeats."""

_streams = count(1_000_000)


class PushPlayer:
    """Receives the matches of a subscription that pushes.

    A request is a lease that begins when it arrives, and ends with its answer or its connection. While the world is
    calm, every request is answered with 200.
    """

    def __init__(self, world: World, subscription: pb.Subscription, receiver: Receiver) -> None:
        self._world, self._subscription, self._receiver = world, subscription, receiver
        self._ack_deadline = subscription.ack_deadline.ToMicroseconds()
        self._stream = next(_streams)
        self._numbers = count(1)
        receiver.answering = self._answer

    async def run(self) -> None:
        """Listen, with interruptions, until the world is over."""
        window = self._subscription.push.max_in_flight
        self._world.history.note(Opening(self._stream, self._subscription.name, "push", window, frozenset(), UNLIMITED))
        while not self._world.over:
            await asyncio.sleep(0.1)
            if self._world.chance(0.02):
                await self._receiver.stop()
                await self._world.pause(0.5)
                await self._receiver.start()
            elif self._world.chance(0.02):
                self._receiver.drop()

    async def _answer(self, request: Received) -> bytes | None:
        at, name = now_micros(), f"{self._subscription.name}-{next(self._numbers)}"
        most, match = self._subscription.max_attempts, seen(request.match)
        self._world.history.note(
            Delivered(self._stream, name, match, request.attempt, most, False, at + self._ack_deadline, at=at)
        )
        response = await self._response(request)
        if request.is_lost():
            response = None
        word = "ack" if response is not None and response.startswith(b"HTTP/1.1 200") else "retry"
        self._world.history.note(Said(self._stream, word, (name,)))
        return response

    async def _response(self, request: Received) -> bytes | None:
        """Wait, and choose the response; None to drop the connection."""
        hangs = self._world.chance(0.01)
        until = asyncio.get_running_loop().time() + (60 if hangs else self._world.random.random() * 0.05)
        while asyncio.get_running_loop().time() < until and not self._world.calm:
            if request.is_lost():
                return None
            await asyncio.sleep(0.005)
        if self._world.chance(0.05):
            return None
        if self._world.chance(0.01):
            return answer(429, retry_after="1")
        return answer(self._world.random.choice((500, 404, 302)) if self._world.chance(0.1) else 200)
