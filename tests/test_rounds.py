"""Small work of a project in portions: none of it holds up another project for longer than a portion takes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from server.sharing import rounds as rounds_module
from server.sharing.rounds import PORTION, Rounds
from tests.support.messages import event, orders

if TYPE_CHECKING:
    from collections.abc import Hashable

    from tests.support.service import Client

FLOOD, LONE = "flood", "lone"

pytestmark = pytest.mark.lasting
on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)


@pytest.fixture
def expected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the server expect small work of other projects."""
    monkeypatch.setattr(rounds_module, "others_expected", lambda _key: True)


class Begun:
    """What has begun, by rounds of the event loop."""

    def __init__(self, rounds: Rounds) -> None:
        self._rounds = rounds
        self.keys: list[Hashable] = []

    def add(self, *keys: Hashable) -> None:
        for key in keys:
            self._rounds.begin(key, lambda key=key: self.keys.append(key))  # type: ignore[misc]  # bound now

    async def round(self) -> list[Hashable]:
        """Return what begins in the next round."""
        self.keys.clear()
        await asyncio.sleep(0)
        return [*self.keys]


async def test_work_of_a_project_alone_begins_at_once() -> None:
    begun = Begun(Rounds())
    begun.add(*[FLOOD] * 100)
    assert begun.keys == [FLOOD] * 100


@pytest.mark.usefixtures("expected")
async def test_a_round_begins_a_portion_of_the_work_of_a_project() -> None:
    begun = Begun(Rounds())
    begun.add(*[FLOOD] * (2 * PORTION + 1))
    assert begun.keys == [FLOOD] * PORTION
    assert await begun.round() == [FLOOD] * PORTION
    assert await begun.round() == [FLOOD]
    assert await begun.round() == []


@pytest.mark.usefixtures("expected")
async def test_the_work_of_another_project_begins_at_once() -> None:
    begun = Begun(Rounds())
    begun.add(*[FLOOD] * 100, LONE)
    assert begun.keys == [*[FLOOD] * PORTION, LONE]
    await begun.round()
    begun.add(LONE)
    assert begun.keys[-1] == LONE


@pytest.mark.usefixtures("expected")
async def test_projects_that_flood_begin_in_turn_and_each_of_many_in_every_round() -> None:
    begun = Begun(Rounds())
    begun.add(*[FLOOD] * 100, *[LONE] * 100)
    second = await begun.round()
    assert second.count(FLOOD) == second.count(LONE) == PORTION // 2
    many = Begun(Rounds())
    projects = range(3 * PORTION)
    many.add(*projects, *projects)
    assert many.keys == [*projects]
    assert await many.round() == [*projects]


@pytest.mark.usefixtures("expected")
async def test_work_of_a_project_begins_in_the_order_in_which_it_came() -> None:
    rounds = Rounds()
    numbers: list[int] = []

    async def work(number: int) -> None:
        if not rounds.take(FLOOD):
            await rounds.wait(FLOOD)
        numbers.append(number)

    tasks = [asyncio.create_task(work(number)) for number in range(5 * PORTION)]
    await asyncio.sleep(0)
    tasks[PORTION + 1].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert numbers == [number for number in range(5 * PORTION) if number != PORTION + 1]


@pytest.fixture
def counts(expected: None, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return how many calls and answers begin in each round."""
    found: list[int] = []
    next_round = Rounds._next_round

    def noted(rounds: Rounds) -> None:
        found.append(rounds._total)
        next_round(rounds)

    monkeypatch.setattr(Rounds, "_next_round", noted)
    return found


@on_sqlite
async def test_single_sends_of_a_flood_begin_and_are_answered_in_portions(shop: Client, counts: list[int]) -> None:
    counts.clear()
    responses = await asyncio.gather(*(shop.send(event({"order_total": number})) for number in range(100)))
    assert len({response.event.id for response in responses}) == 100
    await asyncio.sleep(0)
    assert sum(counts) == 2 * 100
    assert max(counts) <= PORTION


@on_sqlite
async def test_a_large_batch_is_answered_at_once(shop: Client, counts: list[int]) -> None:
    counts.clear()
    await shop.send_all(orders(100))
    await asyncio.sleep(0)
    assert sum(counts) == 1
