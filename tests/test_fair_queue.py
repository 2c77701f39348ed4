"""Fair shares: who is next, however many and however large the items of others are."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.sharing.fair_queue import FairQueue, FairTurns

KEYS = "abcd"

pushes = st.tuples(st.sampled_from(KEYS), st.integers(1, 50))
pops = st.just(None)


def test_the_items_of_one_key_leave_in_the_order_in_which_they_came() -> None:
    queue: FairQueue[int] = FairQueue()
    for number in range(10):
        queue.push("a", number, 100 - number)
    assert [queue.pop() for _ in range(10)] == list(range(10))


@given(st.lists(st.integers(0, 5) | pops))
def test_items_of_a_lower_order_leave_first_and_those_of_the_same_in_their_turn(orders: list[int | None]) -> None:
    queue: FairQueue[tuple[int, int]] = FairQueue()
    waiting: list[tuple[int, int]] = []
    for number, order in enumerate(orders):
        if order is not None:
            queue.push("a", (order, number), 1, order)
            waiting.append((order, number))
        elif waiting:
            assert queue.pop() == min(waiting)
            waiting.remove(min(waiting))


def test_an_empty_queue_has_no_next_item() -> None:
    with pytest.raises(IndexError):
        FairQueue[int]().pop()


def test_a_key_that_asks_seldom_is_next_after_one_item_of_each_other_key() -> None:
    queue: FairQueue[str] = FairQueue()
    for key in "abc":
        for _ in range(1_000):
            queue.push(key, key, 500)
    for _ in range(100):
        queue.pop()
    queue.push("d", "d")
    assert "d" in [queue.pop() for _ in range(4)]


def test_time_without_items_is_not_saved_up() -> None:
    queue: FairQueue[str] = FairQueue()
    for _ in range(100):
        queue.push("a", "a", 10)
    for _ in range(50):
        queue.pop()
    for _ in range(50):
        queue.push("b", "b", 10)
    assert Counter(queue.pop() for _ in range(40)) == {"a": 20, "b": 20}


def test_a_key_with_large_items_pays_for_them_after_it_was_alone() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.push("large", "large", 1_000)
    for _ in range(2_000):
        queue.push("small", "small")
    taken = []
    for _ in range(900):
        taken.append(queue.pop())
        if taken[-1] == "large":
            queue.push("large", "large", 1_000)
    assert taken.count("large") == 1


@given(st.lists(pushes | pops, max_size=300))
def test_keys_that_wait_receive_equal_cost_up_to_their_largest_items(steps: list[tuple[str, int] | None]) -> None:
    queue: FairQueue[tuple[str, int]] = FairQueue()
    waiting: defaultdict[str, list[int]] = defaultdict(list)
    # For each pair of keys: the cost that the first received while both waited.
    received: Counter[tuple[str, str]] = Counter()
    for step in steps:
        if step is not None:
            key, cost = step
            if not waiting[key]:
                for other in KEYS:
                    received[key, other] = received[other, key] = 0
            queue.push(key, (key, cost), cost)
            waiting[key].append(cost)
        elif len(queue):
            key, cost = queue.pop()
            assert cost == waiting[key].pop(0)
            for other in KEYS:
                if other != key and waiting[other]:
                    received[key, other] += cost
                    assert received[key, other] - received[other, key] <= 100, (key, other)
        assert len(queue) == sum(map(len, waiting.values()))


def test_what_is_known_of_keys_without_items_does_not_grow() -> None:
    queue: FairQueue[int] = FairQueue()
    queue.push("stays", 0)
    for number in range(10_000):
        queue.push("stays", 0)
        queue.push(number, number)
        queue.pop()
        queue.pop()
    assert len(queue._finish) < 5_000


async def test_a_turn_is_given_at_once_while_one_is_free() -> None:
    turns = FairTurns(2)
    await turns.acquire("a")
    await turns.acquire("a")
    third = asyncio.ensure_future(turns.acquire("a"))
    await asyncio.sleep(0)
    assert not third.done()
    turns.release("a")
    await third


async def test_one_key_holds_its_share_and_leaves_the_rest_to_others() -> None:
    turns = FairTurns(3, share=2)
    await turns.acquire("a")
    await turns.acquire("a")
    beyond = asyncio.ensure_future(turns.acquire("a"))
    await asyncio.sleep(0)
    await asyncio.wait_for(turns.acquire("b"), 1)
    assert not beyond.done()
    turns.release("a")
    await asyncio.wait_for(beyond, 1)


async def test_keys_that_wait_take_turns() -> None:
    turns = FairTurns(1)
    order: list[str] = []

    async def work(key: str) -> None:
        async with turns.turn(key):
            order.append(key)
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        for key in ["flood"] * 100 + ["lone"]:
            group.create_task(work(key))
    assert order.index("lone") <= 2


@pytest.mark.parametrize("seed", range(20))
async def test_turns_are_neither_lost_nor_given_twice_whoever_is_cancelled(seed: int) -> None:
    random = Random(seed)  # noqa: S311 - the same schedule again is the point
    turns, share = random.randint(1, 4), random.randint(1, 3)
    fair = FairTurns(turns, share)
    held: Counter[str] = Counter()

    async def work(key: str) -> None:
        async with fair.turn(key, random.randint(1, 9)):
            held[key] += 1
            assert held[key] <= share
            assert held.total() <= turns
            try:
                for _ in range(random.randint(0, 3)):
                    await asyncio.sleep(0)
            finally:
                held[key] -= 1

    tasks: list[asyncio.Task[None]] = []
    for _ in range(400):
        if random.random() < 0.6:
            tasks.append(asyncio.ensure_future(work(random.choice(KEYS))))
        elif tasks:
            random.choice(tasks).cancel()
        if random.random() < 0.3:
            await asyncio.sleep(0)
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(result is None or isinstance(result, asyncio.CancelledError) for result in results)
    for key in KEYS:
        for _ in range(min(turns, share)):
            await asyncio.wait_for(fair.acquire(key), 1)
        for _ in range(min(turns, share)):
            fair.release(key)
