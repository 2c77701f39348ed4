"""The neighbour of an attack: another tenant, who seldom sends and waits for each match, in a process of its own.

It notes what it feels: how long each send took, how long its match took to arrive, counted from the moment at which the
send was due, and the longest silence on its stream, on which a heartbeat is due every second. A health probe runs
beside it. The lateness of its own timers is noted too: it shows whether the machine had time for the observer at all.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final

import grpc

from signalbox.v1 import event_ingest_pb2
from signalbox.v1 import match_stream_pb2 as pb
from tests.siege.probe import INTERVAL, Probe
from tests.siege.samples import DELIVERY, LATE, OK, SEND, SILENCE, UNANSWERED, Sample
from tests.siege.target import outcome_of
from tests.support.consumers import ids, seconds
from tests.support.messages import event
from tests.support.service import connected

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from tests.siege.target import Target
    from tests.support.service import Client

SEND_INTERVAL: Final = 0.05
CALL_SECONDS: Final = 30.0
HEARTBEAT_SECONDS: Final = 1.0
REOPEN_SECONDS: Final = 0.1
SUBSCRIPTION: Final = "engine"

OVER, SO_FAR = "over", "so far"
"""What the observer is asked for: all samples, after which it ends, or those that it has."""


class Neighbour:
    """The calls of the neighbour, and what came of them."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._sends: set[asyncio.Task[None]] = set()
        self._due: dict[int, float] = {}
        self._unanswered: dict[int, float] = {}
        self.samples: list[Sample] = []

    async def send(self) -> None:
        """Send an event at each interval until cancelled, whether the ones before were answered or not."""
        due, number = time.monotonic(), 0
        while True:
            number += 1
            due += SEND_INTERVAL
            await asyncio.sleep(due - time.monotonic())
            self.samples.append(Sample(LATE, due, time.monotonic() - due))
            task = asyncio.create_task(self._send(number, due))
            self._sends.add(task)
            task.add_done_callback(self._sends.discard)

    async def settle(self) -> None:
        """Wait until the sends on their way are answered."""
        if self._sends:
            await asyncio.wait(self._sends)

    def unanswered(self) -> list[Sample]:
        """Return a sample for each of the sends on their way."""
        now = time.monotonic()
        return [Sample(SEND, due, now - due, UNANSWERED) for due in self._unanswered.values()]

    async def _send(self, number: int, due: float) -> None:
        self._due[number] = self._unanswered[number] = due
        request = event_ingest_pb2.SendEventRequest(event=event({"order_total": number}))
        outcome = OK
        try:
            await self._client.ingest.SendEvent(request, timeout=CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            outcome = outcome_of(error)
        del self._unanswered[number]
        self.samples.append(Sample(SEND, due, time.monotonic() - due, outcome))

    async def consume(self) -> None:
        """Consume matches until cancelled; a stream that ends is noted as a refusal and opened again."""
        opening = pb.OpenConsumer(subscription=SUBSCRIPTION, heartbeat_interval=seconds(HEARTBEAT_SECONDS))
        while True:
            begun = time.monotonic()
            call = self._client.matches.ConsumeMatches()
            try:
                await call.write(pb.ConsumeMatchesRequest(open=opening))
                await self._read(call)
                outcome = "ENDED"
            except grpc.aio.AioRpcError as error:
                outcome = outcome_of(error)
            except asyncio.InvalidStateError:
                outcome = "ENDED"  # while an acknowledgement was on its way
            finally:
                call.cancel()
            self.samples.append(Sample(DELIVERY, time.monotonic(), time.monotonic() - begun, outcome))
            await asyncio.sleep(REOPEN_SECONDS)

    async def _read(self, call: Any) -> None:
        heard = time.monotonic()
        while (answer := await call.read()) is not grpc.aio.EOF:
            now = time.monotonic()
            self.samples.append(Sample(SILENCE, heard, now - heard))
            heard = now
            deliveries = answer.deliveries.deliveries
            for delivery in deliveries:
                number = int(delivery.match.event.properties["order_total"])
                if due := self._due.pop(number, None):
                    self.samples.append(Sample(DELIVERY, due, now - due))
            if deliveries:
                await call.write(pb.ConsumeMatchesRequest(ack=pb.AckDeliveries(delivery_ids=ids(deliveries))))


def observe(target: Target, pipe: Connection) -> None:
    """Observe in this process until it is over; send all samples then."""
    pipe.send(asyncio.run(_observe(target, pipe)))


def observe_sends(target: Target, pipe: Connection) -> None:
    """Do the same, and only send."""
    pipe.send(asyncio.run(_observe_sends(target, pipe)))


async def _observe_sends(target: Target, pipe: Connection) -> list[Sample]:
    async with connected(target.grpc, trusted=target.trusted) as service:
        neighbour = Neighbour(service.client(target.neighbour))
        await until_over(pipe, neighbour, asyncio.create_task(neighbour.send()))
        return neighbour.samples


async def until_over(pipe: Connection, neighbour: Neighbour, sending: asyncio.Task[None]) -> None:
    """Let the neighbour send until it is over, and wait for the answers; send what there is whenever it is wanted."""
    received = asyncio.Event()
    asyncio.get_running_loop().add_reader(pipe.fileno(), received.set)
    while True:
        await received.wait()
        received.clear()
        # The loop may call once more for a word that was received meanwhile, and to wait for the next one stops it.
        if not pipe.poll():
            continue
        if pipe.recv() == OVER:
            break
        pipe.send([*neighbour.samples, *neighbour.unanswered()])
    sending.cancel()
    await neighbour.settle()
    asyncio.get_running_loop().remove_reader(pipe.fileno())


async def _observe(target: Target, pipe: Connection) -> list[Sample]:
    async with connected(target.grpc, trusted=target.trusted) as service:
        neighbour = Neighbour(service.client(target.neighbour))
        probe = Probe(target.http, neighbour.samples.append, target.trusted)
        consuming = asyncio.create_task(neighbour.consume())
        sending, probing = (asyncio.create_task(each) for each in (neighbour.send(), probe.run()))
        await until_over(pipe, neighbour, sending)
        await asyncio.sleep(10 * INTERVAL)
        for task in (sending, probing, consuming):
            task.cancel()
        await asyncio.gather(sending, probing, consuming, return_exceptions=True)
        return neighbour.samples
