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
from dataclasses import dataclass
from functools import partial
from math import inf
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, Self

import structlog

from registry.errors import SignalboxError
from server.current_call.call_log import SLOW_SECONDS, CallLog
from server.errors import InternalError, KeyExpired, KeyInvalid, LimitReached, MalformedRequest, WatcherTooSlow
from server.metrics import Metrics
from server.process.shutdown import until
from server.rpc.call_limits import ARRIVAL_SECONDS, FIRST_MESSAGE_SECONDS, SMALL_BYTES, CallLimits
from server.rpc.open_calls import LAST_WORD_SECONDS
from server.rpc.parsing import LARGE_BYTES
from server.rpc.request_size import note_request_size
from server.sharing.loop_time import LoopTime, begin_request
from server.status import code_of, reason_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

    from google.protobuf.message import Message
    from opentelemetry.trace import Span

    from server.auth.access import Access, WatchedStream
    from server.auth.caller import Caller
    from server.metrics.calls import RpcSeries
    from server.rpc.method import Method, RequestParser
    from server.rpc.open_calls import OpenCalls
    from server.rpc.transport import StreamTransport, Transport, UnaryTransport
    from server.tracing.tracer import Tracer

log = structlog.get_logger()

OK: Final = "OK"
RECHECK_SECONDS: Final = 0.5
"""A caller whose message arrives later than this is authenticated again: the key may have ended meanwhile."""
_GONE: Final = "CANCELLED", "CLIENT_GONE"
"""The code and the reason of a call whose client has gone."""


