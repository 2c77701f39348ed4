"""The calls in progress at a shutdown, in virtual time."""

from __future__ import annotations

import asyncio

import pytest

from server.errors import Stopping
from server.rpc.open_calls import LAST_WORD_SECONDS, OpenCalls
from tests.support.virtual_time import now, run_virtually

STREAM: dict[str, bool] = {"stream": True}
IDLE: dict[str, bool] = {"idle": True}


class Call:
    """A call that is served for a time, and takes a while to answer once it is cut off."""

    def __init__(self, calls: OpenCalls, seconds: float, answering: float = 0, **kind: bool) -> None:
        self.cut_off_at: float | None = None
        self.ended_at: float | None = None
        self._calls = calls
        self._seconds = seconds
        self._answering = answering
        self._kind = kind
        self.task = asyncio.ensure_future(self._serve())

    async def _serve(self) -> None:
        task = self._calls.enter(**self._kind)
        try:
            await asyncio.sleep(self._seconds)
        except asyncio.CancelledError:
            if self._calls.ended_by(task) is None:
                raise
            self.cut_off_at = now()
            await asyncio.sleep(self._answering)
        finally:
            self.ended_at = now()
            self._calls.leave(task)


async def drained(calls: OpenCalls, seconds: float) -> float:
    """Drain, and return how long it took."""
    await asyncio.sleep(0)
    began = now()
    await calls.drain(seconds)
    return now() - began


async def nothing_to_wait_for() -> None:
    calls = OpenCalls()
    calls.check_open()
    assert (calls.leaving.is_set(), calls.stopping.is_set(), calls.closed) == (False, False, False)
    ended = [Call(calls, 1, **kind) for kind in ({}, STREAM, IDLE)]
    await asyncio.wait([call.task for call in ended])
    assert await drained(calls, 60) == 0
    assert (calls.leaving.is_set(), calls.stopping.is_set(), calls.closed) == (True, True, True)
    with pytest.raises(Stopping):
        calls.check_open()
    assert [call.cut_off_at for call in ended] == [None] * 3


def test_calls_that_have_ended_hold_up_no_shutdown() -> None:
    run_virtually(nothing_to_wait_for())


async def served_until_the_streams_end() -> None:
    calls = OpenCalls()
    stream, call = Call(calls, 5, **STREAM), Call(calls, 2)
    draining = asyncio.create_task(drained(calls, 60))
    await asyncio.sleep(3)
    # A client that was refused here would come back: single calls are served as long as there are streams.
    calls.check_open()
    late = Call(calls, 4)
    assert await draining == 7
    assert calls.closed
    assert [each.cut_off_at for each in (stream, call, late)] == [None] * 3
    assert (stream.ended_at, call.ended_at, late.ended_at) == (5, 2, 7)


def test_calls_are_served_until_the_last_stream_has_ended() -> None:
    run_virtually(served_until_the_streams_end())


async def closed_after_the_streams() -> None:
    calls = OpenCalls()
    Call(calls, 2, **STREAM)
    Call(calls, 9)
    draining = asyncio.create_task(drained(calls, 60))
    await asyncio.sleep(3)
    with pytest.raises(Stopping):
        calls.check_open()
    assert await draining == 9


def test_no_further_call_is_served_once_the_streams_have_ended() -> None:
    run_virtually(closed_after_the_streams())


async def cut_off() -> None:
    calls = OpenCalls()
    stream, call, idle = Call(calls, 50, **STREAM), Call(calls, 50, 0.5), Call(calls, 50, **IDLE)
    assert await drained(calls, 3) == 3.5
    assert (stream.cut_off_at, call.cut_off_at, idle.cut_off_at) == (3, 3, 0)
    assert call.ended_at == 3.5
    assert calls.closed


def test_calls_that_take_longer_are_cut_off_and_idle_ones_end_at_once() -> None:
    run_virtually(cut_off())


async def no_last_word() -> None:
    calls = OpenCalls()
    stubborn = Call(calls, 50, 20)
    assert await drained(calls, 3) == 3 + LAST_WORD_SECONDS
    assert stubborn.ended_at is None
    stubborn.task.cancel()
    await asyncio.gather(stubborn.task, return_exceptions=True)


def test_a_client_that_reads_nothing_holds_up_a_shutdown_for_a_second() -> None:
    run_virtually(no_last_word())


async def cancelled_otherwise() -> None:
    calls = OpenCalls()
    call = Call(calls, 50)
    await asyncio.sleep(0)
    call.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call.task
    assert (call.cut_off_at, call.ended_at) == (None, 0)
    assert await drained(calls, 60) == 0


def test_a_call_whose_client_goes_is_cancelled() -> None:
    run_virtually(cancelled_otherwise())


async def cancellation_is_undone() -> None:
    calls = OpenCalls()
    found: list[tuple[bool, int]] = []

    async def serve() -> None:
        task = calls.enter()
        try:
            await asyncio.sleep(50)
        except asyncio.CancelledError:
            found.append((calls.ended_by(task) is not None, task.cancelling()))
        finally:
            calls.leave(task)

    serving = asyncio.create_task(serve())
    await drained(calls, 1)
    await serving
    assert found == [(True, 0)]


def test_the_cancellation_by_a_shutdown_is_undone() -> None:
    run_virtually(cancellation_is_undone())
