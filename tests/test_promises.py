"""The twelve promises of matches, checked over what real clients of real servers saw.

A run lets senders, watchers and consumers loose on servers that also restart, then lets everything drain, and checks
all promises over the history. It takes a few seconds; SIGNALBOX_PROMISES_SECONDS=600 makes each run as long as
that, and SIGNALBOX_PROMISES_SEED=7 chooses what happens in it. A run that fails says its seed.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from signalbox.v1 import match_stream_pb2 as pb
from tests.support import promises
from tests.support.automations import activate, automate, pause
from tests.support.consumers import (
    ACKNOWLEDGED,
    EARLIEST,
    PARK,
    Engine,
    positions,
    record,
    seconds,
    stats,
    subscribe,
)
from tests.support.history import (
    Accepted,
    Answered,
    Beat,
    ClockStepped,
    Confirmed,
    Delivered,
    History,
    Observed,
    Opening,
    Restarted,
    Rules,
    Said,
    SeenEvent,
    SeenMatch,
    Watching,
)
from tests.support.messages import ANYTHING, ORDER, event
from tests.support.process import server_process
from tests.support.promise_runs import EMAILS, PAID, SECONDS, SEED, check, drain, play
from tests.support.recorders import Consumer, Operator, Sender, Watcher, World
from tests.support.service import serving

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from signalbox.v1.automations_pb2 import Automation
    from tests.support.service import Client

    Promise = Callable[[History], None]
    Breach = Callable[[History], None]

pytestmark = pytest.mark.lasting


# A client that does not read meets the transport, not the database.
on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
on_postgresql = pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
takes_long = pytest.mark.timeout(SECONDS * 2 + 120)

MILLION = 1_000_000


# Runs


@takes_long
async def test_the_promises_hold_while_consumers_fail_and_disconnect(database_url: str) -> None:
    async with serving(database_url, grace_seconds=2) as service:
        world, flapping = await begin(await service.shop())
        async with playing(world):
            await asyncio.gather(flap(world, flapping), seek_midway(world), asyncio.sleep(SECONDS))
            await drain(world)
    await check(world, database_url)


@takes_long
async def test_the_promises_hold_over_restarts(database_url: str, tmp_path: Path) -> None:
    """One server stops well, the next one is killed, and a third one serves the rest."""
    async with serving(database_url) as service:
        world, _ = await begin(await service.shop())
    world.clients.clear()
    async with playing(world):
        for life in ("stopped", "killed", "last"):
            async with AsyncExitStack() as stack:
                if life == "killed":
                    server = await stack.enter_async_context(server_process(database_url, tmp_path, "--grace", "1"))
                    stack.callback(server.kill)
                    service = server.service
                else:
                    service = await stack.enter_async_context(serving(database_url, grace_seconds=0.5))
                world.clients = [service.client(world.secret)]
                await asyncio.sleep(SECONDS / 3)
                if life == "last":
                    await drain(world)
                else:
                    world.clients = []
                    world.history.note(Restarted())
    await check(world, database_url)


@takes_long
@on_postgresql
async def test_the_promises_hold_with_two_servers_on_one_database(database_url: str) -> None:
    async with serving(database_url, grace_seconds=2) as one, serving(database_url, grace_seconds=2) as two:
        shop = await one.shop()
        world, flapping = await begin(shop)
        world.clients.append(two.client(shop.secret))
        async with playing(world):
            await asyncio.gather(flap(world, flapping), seek_midway(world), asyncio.sleep(SECONDS))
            await drain(world)
    await check(world, database_url)


async def begin(shop: Client) -> tuple[World, Automation]:
    """Set up what a run plays with; return the automation that may be paused meanwhile."""
    await shop.define(PAID, ANYTHING)
    for email in EMAILS:
        await shop.upsert(email)
    order = await automate(shop, ORDER, labels={"team": "growth"})
    paid = await automate(shop, PAID, labels={"team": "core"})
    flapping = await automate(shop, PAID, labels={"team": "growth"})
    history = History(steady={order.id: ORDER, paid.id: PAID})
    for name, chosen, by_contact in (
        ("all", pb.MatchFilter(), False),
        ("paid", pb.MatchFilter(event_names=[PAID]), False),
        ("contacts", pb.MatchFilter(labels={"team": "growth"}), True),
    ):
        history.subscriptions[name] = Rules(chosen, by_contact, ack_deadline=1_000_000)
        await subscribe(
            shop,
            name,
            EARLIEST,
            filter=chosen,
            order=pb.DELIVERY_ORDER_CONTACT if by_contact else pb.DELIVERY_ORDER_POSITION,
            ack_deadline=seconds(1),
            max_attempts=100,
            backoff=pb.Backoff(initial_delay=seconds(0.05), max_delay=seconds(0.3)),
        )
    return World(history, random.Random(SEED), shop.secret, [shop]), flapping  # noqa: S311 - to be repeated


def playing(world: World) -> AbstractAsyncContextManager[None]:
    """Run all senders and consumers until the context ends."""
    automation = next(iter(world.history.steady))
    filters = {
        "everything": pb.MatchFilter(),
        "paid": pb.MatchFilter(event_names=[PAID]),
        "growth": pb.MatchFilter(labels={"team": "growth"}),
        "orders": pb.MatchFilter(automation_ids=[automation]),
        "nothing": pb.MatchFilter(event_names=["unheard_of"]),
    }
    players: list[Any] = [Sender(world, f"sender-{number}", (ORDER, PAID), EMAILS) for number in range(3)]
    players += [Watcher(world, name, chosen, 1 + 3 * number) for number, (name, chosen) in enumerate(filters.items())]
    players += [
        Consumer(world, f"{name}-{number}", name, window)
        for name in world.history.subscriptions
        for number, window in enumerate((3, 20))
    ]
    players.append(Operator(world))
    return play(world, players)


async def flap(world: World, automation: Automation) -> None:
    """Pause and activate an automation."""
    for _ in range(3):
        await asyncio.sleep(SECONDS / 7)
        await pause(await world.client(), automation)
        await asyncio.sleep(SECONDS / 7)
        await activate(await world.client(), automation)


async def seek_midway(world: World) -> None:
    """Move subscriptions back to the beginning, and to where they have been already."""
    operator = Operator(world)
    await asyncio.sleep(SECONDS / 2)
    await operator.seek("paid", 0)
    await operator.seek("contacts", (await operator.observe("contacts")).read // 2)


# Checks that can fail


@pytest.mark.parametrize("promise", promises.PROMISES, ids=lambda each: each.__name__)
def test_a_sound_history_keeps_every_promise(promise: Promise) -> None:
    promise(sound_history())


def sound_history() -> History:
    """Three matches; a watcher and a consumer want the two of `paid`."""
    history = History(steady={"first": ORDER, "second": PAID})
    history.subscriptions["engine"] = Rules(pb.MatchFilter(event_names=[PAID]), by_contact=False, ack_deadline=MILLION)
    history.parked["engine"] = set()
    history.events = [SeenEvent(number, f"event-{number}", name) for number, name in enumerate((ORDER, PAID, PAID), 1)]
    history.log = [
        SeenMatch(each.position, f"match-{each.position}", automation, (), each.id, each.position, each.name, "ada")
        for each, automation in zip(history.events, ("first", "second", "second"), strict=True)
    ]
    _, second, third = history.log
    paid = pb.MatchFilter(event_names=[PAID])
    history.entries = [
        *(Accepted(each, (match,), at=at(0)) for each, match in zip(history.events, history.log, strict=True)),
        Watching(1, "watcher", 0, resumed=False, filter=paid, interval=MILLION, limit=2, at=at(0)),
        Answered(1, 2, 3, (second,), at=at(0.1)),
        Answered(1, 3, 3, (third,), at=at(0.2)),
        Watching(2, "watcher", 2, resumed=True, filter=paid, interval=MILLION, limit=2, at=at(0.3)),
        Answered(2, 3, 3, (third,), at=at(0.4)),
        Opening(3, "engine", "worker", 2, frozenset(), MILLION, at=at(-2)),
        Beat(3, 0, 0, 0, at=at(-1)),
        Delivered(3, "two", second, 1, 9, replayed=False, expires=at(1.1), at=at(0.2)),
        Delivered(3, "three", third, 1, 9, replayed=False, expires=at(1.2), at=at(0.3)),
        Said(3, "ack", ("two",), at=at(0.4)),
        Said(3, "ack", ("three",), at=at(0.5)),
        Confirmed(3, at(0.4), "two", ACKNOWLEDGED, 0, at=at(0.6)),
        Confirmed(3, at(0.5), "three", ACKNOWLEDGED, 0, at=at(0.7)),
        Observed(at(0.7), "engine", 1, 3, 3, 0, at=at(0.8)),
    ]
    return history


def at(moment: float) -> int:
    """Return a time, in seconds from the first event of the sound history."""
    return 1_000 * MILLION + round(moment * MILLION)


def exchange(history: History, kind: type[Any], number: int, **changes: Any) -> None:
    """Change one of the entries of a kind."""
    old = history.of(kind)[number]
    history.entries[history.entries.index(old)] = replace(old, **changes)


def lose_an_event(history: History) -> None:
    history.note(Accepted(SeenEvent(4, "event-4", ORDER), ()))


def store_an_event_without_its_match(history: History) -> None:
    history.events.append(SeenEvent(4, "event-4", ORDER))


def deliver_nothing_of_the_last(history: History) -> None:
    history.entries = [
        each for each in history.entries if "three" not in {getattr(each, "id", ""), *getattr(each, "ids", ())}
    ]


def deliver_what_is_acknowledged(history: History) -> None:
    history.note(Delivered(3, "again", history.log[1], 2, 9, replayed=False, expires=at(1.8), at=at(0.9)))


def lease_to_two(history: History) -> None:
    history.note(Opening(4, "engine", "other", 2, frozenset(), MILLION, at=at(-2)))
    history.note(Delivered(4, "twice", history.log[1], 2, 9, replayed=False, expires=at(1.2), at=at(0.3)))


def answer_in_disorder(history: History) -> None:
    exchange(history, Answered, 0, matches=())
    exchange(history, Answered, 1, matches=(history.log[2], history.log[1]))
    exchange(history, Answered, 0, position=0)


def deliver_in_disorder(history: History) -> None:
    first, second = (history.entries.index(each) for each in history.of(Delivered))
    history.entries[first], history.entries[second] = history.entries[second], history.entries[first]


def let_a_contact_overtake_itself(history: History) -> None:
    history.subscriptions["engine"] = replace(history.subscriptions["engine"], by_contact=True)


def repeat_the_match_before_the_cursor(history: History) -> None:
    exchange(history, Answered, 2, matches=tuple(history.log[1:]))


def move_a_cursor_too_far(history: History) -> None:
    exchange(history, Answered, 0, position=3)


def leave_a_filtered_cursor_where_it_is(history: History) -> None:
    nothing = pb.MatchFilter(event_names=["unheard_of"])
    history.note(Watching(4, "idle", 0, resumed=False, filter=nothing, interval=MILLION, limit=2, at=at(0)))
    history.note(Answered(4, 0, 3, (), at=at(0.1)))


def deliver_what_is_not_wanted(history: History) -> None:
    history.note(Delivered(3, "one", history.log[0], 2, 9, replayed=False, expires=at(1.8), at=at(0.9)))


def deliver_beyond_the_window(history: History) -> None:
    exchange(history, Opening, 0, window=1)


def move_the_floor_back(history: History) -> None:
    history.note(Observed(at(0.9), "engine", 0, 3, 3, 0, at=at(1)))


def move_the_floor_over_a_lease(history: History) -> None:
    exchange(history, Beat, 0, floor=2)


def fall_silent(history: History) -> None:
    history.note(Beat(3, 1, 3, 0, at=at(5)))


def deliver_what_is_acknowledged_to_the_next_stream(history: History) -> None:
    history.note(Opening(4, "engine", "worker", 2, frozenset(), MILLION, at=at(0.8)))
    history.note(Delivered(4, "again", history.log[1], 2, 9, replayed=False, expires=at(1.8), at=at(0.9)))


BREACHES: list[tuple[Promise, Breach]] = [
    (promises.no_acked_loss, lose_an_event),
    (promises.atomic_match, store_an_event_without_its_match),
    (promises.at_least_once, deliver_nothing_of_the_last),
    (promises.no_redelivery_after_confirmed_ack, deliver_what_is_acknowledged),
    (promises.no_redelivery_after_confirmed_ack, deliver_what_is_acknowledged_to_the_next_stream),
    (promises.no_concurrent_lease, lease_to_two),
    (promises.ordered, answer_in_disorder),
    (promises.ordered, deliver_in_disorder),
    (promises.ordered, let_a_contact_overtake_itself),
    (promises.resumable, repeat_the_match_before_the_cursor),
    (promises.bookmarkable, move_a_cursor_too_far),
    (promises.bookmarkable, leave_a_filtered_cursor_where_it_is),
    (promises.filter_exact, deliver_what_is_not_wanted),
    (promises.bounded_memory, deliver_beyond_the_window),
    (promises.floor_monotone, move_the_floor_back),
    (promises.floor_monotone, move_the_floor_over_a_lease),
    (promises.live, fall_silent),
]
NEED_TIMES_OF_LEASES = {deliver_what_is_acknowledged, lease_to_two, deliver_in_disorder, deliver_beyond_the_window}


@pytest.mark.parametrize(("promise", "breach"), BREACHES)
def test_a_breach_is_caught_by_the_check_of_its_promise_alone(promise: Promise, breach: Breach) -> None:
    history = sound_history()
    breach(history)
    assert [each for each in promises.PROMISES if breaks(each, history)] == [promise]


@pytest.mark.parametrize(("promise", "breach"), BREACHES)
def test_once_a_clock_was_stepped_only_the_times_of_leases_prove_nothing(promise: Promise, breach: Breach) -> None:
    history = sound_history()
    history.note(ClockStepped(at=at(0)))
    assert not any(breaks(each, history) for each in promises.PROMISES)
    breach(history)
    caught = [] if breach in NEED_TIMES_OF_LEASES else [promise]
    assert [each for each in promises.PROMISES if breaks(each, history)] == caught


def breaks(promise: Promise, history: History) -> bool:
    try:
        promise(history)
    except AssertionError:
        return True
    return False


# What has gone wrong elsewhere


async def test_a_disconnect_does_not_jump_over_what_waits_to_be_retried(shop: Client) -> None:
    await automate(shop)
    await subscribe(shop)
    for ended, leave in enumerate((Engine.break_off, Engine.close)):
        await record(shop, 3)
        engine = await Engine.open(shop, consumer_id="worker")
        first, *rest = await engine.deliveries(3)
        await engine.nack([first], delay=seconds(0.5))
        await engine.ack(rest)
        await leave(engine)
        assert (await stats(shop)).floor_position == 3 * ended
        engine = await Engine.open(shop, consumer_id="another")
        (again,) = await engine.deliveries()
        assert (again.match.position, again.attempt) == (3 * ended + 1, 2)
        await engine.ack([again])
        await engine.close()
        assert (await stats(shop)).floor_position == 3 * ended + 3


async def test_replaying_parked_matches_does_not_move_the_floor(shop: Client) -> None:
    await automate(shop)
    await subscribe(shop)
    await record(shop, 4)
    engine = await Engine.open(shop)
    first, second, *rest = await engine.deliveries(4)
    await engine.nack([first, second], action=PARK)
    await engine.ack(rest)
    selection = pb.ParkedSelection(all=True)
    await shop.matches.ReplayParkedMatches(pb.ReplayParkedMatchesRequest(subscription="engine", selection=selection))
    replayed = await engine.deliveries(2)
    assert (await stats(shop)).floor_position == 4
    await engine.ack(replayed[1:])
    await record(shop, 1)
    new = await engine.deliveries()
    assert positions(new) == [5]
    assert (await stats(shop)).floor_position == 4
    await engine.ack(new)
    assert (await stats(shop)).floor_position == 4
    await engine.nack(replayed[:1], delay=seconds(0))
    await engine.ack(await engine.deliveries())
    assert (await stats(shop)).floor_position == 5
    await engine.close()


async def test_a_filtered_floor_moves_on_a_quiet_log(shop: Client) -> None:
    await automate(shop)
    await subscribe(shop, filter=pb.MatchFilter(event_names=[PAID]))
    engine = await Engine.open(shop)
    await record(shop, 3)
    async with asyncio.timeout(10):
        while (await stats(shop)).floor_position < 3:  # noqa: ASYNC110 - it must be asked
            await asyncio.sleep(0.02)
    await engine.close()


@on_sqlite
async def test_a_lease_does_not_run_out_in_a_client_buffer(shop: Client) -> None:
    """Who reads slowly is leased what was handed over, and leaves the rest to others."""
    await shop.define("large", ANYTHING)
    await automate(shop, "large")
    await subscribe(shop, ack_deadline=seconds(2), backoff=pb.Backoff(initial_delay=seconds(0)))
    for _ in range(10):
        await shop.send_all([event({"text": "x" * 100_000}, name="large") for _ in range(10)])
    slow = await Engine.open(shop, max_outstanding=1_000)
    handed = await outstanding_at_last(shop)
    assert 0 < handed < 75
    quick = await Engine.open(shop, max_outstanding=1_000)
    taken: dict[int, int] = {}
    async with asyncio.timeout(60):
        while len(taken) < 100:
            deliveries = await quick.some()
            taken |= {each.match.position: each.attempt for each in deliveries}
            await quick.ack(deliveries)
    assert [attempt for position, attempt in sorted(taken.items()) if position > handed] == [1] * (100 - handed)
    assert max(taken.values()) == 2
    quick_close = asyncio.create_task(quick.close())
    await slow.break_off()
    await quick_close


async def outstanding_at_last(client: Client) -> int:
    """Wait until matches are under lease and no more of them come."""
    counts = [0]
    async with asyncio.timeout(60):
        while not counts[-1] or len(counts) < 8 or len(set(counts[-8:])) > 1:
            await asyncio.sleep(0.05)
            counts.append((await stats(client)).outstanding_count)
    return counts[-1]


async def test_a_stream_that_closes_does_not_end_the_leases_of_the_next_one(shop: Client) -> None:
    await automate(shop)
    await subscribe(shop)
    engine = await Engine.open(shop, consumer_id="worker")
    closing = asyncio.create_task(engine.close())
    await asyncio.sleep(0.01)
    next_one = await Engine.open(shop, consumer_id="worker")
    await record(shop, 1)
    taken = await next_one.deliveries()
    await asyncio.gather(closing, return_exceptions=True)
    await next_one.nothing()
    (result,) = await next_one.ack(taken)
    assert result.outcome == ACKNOWLEDGED
    await next_one.close()
