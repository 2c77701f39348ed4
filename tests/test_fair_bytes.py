"""Bytes that several keys have in common: each has its share, and none is overtaken for ever."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest

from server.fair_bytes import FairBytes


async def acquired(shared: FairBytes, key: str, size: int) -> asyncio.Task[None]:
    """Ask for bytes, and let whoever can have theirs have them."""
    task = asyncio.create_task(shared.acquire(key, size))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return task


async def test_a_key_waits_once_its_share_is_used_up_and_others_do_not() -> None:
    shared = FairBytes(100, 40)
    await shared.acquire("flood", 30)
    second, third = await acquired(shared, "flood", 20), await acquired(shared, "flood", 10)
    assert (second.done(), third.done()) == (False, False)
    await shared.acquire("other", 40)
    shared.release("flood", 30)
    await asyncio.gather(second, third)
    assert shared.free == 30


async def test_a_large_request_is_not_overtaken_by_small_ones() -> None:
    shared = FairBytes(100, 80)
    await shared.acquire("a", 70)
    large = await acquired(shared, "b", 60)
    small = await acquired(shared, "c", 10)
    assert (large.done(), small.done(), shared.free) == (False, False, 30)
    shared.release("a", 70)
    await asyncio.gather(large, small)
    assert shared.free == 30


async def test_more_than_a_share_counts_as_a_share() -> None:
    shared = FairBytes(100, 40)
    async with shared.held("a", 1_000):
        assert shared.free == 60
    assert shared.free == 100


@pytest.mark.parametrize("seed", range(30))
async def test_bytes_are_neither_lost_nor_given_twice_whoever_is_cancelled(seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - the same ones each time
    shared, held, total, share = FairBytes(100, 40), Counter[str](), 100, 40

    async def use(key: str, size: int) -> None:
        async with shared.held(key, size):
            held[key] += min(size, share)
            assert held.total() <= total
            assert held[key] <= share
            try:
                for _ in range(chance.randrange(4)):
                    await asyncio.sleep(0)
            finally:
                held[key] -= min(size, share)

    tasks = []
    for _ in range(200):
        tasks.append(asyncio.create_task(use(chance.choice("abcd"), chance.randrange(1, 50))))
        if chance.random() < 0.3:
            chance.choice(tasks).cancel()
        if chance.random() < 0.5:
            await asyncio.sleep(0)
    async with asyncio.timeout(10):
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} <= {type(None), asyncio.CancelledError}
    assert shared.free == total
    # Nothing is left of keys that wait for nothing.
    assert not shared._placed
    assert not shared._beyond
