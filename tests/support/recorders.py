"""Clients that note what they see and do, and the servers that they go back to after every loss.

A world has one or more addresses; when a server restarts, its clients find the next one there. Everything random comes
from the seed. While the world is `calm`, consumers acknowledge what they get, and nobody disconnects.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any

import grpc

from registry.times.timestamps import now_micros
from signalbox.v1 import match_stream_pb2 as pb
from tests.support.consumers import PARK, RETRY, SKIP, get, seconds
from tests.support.history import (
    Accepted,
    Answered,
    Beat,
    Closing,
    Confirmed,
    Delivered,
    Draining,
    Ended,
    Observed,
    Opened,
    Opening,
    Replayed,
    Said,
    SeenEvent,
    Sought,
    Watching,
    seen,
)
from tests.support.messages import MATCHES, event
from tests.support.refusals import read_refusal

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

    from signalbox.v1.event_ingest_pb2 import EventInput
    from tests.support.history import History
    from tests.support.service import Client

HEARTBEAT = seconds(1)
MAX_LAG = 100
"""Nothing is sent while a subscription has this many matches left to deliver, so that the final drain is bounded."""

AWAY = frozenset({"SERVER_STOPPING", "UNAVAILABLE", "CANCELLED"})
"""Why a call may fail whose server went away; CANCELLED where it outlasts the grace."""

_streams = count(1)


@dataclass
class World:
    """Where the clients of a history find their servers; calls may also fail for the reasons that are `tolerated`."""

    history: History
    random: Random
    secret: str
    clients: list[Client] = field(default_factory=list)
    players: list[asyncio.Task[None]] = field(default_factory=list)
    lag: dict[str, int] = field(default_factory=dict)
    tolerated: frozenset[str] = frozenset()
    calm: bool = False
    over: bool = False

    async def client(self) -> Client:
        """Wait for a server, and return a client of one."""
        while not self.clients:  # noqa: ASYNC110 - a server comes when it comes
            await asyncio.sleep(0.01)
        return self.random.choice(self.clients)

    async def pause(self, longest: float) -> None:
        """Wait at random."""
        await asyncio.sleep(self.random.random() * longest)

    def chance(self, share: float) -> bool:
        """Return True with probability `share`; never once the world is calm."""
        return not self.calm and self.random.random() < share


def reason_of(error: grpc.aio.AioRpcError) -> str:
    """Return the reason of a failed call."""
    return read_refusal(error).reason or error.code().name


def raise_unless_away(world: World, error: grpc.aio.AioRpcError) -> None:
    """Ignore that a server went away, which grpcio's client reports as an internal error while it sends a message."""
    if reason_of(error) not in AWAY | world.tolerated and error.details() != "Internal error from Core":
        raise error


