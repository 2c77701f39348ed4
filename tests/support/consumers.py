"""What the tests of subscriptions do again and again."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.duration_pb2 import Duration

from signalbox.v1 import match_stream_pb2 as pb
from tests.support.messages import orders

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tests.support.service import Client

ACKNOWLEDGED, RETRYING = pb.DELIVERY_OUTCOME_ACKNOWLEDGED, pb.DELIVERY_OUTCOME_RETRYING
PARKED, SKIPPED = pb.DELIVERY_OUTCOME_PARKED, pb.DELIVERY_OUTCOME_SKIPPED
EXTENDED, STALE = pb.DELIVERY_OUTCOME_EXTENDED, pb.DELIVERY_OUTCOME_STALE
UNKNOWN = pb.DELIVERY_OUTCOME_UNKNOWN
RETRY, PARK, SKIP = pb.NACK_ACTION_RETRY, pb.NACK_ACTION_PARK, pb.NACK_ACTION_SKIP
EARLIEST = pb.StartPoint(log_end=pb.LOG_END_EARLIEST)

WAIT = 30.0
"""So long, in seconds, a test waits for what must come."""


def seconds(number: float) -> Duration:
    """Make a duration."""
    made = Duration()
    made.FromMicroseconds(round(number * 1_000_000))
    return made


async def subscribe(
    client: Client, name: str = "engine", start: pb.StartPoint | None = None, **rules: Any
) -> pb.Subscription:
    """Create a subscription; without a start it begins after the newest match."""
    wanted = pb.Subscription(name=name, **rules)
    request = pb.CreateSubscriptionRequest(subscription=wanted, start=start)
    return (await client.matches.CreateSubscription(request)).subscription


async def get(client: Client, name: str = "engine") -> pb.GetSubscriptionResponse:
    """Read a subscription."""
    return await client.matches.GetSubscription(pb.GetSubscriptionRequest(subscription=name))


async def stats(client: Client, name: str = "engine") -> pb.SubscriptionStats:
    """Read how far a subscription is."""
    return (await get(client, name)).subscription.stats


async def pull(
    client: Client, count: int = 100, wait: float = 0, name: str = "engine", **fields: Any
) -> list[pb.Delivery]:
    """Pull deliveries."""
    request = pb.PullMatchesRequest(subscription=name, max_matches=count, wait=seconds(wait), **fields)
    return list((await client.matches.PullMatches(request)).deliveries)


async def acknowledge(client: Client, name: str = "engine", **settlements: Any) -> list[pb.DeliveryResult]:
    """Settle without a stream."""
    request = pb.AcknowledgeMatchesRequest(subscription=name, **settlements)
    return list((await client.matches.AcknowledgeMatches(request)).results)


async def parked(client: Client, name: str = "engine", **filters: Any) -> list[pb.ParkedMatch]:
    """List parked matches, one page."""
    request = pb.ListParkedMatchesRequest(subscription=name, **filters)
    return list((await client.matches.ListParkedMatches(request)).parked_matches)


async def seek(client: Client, after: int, name: str = "engine") -> pb.Subscription:
    """Move a subscription to the start after a position."""
    request = pb.SeekSubscriptionRequest(subscription=name, start=pb.StartPoint(after_position=after))
    return (await client.matches.SeekSubscription(request)).subscription


async def record(client: Client, count: int) -> None:
    """Send `count` events."""
    await client.send_all(orders(count))


def ids(deliveries: Iterable[pb.Delivery]) -> list[str]:
    """Return the ids of deliveries."""
    return [each.delivery_id for each in deliveries]


def positions(deliveries: Iterable[pb.Delivery]) -> list[int]:
    """Return the positions of the matches of deliveries."""
    return [each.match.position for each in deliveries]


class Engine:
    """A consumer on a stream."""

    def __init__(self, client: Client, name: str = "engine", **opening: Any) -> None:
        self._requests: asyncio.Queue[pb.ConsumeMatchesRequest | None] = asyncio.Queue()
        self._call = client.matches.ConsumeMatches(self._outgoing())
        self._next: asyncio.Future[Any] | None = None
        self._sequence = 0
        self._delivered: list[pb.Delivery] = []
        self._results: dict[int, Sequence[pb.DeliveryResult]] = {}
        self.heartbeats: list[pb.ConsumerHeartbeat] = []
        self.drains: list[pb.ConsumerDrain] = []
        self.batches: list[int] = []
        self.opened = pb.ConsumerOpened()
        self._requests.put_nowait(pb.ConsumeMatchesRequest(open=pb.OpenConsumer(subscription=name, **opening)))

    @classmethod
    async def open(cls, client: Client, name: str = "engine", **opening: Any) -> Engine:
        """Open a stream and wait for the answer."""
        engine = cls(client, name, **opening)
        await engine.read()
        return engine

    async def read(self) -> bool:
        """Read one message; False at the end of the stream."""
        async with asyncio.timeout(WAIT):
            message = await self._reading()
        self._next = None
        if not isinstance(message, pb.ConsumeMatchesResponse):
            if (code := await self._call.code()) is not grpc.StatusCode.OK:
                raise grpc.aio.AioRpcError(
                    code,
                    await self._call.initial_metadata(),
                    await self._call.trailing_metadata(),
                    await self._call.details(),
                )
            return False
        match message.WhichOneof("message"):
            case "opened":
                self.opened = message.opened
            case "deliveries":
                self._delivered += message.deliveries.deliveries
                self.batches.append(message.ByteSize())
            case "results":
                assert message.results.sequence not in self._results
                self._results[message.results.sequence] = list(message.results.results)
            case "heartbeat":
                self.heartbeats.append(message.heartbeat)
            case "drain":
                self.drains.append(message.drain)
        return True

    async def deliveries(self, count: int = 1) -> list[pb.Delivery]:
        """Wait for `count` deliveries, and return them; there must be no more yet."""
        while len(self._delivered) < count:
            assert await self.read()
        assert len(self._delivered) == count
        taken, self._delivered = self._delivered, []
        return taken

    async def some(self, during: float = WAIT) -> list[pb.Delivery]:
        """Wait for any deliveries, for `during` seconds; return those received."""
        if not self._delivered:
            done, _ = await asyncio.wait({self._reading()}, timeout=during)
            if done:
                assert await self.read()
        taken, self._delivered = self._delivered, []
        return taken

    async def nothing(self, during: float = 0.3) -> None:
        """Check that nothing is delivered for `during` seconds."""
        done, _ = await asyncio.wait({self._reading()}, timeout=during)
        assert not done, self._reading().result()

    def _reading(self) -> asyncio.Future[Any]:
        if self._next is None:
            self._next = asyncio.ensure_future(self._call.read())
        return self._next

    def say(self, **message: Any) -> int:
        """Send a message, and return its sequence."""
        self._sequence += 1
        self._requests.put_nowait(pb.ConsumeMatchesRequest(sequence=self._sequence, **message))
        return self._sequence

    async def results(self, sequence: int) -> list[pb.DeliveryResult]:
        """Wait for the results of a message."""
        while sequence not in self._results:
            assert await self.read()
        return list(self._results.pop(sequence))

    async def ack(self, deliveries: Iterable[pb.Delivery]) -> list[pb.DeliveryResult]:
        """Acknowledge."""
        return await self.results(self.say(ack=pb.AckDeliveries(delivery_ids=ids(deliveries))))

    async def nack(self, deliveries: Iterable[pb.Delivery], **fields: Any) -> list[pb.DeliveryResult]:
        """Nack deliveries."""
        return await self.results(self.say(nack=pb.NackDeliveries(delivery_ids=ids(deliveries), **fields)))

    async def extend(self, deliveries: Iterable[pb.Delivery], **fields: Any) -> list[pb.DeliveryResult]:
        """Extend leases."""
        return await self.results(self.say(extend=pb.ExtendLeases(delivery_ids=ids(deliveries), **fields)))

    async def close(self) -> None:
        """Close this side, and wait for the end of the stream."""
        self._requests.put_nowait(None)
        await self.ended()

    async def ended(self) -> None:
        """Wait for the end of the stream."""
        try:
            while await self.read():
                pass
        finally:
            # Ends the task that sends, which would be found as garbage in the middle of another test.
            self._requests.put_nowait(None)

    async def break_off(self) -> None:
        """End the call as a broken connection does."""
        self._call.cancel()
        await asyncio.sleep(0.05)

    async def _outgoing(self) -> Any:
        while (request := await self._requests.get()) is not None:
            yield request
