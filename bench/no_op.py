"""A gRPC server that does nothing: `python -m bench.no_op`.

It parses each request of SendEvent and always sends the same response. It prints its address in one line on stdout, and
ends at SIGTERM.
"""

from __future__ import annotations

import asyncio
import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
import uvloop

from bench.data import send_event_response
from signalbox.v1 import event_ingest_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ANY_PORT = "127.0.0.1:0"


def no_op_handler() -> grpc.GenericRpcHandler:
    """Return a service that parses each request of SendEvent and always sends the same response."""
    response = send_event_response()

    async def send_event(_request: pb.SendEventRequest, _context: Any) -> pb.SendEventResponse:
        return response

    method: grpc.RpcMethodHandler[Any, Any] = grpc.unary_unary_rpc_method_handler(
        send_event, pb.SendEventRequest.FromString, pb.SendEventResponse.SerializeToString
    )
    return grpc.method_handlers_generic_handler("signalbox.v1.EventIngest", {"SendEvent": method})


@asynccontextmanager
async def no_op() -> AsyncIterator[str]:
    """Run a server that does nothing but gRPC."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers([no_op_handler()])
    port = server.add_insecure_port(ANY_PORT)
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(1)


async def serve() -> None:
    """Run the server until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with no_op() as address:
        print(f"no-op ready grpc={address}", flush=True)
        await stop.wait()


if __name__ == "__main__":
    uvloop.run(serve())