def raise_if_cancelled() -> None:
    """Ignore the cancellation of a call whose channel is closed, but not that of the client's own task."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


async def insist(world: World, call: Any) -> Any:
    """Call a server, again and again as long as servers go away; `call` takes the client."""
    while True:
        try:
            return await call(await world.client())
        except grpc.aio.AioRpcError as error:
            raise_unless_away(world, error)
        except asyncio.CancelledError:
            raise_if_cancelled()
        await world.pause(0.05)


class Sender:
    """Sends events, one at a time or in batches; what was not answered is sent again under its key."""

    def __init__(self, world: World, name: str, names: Sequence[str], emails: Sequence[str]) -> None:
        self._world, self._name, self._names, self._emails = world, name, names, emails
        self._numbers = count()

    async def run(self) -> None:
        while not self._world.calm:
            if max(self._world.lag.values(), default=0) > MAX_LAG:
                await self._world.pause(0.1)
                continue
            size = self._world.random.choice((1, 1, 1, 5))
            events = [self._event() for _ in range(size)]
            results = await insist(self._world, lambda client, sent=events: client.send_all(sent, view=MATCHES))
            for result in results:
                told = result.receipt.event
                self._world.history.note(
                    Accepted(SeenEvent(told.position, told.id, told.name), tuple(map(seen, result.receipt.matches)))
                )
            await self._world.pause(0.06)

    def _event(self) -> EventInput:
        choice = self._world.random.choice
        key = f"{self._name}-{next(self._numbers)}"
        return event(name=choice(self._names), email=choice(self._emails), key=key)


class Watcher:
    """Follows the log by a filter and goes on from its cursor after every disconnect."""

    def __init__(self, world: World, name: str, chosen: pb.MatchFilter, limit: int) -> None:
        self._world, self._name, self._filter, self._limit = world, name, chosen, limit
        self.position = 0
        self._cursor = ""

    async def run(self) -> None:
        while not self._world.over:
            await self._watch(await self._world.client())
            await self._world.pause(0.1)

    async def _watch(self, client: Client) -> None:
        start = pb.StartPoint(cursor=self._cursor) if self._cursor else pb.StartPoint(log_end=pb.LOG_END_EARLIEST)
        stream, resumed, note = next(_streams), bool(self._cursor), self._world.history.note
        note(Watching(stream, self._name, self.position, resumed, self._filter, 1_000_000, self._limit))
        request = pb.WatchMatchesRequest(
            start=start, filter=self._filter, heartbeat_interval=HEARTBEAT, max_matches=self._limit
        )
        call = client.matches.WatchMatches(request)
        try:
            async for answer in call:
                matches = tuple(map(seen, answer.matches))
                note(Answered(stream, answer.position, answer.head_position, matches))
                self.position, self._cursor = answer.position, answer.cursor
                if self._world.over or self._world.chance(0.03):
                    call.cancel()
                    note(Ended(stream, "left"))
                    return
        except grpc.aio.AioRpcError as error:
            note(Ended(stream, reason_of(error)))
            raise_unless_away(self._world, error)
        except asyncio.CancelledError:
            raise_if_cancelled()
            note(Ended(stream, "left"))


class Consumer:
    """Consumes a subscription: settles late, gives back, parks, skips, extends, forgets, and breaks its connections."""

    def __init__(self, world: World, name: str, subscription: str, window: int) -> None:
        self._world, self._name, self._subscription, self._window = world, name, subscription, window
        self._working: dict[str, asyncio.Task[None]] = {}
        self._said: dict[int, int] = {}
        self._sequences = count(1)
        self._outgoing: asyncio.Queue[pb.ConsumeMatchesRequest | None] = asyncio.Queue()
        self._stream = 0
        self._closing = False

    async def run(self) -> None:
        while not self._world.over:
            await self._consume(await self._world.client())
            await self._world.pause(0.1)

    async def _consume(self, client: Client) -> None:
        held = frozenset(each for each in self._working if self._world.random.random() < 0.7)
        for each in self._working.keys() - held:
            self._working.pop(each).cancel()
        self._stream, self._outgoing, self._closing = next(_streams), asyncio.Queue(), False
        call = client.matches.ConsumeMatches(self._requests(self._outgoing))
        self._note(Opening(self._stream, self._subscription, self._name, self._window, held, 1_000_000))
        opening = pb.OpenConsumer(
            subscription=self._subscription,
            consumer_id=self._name,
            max_outstanding=self._window,
            held_delivery_ids=held,
            heartbeat_interval=HEARTBEAT,
        )
        self._outgoing.put_nowait(pb.ConsumeMatchesRequest(open=opening))
        leaving = asyncio.create_task(self._leave(call))
        try:
            async for message in call:
                self._take(message)
            self._note(Ended(self._stream, "closed"))
        except grpc.aio.AioRpcError as error:
            self._note(Ended(self._stream, reason_of(error)))
            raise_unless_away(self._world, error)
        except asyncio.CancelledError:
            raise_if_cancelled()
        finally:
            leaving.cancel()
            call.cancel()
            self._outgoing.put_nowait(None)

    async def _leave(self, call: Any) -> None:
        """End the stream some time: close this side well, or break off."""
        while not self._world.over:
            await asyncio.sleep(0.1)
            if self._world.chance(0.04):
                self._note(Ended(self._stream, "left"))
                call.cancel()
                return
            if self._world.chance(0.02):
                break
        self._note(Closing(self._stream))
        self._closing = True
        for task in self._working.values():
            task.cancel()
        self._working.clear()
        self._outgoing.put_nowait(None)

    def _take(self, message: pb.ConsumeMatchesResponse) -> None:
        at = now_micros()
        match message.WhichOneof("message"):
            case "opened":
                self._note(Opened(self._stream, message.opened.subscription.stats.floor_position, at=at))
                for each in self._working.keys() - set(message.opened.held_delivery_ids):
                    self._working.pop(each).cancel()
            case "deliveries":
                for delivery in message.deliveries.deliveries:
                    self._note(self._delivered(delivery, at))
                    if not self._closing:
                        self._work_on(delivery.delivery_id)
            case "results":
                for result in message.results.results:
                    said = self._said[message.results.sequence]
                    expires = result.lease_expires_at.ToMicroseconds()
                    self._note(Confirmed(self._stream, said, result.delivery_id, result.outcome, expires, at=at))
            case "heartbeat":
                beat = message.heartbeat
                self._note(Beat(self._stream, beat.floor_position, beat.head_position, beat.outstanding_count, at=at))
            case "drain":
                self._note(Draining(self._stream, at=at))

    def _delivered(self, delivery: pb.Delivery, at: int) -> Delivered:
        return Delivered(
            self._stream,
            delivery.delivery_id,
            seen(delivery.match),
            delivery.attempt,
            delivery.max_attempts,
            delivery.replayed,
            delivery.lease_expires_at.ToMicroseconds(),
            at=at,
        )

    def _work_on(self, delivery_id: str) -> None:
        self._working[delivery_id] = asyncio.create_task(self._work(delivery_id))

    async def _work(self, delivery_id: str) -> None:
        """Settle a delivery after a while, by what chance says."""
        await self._world.pause(0.01 if self._world.calm else 0.15)
        if self._world.chance(0.08):
            self._say("extend", delivery_id, extend=pb.ExtendLeases(delivery_ids=[delivery_id]))
            await self._world.pause(1.2)
        del self._working[delivery_id]
        one = [delivery_id]
        if not self._world.calm and self._world.chance(0.05):
            return
        if self._world.chance(0.12):
            delay = seconds(round(self._world.random.random() * 0.3, 3))
            self._say("retry", delivery_id, nack=pb.NackDeliveries(delivery_ids=one, action=RETRY, delay=delay))
        elif self._world.chance(0.05):
            self._say("park", delivery_id, nack=pb.NackDeliveries(delivery_ids=one, action=PARK))
        elif self._world.chance(0.05):
            self._say("skip", delivery_id, nack=pb.NackDeliveries(delivery_ids=one, action=SKIP))
        else:
            self._say("ack", delivery_id, ack=pb.AckDeliveries(delivery_ids=one))

    def _say(self, word: str, delivery_id: str, **message: Any) -> None:
        sequence = next(self._sequences)
        self._said[sequence] = self._note(Said(self._stream, word, (delivery_id,))).at
        self._outgoing.put_nowait(pb.ConsumeMatchesRequest(sequence=sequence, **message))

    def _note(self, entry: Any) -> Any:
        return self._world.history.note(entry)

    @staticmethod
    async def _requests(outgoing: asyncio.Queue[pb.ConsumeMatchesRequest | None]) -> Any:
        while (request := await outgoing.get()) is not None:
            yield request


class Operator:
    """Reads the progress of subscriptions, replays parked matches, and moves a subscription."""

    def __init__(self, world: World, *, pause_seconds: float = 0.25, replay_chance: float = 0.05) -> None:
        self._world = world
        self._pause_seconds = pause_seconds
        self._replay_chance = replay_chance

    async def run(self) -> None:
        """Observe every subscription repeatedly."""
        while not self._world.over:
            for name in self._world.history.subscriptions:
                await self.observe(name)
                if self._world.chance(self._replay_chance):
                    await self.replay(name)
            await self._world.pause(self._pause_seconds)

    async def observe(self, name: str) -> Observed:
        """Read the progress of a subscription."""
        begun = now_micros()
        stats = (await insist(self._world, lambda client: get(client, name))).subscription.stats
        self._world.lag[name] = stats.head_position - stats.floor_position
        return self._world.history.note(
            Observed(
                begun, name, stats.floor_position, stats.read_position, stats.head_position, stats.outstanding_count
            )
        )

    async def replay(self, name: str) -> None:
        """Replay all parked matches."""
        begun = now_micros()
        request = pb.ReplayParkedMatchesRequest(subscription=name, selection=pb.ParkedSelection(all=True))
        answer = await insist(self._world, lambda client: client.matches.ReplayParkedMatches(request))
        self._world.history.note(Replayed(begun, name, answer.match_count))

    async def seek(self, name: str, position: int) -> None:
        """Move a subscription to the start after a position."""
        begun = now_micros()
        request = pb.SeekSubscriptionRequest(subscription=name, start=pb.StartPoint(after_position=position))
        await insist(self._world, lambda client: client.matches.SeekSubscription(request))
        self._world.history.note(Sought(begun, name, position))
