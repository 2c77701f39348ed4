"""Wraps every RPC of the contract: authenticates the caller, checks its scope, and turns errors into statuses.

A servicer is any object with coroutine methods named as in the contract:

    unary               async def Name(self, request, caller) -> response
    both sides stream   def Name(self, requests, caller) -> async iterator of responses
    responses stream    async def Name(self, request, caller, send) -> None; `await send(response, seconds)` ends the
                        call with WatcherTooSlow if the client does not read a response for that many seconds

The library answers UNIMPLEMENTED for a method that the servicer lacks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc
import structlog
from google.protobuf.message_factory import GetMessageClass

from registry.errors import SignalboxError
from server.errors import (
    KeyInvalid,
    LimitReached,
    MalformedRequest,
    StorageRefused,
    WatcherTooSlow,
)
from server.rpc.call_limits import ARRIVAL_SECONDS, FIRST_MESSAGE_SECONDS, SMALL_BYTES
from server.rpc.open_calls import LAST_WORD_SECONDS
from server.rpc.parsing import LARGE_BYTES, Parser
from server.rpc.request_size import note_request_size
from server.rpc.rich_status import abort
from server.shutdown import until
from signalbox.v1 import options_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Coroutine

    from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
    from google.protobuf.message import Message

    from server.auth.access import Access, Caller, WatchedStream
    from server.rpc.call_limits import CallLimits
    from server.rpc.open_calls import OpenCalls

log = structlog.get_logger()

Context = grpc.aio.ServicerContext[Any, Any]

Send = Callable[[Any, float], Awaitable[None]]
"""Writes a response of a stream. Raise WatcherTooSlow if the transport does not take it within the given seconds."""


class Interceptor:
    """Wraps every RPC: authenticates the caller, checks its scope and limits, and turns errors into statuses.

    The library calls a handler when the headers of a call have arrived, if the handler reads the requests itself; so
    all of them do. A caller is authenticated and counted before its message is received.
    """

    def __init__(self, access: Access, calls: OpenCalls, limits: CallLimits) -> None:
        self._access = access
        self._calls = calls
        self._limits = limits

    def handler(self, method: MethodDescriptor, servicer: object) -> grpc.RpcMethodHandler[Any, Any]:
        """Return the handler of one method."""
        scope: str = method.GetOptions().Extensions[options_pb2.required_scope]
        if not scope:
            raise ValueError(f"{method.full_name} has no required_scope")
        call = getattr(servicer, method.name)
        parser = Parser(method)
        serialize = partial(_serialized, GetMessageClass(method.output_type).SerializeToString)
        if method.client_streaming:
            return grpc.stream_stream_rpc_method_handler(self._stream(call, scope, parser), None, serialize)
        if method.server_streaming:
            return grpc.stream_stream_rpc_method_handler(self._response_stream(call, scope, parser), None, serialize)
        return grpc.stream_unary_rpc_method_handler(self._unary(call, scope, parser), None, serialize)

    def _unary(self, call: Callable[[Any, Caller], Awaitable[Any]], scope: str, parser: Parser) -> Any:
        limits = self._limits

        async def handle(_requests: object, context: Context) -> Any:
            limits.loop_time.arrivals += 1
            task = self._calls.enter()
            counted: int | None = None
            try:
                self._calls.check_open()
                caller = await self.authenticate(context, scope)
                await limits.enter_call(caller.project_pk)
                counted = caller.project_pk
                data = await self._receive(context, task, counted)
                size = len(data)
                note_request_size(size)
                if size <= SMALL_BYTES:
                    return await call(parser.parse(data), caller)
                request: Message | None = None
                try:
                    request = await self._parse(parser, data, counted)
                    del data
                    return await call(request, caller)
                finally:
                    # The library keeps this frame of a call that is answered with an error, in a cycle.
                    request = None
                    limits.working.give(counted, size)
            except asyncio.CancelledError:
                await self._abort_ended(context, task)
            except Exception as error:
                await self._abort(context, error)
            finally:
                if counted is not None:
                    limits.leave_call(task, counted)
                self._calls.leave(task)

        return handle

    def _stream(self, call: Callable[[Any, Caller], AsyncGenerator[Any, None]], scope: str, parser: Parser) -> Any:
        async def handle(requests: AsyncIterator[bytes], context: Context) -> None:
            async with self._serving(context, scope) as stream:
                parsed = self._parsed(requests, stream, parser)
                async with aclosing(call(parsed, stream.caller)) as responses:
                    async for response in responses:
                        await context.write(response)

        return handle

    def _response_stream(
        self, call: Callable[[Any, Caller, Send], Coroutine[Any, Any, None]], scope: str, parser: Parser
    ) -> Any:
        async def handle(_requests: object, context: Context) -> None:
            async with self._serving(context, scope) as stream:

                async def send(response: Any, seconds: float) -> None:
                    await stream.check()
                    try:
                        async with asyncio.timeout(seconds):
                            await context.write(response)
                    except TimeoutError:
                        raise WatcherTooSlow(seconds) from None

                key = stream.caller.project_pk
                data = await self._receive(context, stream.task, key)
                try:
                    request = await self._parse(parser, data, key)
                finally:
                    if len(data) > SMALL_BYTES:
                        self._limits.working.give(key, len(data))
                del data
                await until(self._calls.stopping, call(request, stream.caller, send))

        return handle

    @asynccontextmanager
    async def _serving(self, context: Context, scope: str) -> AsyncIterator[_Stream]:
        """Serve a stream: authenticate and count it, end it once its key is revoked, and answer its errors."""
        task = self._calls.enter(stream=True)
        limits = self._limits
        stream: _Stream | None = None
        counted: int | None = None
        try:
            self._calls.check_open()
            caller = await self.authenticate(context, scope)
            limits.enter_stream(caller.project_pk)
            counted = caller.project_pk
            watched = self._access.watch(_credentials(context)[0], caller, partial(self._calls.end, task))
            stream = _Stream(self, context, scope, task, caller, watched)
            yield stream
        except asyncio.CancelledError:
            await self._last_word(self._abort_ended(context, task))
        except Exception as error:
            await self._last_word(self._abort(context, error))
        finally:
            if stream is not None:
                self._access.unwatch(stream.watched)
            if counted is not None:
                limits.streams.give(counted)
            self._calls.leave(task)

    async def _receive(self, context: Context, task: asyncio.Task[Any], key: int) -> bytes:
        """Receive the message of a call with one; of a message that is not small, the size is taken of `working`."""
        limits = self._limits
        await limits.arriving.acquire(key)
        try:
            limits.expected[task] = asyncio.get_running_loop().time(), ARRIVAL_SECONDS
            try:
                data: Any = await context.read()
            finally:
                del limits.expected[task]
            if data is grpc.aio.EOF:
                raise MalformedRequest("The call ended without a request; send one message")
            if len(data) > SMALL_BYTES:
                await limits.working.acquire(key, len(data))
            return bytes(data)
        finally:
            limits.arriving.give(key)

    async def _parse(self, parser: Parser, data: bytes, key: int) -> Message:
        if len(data) <= SMALL_BYTES:
            return parser.parse(data)
        if len(data) <= LARGE_BYTES:
            # In a turn, so that of many calls that arrive together one is parsed in each round of the loop.
            async with self._limits.loop_time.slices(key):
                return parser.parse(data)
        return await parser.parse_in_slices(data, self._limits.loop_time, key)

    async def _parsed(
        self, requests: AsyncIterator[bytes], stream: _Stream, parser: Parser
    ) -> AsyncGenerator[Any, None]:
        """Parse each message of a stream. One that is not small is counted until the next one is asked for."""
        limits, key = self._limits, stream.caller.project_pk
        limits.expected[stream.task] = asyncio.get_running_loop().time(), FIRST_MESSAGE_SECONDS
        try:
            async for data in requests:
                limits.expected.pop(stream.task, None)
                await stream.check()
                size = len(data)
                note_request_size(size)
                if size <= SMALL_BYTES:
                    yield parser.parse(data)
                    continue
                await limits.working.acquire(key, size)
                try:
                    yield await self._parse(parser, data, key)
                finally:
                    limits.working.give(key, size)
        finally:
            limits.expected.pop(stream.task, None)

    async def _abort_ended(self, context: Context, task: asyncio.Task[Any]) -> None:
        """Answer a call that was ended with the error: retry policies do not retry CANCELLED."""
        error = self._calls.ended_by(task)
        if error is None:
            raise asyncio.CancelledError
        await self._abort(context, error)

    async def _abort(self, context: Context, error: Exception) -> None:
        # Errors of the library itself: the call is aborted already, or its client is gone.
        if isinstance(error, grpc.aio.BaseError):
            raise error
        if isinstance(error, LimitReached):
            self._limits.metrics.count_refused(error.reason)
        elif not isinstance(error, SignalboxError):
            log.error("call_failed", exc_info=error)
        elif isinstance(error, StorageRefused):
            log.error("storage_refused", exc_info=error.__cause__)
        # Its frames lead to the batch, which leads to the error: all of it would stay until garbage is collected.
        await abort(context, error.with_traceback(None))

    async def _last_word(self, answer: Awaitable[None]) -> None:
        """Send the status of a stream, which comes after the responses; the client may never read those."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORD_SECONDS):
                await answer

    async def authenticate(self, context: Context, scope: str) -> Caller:
        """Return the caller of a call, who has the scope. Raise AccessError, ProjectNotFound and TooManyKeyLookups."""
        caller = await self._access.authenticate(*_credentials(context))
        caller.authorize(scope)
        return caller


