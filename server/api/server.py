"""The gRPC server: the services of the contract, health and reflection on one port."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from server.api.connections import close_connections
from server.api.interceptor import Interceptor, service_handler
from server.api.open_calls import LAST_WORD_SECONDS
from server.api.tls import server_credentials
from server.contract import SERVICE_NAMES, SERVICES
from server.errors import Stopping
from server.shutdown import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from server.api.open_calls import OpenCalls
    from server.auth.access import Access
    from server.settings import Tls

_LAST_WORD_SECONDS = 0.1
"""How long a health watch stays open to report NOT_SERVING."""

_FLUSH_SECONDS = 0.1
"""Time for the last responses to reach the connections: a handler that has returned has not sent its response yet."""

MAX_MESSAGE_BYTES = 16 * 1024 * 1024

_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # Two servers on one port would each take some of the calls.
    ("grpc.so_reuseport", 0),
    # Clients behind balancers keep idle connections alive; a ping every ten seconds is welcome.
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
)


class GrpcServer:
    """Serves the contract. `servicers` are by service name."""

    def __init__(self, access: Access, calls: OpenCalls, servicers: Mapping[str, object]) -> None:
        self._calls = calls
        self._server = grpc.aio.server(options=_OPTIONS)
        self._port = 0
        self._health = _Health(calls)
        interceptor = Interceptor(access, calls)
        self._server.add_generic_rpc_handlers(
            [service_handler(service, servicers.get(service.name), interceptor) for service in SERVICES]
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        _add_reflection(self._server, calls)

    async def start(self, address: str, tls: Tls | None) -> str:
        """Listen, and return the address as HOST:PORT, with the chosen port if it was 0. Raise OSError."""
        try:
            if tls is None:
                port = self._server.add_insecure_port(address)
            else:
                port = self._server.add_secure_port(address, server_credentials(tls))
        except RuntimeError as error:
            tls_files = "" if tls is None else ", or the TLS files do not match"
            raise OSError(
                f"Cannot listen on {address}: it is in use or not an address of this machine{tls_files}"
            ) from error
        self._port = port
        await self._server.start()
        await self._health.set("", health_pb2.HealthCheckResponse.SERVING)
        await self.report_ready(ready=True)
        return f"{address.rpartition(':')[0]}:{port}"

    async def report_ready(self, *, ready: bool) -> None:
        """Report the health of the services: NOT_SERVING while the database cannot be written.

        The health of the server as a whole, the empty name, stays SERVING: a restart would not help.
        """
        status = health_pb2.HealthCheckResponse.SERVING if ready else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in SERVICE_NAMES:
            await self._health.set(name, status)

    async def leave(self) -> None:
        """Report NOT_SERVING and keep serving, because load balancers need time to notice."""
        self._calls.leaving.set()
        await self._health.enter_graceful_shutdown()

    async def stop(self, grace_seconds: float) -> None:
        """End streams, and give calls `grace_seconds` to finish.

        Those that do not finish are answered UNAVAILABLE. The connections are closed before the library stops: it
        cancels calls that arrive between its stop and the GOAWAY to the clients, and retry policies do not retry
        CANCELLED. On a closed connection such a call is UNAVAILABLE.
        """
        await self.leave()
        await self._calls.drain(grace_seconds)
        await asyncio.sleep(_FLUSH_SECONDS)
        close_connections(self._port)
        await self._server.stop(LAST_WORD_SECONDS)


class _Health(health.aio.HealthServicer):
    """Health whose watches end with the server, after they have reported NOT_SERVING."""

    def __init__(self, calls: OpenCalls) -> None:
        super().__init__()
        self._calls = calls

    async def Watch(self, request: Any, context: Any) -> None:
        """Watch until the caller cancels or the server stops."""
        watching = asyncio.create_task(super().Watch(request, context))
        try:
            with suppress(Stopping):
                await until(self._calls.stopping, asyncio.shield(watching))
            await asyncio.wait({watching}, timeout=_LAST_WORD_SECONDS)
        finally:
            watching.cancel()


def _add_reflection(server: grpc.aio.Server, calls: OpenCalls) -> None:
    """Serve reflection as v1alpha and as v1: the messages of both are the same on the wire."""
    names = (*SERVICE_NAMES, health.SERVICE_NAME, reflection.SERVICE_NAME)
    servicer = reflection.aio.ReflectionServicer(service_names=names)

    async def info(requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        task = calls.enter(idle=True)
        try:
            answers: Any = servicer.ServerReflectionInfo(requests, context)
            async for answer in answers:
                yield answer
        except asyncio.CancelledError:
            if not calls.was_ended(task):
                raise
            await context.abort(grpc.StatusCode.UNAVAILABLE, Stopping().message)
        finally:
            calls.leave(task)

    handler: grpc.RpcMethodHandler[Any, Any] = grpc.stream_stream_rpc_method_handler(
        info,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers(
        [
            grpc.method_handlers_generic_handler(
                f"grpc.reflection.{version}.ServerReflection", {"ServerReflectionInfo": handler}
            )
            for version in ("v1alpha", "v1")
        ]
    )
