"""Runs of clients that disconnect and of servers that restart, after which every promise is checked."""

from __future__ import annotations

import asyncio
import os
import random
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from signalbox.v1 import match_stream_pb2 as pb
from tests.support import promises
from tests.support.consumers import (
    EARLIEST,
    parked,
)
from tests.support.history import (
    Answered,
    History,
    SeenEvent,
    SeenMatch,
    Watching,
    seen,
)
from tests.support.messages import ADA, BOB
from tests.support.recorders import Operator, World
from tests.support.service import serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from tests.support.service import Client

    Promise = Callable[[History], None]
    Breach = Callable[[History], None]

SECONDS = float(os.environ.get("SIGNALBOX_PROMISES_SECONDS", "0.3"))
SEED = int(os.environ.get("SIGNALBOX_PROMISES_SEED", "0")) or random.randrange(1, 1 << 32)  # noqa: S311 - any will do
DRAIN_SECONDS = 30.0
PAID = "paid"
EMAILS = (ADA, BOB, "eve@example.com")


@asynccontextmanager
async def play(world: World, players: Sequence[Any]) -> AsyncIterator[None]:
    """Run players until the context ends; an error names the seed that repeats it."""
    async with asyncio.TaskGroup() as tasks:
        world.players = [tasks.create_task(player.run()) for player in players]
        try:
            yield
        except BaseException as error:
            error.add_note(f"SIGNALBOX_PROMISES_SEED={SEED}, lag of each subscription: {world.lag}")
            raise
        finally:
            world.calm = world.over = True


async def drain(world: World) -> None:
    """Let nothing more happen but the work that is left, until every reader is at the end of the log; then end."""
    world.calm = True
    operator = Operator(world)
    await asyncio.sleep(0.3)
    async with asyncio.timeout(DRAIN_SECONDS):
        for name in world.history.subscriptions:
            while (reading := await operator.observe(name)).floor < reading.head:  # noqa: ASYNC110 - it must be asked
                await asyncio.sleep(0.2)
        head = reading.head
        while {each.position for each in last_answers(world.history)} != {head}:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.05)
        world.over = True
        await asyncio.wait(world.players)


def last_answers(history: History) -> list[Answered]:
    """Return the last response that each watcher has read."""
    watchers = {each.stream: each.watcher for each in history.of(Watching)}
    return list({watchers[each.stream]: each for each in history.of(Answered)}.values())


async def check(world: World, database_url: str) -> None:
    """Read the final log through a freshly started server, and check every promise."""
    history = world.history
    async with serving(database_url) as service:
        client = service.client(world.secret)
        history.events = [SeenEvent(each.position, each.id, each.name) for each in await client.log()]
        history.log = await whole_log(client)
        for name in history.subscriptions:
            history.parked[name] = {each.match.position for each in await parked(client, name, page_size=1_000)}
    for promise in promises.PROMISES:
        try:
            promise(history)
        except AssertionError as error:
            error.add_note(f"SIGNALBOX_PROMISES_SEED={SEED}")
            raise


async def whole_log(client: Client) -> list[SeenMatch]:
    """Read the match log, by one watch."""
    log: list[SeenMatch] = []
    call = client.matches.WatchMatches(pb.WatchMatchesRequest(start=EARLIEST, max_matches=1_000))
    async for answer in call:
        log += map(seen, answer.matches)
        if answer.position == answer.head_position:
            break
    call.cancel()
    return log
