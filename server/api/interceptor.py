"""The RPCs of the contract over gRPC: each call of the library becomes one of `rpc.calls`.

The library calls a handler when the headers of a call have arrived, if the handler reads the requests itself; so all of
them do. A caller is authenticated and counted before its message is received. The library answers UNIMPLEMENTED for a
method that the servicer lacks.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import grpc

from server.api.aborting import abort_at_return
from server.current_call.context import GRPC, REQUEST_ID, begin_call
from server.errors import KeyInvalid
from server.process.futures import mark_retrieved
from server.rpc.method import served_methods
from server.rpc.parsing import parser
from server.tracing.context import TRACEPARENT, receive_trace

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from google.protobuf.descriptor import ServiceDescriptor

    from server.rpc.calls import Calls
    from server.rpc.method import Method

    Context = grpc.aio.ServicerContext[Any, Any]

FIRST_SECONDS: Final = 0.5
"""How long a stream that ends waits until its first response is sent, which the client may never read."""


class _GrpcCall:
    """What carries one call: a context of the library. Its request ID is answered in the trailing metadata."""

    __slots__ = ("_authorization", "_context", "_first", "_keys", "_metadata", "_project", "_task")

    own_errors = (grpc.aio.BaseError,)

    def __init__(self, context: Context, task: asyncio.Task[Any] | None = None) -> None:
        self._context = context
        self._task = task  # of a call with one response
        self._first: asyncio.Future[None] | None = None
        self._keys = 0
        self._authorization = self._project = request_id = traceparent = ""
        for name, value in context.invocation_metadata() or ():
            if name == "authorization":
                self._keys += 1
                self._authorization = str(value)
            elif name == "signalbox-project":
                self._project = str(value)
            elif name == REQUEST_ID:
                request_id = str(value)
            elif name == TRACEPARENT:
                traceparent = str(value)
        self._metadata = ((REQUEST_ID, begin_call(request_id, GRPC)),)
        context.set_trailing_metadata(self._metadata)
        receive_trace(traceparent)

    def credentials(self) -> tuple[str, str]:
        """Return the key and the project that the call names. Raise KeyInvalid for two keys."""
        if self._keys > 1:
            raise KeyInvalid
        return self._authorization, self._project

    def arrived(self) -> None:
        """Return nothing: the library receives a message when it is asked for."""

    def on_sent(self, call: Callable[[], None]) -> None:
        """Call something once the task has ended, in which the library sends the response."""
        assert self._task is not None
        self._task.add_done_callback(lambda _: call())

    async def receive(self) -> bytes | None:
        """Receive a message, None if the client has sent all of them."""
        data: Any = await self._context.read()
        return None if data is grpc.aio.EOF else data

    def write(self, response: Any) -> Awaitable[None]:
        """Write one of a stream of responses."""
        return self._write_first(response) if self._first is None else self._context.write(response)

    async def _write_first(self, response: Any) -> None:
        """Write the first response, and the headers with it. A call that ends meanwhile waits for it in `fail`."""
        self._first = asyncio.ensure_future(self._context.write(response))
        self._first.add_done_callback(mark_retrieved)
        await asyncio.shield(self._first)

    async def end(self) -> None:
        """Leave it to the library, which ends a call when its handler returns."""

    async def fail(self, error: Exception) -> None:
        """End the call with the status of an error, once its handler returns."""
        if self._first is not None and not self._first.done():
            # Until they are sent, the library would send the headers again, and fail.
            await asyncio.wait({self._first}, timeout=FIRST_SECONDS)
        await abort_at_return(self._context, error, self._metadata)


def method_handlers(
    service: ServiceDescriptor, servicer: object, calls: Calls
) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
    """Return the handlers of the methods of a service that its servicer has, by name."""
    return {method.descriptor.name: _handler(method, calls) for method in served_methods(service, servicer)}


def _handler(method: Method, calls: Calls) -> grpc.RpcMethodHandler[Any, Any]:
    reading = parser(method.descriptor)

    async def answer(_requests: object, context: Context) -> Any:
        task = asyncio.current_task()
        assert task is not None
        return await calls.answer(method, reading, _GrpcCall(context, task), task)

    async def stream(_requests: object, context: Context) -> None:
        await calls.stream(method, reading, _GrpcCall(context))

    async def converse(requests: AsyncIterator[bytes], context: Context) -> None:
        await calls.converse(method, reading, _GrpcCall(context), requests)

    if method.descriptor.client_streaming:
        return grpc.stream_stream_rpc_method_handler(converse, None, _serialized)
    if method.descriptor.server_streaming:
        return grpc.stream_stream_rpc_method_handler(stream, None, _serialized)
    return grpc.stream_unary_rpc_method_handler(answer, None, _serialized)


def _serialized(response: Any) -> bytes:
    """Serialize a response, unless its servicer has already."""
    encoded: bytes = response if isinstance(response, bytes) else response.SerializeToString()
    return encoded
