"""Serves the RPCs of the contract, whatever carries them: authenticates the caller, checks its scope, answers errors.

A servicer is any object with coroutine methods named as in the contract:

    unary               async def Name(self, request, caller) -> response
    both sides stream   def Name(self, requests, caller) -> async iterator of responses
    responses stream    async def Name(self, request, caller, send) -> None; `await send(response, seconds)` ends the
                        call with WatcherTooSlow if the client does not read a response for that many seconds

It sees no transport. `api` (gRPC) and `connect` (HTTP) find the method of a call, make a `Transport` of what they
received, and have the call served here.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing, suppress
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

import structlog

from registry.errors import SignalboxError
from server.current_call.call_log import CallLog
from server.errors import InternalError, LimitReached, WatcherTooSlow
from server.metrics import Metrics
from server.process.shutdown import until
from server.rpc.call_limits import SMALL_BYTES, CallLimits
from server.rpc.call_records import OK, CallRecords
from server.rpc.callers import Callers
from server.rpc.message_reader import MessageReader
from server.rpc.open_calls import LAST_WORD_SECONDS
from server.rpc.request_size import note_request_size
from server.sharing.loop_time import LoopTime, begin_request
from server.status import code_of, reason_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from google.protobuf.message import Message

    from server.auth.access import Access
    from server.auth.caller import Caller
    from server.rpc.call_records import MethodRecord
    from server.rpc.callers import WatchedCall
    from server.rpc.method import Method, RequestParser
    from server.rpc.open_calls import OpenCalls
    from server.rpc.transport import StreamTransport, Transport, UnaryTransport
    from server.tracing.tracer import Tracer

log = structlog.get_logger()

RECHECK_SECONDS: Final = 0.5
"""A caller whose message arrives later than this is authenticated again: the key may have ended meanwhile."""
_GONE: Final = "CANCELLED", "CLIENT_GONE"
"""The code and the reason of a call whose client has gone."""


class Calls:
    """Serves calls: each is authenticated and counted before its message is received."""

    def __init__(
        self,
        access: Access,
        open_calls: OpenCalls,
        metrics: Metrics | None = None,
        loop_time: LoopTime | None = None,
        call_log: CallLog | None = None,
        tracer: Tracer | None = None,
        check_writable: Callable[[], None] = lambda: None,
    ) -> None:
        """`check_writable` raises the error of calls that write, while the database confirms nothing."""
        self._check_writable = check_writable
        self.open_calls = open_calls
        self.metrics = metrics or Metrics()
        self.loop_time = loop_time or LoopTime()
        self._access = access
        self._callers = Callers(access, open_calls)
        self._limits = CallLimits(open_calls, self.metrics, self.loop_time)
        self._messages = MessageReader(self._limits)
        self._records = CallRecords(self.metrics, call_log or CallLog(), tracer)

    async def __aenter__(self) -> None:
        """Begin to end calls whose messages are late."""
        self._limits.start()

    async def __aexit__(self, *_: object) -> None:
        """Stop ending calls."""
        await self._limits.close()

    async def answer(
        self, method: Method, parser: RequestParser, transport: UnaryTransport, task: asyncio.Task[Any]
    ) -> Any:
        """Serve a unary call in the current task. Return its response, or for a failed call the result of `fail`."""
        began, code, reason = perf_counter(), OK, ""
        limits = self._limits
        limits.loop_time.arrivals += 1
        self.open_calls.enter_task(task)
        counted: int | None = None
        record = self._records.of(method)
        span = record.begin()
        size = 0
        response: Any = None
        try:
            self.open_calls.check_open()
            credentials = transport.credentials()
            caller = self._access.recognized(*credentials) or await self._access.authenticate(*credentials)
            self._authorize(caller, method, record)
            if not limits.calls.take(caller.project_pk):
                await limits.enter_call(caller.project_pk)
            counted = caller.project_pk
            data = transport.arrived()
            if data is None:
                data = await self._receive(caller, transport, task, method, began)
            call = partial(self._call_watched, method, transport, task) if record.waits else method.call
            size = len(data)
            begin_request()
            note_request_size(size)
            if size <= SMALL_BYTES:
                response = await call(parser.parse(data), caller)
                return response
            request: Message | None = None
            try:
                request = await self._messages.parse(parser, data, counted)
                del data
                response = await call(request, caller)
                return response
            finally:
                # The gRPC library keeps this frame of a call that is answered with an error, in a cycle.
                request = None
                self._messages.done(counted, size)
        except asyncio.CancelledError:
            code, reason = self._end_of(task)
            await self._fail_ended(transport, task)
        except Exception as error:
            code, reason = self._outcome_of(transport, error)
            await self._fail(transport, error)
        finally:
            if counted is not None:
                limits.leave_call(transport, counted)
            self.open_calls.leave(task)
            record.ended(code, reason, perf_counter() - began, span, size, response)

    def _authorize(self, caller: Caller, method: Method, record: MethodRecord) -> None:
        """Raise AccessError if the caller may not call a method, StorageLate if nobody can now."""
        caller.authorize(method.scope)
        if record.writes:
            self._check_writable()

    async def _receive(
        self, caller: Caller, transport: Transport, task: asyncio.Task[Any], method: Method, began: float
    ) -> bytes:
        """Receive the message of a call with one response. Raise AccessError if the key has ended meanwhile."""
        data = await self._messages.receive(transport, task, caller.project_pk, method)
        if perf_counter() - began > RECHECK_SECONDS:
            try:
                await self._callers.authenticate_again(transport, method.scope, caller)
            except BaseException:
                self._messages.done(caller.project_pk, len(data))
                raise
        return data

    async def _call_watched(
        self, method: Method, transport: Transport, task: asyncio.Task[Any], request: Any, caller: Caller
    ) -> Any:
        """Call a method that may wait for long; the call ends when its key does."""
        async with self._callers.watched(transport, method.scope, task, caller) as call:
            response = await method.call(request, caller)
            await call.check()
            return response

    async def converse(
        self, method: Method, parser: RequestParser, transport: StreamTransport, messages: AsyncIterator[bytes]
    ) -> None:
        """Serve a call in which both sides stream; `messages` are in place of those that `receive` returns."""

        async def serve(call: WatchedCall) -> None:
            # What a message holds is given back before the call ends, not when its frames are freed.
            async with (
                aclosing(self._messages.requests(messages, call, method, parser)) as requests,
                aclosing(method.call(requests, call.caller)) as responses,
            ):
                async for response in responses:
                    await call.check()
                    await transport.write(response)

        await self._serve(transport, method, serve)

    async def stream(self, method: Method, parser: RequestParser, transport: StreamTransport) -> None:
        """Serve a call with one request and a stream of responses."""

        async def serve(call: WatchedCall) -> None:
            async def send(response: Any, seconds: float) -> None:
                await call.check()
                try:
                    async with asyncio.timeout(seconds):
                        await transport.write(response)
                except TimeoutError:
                    raise WatcherTooSlow(seconds) from None

            key = call.caller.project_pk
            data = await self._messages.receive(transport, call.task, key, method)
            try:
                request = await self._messages.parse(parser, data, key)
            finally:
                self._messages.done(key, len(data))
            del data
            await until(self.open_calls.stopping, method.call(request, call.caller, send))
            await transport.end()

        await self._serve(transport, method, serve)

    async def _serve(
        self, transport: Transport, method: Method, serve: Callable[[WatchedCall], Awaitable[None]]
    ) -> None:
        """Serve a stream: authenticate and count it, end it once its key is revoked, and answer its errors."""
        began, code, reason = perf_counter(), OK, ""
        record = self._records.of(method)
        span = record.begin()
        task = self.open_calls.enter(stream=True)
        limits = self._limits
        counted: int | None = None
        try:
            self.open_calls.check_open()
            caller = await self._callers.authenticate(transport, method.scope)
            limits.enter_stream(caller.project_pk)
            counted = caller.project_pk
            record.series.count_stream(1)
            async with self._callers.watched(transport, method.scope, task, caller) as call:
                await serve(call)
        except asyncio.CancelledError:
            code, reason = self._end_of(task)
            await self._last_word(self._fail_ended(transport, task))
        except Exception as error:
            code, reason = self._outcome_of(transport, error)
            await self._last_word(self._fail(transport, error))
        finally:
            if counted is not None:
                limits.streams.give(counted)
                record.series.count_stream(-1)
            self.open_calls.leave(task)
            record.stream_ended(code, reason, perf_counter() - began, span)

    def _outcome_of(self, transport: Transport, error: Exception) -> tuple[str, str]:
        """Return the code and the reason of a failed call. Not the error, which refers to the frame of the call."""
        return _GONE if isinstance(error, transport.own_errors) else (code_of(error).name, reason_of(error))

    def _end_of(self, task: asyncio.Task[Any]) -> tuple[str, str]:
        """Return the code and the reason of a call that was ended."""
        error = self.open_calls.end_of(task)
        return _GONE if error is None else (code_of(error).name, reason_of(error))

    async def _fail_ended(self, transport: Transport, task: asyncio.Task[Any]) -> None:
        """Answer a call that was ended with the error: retry policies do not retry CANCELLED."""
        error = self.open_calls.ended_by(task)
        if error is None:
            raise asyncio.CancelledError
        await self._fail(transport, error)

    async def _fail(self, transport: Transport, error: Exception) -> None:
        if isinstance(error, transport.own_errors):
            raise error
        if isinstance(error, LimitReached):
            self.metrics.refusals.count(error.reason)
        elif not isinstance(error, SignalboxError):
            log.error("call_failed", exc_info=error)
        elif isinstance(error, InternalError):
            log.error("storage_refused", exc_info=error.__cause__)
        # Its frames lead to the batch, which leads to the error: all of it would stay until garbage is collected.
        await transport.fail(error.with_traceback(None))

    async def _last_word(self, answer: Awaitable[None]) -> None:
        """Send the status of a stream, which comes after the responses; the client may never read those."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORD_SECONDS):
                await answer
