"""Calls are accepted many at a time, each method's in a line of its own."""

from __future__ import annotations

import asyncio
import socket
import time
from collections import Counter
from contextlib import asynccontextmanager, closing
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from structlog.testing import capture_logs

from server.api import accepting
from server.api.accepting import accepting_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TOGETHER = 64
ARRIVED_SECONDS = 0.3


class Rounds:
    """Counts the rounds of the loop, which therefore never sleeps, and the calls that begin in each."""

    def __init__(self) -> None:
        self.begun: Counter[int] = Counter()
        self._round = 0
        self._next()

    def _next(self) -> None:
        self._round += 1
        self._following = asyncio.get_running_loop().call_soon(self._next)

    def close(self) -> None:
        """Let the loop sleep again."""
        self._following.cancel()

    async def serve(self, requests: AsyncIterator[bytes], context: object) -> bytes:
        """Answer a call with its message."""
        self.begun[self._round] += 1
        return await join(requests, context)


async def join(requests: AsyncIterator[bytes], _context: object) -> bytes:
    """Answer a call with its message."""
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
    with closing(Rounds()) as rounds:
        async with served(rounds.serve) as channel:
            await call_together(channel)
            rounds.begun.clear()
            await call_together(channel)
    assert rounds.begun.total() == TOGETHER
    assert len(rounds.begun) <= TOGETHER // 4
    assert max(rounds.begun.values()) > TOGETHER // 8


async def test_methods_that_are_not_served_are_unimplemented_and_streams_flow() -> None:
    async with served(join) as channel:
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


async def test_calls_are_served_after_a_failure_to_accept_one(monkeypatch: pytest.MonkeyPatch) -> None:
    request_call = accepting._Core._request_registered_call
    failures = 3

    async def failing(core: Any, method: bytes) -> Any:
        nonlocal failures
        if method == b"/test.Service/Call" and failures:
            failures -= 1
            raise RuntimeError("out of something")
        return await request_call(core, method)

    monkeypatch.setattr(accepting._Core, "_request_registered_call", failing)
    monkeypatch.setattr(accepting, "FAILED_SECONDS", 0.001)
    with capture_logs() as logs:
        async with served(join) as channel:
            await call_together(channel)
    assert [entry["method"] for entry in logs if entry["event"] == "accept_failed"] == ["/test.Service/Call"] * 3


async def test_calls_that_are_cancelled_as_they_are_accepted_leave_nothing() -> None:
    tasks = asyncio.all_tasks()
    async with served(join) as channel:
        call: Any = channel.unary_unary("/test.Service/Call")
        for pause in (0, 0.0005, 0.001, 0.002, 0.005):
            calls = [call(b"") for _ in range(2 * TOGETHER)]
            await asyncio.sleep(pause)
            for each in calls:
                each.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
        await call_together(channel)
    if left := asyncio.all_tasks() - tasks:
        await asyncio.wait(left, timeout=10)
    assert asyncio.all_tasks() <= tasks


async def test_a_stop_lets_calls_in_progress_finish_and_ends_the_rest() -> None:
    begun, finish = asyncio.Event(), asyncio.Event()

    async def slow(requests: AsyncIterator[bytes], _context: object) -> bytes:
        message = b"".join([request async for request in requests])
        begun.set()
        await finish.wait()
        return message

    handler: Any = grpc.stream_unary_rpc_method_handler(slow)
    server = accepting_server({"test.Service": {"Call": handler}}, [])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call: Any = channel.unary_unary("/test.Service/Call")
        finished = call(b"finished")
        await begun.wait()
        stopping = asyncio.create_task(server.stop(5))
        timed_out = asyncio.create_task(server.wait_for_termination(5))
        await asyncio.sleep(0.05)
        assert not stopping.done()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(b"late")
        assert caught.value.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
        finish.set()
        assert await finished == b"finished"
        await stopping
        assert not await timed_out


async def test_the_library_s_own_server_is_used_if_its_internals_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(accepting._INTERNALS, "_schedule_rpc_coro", ("call",))
    async with served(join) as channel:
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