@dataclass(frozen=True, slots=True)
class _Stream:
    """A stream that is being served."""

    interceptor: Interceptor
    context: Context
    scope: str
    task: asyncio.Task[Any]
    caller: Caller
    watched: WatchedStream

    async def check(self) -> None:
        """Authenticate the caller again if the key may have been revoked. Raise KeyInvalid."""
        if self.watched.suspect:
            await self.interceptor.authenticate(self.context, self.scope)


def _credentials(context: Context) -> tuple[str, str]:
    """Return the key and the project that a call names. Raise KeyInvalid for two keys."""
    authorization = project = ""
    for name, value in context.invocation_metadata() or ():
        if name == "authorization":
            if authorization:
                raise KeyInvalid
            authorization = str(value)
        elif name == "signalbox-project":
            project = str(value)
    return authorization, project


def _serialized(serialize: Callable[[Any], bytes], response: Any) -> bytes:
    """Serialize a response, unless its servicer has already."""
    return response if isinstance(response, bytes) else serialize(response)


def method_handlers(
    service: ServiceDescriptor, servicer: object, interceptor: Interceptor
) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
    """Return the handlers of the methods of a service that its servicer has, by name."""
    served = [method for method in service.methods if hasattr(servicer, method.name)]
    return {method.name: interceptor.handler(method, servicer) for method in served}
