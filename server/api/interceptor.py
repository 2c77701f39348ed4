"""Serves the methods of the contract: who may call, what goes wrong, what is not served yet, all in one place.

A servicer is any object with coroutine methods named as in the contract: `async def Name(self, request, caller)` for a
unary answer, an async generator `def Name(self, requests, caller)` for streams on both sides. For a stream of answers
alone it is `async def Name(self, request, caller, send)`, which hands over each answer with `await send(answer,
seconds)`: one that the client does not take in so many seconds ends the call. A method that the contract names and the
servicer lacks answers UNIMPLEMENTED.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc
import structlog
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from server.api.messages.texts import text_check
from server.api.rich_status import rich_status
from server.errors import (
    KeyInvalid,
    MalformedRequest,
    NotImplementedYet,
    Stopping,
    StorageRefused,
    WatcherTooSlow,
)
from server.shutdown import until
from server.status import KNOWN_ERRORS, code_of, message_of
from signalbox.v1 import options_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine

    from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
    from google.protobuf.message import Message

    from server.auth.access import Access, Caller

log = structlog.get_logger()

Context = grpc.aio.ServicerContext[Any, Any]

Parse: TypeAlias = "Callable[[bytes], Message]"
"""Reads the bytes of a request. Raises MalformedRequest and UnstorableText."""

STATUS_KEY = "grpc-status-details-bin"

Send = Callable[[Any, float], Awaitable[None]]
"""Hands an answer of a stream to the transport within so many seconds. Raises WatcherTooSlow."""

LAST_WORD_SECONDS = 1.0
"""Time for a client that reads no answers to read the status."""


class Streams:
    """The calls in progress, so that a shutdown can announce itself to the streams and wait for all of them.

    A shutdown has three states. `leaving`: the server reports that it stops, and serves all calls.
    `stopping`: streams end, single calls are served. `closed`: no further call is served. Calls that do not end in
    time are cancelled, which their handlers turn into Stopping.
    """

    def __init__(self) -> None:
        self.leaving = asyncio.Event()
        self.stopping = asyncio.Event()
        self.closed = False
        self._streams: set[asyncio.Task[Any]] = set()
        self._calls: set[asyncio.Task[Any]] = set()
        self._idle: set[asyncio.Task[Any]] = set()
        self._ended: set[asyncio.Task[Any]] = set()

    def enter(self, *, stream: bool = False, idle: bool = False) -> asyncio.Task[Any]:
        """Register the current task as serving a call. An idle one has nothing to finish when the server stops."""
        task = asyncio.current_task()
        assert task is not None
        (self._idle if idle else self._streams if stream else self._calls).add(task)
        return task

    def check_open(self) -> None:
        """Raise Stopping if no further call is served."""
        if self.closed:
            raise Stopping

    def leave(self, task: asyncio.Task[Any]) -> None:
        """Remove the task of a call that has ended."""
        self._streams.discard(task)
        self._calls.discard(task)
        self._idle.discard(task)
        self._ended.discard(task)

    def was_ended(self, task: asyncio.Task[Any]) -> bool:
        """Return whether the shutdown cancelled a task, and undo the cancellation if so."""
        if task not in self._ended:
            return False
        task.uncancel()
        return True

    async def drain(self, seconds: float) -> None:
        """Ask the streams to end, wait for all calls for `seconds`, then cancel the rest.

        Streams may take long to end. Single calls are served until all have ended: a client that is refused retries
        a few times within a second, and may reach this server each time.
        """
        self.leaving.set()
        self.stopping.set()
        self._end(self._idle)
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._streams:
                    await asyncio.wait(self._streams)
                self.closed = True
                while self._calls:
                    await asyncio.wait(self._calls)
        self.closed = True
        self._end(self._streams | self._calls)
        if self._ended:
            await asyncio.wait(self._ended, timeout=LAST_WORD_SECONDS)

    def _end(self, tasks: set[asyncio.Task[Any]]) -> None:
        for task in tasks:
            self._ended.add(task)
            task.cancel()


class Guard:
    """Stands before every method: tells the caller, checks the scope, and turns errors into statuses."""

    def __init__(self, access: Access, streams: Streams) -> None:
        self._access = access
        self._streams = streams

    def handler(self, method: MethodDescriptor, servicer: object) -> grpc.RpcMethodHandler[Any, Any]:
        """Make the handler of one method."""
        scope: str = method.GetOptions().Extensions[options_pb2.required_scope]
        if not scope:
            raise ValueError(f"{method.full_name} says no required_scope")
        call = getattr(servicer, method.name, None) or _not_served(method)
        parse = _parser(method)
        serialize = GetMessageClass(method.output_type).SerializeToString
        # Requests come as bytes, and are parsed when the key was seen: a hostile message can cost seconds.
        if method.client_streaming:
            return grpc.stream_stream_rpc_method_handler(self._stream(call, scope, parse), None, serialize)
        if method.server_streaming:
            return grpc.unary_stream_rpc_method_handler(self._answers(call, scope, parse), None, serialize)
        return grpc.unary_unary_rpc_method_handler(self._unary(call, scope, parse), None, serialize)

    def _unary(self, call: Callable[[Any, Caller], Awaitable[Any]], scope: str, parse: Parse) -> Any:
        async def handle(data: bytes, context: Context) -> Any:
            task = self._streams.enter()
            try:
                self._streams.check_open()
                caller = await self._caller(context, scope)
                return await call(parse(data), caller)
            except asyncio.CancelledError:
                await self._abort_ended(context, task)
            except Exception as error:
                await _abort(context, error)
            finally:
                self._streams.leave(task)

        return handle

    def _stream(self, call: Callable[[Any, Caller], AsyncIterator[Any]], scope: str, parse: Parse) -> Any:
        async def handle(requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[Any]:
            task = self._streams.enter(stream=True)
            try:
                self._streams.check_open()
                caller = await self._caller(context, scope)
                async for response in call(self._checked(requests, context, scope, parse), caller):
                    yield response
            except asyncio.CancelledError:
                await self._abort_ended(context, task)
            except Exception as error:
                await _abort(context, error)
            finally:
                self._streams.leave(task)

        return handle

    def _answers(self, call: Callable[[Any, Caller, Send], Coroutine[Any, Any, None]], scope: str, parse: Parse) -> Any:
        async def handle(data: bytes, context: Context) -> None:
            async def send(answer: Any, seconds: float) -> None:
                # The key may have been revoked meanwhile.
                await self._caller(context, scope)
                try:
                    async with asyncio.timeout(seconds):
                        await context.write(answer)
                except TimeoutError:
                    raise WatcherTooSlow(seconds) from None

            task = self._streams.enter(stream=True)
            try:
                self._streams.check_open()
                caller = await self._caller(context, scope)
                await until(self._streams.stopping, call(parse(data), caller, send))
            except asyncio.CancelledError:
                await self._abort_ended(context, task)
            except Exception as error:
                # The status stands behind the answers, which the client may never read.
                with suppress(TimeoutError):
                    async with asyncio.timeout(LAST_WORD_SECONDS):
                        await _abort(context, error)
            finally:
                self._streams.leave(task)

        return handle

    async def _abort_ended(self, context: Context, task: asyncio.Task[Any]) -> None:
        """Turn a cancellation by the shutdown into Stopping: retry policies do not retry CANCELLED."""
        if not self._streams.was_ended(task):
            raise asyncio.CancelledError
        await _abort(context, Stopping(cut_off=True))

    async def _checked(
        self, requests: AsyncIterator[bytes], context: Context, scope: str, parse: Parse
    ) -> AsyncIterator[Any]:
        """Parse every message of a stream, once its key is found to hold still."""
        async for data in requests:
            await self._caller(context, scope)
            yield parse(data)

    async def _caller(self, context: Context, scope: str) -> Caller:
        authorization = project = ""
        for name, value in context.invocation_metadata() or ():
            if name == "authorization":
                if authorization:
                    raise KeyInvalid
                authorization = str(value)
            elif name == "signalbox-project":
                project = str(value)
        caller = await self._access.authenticate(authorization, project)
        caller.authorize(scope)
        return caller


def service_handler(service: ServiceDescriptor, servicer: object, guard: Guard) -> grpc.GenericRpcHandler:
    """Make the handler of one service of the contract."""
    return grpc.method_handlers_generic_handler(
        service.full_name, {method.name: guard.handler(method, servicer) for method in service.methods}
    )


async def _abort(context: Context, error: Exception) -> None:
    if isinstance(error, grpc.aio.AbortError):
        raise error
    if not isinstance(error, KNOWN_ERRORS):
        log.error("call_failed", exc_info=error)
    elif isinstance(error, StorageRefused):
        log.error("storage_refused", exc_info=error.__cause__)
    status = rich_status(error)
    await context.abort(code_of(error), message_of(error), ((STATUS_KEY, status.SerializeToString()),))


def _parser(method: MethodDescriptor) -> Parse:
    parse, check_texts = GetMessageClass(method.input_type).FromString, text_check(method.input_type)

    def parse_or_refuse(data: bytes) -> Message:
        try:
            message = parse(data)
        except DecodeError as error:
            name = method.input_type.full_name
            text = f"The bytes are not a {name}, or it is nested more than 100 messages deep"
            raise MalformedRequest(text) from error
        if check_texts is not None:
            check_texts(message)
        return message

    return parse_or_refuse


def _not_served(method: MethodDescriptor) -> Any:
    if not method.client_streaming:

        async def refuse(*_arguments: Any) -> Any:
            raise NotImplementedYet(method.full_name)

        return refuse

    async def refuse_stream(_requests: Any, _caller: Caller) -> AsyncIterator[Any]:
        raise NotImplementedYet(method.full_name)
        yield  # type: ignore[unreachable]  # makes this a generator

    return refuse_stream
