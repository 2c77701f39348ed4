"""Health and reflection, which need no key.

Anybody may call them, so they have limits of their own, apart from those of projects: messages are small and must
arrive within MESSAGE_SECONDS, and few calls stay open. A health check is always answered.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health, health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from server.api.aborting import abort
from server.errors import LimitReached, MalformedRequest, RequestTooSlow, Stopping, TooManyStreams, WatcherTooSlow
from server.process.shutdown import until
from server.rpc.contract import SERVICE_NAMES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from server.metrics import Metrics
    from server.rpc.open_calls import OpenCalls

    Context = grpc.aio.ServicerContext[Any, Any]

MESSAGE_SECONDS: Final = 2.0
"""Time for a message, of a few bytes, to arrive. Until then it may grow to the largest size of all messages."""

IDLE_SECONDS: Final = 60.0
"""The time in which the next request of a reflection stream must have arrived."""

MAX_BYTES: Final = 4_096
"""The largest message: a name, or a name and a number."""

WRITE_SECONDS: Final = 10.0
"""Time for a client to read a response."""

MAX_WATCHES: Final = 1_000
"""The most open watches of health."""

MAX_REFLECTIONS: Final = 32
"""The most open streams of reflection. Each may hold an unfinished message."""

_LAST_WORD_SECONDS: Final = 0.1
"""How long a health watch stays open to report NOT_SERVING."""

_ReflectionRequest = reflection_pb2.ServerReflectionRequest
_SERVING: int = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class KeylessServices:
    """Serves health and reflection."""

    def __init__(self, calls: OpenCalls, metrics: Metrics) -> None:
        self.health = Health(calls)
        self._calls = calls
        self._metrics = metrics
        self._open: Counter[str] = Counter()
        names = (*SERVICE_NAMES, health.SERVICE_NAME, reflection.SERVICE_NAME)
        self._reflection = reflection.aio.ReflectionServicer(service_names=names)

    def handlers(self) -> dict[str, dict[str, grpc.RpcMethodHandler[Any, Any]]]:
        """Return the handlers by service and method; the messages of reflection v1alpha and v1 are the same."""
        write_health = health_pb2.HealthCheckResponse.SerializeToString
        write_reflection = reflection_pb2.ServerReflectionResponse.SerializeToString
        reflecting: grpc.RpcMethodHandler[Any, Any] = grpc.stream_stream_rpc_method_handler(
            self._reflect, None, write_reflection
        )
        return {
            health.SERVICE_NAME: {
                "Check": grpc.stream_unary_rpc_method_handler(self._check, None, write_health),
                "Watch": grpc.stream_stream_rpc_method_handler(self._watch, None, write_health),
            },
            **{
                f"grpc.reflection.{version}.ServerReflection": {"ServerReflectionInfo": reflecting}
                for version in ("v1alpha", "v1")
            },
        }

    async def _check(self, _requests: object, context: Context) -> health_pb2.HealthCheckResponse:
        async with self._answering(context):
            request = await _received(context, health_pb2.HealthCheckRequest)
            status = None if request is None else self.health.status(request.service)
            if status is None:
                await context.abort(grpc.StatusCode.NOT_FOUND, "There is no such service")
            return health_pb2.HealthCheckResponse(status=status)
        raise AssertionError("every error ends the call")

    async def _watch(self, _requests: object, context: Context) -> None:
        async with self._answering(context, "watches", MAX_WATCHES):
            request = await _received(context, health_pb2.HealthCheckRequest)
            if request is not None:
                await self.health.watch(request.service, context)

    async def _reflect(self, _requests: object, context: Context) -> None:
        task = self._calls.enter(idle=True)
        try:
            async with self._answering(context, "reflections", MAX_REFLECTIONS):
                while (request := await _received(context, _ReflectionRequest, IDLE_SECONDS)) is not None:
                    answers: Any = self._reflection.ServerReflectionInfo(_only(request), context)
                    async for answer in answers:
                        await _write(context, answer)
        except asyncio.CancelledError:
            error = self._calls.ended_by(task)
            if error is None:
                raise
            await abort(context, error)
        finally:
            self._calls.leave(task)

    @asynccontextmanager
    async def _answering(self, context: Context, kind: str = "checks", limit: int = 0) -> AsyncIterator[None]:
        """Answer the errors of a call, and refuse it if `limit` calls of its kind are open; 0 for no limit."""
        self._open[kind] += 1
        try:
            if limit and self._open[kind] > limit:
                raise TooManyStreams.without_key(limit)
            yield
        except (LimitReached, MalformedRequest, WatcherTooSlow) as error:
            if isinstance(error, LimitReached):
                self._metrics.refusals.count(error.reason)
            await abort(context, error)
        finally:
            self._open[kind] -= 1


class Health:
    """The health of the services, by name; the empty name is the server as a whole."""

    def __init__(self, calls: OpenCalls) -> None:
        self._calls = calls
        self._statuses: dict[str, Any] = {"": _SERVING} | dict.fromkeys(SERVICE_NAMES, _SERVING)
        self._changed = asyncio.Event()

    def status(self, service: str) -> Any:
        """Return the status of a service, None if there is no such service."""
        return self._statuses.get(service)

    def report_ready(self, *, ready: bool) -> None:
        """Report the health of the services. That of the server as a whole stays: a restart would not help."""
        if not self._calls.leaving.is_set():
            self._report(SERVICE_NAMES, _SERVING if ready else _NOT_SERVING)

    def leave(self) -> None:
        """Report NOT_SERVING from now on."""
        self._report(list(self._statuses), _NOT_SERVING)

    def _report(self, names: Any, status: Any) -> None:
        if any(self._statuses[name] != status for name in names):
            self._statuses.update(dict.fromkeys(names, status))
            self._changed.set()
            self._changed = asyncio.Event()

    async def watch(self, service: str, context: Context) -> None:
        """Report the status of a service and its changes until the caller cancels or the server stops."""
        watching = asyncio.create_task(self._write_changes(service, context))
        try:
            with suppress(Stopping):
                await until(self._calls.stopping, asyncio.shield(watching))
            await asyncio.wait({watching}, timeout=_LAST_WORD_SECONDS)
        finally:
            watching.cancel()

    async def _write_changes(self, service: str, context: Context) -> None:
        last = None
        while True:
            changed = self._changed
            status = self._statuses.get(service, _UNKNOWN)
            if status != last:
                await _write(context, health_pb2.HealthCheckResponse(status=status))
            last = status
            await changed.wait()


async def _received(context: Context, kind: Any, seconds: float = MESSAGE_SECONDS) -> Any:
    """Receive a message; None at the end of them. Raise RequestTooSlow and MalformedRequest."""
    try:
        async with asyncio.timeout(seconds):
            data: Any = await context.read()
    except TimeoutError:
        raise RequestTooSlow(seconds) from None
    if data is grpc.aio.EOF:
        return None
    if len(data) > MAX_BYTES:
        raise MalformedRequest(f"The request has {len(data):,} bytes; at most {MAX_BYTES:,} are allowed")
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise MalformedRequest(f"The request is not a valid {kind.DESCRIPTOR.full_name}") from error


async def _write(context: Context, response: Any) -> None:
    try:
        async with asyncio.timeout(WRITE_SECONDS):
            await context.write(response)
    except TimeoutError:
        raise WatcherTooSlow(WRITE_SECONDS) from None


async def _only(request: Any) -> AsyncIterator[Any]:
    yield request
