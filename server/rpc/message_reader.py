"""Receives the messages of calls, and parses them, within the limits of `call_limits`."""

from __future__ import annotations

import asyncio
from math import inf
from typing import TYPE_CHECKING, Any

from server.errors import MalformedRequest
from server.rpc.call_limits import ARRIVAL_SECONDS, FIRST_MESSAGE_SECONDS, SMALL_BYTES, CallLimits
from server.rpc.parsing import LARGE_BYTES
from server.rpc.request_size import note_request_size
from server.sharing.loop_time import begin_request

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from server.rpc.callers import WatchedCall
    from server.rpc.method import Method, RequestParser
    from server.rpc.transport import Transport


class MessageReader:
    """Receives and parses the messages of all calls of one server."""

    def __init__(self, limits: CallLimits) -> None:
        self._limits = limits

    async def receive(self, transport: Transport, task: asyncio.Task[Any], key: int, method: Method) -> bytes:
        """Receive the message of a call with one, for the project `key`.

        Whoever receives it calls `done`, once it is no longer in work. Raise MalformedRequest.
        """
        limits = self._limits
        kind = key, method
        # Most calls do not wait, and save 2 us each time.
        if not limits.beginning.take(key):
            await limits.beginning.wait(key)
        if not limits.arriving.take(key):
            await limits.arriving.acquire(key)
        try:
            if not limits.receiving.enter_at_once(task, kind):
                await limits.receiving.enter(task, kind)
            limits.expected[task] = asyncio.get_running_loop().time(), ARRIVAL_SECONDS
            try:
                data = await transport.receive()
            finally:
                del limits.expected[task]
            if data is None:
                raise MalformedRequest("The call ended without a request; send one message")
            size = len(data)
            limits.receiving.received(kind, size)
            if size > SMALL_BYTES:
                await limits.working.acquire(key, size)
            return data
        finally:
            limits.receiving.leave(task)
            limits.arriving.give(key)

    def done(self, key: int, size: int) -> None:
        """End the work on a message that `receive` has returned: until then, one that is not small is counted."""
        if size > SMALL_BYTES:
            self._limits.working.give(key, size)

    async def parse(self, parser: RequestParser, data: bytes, key: int) -> Any:
        """Parse a message; others are served between the slices of a large one."""
        if len(data) <= SMALL_BYTES:
            return parser.parse(data)
        if len(data) <= LARGE_BYTES:
            # In a turn, so that of many calls that arrive together one is parsed in each round of the loop.
            async with self._limits.loop_time.slices(key):
                return parser.parse(data)
        return await parser.parse_in_slices(data, self._limits.loop_time, key)

    async def requests(
        self, messages: AsyncIterator[bytes], call: WatchedCall, method: Method, parser: RequestParser
    ) -> AsyncGenerator[Any, None]:
        """Yield the parsed messages of a stream. One that is not small is counted until the next one is asked for."""
        limits, key = self._limits, call.caller.project_pk
        seconds = FIRST_MESSAGE_SECONDS
        try:
            while (data := await self._next(messages, call.task, (key, method), seconds)) is not None:
                seconds = inf
                await call.check()
                size = len(data)
                begin_request()
                note_request_size(size)
                if size <= SMALL_BYTES:
                    yield parser.parse(data)
                    continue
                try:
                    await limits.enter_work(key, size)
                finally:
                    limits.receiving.leave(call.task)
                try:
                    yield await self.parse(parser, data, key)
                finally:
                    limits.working.give(key, size)
        finally:
            limits.receiving.leave(call.task)

    async def _next(
        self, messages: AsyncIterator[bytes], task: asyncio.Task[Any], kind: tuple[int, Method], seconds: float
    ) -> bytes | None:
        """Receive the next message of a stream, None after the last. If it is large, the task's place is kept."""
        limits = self._limits
        if limited := limits.receiving.limited(kind):
            await limits.receiving.enter(task, kind)
        if limited or seconds < inf:
            limits.expected[task] = asyncio.get_running_loop().time(), seconds
        size = 0
        try:
            data = await anext(messages, None)
            if data is not None:
                size = len(data)
                limits.receiving.received(kind, size)
            return data
        finally:
            limits.expected.pop(task, None)
            if size <= SMALL_BYTES:
                limits.receiving.leave(task)
