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
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc
import structlog
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from registry.errors import SignalboxError
from server.api.messages.texts import text_check
from server.api.open_calls import LAST_WORD_SECONDS
from server.api.rich_status import rich_status
from server.errors import (
    KeyInvalid,
    MalformedRequest,
    Stopping,
    StorageRefused,
    WatcherTooSlow,
)
from server.shutdown import until
from server.status import code_of, message_of
from signalbox.v1 import options_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine

    from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
    from google.protobuf.message import Message

    from server.api.open_calls import OpenCalls
    from server.auth.access import Access, Caller

log = structlog.get_logger()

Context = grpc.aio.ServicerContext[Any, Any]

Parse: TypeAlias = "Callable[[bytes], Message]"
"""Reads the bytes of a request. Raise MalformedRequest and UnstorableText."""

STATUS_KEY = "grpc-status-details-bin"

Send = Callable[[Any, float], Awaitable[None]]
"""Writes a response of a stream. Raise WatcherTooSlow if the transport does not take it within the given seconds."""


class Interceptor:
    """Wraps every RPC: authenticates the caller, checks its scope, and turns errors into statuses."""

    def __init__(self, access: Access, calls: OpenCalls) -> None:
        self._access = access
        self._calls = calls

    def handler(self, method: MethodDescriptor, servicer: object) -> grpc.RpcMethodHandler[Any, Any]:
        """Return the handler of one method."""
        scope: str = method.GetOptions().Extensions[options_pb2.required_scope]
        if not scope:
            raise ValueError(f"{method.full_name} has no required_scope")
        call = getattr(servicer, method.name)
        parse = _parser(method)
        serialize = GetMessageClass(method.output_type).SerializeToString
        # Requests arrive as bytes and are parsed after the caller is authenticated: parsing can cost seconds.
        if method.client_streaming:
            return grpc.stream_stream_rpc_method_handler(self._stream(call, scope, parse), None, serialize)
        if method.server_streaming:
            return grpc.unary_stream_rpc_method_handler(self._response_stream(call, scope, parse), None, serialize)
        return grpc.unary_unary_rpc_method_handler(self._unary(call, scope, parse), None, serialize)

    def _unary(self, call: Callable[[Any, Caller], Awaitable[Any]], scope: str, parse: Parse) -> Any:
        async def handle(data: bytes, context: Context) -> Any:
            task = self._calls.enter()
            try:
                self._calls.check_open()
                caller = await self._authenticate(context, scope)
                return await call(parse(data), caller)
            except asyncio.CancelledError:
                await self._abort_ended(context, task)
            except Exception as error:
                await _abort(context, error)
            finally:
                self._calls.leave(task)

        return handle

    def _stream(self, call: Callable[[Any, Caller], AsyncIterator[Any]], scope: str, parse: Parse) -> Any:
        async def handle(requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[Any]:
            task = self._calls.enter(stream=True)
            try:
                self._calls.check_open()
                caller = await self._authenticate(context, scope)
                async for response in call(self._checked(requests, context, scope, parse), caller):
                    yield response
            except asyncio.CancelledError:
                await self._abort_ended(context, task)
            except Exception as error:
                await _abort(context, error)
            finally:
                self._calls.leave(task)

        return handle

    def _response_stream(
        self, call: Callable[[Any, Caller, Send], Coroutine[Any, Any, None]], scope: str, parse: Parse
    ) -> Any:
        async def handle(data: bytes, context: Context) -> None:
            async def send(response: Any, seconds: float) -> None:
                # The key may have been revoked since the last response.
                await self._authenticate(context, scope)
                try:
                    async with asyncio.timeout(seconds):
                        await context.write(response)
                except TimeoutError:
                    raise WatcherTooSlow(seconds) from None

            task = self._calls.enter(stream=True)
            try:
                self._calls.check_open()
                caller = await self._authenticate(context, scope)
                await until(self._calls.stopping, call(parse(data), caller, send))
            except asyncio.CancelledError:
                await self._abort_ended(context, task)
            except Exception as error:
                # The status is sent after the responses, which the client may never read.
                with suppress(TimeoutError):
                    async with asyncio.timeout(LAST_WORD_SECONDS):
                        await _abort(context, error)
            finally:
                self._calls.leave(task)

        return handle

    async def _abort_ended(self, context: Context, task: asyncio.Task[Any]) -> None:
        """Turn a cancellation by the shutdown into Stopping: retry policies do not retry CANCELLED."""
        if not self._calls.was_ended(task):
            raise asyncio.CancelledError
        await _abort(context, Stopping(cut_off=True))

    async def _checked(
        self, requests: AsyncIterator[bytes], context: Context, scope: str, parse: Parse
    ) -> AsyncIterator[Any]:
        """Parse each message of a stream after authenticating its caller again: the key may have been revoked."""
        async for data in requests:
            await self._authenticate(context, scope)
            yield parse(data)

    async def _authenticate(self, context: Context, scope: str) -> Caller:
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


def service_handler(service: ServiceDescriptor, servicer: object, interceptor: Interceptor) -> grpc.GenericRpcHandler:
    """Return the handler of the methods of a service that its servicer has."""
    served = [method for method in service.methods if hasattr(servicer, method.name)]
    return grpc.method_handlers_generic_handler(
        service.full_name, {method.name: interceptor.handler(method, servicer) for method in served}
    )


async def _abort(context: Context, error: Exception) -> None:
    if isinstance(error, grpc.aio.AbortError):
        raise error
    if not isinstance(error, SignalboxError):
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
            text = f"The request is not a valid {name}, or is nested more than 100 messages deep"
            raise MalformedRequest(text) from error
        if check_texts is not None:
            check_texts(message)
        return message

    return parse_or_refuse
