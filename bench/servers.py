"""The servers that are measured, each in a process of its own: `python -m bench.servers signalbox FILE | no-op`.

A server says where it listens in one line on stdout, and ends at SIGTERM.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
import uvloop

from bench.messages import send_event_response
from server.app import running
from server.settings import Settings
from signalbox.v1 import event_ingest_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager

ADMIN_KEY = "sb_admin_of_the_benchmark"
ANY_PORT = "127.0.0.1:0"


@asynccontextmanager
async def signalbox(database: str) -> AsyncIterator[str]:
    """Run Signalbox with the demo project on a database file."""
    settings = Settings(grpc=ANY_PORT, database=f"sqlite:///{database}", admin_key=ADMIN_KEY, demo=True)
    async with running(settings) as server:
        yield server.grpc_address


def no_op_handler() -> grpc.GenericRpcHandler:
    """Make a service that parses each request of SendEvent and always answers the same."""
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


async def serve(server: AbstractAsyncContextManager[str]) -> None:
    """Run a server until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with server as address:
        print(address, flush=True)
        await stop.wait()


def main() -> None:
    parser = argparse.ArgumentParser()
    kinds = parser.add_subparsers(dest="kind", required=True)
    kinds.add_parser("signalbox").add_argument("database")
    kinds.add_parser("no-op")
    arguments = parser.parse_args()
    uvloop.run(serve(no_op() if arguments.kind == "no-op" else signalbox(arguments.database)))


if __name__ == "__main__":
    main()
