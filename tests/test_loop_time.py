"""Time on the event loop: large requests take turns, and hold nobody up for longer than a slice."""

from __future__ import annotations

import asyncio
from time import perf_counter, process_time

import pytest

from server.sharing.loop_time import MANY_WAITING, SLICE_SECONDS, LoopTime, begin_request
from server.sharing.small_work import SmallWork

PIECE_SECONDS = 0.000_2


def _work(seconds: float = PIECE_SECONDS) -> None:
    end = process_time() + seconds
    while process_time() < end:
        pass


async def test_others_are_served_between_the_slices_of_a_large_request() -> None:
    loop_time = LoopTime()
    served = 0
    finished = False

    async def serve_others() -> None:
        nonlocal served
        while not finished:
            served += 1
            await asyncio.sleep(0)

    others = asyncio.ensure_future(serve_others())
    async with loop_time.slices("large") as slices:
        for _ in range(100):
            _work()
            await slices.pause()
    finished = True
    await others
    # Every slice ends in a pause, whatever the machine does: 100 pieces take at least ten slices.
    assert served >= 100 * PIECE_SECONDS / SLICE_SECONDS - 1


async def test_projects_with_large_requests_have_the_loop_in_turn() -> None:
    loop_time = LoopTime()
    used: list[str] = []

    async def send(project: str) -> None:
        async with loop_time.slices(project) as slices:
            for _ in range(20):
                _work(SLICE_SECONDS)
                used.append(project)
                await slices.pause()

    async with asyncio.TaskGroup() as group:
        for project in ["flood"] * 10 + ["neighbour"]:
            group.create_task(send(project))
    last = len(used) - 1 - used[::-1].index("neighbour")
    # Its 20 slices alternate with the flood's, give or take slices that the machine made longer.
    assert last <= 60, used


async def test_a_project_finishes_one_request_before_it_works_on_the_next() -> None:
    """Each has several stages of several slices, and waits for something else in between."""
    loop_time = LoopTime()
    slices_at_end: list[int] = []
    used = 0

    async def send() -> None:
        nonlocal used
        begin_request()
        for _ in range(3):
            async with loop_time.slices("flood") as slices:
                for _ in range(2):
                    _work(SLICE_SECONDS)
                    used += 1
                    await slices.pause()
            await asyncio.sleep(0)
        slices_at_end.append(used)

    async with asyncio.TaskGroup() as group:
        for _ in range(10):
            group.create_task(send())
    # While a request waits or gives its turn back, the next ones have some slices.
    assert all(used <= 6 * place + 15 for place, used in enumerate(slices_at_end)), f"{slices_at_end}"


async def test_calls_that_keep_arriving_take_no_more_than_their_share() -> None:
    loop_time = LoopTime()
    ended = asyncio.Event()

    async def arrive() -> None:
        while not ended.is_set():
            loop_time.arrivals += 1
            await asyncio.sleep(0)

    arriving = asyncio.create_task(arrive())
    waiting = [asyncio.create_task(_slice(loop_time)) for _ in range(2 * MANY_WAITING)]
    async with loop_time.slices("first"):
        waited = []
        for _ in range(5):
            began = perf_counter()
            await loop_time.serve_others(0.002)
            waited.append(perf_counter() - began)
    # At best: a busy machine makes each longer.
    assert min(waited) < 0.01
    ended.set()
    await asyncio.gather(arriving, *waiting)


async def _slice(loop_time: LoopTime) -> None:
    async with loop_time.slices("waiting"):
        pass


async def test_a_cancelled_request_gives_its_turn_back() -> None:
    loop_time = LoopTime()

    async def hold() -> None:
        async with loop_time.slices("a") as slices:
            while True:
                _work()
                await slices.pause()

    holding = [asyncio.ensure_future(hold()) for _ in range(3)]
    for number, task in enumerate(holding):
        for _ in range(number + 1):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    began = perf_counter()
    async with loop_time.slices("b"):
        assert perf_counter() - began < 1


async def test_a_request_that_is_cancelled_between_two_turns_gives_back_none() -> None:
    loop_time = LoopTime()
    first_ends = asyncio.Event()
    begun: list[str] = []

    async def hold(name: str, until: asyncio.Event) -> None:
        async with loop_time.slices(name):
            begun.append(name)
            await until.wait()

    async def pause() -> None:
        async with loop_time.slices("between") as slices:
            begun.append("between")
            _work(2 * SLICE_SECONDS)
            await slices.pause()
            begun.append("again")

    between = asyncio.create_task(pause())
    first = asyncio.create_task(hold("first", first_ends))
    while "first" not in begun:  # noqa: ASYNC110 - a turn tells nobody
        await asyncio.sleep(0)
    between.cancel()
    await asyncio.gather(between, return_exceptions=True)
    second = asyncio.create_task(hold("second", first_ends))
    for _ in range(10):
        await asyncio.sleep(0)
    # The first one still has the only turn.
    assert begun == ["between", "first"]
    first_ends.set()
    await asyncio.gather(first, second)
    assert begun == ["between", "first", "second"]


async def test_a_turn_for_a_round_ends_with_the_round() -> None:
    loop_time = LoopTime()
    rounds: list[int] = []
    number = 0

    async def decode() -> None:
        await loop_time.round("flood", cost=10_000)
        rounds.append(number)

    decoding = asyncio.gather(*(decode() for _ in range(5)))
    while not decoding.done():
        number += 1
        await asyncio.sleep(0)
    assert len(set(rounds)) == 5
    assert not loop_time.turns.waiting


async def test_after_a_round_the_loop_is_free_for_the_small_work_of_others() -> None:
    loop_time = LoopTime()
    ends: list[float] = []

    async def decode() -> None:
        await loop_time.round("flood", cost=10_000)
        _work(5 * SLICE_SECONDS)
        ends.append(perf_counter())

    for others, pause in ((["flood"], 0.0), (["neighbour", "flood"], 5 * SLICE_SECONDS)):
        for key in others:
            with SmallWork(key):
                pass
        await asyncio.gather(decode(), decode())
        first, second = ends[-2:]
        assert second - first >= 5 * SLICE_SECONDS + pause
