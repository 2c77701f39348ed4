"""Measures how soon a match is delivered: `python -m bench.lag KIND ADDRESS KEY RATE SECONDS EVERY SUBSCRIPTION`.

One thread sends single events at a fixed rate, whether earlier ones were answered or not, and receives the matches by
`watch` or `consume`, or not at all, `alone`: the times of both are of one clock. One of EVERY events matches; all must
if the matches are received. Frames are read by `bench.http2`, so that the figures are the server's rather than a client
library's. Prints the percentiles, in milliseconds:

- `lag`: from the answer of SendEvent to the arrival of the match, 0.01 if the match came first;
- `send`: from the time at which the event was due to the answer of SendEvent;
- `delivery`: from the time at which the event was due to the arrival of the match.
"""

from __future__ import annotations

import gc
import json
import select
import sys
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING

from bench.data import SEND_EVENT, event_inputs
from bench.http2 import Broken, Connection, messages
from signalbox.v1 import event_ingest_pb2, match_stream_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

WATCH = "/signalbox.v1.MatchStream/WatchMatches"
CONSUME = "/signalbox.v1.MatchStream/ConsumeMatches"

LEAST_LAG = 0.01
"""Shorter times, in milliseconds, count as this one, and so does a match that arrives before the response."""

AFTER_SECONDS = 10
"""Time for the last matches to arrive."""


@dataclass
class Watcher:
    """Receives matches by WatchMatches."""

    connection: Connection
    _data: bytearray = field(default_factory=bytearray)

    @classmethod
    def open(cls, address: str, key: str) -> Watcher:
        """Begin to watch."""
        connection = Connection.open(address, WATCH, key)
        connection.call(match_stream_pb2.WatchMatchesRequest().SerializeToString())
        return cls._ready(cls(connection))

    @staticmethod
    def _ready(receiver: Watcher) -> Watcher:
        receiver.connection.flush()
        while not any(data for _, data in receiver.connection.received()):
            pass
        return receiver

    def numbers(self) -> Iterable[int]:
        """Receive bytes. Return the numbers of events whose matches have arrived."""
        for _, data in self.connection.received():
            self._data += data or b""
        numbers: list[int] = []
        for message in messages(self._data):
            numbers += self._of_message(message)
        self.connection.flush()
        return numbers

    def _of_message(self, message: bytes) -> Iterable[int]:
        response = match_stream_pb2.WatchMatchesResponse.FromString(message)
        return [match.event.occurred_at.seconds for match in response.matches]


@dataclass
class Consumer(Watcher):
    """Receives matches by ConsumeMatches, and acknowledges each batch."""

    stream: int = 0
    sequence: int = 0
    acknowledged: int = 0

    @classmethod
    def open_subscription(cls, address: str, key: str, subscription: str) -> Watcher:
        """Begin to consume."""
        connection = Connection.open(address, CONSUME, key)
        opening = match_stream_pb2.OpenConsumer(subscription=subscription)
        request = match_stream_pb2.ConsumeMatchesRequest(open=opening)
        return cls._ready(cls(connection, stream=connection.begin(request.SerializeToString())))

    def _of_message(self, message: bytes) -> Iterable[int]:
        response = match_stream_pb2.ConsumeMatchesResponse.FromString(message)
        self.acknowledged += len(response.results.results)
        deliveries = response.deliveries.deliveries
        if deliveries:
            self.sequence += 1
            ack = match_stream_pb2.AckDeliveries(delivery_ids=[delivery.delivery_id for delivery in deliveries])
            request = match_stream_pb2.ConsumeMatchesRequest(sequence=self.sequence, ack=ack)
            self.connection.message(self.stream, request.SerializeToString())
        return [delivery.match.event.occurred_at.seconds for delivery in deliveries]


@dataclass
class Times:
    """When each event was due, was accepted, and its match delivered."""

    due: list[float]
    accepted: list[float]
    delivered: list[float]

    def figures(self, *, received: bool) -> dict[str, float]:
        """Return the percentiles."""
        compared = {"send": (self.due, self.accepted)}
        if received:
            compared |= {"lag": (self.accepted, self.delivered), "delivery": (self.due, self.delivered)}
        return {
            f"{name}_p{percent}": value
            for name, (begin, end) in compared.items()
            for percent, value in percentiles(begin, end).items()
        }


def percentiles(begin: Sequence[float], end: Sequence[float]) -> dict[int, float]:
    """Return the 50th and the 99th percentile of times, in milliseconds."""
    times = sorted(max(LEAST_LAG, 1_000 * (after - before)) for before, after in zip(begin, end, strict=True))
    return {percent: times[min(len(times) - 1, len(times) * percent // 100)] for percent in (50, 99)}


def bodies(count: int, every: int) -> list[bytes]:
    """Return requests of SendEvent, one of `every` with a match, numbered by their `occurred_at`."""
    found = []
    for number, (event, _) in enumerate(event_inputs(count, every=every), 1):
        event.occurred_at.seconds = number
        found.append(event_ingest_pb2.SendEventRequest(event=event).SerializeToString())
    return found


def run(sender: Connection, receiver: Watcher | None, rate: float, requests: list[bytes]) -> Times:
    """Send events at a rate. Return when everything happened."""
    count = len(requests)
    accepted, delivered = [0.0] * count, [0.0] * count
    calls: dict[int, int] = {}
    start = perf_counter() + 0.05
    due = [start + number / rate for number in range(count)]
    sent, missing = 0, count * (1 if receiver is None else 2)
    sockets = [sender.socket] + ([receiver.connection.socket] if receiver else [])
    while missing:
        now = perf_counter()
        while sent < count and due[sent] <= now:
            calls[sender.call(requests[sent])] = sent
            sent += 1
        sender.flush()
        # select() takes microseconds, epoll only milliseconds.
        waiting = due[sent] - perf_counter() if sent < count else AFTER_SECONDS
        ready, _, _ = select.select(sockets, [], [], max(0.0, waiting))
        if not ready and sent == count:
            raise Broken(f"{missing} answers or matches did not arrive")
        now = perf_counter()
        if sender.socket in ready:
            for stream in sender.answered():
                accepted[calls.pop(stream)] = now
                missing -= 1
        if receiver and receiver.connection.socket in ready:
            for number in receiver.numbers():
                delivered[number - 1] = now
                missing -= 1
    return Times(due, accepted, delivered)


def main(kind: str, address: str, key: str, rate: float, requests: list[bytes], subscription: str) -> None:
    receiver = None
    if kind == "watch":
        receiver = Watcher.open(address, key)
    elif kind == "consume":
        receiver = Consumer.open_subscription(address, key, subscription)
    gc.disable()
    times = run(Connection.open(address, SEND_EVENT, key), receiver, rate, requests)
    while isinstance(receiver, Consumer) and receiver.acknowledged < len(times.due):
        receiver.numbers()
    print(json.dumps(times.figures(received=receiver is not None) | {"events": len(times.due)}))


if __name__ == "__main__":
    kind, address, key, rate, seconds, every, subscription = sys.argv[1:]
    main(kind, address, key, float(rate), bodies(round(float(rate) * float(seconds)), int(every)), subscription)