class Calls:
    """Serves calls: each is authenticated and counted before its message is received."""

    def __init__(
        self,
        access: Access,
        calls: OpenCalls,
        metrics: Metrics | None = None,
        loop_time: LoopTime | None = None,
        call_log: CallLog | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        self.open_calls = calls
        self.metrics = metrics or Metrics()
        self.loop_time = loop_time or LoopTime()
        self._access = access
        self._calls = calls
        self._limits = CallLimits(calls, self.metrics, self.loop_time)
        self._log = call_log or CallLog()
        self._tracer = tracer
        self._observed = bool(self._log.every or tracer)
        self._records: dict[Method, _Record] = {}

    async def __aenter__(self) -> None:
        """Begin to end calls whose messages are late."""
        self._limits.start()

    async def __aexit__(self, *_: object) -> None:
        """Stop ending calls."""
        await self._limits.close()

    async def answer(
        self, method: Method, parser: RequestParser, transport: UnaryTransport, task: asyncio.Task[Any]
    ) -> Any:
        """Serve a call with one response in the current task, and return that; of a failed one, what `fail` returns."""
        began, code, reason = perf_counter(), OK, ""
        limits = self._limits
        limits.loop_time.arrivals += 1
        self._calls.enter_task(task)
        counted: int | None = None
        record = self._record_of(method)
        size = 0
        response: Any = None
        span = None if self._tracer is None else self._tracer.begin_call(method.name)
        try:
            self._calls.check_open()
            credentials = transport.credentials()
            caller = self._access.recognized(*credentials) or await self._access.authenticate(*credentials)
            caller.authorize(method.scope)
            if not limits.calls.take(caller.project_pk):
                await limits.enter_call(caller.project_pk)
            counted = caller.project_pk
            data = transport.arrived()
            if data is None:
                data = await self._receive_of(caller, transport, task, method, began)
            call = partial(self._call_watched, method, transport, task) if record.waits else method.call
            size = len(data)
            begin_request()
            note_request_size(size)
            if size <= SMALL_BYTES:
                response = await call(parser.parse(data), caller)
                return response
            request: Message | None = None
            try:
                request = await self._parse(parser, data, counted)
                del data
                response = await call(request, caller)
                return response
            finally:
                # The gRPC library keeps this frame of a call that is answered with an error, in a cycle.
                request = None
                limits.working.give(counted, size)
        except asyncio.CancelledError:
            code, reason = self._end_of(task)
            await self._fail_ended(transport, task)
        except Exception as error:
            code, reason = self._outcome_of(transport, error)
            await self._fail(transport, error)
        finally:
            if counted is not None:
                limits.leave_call(transport, counted)
            self._calls.leave(task)
            self._count(record, code, reason, perf_counter() - began, span, size, response)

    async def _receive_of(
        self, caller: Caller, transport: Transport, task: asyncio.Task[Any], method: Method, began: float
    ) -> bytes:
        """Receive the message of a call with one response. Raise AccessError if the key has ended meanwhile."""
        data = await self._receive(transport, task, caller.project_pk, method)
        if perf_counter() - began > RECHECK_SECONDS:
            await self.authenticate_again(transport, method.scope, caller)
        return data

    async def _call_watched(
        self, method: Method, transport: Transport, task: asyncio.Task[Any], request: Any, caller: Caller
    ) -> Any:
        """Call a method that may wait for long; the call ends when its key does."""
        watched = self._access.watch(transport.credentials()[0], caller, partial(self._calls.end, task))
        try:
            return await method.call(request, caller)
        except SignalboxError as error:
            await self._expect_project_of(error, caller)
            raise
        finally:
            self._access.unwatch(watched)

    async def converse(
        self, method: Method, parser: RequestParser, transport: StreamTransport, messages: AsyncIterator[bytes]
    ) -> None:
        """Serve a call in which both sides stream; `messages` are in place of those that `receive` returns."""

        async def serve(stream: _Stream) -> None:
            requests = self._parsed(messages, stream, method, parser)
            async with aclosing(method.call(requests, stream.caller)) as responses:
                async for response in responses:
                    await transport.write(response)

        await self._serve(transport, method, serve)

    async def stream(self, method: Method, parser: RequestParser, transport: StreamTransport) -> None:
        """Serve a call with one request and a stream of responses."""

        async def serve(stream: _Stream) -> None:
            async def send(response: Any, seconds: float) -> None:
                await stream.check()
                try:
                    async with asyncio.timeout(seconds):
                        await transport.write(response)
                except TimeoutError:
                    raise WatcherTooSlow(seconds) from None

            key = stream.caller.project_pk
            data = await self._receive(transport, stream.task, key, method)
            try:
                request = await self._parse(parser, data, key)
            finally:
                if len(data) > SMALL_BYTES:
                    self._limits.working.give(key, len(data))
            del data
            await until(self._calls.stopping, method.call(request, stream.caller, send))
            await transport.end()

        await self._serve(transport, method, serve)

    async def _serve(self, transport: Transport, method: Method, serve: Callable[[_Stream], Awaitable[None]]) -> None:
        """Serve a stream: authenticate and count it, end it once its key is revoked, and answer its errors."""
        began, code, reason, scope = perf_counter(), OK, "", method.scope
        record = self._record_of(method)
        span = None if self._tracer is None else self._tracer.begin_call(method.name)
        task = self._calls.enter(stream=True)
        limits = self._limits
        stream: _Stream | None = None
        counted: int | None = None
        try:
            self._calls.check_open()
            caller = await self.authenticate(transport, scope)
            limits.enter_stream(caller.project_pk)
            counted = caller.project_pk
            record.series.count_stream(1)
            watched = self._access.watch(transport.credentials()[0], caller, partial(self._calls.end, task))
            stream = _Stream(self, transport, scope, task, caller, watched)
            try:
                await serve(stream)
            except SignalboxError as error:
                await self._expect_project_of(error, caller)
                raise
        except asyncio.CancelledError:
            code, reason = self._end_of(task)
            await self._last_word(self._fail_ended(transport, task))
        except Exception as error:
            code, reason = self._outcome_of(transport, error)
            await self._last_word(self._fail(transport, error))
        finally:
            if stream is not None:
                self._access.unwatch(stream.watched)
            if counted is not None:
                limits.streams.give(counted)
                record.series.count_stream(-1)
            self._calls.leave(task)
            seconds = perf_counter() - began
            record.series.ended(code, seconds)
            if code is not OK or self._observed:
                self._write(record, code, reason, seconds, span)

    async def _receive(self, transport: Transport, task: asyncio.Task[Any], key: int, method: Method) -> bytes:
        """Receive the message of a call with one; of a message that is not small, the size is taken of `working`."""
        limits = self._limits
        kind = key, method
        # Most calls do not wait, and save 2 us.
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

    async def _parse(self, parser: RequestParser, data: bytes, key: int) -> Any:
        if len(data) <= SMALL_BYTES:
            return parser.parse(data)
        if len(data) <= LARGE_BYTES:
            # In a turn, so that of many calls that arrive together one is parsed in each round of the loop.
            async with self._limits.loop_time.slices(key):
                return parser.parse(data)
        return await parser.parse_in_slices(data, self._limits.loop_time, key)

    async def _parsed(
        self, messages: AsyncIterator[bytes], stream: _Stream, method: Method, parser: RequestParser
    ) -> AsyncGenerator[Any, None]:
        """Parse each message of a stream. One that is not small is counted until the next one is asked for."""
        limits, key = self._limits, stream.caller.project_pk
        seconds = FIRST_MESSAGE_SECONDS
        try:
            while (data := await self._next(messages, stream.task, (key, method), seconds)) is not None:
                seconds = inf
                await stream.check()
                size = len(data)
                begin_request()
                note_request_size(size)
                if size <= SMALL_BYTES:
                    yield parser.parse(data)
                    continue
                try:
                    await limits.enter_work(key, size)
                finally:
                    limits.receiving.leave(stream.task)
                try:
                    yield await self._parse(parser, data, key)
                finally:
                    limits.working.give(key, size)
        finally:
            limits.receiving.leave(stream.task)

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

    def _record_of(self, method: Method) -> _Record:
        record = self._records.get(method)
        if record is None:
            record = self._records[method] = _Record.of(method, self.metrics)
        return record

    def _count(
        self, record: _Record, code: str, reason: str, seconds: float, span: Span | None, size: int, response: Any
    ) -> None:
        """Count a call with one response that has ended, and write its line if it is to have one."""
        record.series.ended(code, seconds)
        if code is not OK or seconds > record.slow_seconds or self._observed:
            self._write(record, code, reason, seconds, span, bytes_in=size, bytes_out=_size(response))

    def _write(self, record: _Record, code: str, reason: str, seconds: float, span: Span | None, **facts: Any) -> None:
        """Write the line of a call that has ended, if it is to have one, and end its span."""
        if code is not OK or seconds > record.slow_seconds or self._log.samples():
            self._log.write(record.name, reason, seconds, change=record.changes, code=code, **facts)
        if self._tracer is not None and span is not None:
            self._tracer.end_call(span, reason, **{"rpc.grpc.status": code})

    def _outcome_of(self, transport: Transport, error: Exception) -> tuple[str, str]:
        """Return the code and the reason of a failed call. Not the error, which refers to the frame of the call."""
        return _GONE if isinstance(error, transport.own_errors) else (code_of(error).name, reason_of(error))

    def _end_of(self, task: asyncio.Task[Any]) -> tuple[str, str]:
        """Return the code and the reason of a call that was ended."""
        error = self._calls.end_of(task)
        return _GONE if error is None else (code_of(error).name, reason_of(error))

    async def _fail_ended(self, transport: Transport, task: asyncio.Task[Any]) -> None:
        """Answer a call that was ended with the error: retry policies do not retry CANCELLED."""
        error = self._calls.ended_by(task)
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

    async def authenticate(self, transport: Transport, scope: str) -> Caller:
        """Return the caller of a call, who has the scope. Raise AccessError, ProjectNotFound and TooManyKeyLookups."""
        caller = await self._access.authenticate(*transport.credentials())
        caller.authorize(scope)
        return caller

    async def _expect_project_of(self, error: SignalboxError, caller: Caller) -> None:
        """Raise ProjectNotFound if something was missing because the project was deleted while the call waited."""
        if code_of(error).name == "NOT_FOUND":
            await self._access.expect_project(caller)

    async def authenticate_again(self, transport: Transport, scope: str, before: Caller) -> None:
        """Check that a call has a caller still. Raise AccessError, ProjectNotFound and TooManyKeyLookups."""
        try:
            await self.authenticate(transport, scope)
        except (KeyInvalid, KeyExpired):
            await self._access.expect_project(before)
            raise


@dataclass(frozen=True, slots=True)
class _Stream:
    """A stream that is being served."""

    calls: Calls
    transport: Transport
    scope: str
    task: asyncio.Task[Any]
    caller: Caller
    watched: WatchedStream

    async def check(self) -> None:
        """Authenticate the caller again if the key may have been revoked.

        Raise KeyInvalid and KeyExpired, but ProjectNotFound if the project was deleted with its keys.
        """
        if self.watched.suspect:
            await self.calls.authenticate_again(self.transport, self.scope, self.caller)


@dataclass(frozen=True, slots=True)
class _Record:
    """What is written about the calls of a method: a call that takes longer than `slow_seconds` is logged.

    `waits` if a call may wait as long as its caller asked it to.
    """

    name: str
    series: RpcSeries
    slow_seconds: float
    changes: bool
    waits: bool

    @classmethod
    def of(cls, method: Method, metrics: Metrics) -> Self:
        """Return the record of a method. A call that changes something is logged, however quick it is."""
        service = method.descriptor.containing_service.full_name
        series = metrics.calls.rpc(service, method.descriptor.name, streams=method.streams)
        slow_seconds = 0.0 if method.changes else inf if method.waits else SLOW_SECONDS
        return cls(method.name, series, slow_seconds, method.changes, method.waits)


def _size(response: Any) -> int:
    """Return the bytes of a response, encoded or not, 0 if there is none."""
    return 0 if response is None else len(response) if isinstance(response, bytes) else int(response.ByteSize())
