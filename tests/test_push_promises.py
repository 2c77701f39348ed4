"""The promises of matches over subscriptions that push, to receivers that fail in every way, from servers that die.

SIGNALBOX_PROMISES_SECONDS and SIGNALBOX_PROMISES_SEED work as in `tests/test_promises.py`; `make torture` has the same
receivers.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest

from signalbox.v1 import match_stream_pb2 as pb
from tests.support.automations import automate
from tests.support.consumers import EARLIEST, seconds
from tests.support.history import History, Restarted, Rules, Said
from tests.support.messages import ANYTHING, ORDER
from tests.support.process import server_process
from tests.support.promise_runs import EMAILS, PAID, SECONDS, SEED, check, drain, play
from tests.support.push_player import PushPlayer
from tests.support.pushes import SHORT_CLAIMS
from tests.support.receiver import LOOPBACK, push_to, receiving
from tests.support.recorders import Operator, Sender, Watcher, World
from tests.support.service import serving

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from tests.support.receiver import Receiver
    from tests.support.service import Client

NETWORKS = ("--push-networks", "127.0.0.0/8", "--grace", "1")
LIVES = ("stopped", "killed", "last")
ENOUGH = 10
"""More responses than this have to come before the promises are checked."""

takes_long = pytest.mark.timeout(SECONDS * 2 + 120)
on_postgresql = pytest.mark.parametrize("backend", ["postgresql"], indirect=True)


@takes_long
async def test_the_promises_hold_for_receivers_that_fail_while_servers_die(database_url: str, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        receivers = [await stack.enter_async_context(receiving()) for _ in range(2)]
        async with serving(database_url, push_networks=LOOPBACK) as service:
            world, pushing = await begin(await service.shop(), receivers)
        world.clients.clear()
        async with playing(world, pushing, receivers):
            for life in LIVES:
                async with server_process(database_url, tmp_path, *NETWORKS, launching=SHORT_CLAIMS) as server:
                    world.clients = [server.service.client(world.secret)]
                    await asyncio.sleep(SECONDS)
                    if life == "last":
                        while len(world.history.of(Said)) <= ENOUGH:  # noqa: ASYNC110 - only the history knows
                            await asyncio.sleep(0.05)
                        await drain(world)
                        continue
                    world.clients = []
                    world.history.note(Restarted())
                    server.kill() if life == "killed" else server.terminate()
                    await server.exit_code()
        await check(world, database_url)


@takes_long
@on_postgresql
async def test_the_promises_hold_while_one_server_takes_over_from_another(database_url: str, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        receivers = [await stack.enter_async_context(receiving()) for _ in range(2)]
        servers = []
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            starting = server_process(database_url, tmp_path / name, *NETWORKS, launching=SHORT_CLAIMS)
            servers.append(await stack.enter_async_context(starting))
        world, pushing = await begin(await servers[0].service.shop(), receivers)
        async with playing(world, pushing, receivers):
            world.clients.append(servers[1].service.client(world.secret))
            await asyncio.sleep(SECONDS)
            del world.clients[0]
            world.history.note(Restarted())
            servers[0].kill()
            await asyncio.sleep(SECONDS)
            await drain(world)
        await check(world, database_url)


async def begin(shop: Client, receivers: list[Receiver]) -> tuple[World, list[pb.Subscription]]:
    """Set up what a run plays with: a subscription in strict order, and one by contact."""
    await shop.define(PAID, ANYTHING)
    for email in EMAILS:
        await shop.upsert(email)
    order = await automate(shop, ORDER, labels={"team": "growth"})
    paid = await automate(shop, PAID, labels={"team": "core"})
    history = History(steady={order.id: ORDER, paid.id: PAID})
    pushing = []
    for name, by_contact, in_flight, receiver in (
        ("strict", False, 1, receivers[0]),
        ("contacts", True, 8, receivers[1]),
    ):
        history.subscriptions[name] = Rules(pb.MatchFilter(), by_contact, ack_deadline=1_000_000)
        subscription = await push_to(
            shop,
            receiver.url,
            name,
            start=EARLIEST,
            order=pb.DELIVERY_ORDER_CONTACT if by_contact else pb.DELIVERY_ORDER_POSITION,
            ack_deadline=seconds(1),
            max_attempts=100,
            backoff=pb.Backoff(initial_delay=seconds(0.05), max_delay=seconds(0.3)),
            push={"max_in_flight": in_flight, "timeout": seconds(1)},
        )
        pushing.append(subscription)
    return World(history, random.Random(SEED), shop.secret, [shop]), pushing  # noqa: S311 - to be repeated


def playing(
    world: World, pushing: list[pb.Subscription], receivers: list[Receiver]
) -> AbstractAsyncContextManager[None]:
    """Run all senders and receivers until the context ends."""
    players: list[Any] = [Sender(world, f"sender-{number}", (ORDER, PAID), EMAILS) for number in range(2)]
    players += [PushPlayer(world, *pair) for pair in zip(pushing, receivers, strict=True)]
    players += [Watcher(world, "everything", pb.MatchFilter(), 100), Operator(world)]
    return play(world, players)
