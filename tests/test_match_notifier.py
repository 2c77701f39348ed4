"""The ends of match logs, over a database that counts its reads."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from server.delivery.match_notifier import MatchNotifier
from server.delivery.start_points import check_kept
from server.errors import CursorExpired

if TYPE_CHECKING:
    from collections.abc import Callable

MINE, OTHERS = 1, 2


class Heads:
    """Stands for the database: reads return the ends that a test has set."""

    def __init__(self, *, shared: bool) -> None:
        self.shared = shared
        self.ends = {MINE: 3, OTHERS: 7}
        self.reads = 0

    async def read(self, work: Callable[[Any], Any], *, brief: bool = False, delivery: bool = False) -> dict[int, int]:
        assert brief
        self.reads += 1
        return dict(self.ends)

    async def write(self, work: Callable[[Any], Any]) -> Any:
        raise AssertionError

    async def close(self) -> None: ...


def notifier_over(database: Heads) -> MatchNotifier:
    return MatchNotifier(database)  # type: ignore[arg-type]  # of a database, a notifier uses these


async def test_the_end_of_a_log_is_read_once_where_no_other_server_writes() -> None:
    database = Heads(shared=False)
    notifier = notifier_over(database)
    assert [await notifier.position(MINE) for _ in range(3)] == [3, 3, 3]
    notifier.advance(MINE, 4)
    assert (await notifier.position(MINE), database.reads) == (4, 1)
    assert (await notifier.position(OTHERS), database.reads) == (7, 2)


async def test_the_end_of_a_log_is_read_anew_where_other_servers_write_and_nobody_follows() -> None:
    database = Heads(shared=True)
    notifier = notifier_over(database)
    assert await notifier.position(MINE) == 3
    database.ends[MINE] = 5
    assert (await notifier.position(MINE), database.reads) == (5, 2)


async def test_the_end_of_a_log_that_is_followed_is_not_read_for_each_question() -> None:
    database = Heads(shared=True)
    notifier = notifier_over(database)
    following = asyncio.create_task(notifier.wait_beyond(MINE, 3, 60))
    await asyncio.sleep(0)
    while (reads := database.reads) == 0:  # noqa: ASYNC110 - a read wakes nobody
        await asyncio.sleep(0)
    assert [await notifier.position(MINE) for _ in range(3)] == [3, 3, 3]
    assert database.reads == reads
    notifier.advance(MINE, 4)
    assert await following == 4
    await notifier.position(MINE)
    assert database.reads == reads + 1


async def test_an_earlier_end_moves_none_back() -> None:
    notifier = notifier_over(Heads(shared=False))
    await notifier.position(MINE)
    notifier.advance(MINE, 5)
    for earlier in (4, 5):
        notifier.advance(MINE, earlier)
        assert await notifier.position(MINE) == 5


async def test_a_follower_is_woken_by_its_own_log_alone() -> None:
    notifier = notifier_over(Heads(shared=False))
    assert await notifier.wait_beyond(MINE, 2, 60) == 3
    following = asyncio.create_task(notifier.wait_beyond(MINE, 3, 60))
    await asyncio.sleep(0)
    notifier.advance(OTHERS, 9)
    notifier.advance(MINE, 3)
    await asyncio.sleep(0.01)
    assert not following.done()
    notifier.advance(MINE, 4)
    async with asyncio.timeout(10):
        assert await following == 4


async def test_a_wait_that_times_out_returns_the_current_end() -> None:
    notifier = notifier_over(Heads(shared=False))
    assert await notifier.wait_beyond(MINE, 3, 0.001) == 3
    notifier.advance(MINE, 4)
    assert await notifier.wait_beyond(MINE, 3, 60) == 4


async def test_a_log_that_ends_before_the_position_is_reported_at_once() -> None:
    notifier = notifier_over(Heads(shared=False))
    async with asyncio.timeout(10):
        assert await notifier.wait_beyond(MINE, 8, 60) == 3


def test_a_place_is_kept_as_long_as_the_match_after_it() -> None:
    check_kept(4, 5)
    check_kept(5, 5)
    with pytest.raises(CursorExpired):
        check_kept(3, 5)
