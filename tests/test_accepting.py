"""Calls are accepted many at a time, each method's in a line of its own."""

from __future__ import annotations

import asyncio
import socket
import time
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from server.api import accepting
from server.api.accepting import accepting_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TOGETHER = 64
ARRIVED_SECONDS = 0.3


class Rounds:
    """Counts the rounds of the loop, and the calls that begin in each."""

    def __init__(self) -> None:
        self.begun: Counter[int] = Counter()
        self._round = 0
        self._next()

    def _next(self) -> None:
        self._round += 1
        asyncio.get_running_loop().call_soon(self._next)

    async def serve(self, requests: AsyncIterator[bytes], _context: object) -> bytes:
        """Answer a call with its message."""
        self.begun[self._round] += 1
        return b"".join([request async for request in requests])


async def echo(requests: AsyncIterator[bytes], _context: object) -> AsyncIterator[bytes]:
    """Answer each message of a stream."""
    async for request in requests:
        yield request


@asynccontextmanager
async def served(call: Any) -> AsyncIterator[grpc.aio.Channel]:
    """Serve the methods Call and Other, and a stream."""
    unary: Any = grpc.stream_unary_rpc_method_handler(call)
    stream: Any = grpc.stream_stream_rpc_method_handler(echo)
    server = accepting_server({"test.Service": {"Call": unary, "Other": unary, "Stream": stream}}, [])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel
    finally:
        await server.stop(None)


async def call_together(channel: grpc.aio.Channel) -> None:
    """Make calls that have all arrived before the loop accepts any."""
    call: Any = channel.unary_unary("/test.Service/Call")
    calls = [asyncio.ensure_future(call(b"%d" % number)) for number in range(TOGETHER)]
    await asyncio.sleep(0)
    time.sleep(ARRIVED_SECONDS)  # noqa: ASYNC251 - the loop stands still while the library receives them
    assert await asyncio.gather(*calls) == [b"%d" % number for number in range(TOGETHER)]


async def test_calls_that_arrived_together_are_accepted_together() -> None:
    rounds = Rounds()
    async with served(rounds.serve) as channel:
        await call_together(channel)
        rounds.begun.clear()
        await call_together(channel)
    assert rounds.begun.total() == TOGETHER
    assert len(rounds.begun) <= TOGETHER // 4
    assert max(rounds.begun.values()) > TOGETHER // 8


async def test_methods_that_are_not_served_are_unimplemented_and_streams_flow() -> None:
    async with served(Rounds().serve) as channel:
        missing: Any = channel.unary_unary("/test.Service/Missing")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await missing(b"")
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        stream: Any = channel.stream_stream("/test.Service/Stream")
        call = stream()
        for word in (b"one", b"two"):
            await call.write(word)
            assert await call.read() == word
        await call.done_writing()
        assert await call.code() is grpc.StatusCode.OK


async def test_the_library_s_own_server_is_used_if_its_internals_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(accepting._INTERNALS, "_schedule_rpc_coro", ("call",))
    async with served(Rounds().serve) as channel:
        await call_together(channel)


async def test_a_reader_takes_all_bytes_at_once() -> None:
    loop = asyncio.get_running_loop()
    called: list[int] = []
    read = asyncio.Event()

    def reader(number: int) -> None:
        called.append(number)
        read.set()

    reading, writing = socket.socketpair()
    with reading, writing:
        reading.setblocking(False)
        with accepting.taking_all_bytes(loop):
            loop.add_reader(reading, reader, 1)
        for _ in range(100):
            writing.send(b"x")
        await read.wait()
        await asyncio.sleep(0.01)
        loop.remove_reader(reading)
    assert called == [1]
    assert "add_reader" not in vars(loop)


def test_the_internals_of_the_installed_library_are_known() -> None:
    assert accepting._internals_known()
