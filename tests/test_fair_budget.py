"""Shares of a bounded amount: how much a key may have, and who is next."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.sharing.fair_budget import FairBudget

KEYS = st.sampled_from("abc")
COSTS = st.integers(1, 10)


def taken(budget: FairBudget, key: str) -> int:
    """Take all that a key may have, and return how much it is."""
    count = 0
    while budget.take(key):
        count += 1
    return count


def test_keys_that_take_all_they_can_leave_something_for_the_next_one() -> None:
    budget = FairBudget(2_000)
    assert [taken(budget, str(number)) for number in range(4)] == [1_000, 500, 250, 125]
    assert budget.take("another")


def test_a_key_that_holds_nothing_may_take_all_that_is_free() -> None:
    budget = FairBudget(10)
    assert budget.take("a", 10)
    assert not budget.take("b")
    budget.give("a", 10)
    assert budget.take("b")
    assert not budget.take("a", 10)
    assert budget.take("a", 9)


def test_what_is_given_back_can_be_taken_again() -> None:
    budget = FairBudget(10)
    for _ in range(3):
        assert (taken(budget, "a"), budget.held_by("a"), budget.used) == (5, 5, 5)
        for _ in range(5):
            budget.give("a")
        assert (budget.held_by("a"), budget.used) == (0, 0)


@given(st.lists(st.tuples(KEYS, COSTS)))
def test_no_more_than_the_total_is_held_and_every_waiter_is_served(wanted: list[tuple[str, int]]) -> None:
    asyncio.run(served(wanted))


async def served(wanted: list[tuple[str, int]]) -> None:
    budget = FairBudget(12)
    held: Counter[str] = Counter()
    order: list[tuple[str, int]] = []

    async def use(number: int, key: str, cost: int) -> None:
        await budget.acquire(key, cost)
        order.append((key, number))
        held[key] += cost
        # Those who were served and have not noticed yet are counted, too.
        assert held.total() <= budget.used <= budget.total
        await asyncio.sleep(0)
        held[key] -= cost
        budget.give(key, cost)

    await asyncio.gather(*(use(number, key, cost) for number, (key, cost) in enumerate(wanted)))
    assert budget.used == 0
    for each in "abc":
        numbers = [number for key, number in order if key == each]
        assert numbers == sorted(numbers)


@given(st.lists(st.tuples(KEYS, COSTS, st.booleans())))
def test_a_caller_that_gives_up_holds_nothing(wanted: list[tuple[str, int, bool]]) -> None:
    asyncio.run(given_up(wanted))


async def given_up(wanted: list[tuple[str, int, bool]]) -> None:
    budget = FairBudget(12)
    assert budget.take("first", 12)

    async def use(key: str, cost: int) -> None:
        await budget.acquire(key, cost)
        budget.give(key, cost)

    waiting = [(asyncio.create_task(use(key, cost)), leaves) for key, cost, leaves in wanted]
    await asyncio.sleep(0)
    for number, (task, leaves) in enumerate(waiting):
        # Some leave while they wait, some in the moment in which they are served.
        if leaves and number % 2:
            task.cancel()
    budget.give("first", 12)
    for task, leaves in waiting:
        if leaves:
            task.cancel()
    await asyncio.gather(*(task for task, _ in waiting), return_exceptions=True)
    assert all(leaves or not task.cancelled() for task, leaves in waiting)
    assert budget.used == 0
    assert budget.take("a", 12)


def test_keys_that_wait_are_served_in_turn() -> None:
    async def run() -> list[str]:
        budget, order = FairBudget(1), list[str]()
        assert budget.take("first")

        async def use(key: str) -> None:
            await budget.acquire(key)
            order.append(key)
            budget.give(key)

        tasks = [asyncio.create_task(use(key)) for key in "aaab"]
        await asyncio.sleep(0)
        budget.give("first")
        await asyncio.gather(*tasks)
        return order

    assert asyncio.run(run()).index("b") <= 1


def test_more_than_the_total_can_never_be_taken() -> None:
    with pytest.raises(ValueError, match="11 can never be taken: a key may hold at most 10"):
        asyncio.run(FairBudget(10).acquire("a", 11))


async def acquired(shared: FairBudget, key: str, size: int) -> asyncio.Task[None]:
    """Ask for a part, and let whoever can have theirs have them."""
    task = asyncio.create_task(shared.acquire(key, size))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return task


async def test_a_key_waits_once_its_share_is_used_up_and_others_do_not() -> None:
    shared = FairBudget(100, 40)
    await shared.acquire("flood", 30)
    second, third = await acquired(shared, "flood", 20), await acquired(shared, "flood", 10)
    assert (second.done(), third.done()) == (False, False)
    await shared.acquire("other", 40)
    shared.give("flood", 30)
    await asyncio.gather(second, third)
    assert shared.used == 70


async def test_a_large_request_is_not_overtaken_by_small_ones() -> None:
    shared = FairBudget(100, 80)
    await shared.acquire("a", 70)
    large = await acquired(shared, "b", 60)
    small = await acquired(shared, "c", 10)
    assert (large.done(), small.done(), shared.used) == (False, False, 70)
    shared.give("a", 70)
    await asyncio.gather(large, small)
    assert shared.used == 70


async def test_more_than_a_share_can_never_be_taken() -> None:
    with pytest.raises(ValueError, match="41 can never be taken: a key may hold at most 40"):
        await FairBudget(100, 40).acquire("a", 41)


@pytest.mark.parametrize("seed", range(30))
async def test_parts_are_neither_lost_nor_given_twice_whoever_is_cancelled(seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - the same ones each time
    shared, held, total, share = FairBudget(100, 40), Counter[str](), 100, 40

    async def use(key: str, size: int) -> None:
        await shared.acquire(key, size)
        held[key] += size
        assert held.total() <= total
        assert held[key] <= share
        try:
            for _ in range(chance.randrange(4)):
                await asyncio.sleep(0)
        finally:
            held[key] -= size
            shared.give(key, size)

    tasks = []
    for _ in range(200):
        tasks.append(asyncio.create_task(use(chance.choice("abcd"), chance.randrange(1, 41))))
        if chance.random() < 0.3:
            chance.choice(tasks).cancel()
        if chance.random() < 0.5:
            await asyncio.sleep(0)
    async with asyncio.timeout(10):
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} <= {type(None), asyncio.CancelledError}
    assert shared.used == 0
    # Nothing is left of keys that wait for nothing.
    assert not shared._held
    assert not shared._waiting
