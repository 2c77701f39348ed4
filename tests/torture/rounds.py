"""One round of torture: clients of every kind on servers that are killed again and again; then the checks.

In rounds with an odd seed, the servers' clocks are stepped forwards and back meanwhile, each server's for itself.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from google.protobuf.json_format import MessageToDict

from signalbox.v1 import match_stream_pb2 as pb
from signalbox.v1 import projects_pb2
from tests.support import promises
from tests.support.automations import automate
from tests.support.consumers import EARLIEST, parked, seconds, subscribe
from tests.support.history import (
    Answered,
    ClockStepped,
    Delivered,
    History,
    Opening,
    Restarted,
    Rules,
    SeenEvent,
    Watching,
    seen,
)
from tests.support.push_player import PushPlayer
from tests.support.receiver import SECRET, receiving
from tests.support.recorders import Consumer, Operator, Watcher
from tests.torture.bystanders import FrozenConsumer, SlowReader, frozen_consumer
from tests.torture.checks import CHECKS, Evidence
from tests.torture.databases import fresh_database
from tests.torture.journal import StoredEvent
from tests.torture.launcher import FAILPOINTS
from tests.torture.nodes import Membership, Node
from tests.torture.scenario import EMAILS, EXPECTATIONS, PAID, SCHEMAS
from tests.torture.senders import PACE, UNKNOWN_OUTCOME, GrpcSender, RestSender, StreamSender, TortureWorld

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from pathlib import Path

    from tests.support.history import SeenMatch
    from tests.support.receiver import Receiver
    from tests.support.service import Client
    from tests.torture.databases import TorturedDatabase

DIALECTS: Final = ("autosend", "opensend", "emailsendx", "arsel", "resend")
PUSH_OPTIONS: Final = ("--push-networks", "127.0.0.0/8")
OUTAGE: Final = 20_000_000
STALL_SECONDS: Final = 60.0
"""While the log is drained, some reader advances within this time, on a busy machine too."""
ROUND_SECONDS: Final = 240.0
KILL_SECONDS: Final = 20.0
FAILPOINT_COUNT: Final = 5
FAILPOINT_SECONDS: Final = 3.0
"""A failpoint that is not reached in this time is given up, and the server is killed from outside."""

CLOCK_SECONDS: Final = 4.0
"""Clocks are wrong by at most this much: once they are right again, a lease or a retry ends that much too late."""


@dataclass
class Outcome:
    """The figures of a round."""

    seed: int
    kills: Counter[str] = field(default_factory=Counter)
    clock_steps: int = 0
    acknowledged: int = 0
    stored: int = 0
    matches: int = 0
    deliveries: int = 0

    def __str__(self) -> str:
        kills = ", ".join(f"{name} {count}" for name, count in sorted(self.kills.items()))
        return (
            f"{self.kills.total()} kills ({kills}), {self.clock_steps} clock steps; "
            f"{self.acknowledged} events acknowledged, {self.stored} stored; "
            f"{self.matches} matches, {self.deliveries} deliveries"
        )


async def play(kind: str, seed: int, kills: int, folder: Path, pace: float = PACE) -> Outcome:
    """Play a round on a fresh database of a kind and check it. Raise AssertionError if a promise was broken."""
    async with (
        fresh_database(kind, folder) as database,
        receiving() as one,
        receiving() as other,
        frozen_consumer() as frozen,
    ):
        outcome = Outcome(seed)
        world, pushed = await set_up(database, folder, seed, pace, {"pushed": one, "pushed-contacts": other})
        receivers = [PushPlayer(world, *pair) for pair in pushed]
        nodes = [Node(database, folder, *PUSH_OPTIONS) for _ in range(database.nodes)]
        try:
            async with asyncio.timeout(ROUND_SECONDS + kills * KILL_SECONDS), playing(world, receivers):
                await torment(world, database, nodes, outcome, kills)
                await drain(world, nodes, frozen)
        finally:
            for node in nodes:
                await node.kill()
        await check(world, database, folder, outcome)
    return outcome


async def set_up(
    database: TorturedDatabase, folder: Path, seed: int, pace: float, receivers: Mapping[str, Receiver]
) -> tuple[TortureWorld, list[tuple[pb.Subscription, Receiver]]]:
    """Create everything that a round plays with, on a server that is killed then.

    Return the subscriptions that push beside it, with the receivers of their matches.
    """
    history, node = History(), Node(database, folder, *PUSH_OPTIONS)
    client = await (await node.start()).project()
    for name, schema in SCHEMAS.items():
        await client.define(name, schema)
    contacts = {email: (await client.upsert(email)).id for email in EMAILS}
    steady = {}
    for each in EXPECTATIONS:
        automation = await automate(
            client,
            each.event_name,
            name=each.name,
            condition=each.condition,
            entry_rule=each.entry_rule,
            labels={"team": each.team},
        )
        if not each.condition and not each.once:
            steady[automation.id] = each.event_name
    history.steady = steady
    pushed = []
    for name, chosen, by_contact in (
        ("all", pb.MatchFilter(), False),
        ("paid", pb.MatchFilter(event_names=[PAID]), False),
        ("contacts", pb.MatchFilter(labels={"team": "growth"}), True),
        ("pushed", pb.MatchFilter(event_names=[PAID]), False),
        ("pushed-contacts", pb.MatchFilter(labels={"team": "growth"}), True),
    ):
        history.subscriptions[name] = Rules(chosen, by_contact, ack_deadline=1_000_000)
        receiver = receivers.get(name)
        # Requests that are in progress at once arrive in any order.
        in_flight = 8 if by_contact else 1
        push = receiver and pb.Push(url=receiver.url, secrets=[SECRET], timeout=seconds(1), max_in_flight=in_flight)
        subscription = await subscribe(
            client,
            name,
            EARLIEST,
            push=push,
            filter=chosen,
            order=pb.DELIVERY_ORDER_CONTACT if by_contact else pb.DELIVERY_ORDER_POSITION,
            ack_deadline=seconds(1),
            max_attempts=100,
            backoff=pb.Backoff(initial_delay=seconds(0.05), max_delay=seconds(0.3)),
        )
        if receiver is not None:
            pushed.append((subscription, receiver))
    assert node.service is not None
    secrets = {
        dialect: await node.service.secret(client.project, projects_pb2.Dialect.Value(f"DIALECT_{dialect.upper()}"))
        for dialect in DIALECTS
    }
    await node.kill()
    world = TortureWorld(
        history,
        random.Random(seed),  # noqa: S311 - to be repeated
        client.secret,
        tolerated=UNKNOWN_OUTCOME | {"WATCHER_TOO_SLOW", "CONSUMER_REPLACED"},
        secrets=secrets,
        contacts=contacts,
        pace=pace,
    )
    return world, pushed


@asynccontextmanager
async def playing(world: TortureWorld, receivers: Sequence[PushPlayer]) -> AsyncIterator[None]:
    """Run every client until the context is left."""
    filters = {
        "everything": pb.MatchFilter(),
        "paid": pb.MatchFilter(event_names=[PAID]),
        "growth": pb.MatchFilter(labels={"team": "growth"}),
    }
    players: list[Any] = [GrpcSender(world, size) for size in (1, 1, 5, 10)]
    players += [StreamSender(world), StreamSender(world), *(RestSender(world, dialect) for dialect in DIALECTS)]
    players += [Watcher(world, name, chosen, 5 + 20 * number) for number, (name, chosen) in enumerate(filters.items())]
    players += [
        Consumer(world, f"{name}-{number}", name, window)
        for name in world.history.subscriptions
        if not name.startswith("pushed")
        for number, window in enumerate((5, 50))
    ]
    # A round takes many seconds, so its progress need not be read all the time.
    players += [Operator(world, pause_seconds=1.0, replay_chance=0.1), SlowReader(world), *receivers]
    async with asyncio.TaskGroup() as tasks:
        world.players = [tasks.create_task(player.run(), name=type(player).__name__) for player in players]
        try:
            yield
        except TimeoutError as error:
            busy = [task.get_name() for task in world.players if not task.done()]
            error.add_note(f"Still at work: {busy}; lag of each subscription: {world.lag}")
            raise
        finally:
            world.calm = world.over = True
            if not world.clients:
                for player in world.players:
                    player.cancel()


async def torment(
    world: TortureWorld, database: TorturedDatabase, nodes: list[Node], outcome: Outcome, kills: int
) -> None:
    """Kill servers until there were enough kills."""

    async def crash_database() -> None:
        while database.crashes and outcome.kills.total() < kills:
            await asyncio.sleep(world.random.uniform(1, 6))
            how, crash = world.random.choice(list(database.crashes.items()))
            await asyncio.to_thread(crash)
            outcome.kills[f"database {how}"] += 1

    async def live(node: Node) -> None:
        while outcome.kills.total() < kills:
            outcome.kills[await one_life(world, Membership(world, node))] += 1

    async def step_clock(node: Node) -> None:
        while outcome.seed % 2 and outcome.kills.total() < kills:
            await world.pause(3)
            world.history.note(ClockStepped())
            node.set_clock(world.random.uniform(-CLOCK_SECONDS, CLOCK_SECONDS))
            outcome.clock_steps += 1
        node.set_clock(0)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(crash_database())
        for node in nodes:
            tasks.create_task(live(node))
            tasks.create_task(step_clock(node))


async def one_life(world: TortureWorld, membership: Membership) -> str:
    """Run a node until it is killed, by a failpoint or at any moment; return which."""
    failpoint = world.random.choice((*FAILPOINTS, "", ""))
    launching = ["--kill-at", f"{failpoint}:{world.random.randint(1, FAILPOINT_COUNT)}"] if failpoint else []
    await membership.begin(*launching)
    by_itself = await membership.died(FAILPOINT_SECONDS if failpoint else world.random.uniform(0, 1.5))
    world.history.note(Restarted())
    await membership.end()
    return failpoint if by_itself else "random moment"


async def drain(world: TortureWorld, nodes: list[Node], frozen: FrozenConsumer) -> None:
    """Start every node for good, send nothing more, and wait until every reader is at the end of the log.

    One consumer is frozen meanwhile, while it holds leases.
    """
    for node in nodes:
        await Membership(world, node).begin()
    service = nodes[0].service
    assert service is not None
    await frozen.freeze(service.address, world.secret, "all")
    world.calm = True
    await asyncio.wait(world.players[:SENDERS])
    await all_read(world)
    world.over = True
    await asyncio.wait(world.players)


SENDERS: Final = 10


async def all_read(world: TortureWorld) -> None:
    """Wait until every reader is at the end of the log. Raise TimeoutError if none advances for STALL_SECONDS."""
    operator, reached = Operator(world), [-1]
    async with asyncio.timeout(STALL_SECONDS) as patience:
        while True:
            readings = [await operator.observe(name) for name in world.history.subscriptions]
            positions = [each.floor for each in readings] + [each.position for each in last_answers(world.history)]
            if set(positions) == {readings[-1].head}:
                return
            if positions != reached:
                reached = positions
                patience.reschedule(asyncio.get_running_loop().time() + STALL_SECONDS)
            await asyncio.sleep(0.5)


def last_answers(history: History) -> list[Answered]:
    """Return the last answer that each watcher has read."""
    watchers = {each.stream: each.watcher for each in history.of(Watching)}
    return list({watchers[each.stream]: each for each in history.of(Answered)}.values())


async def check(world: TortureWorld, database: TorturedDatabase, folder: Path, outcome: Outcome) -> None:
    """Read the final log through a freshly started server, and check every promise."""
    node, history = Node(database, folder, "--drain", "0"), world.history
    client = (await node.start()).client(world.secret)
    try:
        events = await stored_events(client)
        history.events = [SeenEvent(each.position, each.id, each.name) for each in events]
        history.log, names = await whole_log(client)
        for name in history.subscriptions:
            history.parked[name] = {each.match.position for each in await parked(client, name, page_size=1_000)}
    finally:
        code = await node.stop()
    outcome.acknowledged, outcome.stored = world.journal.acknowledged, len(events)
    outcome.matches, outcome.deliveries = len(history.log), len(history.of(Delivered))
    assert code == 0, "the server did not stop well"
    await database.check()
    evidence = Evidence(world.journal, events, history.log, names)
    for rule in CHECKS:
        rule(evidence)
    allow_for_outages(history)
    for promise in promises.PROMISES:
        promise(history)


def allow_for_outages(history: History) -> None:
    """Allow streams to be silent for as long as a database takes to recover on a busy machine."""
    for number, entry in enumerate(history.entries):
        if isinstance(entry, Opening | Watching):
            history.entries[number] = replace(entry, interval=entry.interval + OUTAGE)


async def stored_events(client: Client) -> list[StoredEvent]:
    """Read the log of events."""
    return [
        StoredEvent(
            event.position,
            event.id,
            event.name,
            event.email,
            MessageToDict(event.properties),
            event.received_at.ToMicroseconds(),
        )
        for event in await client.log()
    ]


async def whole_log(client: Client) -> tuple[list[SeenMatch], dict[str, str]]:
    """Read the log of matches, and the names of their automations by id."""
    log: list[SeenMatch] = []
    names: dict[str, str] = {}
    call = client.matches.WatchMatches(pb.WatchMatchesRequest(start=EARLIEST, max_matches=1_000))
    async for answer in call:
        log += map(seen, answer.matches)
        names |= {match.automation_id: match.automation_name for match in answer.matches}
        if answer.position == answer.head_position:
            break
    call.cancel()
    return log, names
