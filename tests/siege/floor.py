"""The floor of an attack: what its neighbour feels of it beside a gRPC server that does nothing.

The attacker, the neighbour and the server share a machine, and the gRPC library accepts calls one by one: under some
attacks no server of it is quick for a neighbour, whatever it does with the calls. So each attack over gRPC is repeated
against a server that receives requests as bytes and answers each with an empty message.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import grpc

from server.rpc.call_limits import MAX_MESSAGE_BYTES
from tests.siege.neighbour import OVER, observe_sends
from tests.siege.processes import READY_SECONDS, attacking, received
from tests.siege.report import Floor, Report
from tests.siege.samples import SEND, Period, Samples, quantile
from tests.support.forked import forked

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from multiprocessing.connection import Connection

    from server.settings import Tls
    from tests.siege.target import Target

WARMING_SECONDS: Final = 1.0


async def floor_of(row: str, target: Target, seconds: float) -> Floor:
    """Repeat an attack for some seconds against the server that does nothing."""
    async with forked(serve_nothing, target) as server:
        target = replace(target, grpc=await received(server, READY_SECONDS))
        async with attacking(target, row) as attacker, forked(observe_sends, target) as observer:
            await attacker.prepared()
            await asyncio.sleep(WARMING_SECONDS)
            begun = time.monotonic()
            await attacker.attack(seconds, Report(row, ""))
            during = Period(begun, time.monotonic())
            observer.send(OVER)
            samples = Samples(await received(observer, READY_SECONDS))
    sends = samples.seconds(during, SEND, answered=True)
    return Floor(quantile(sends, 0.50), quantile(sends, 0.99))


def serve_nothing(target: Target, pipe: Connection) -> None:
    """Serve in this process until it is killed, over TLS if the target does; send the address."""
    asyncio.run(_serve(target.tls, pipe))


async def _serve(tls: Tls | None, pipe: Connection) -> None:
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", MAX_MESSAGE_BYTES), ("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers([_Nothing()])
    if tls is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        pair = tls.key.read_bytes(), tls.certificate.read_bytes()
        port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    await server.start()
    pipe.send(f"127.0.0.1:{port}")
    await server.wait_for_termination()


class _Nothing(grpc.GenericRpcHandler):
    """Answers every method with empty messages."""

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any]:
        if details.method.endswith("/StreamEvents"):
            return grpc.stream_stream_rpc_method_handler(_answers)
        return grpc.unary_unary_rpc_method_handler(_answer)


async def _answer(_request: bytes, _context: object) -> bytes:
    return b""


async def _answers(requests: AsyncIterator[bytes], _context: object) -> AsyncIterator[bytes]:
    async for _ in requests:
        yield b""
