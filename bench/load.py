"""Sends requests of a file to a server: `python -m bench.load KIND ADDRESS KEY REQUESTS SECONDS`.

The kinds are `unary`, `one` (one call at a time), `batches`, `stream`, `rest`, `connect_proto` and `connect_json`, and
`once`: all batches of the file once. Requests were serialized before. Every call is answered before the load ends, and
a call that fails ends it. Answers are not parsed: events and matches are counted in the logs afterwards. Prints
`{"events": ..., "matches": ..., "seconds": ...}`; of `one` also `p50`, in milliseconds.
"""

from __future__ import annotations

import asyncio
import json
import selectors
import sys
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeAlias

from bench import http1, http2
from bench.data import BATCH, SEND_EVENT, SEND_EVENTS, STREAM_BATCH, STREAM_EVENTS, read_requests

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    import grpc

    from bench.data import Request

Connection: TypeAlias = http1.Connection | http2.Connection

CONNECTIONS, STREAMS = 8, 8
"""Calls of SendEvent in flight: connections, and calls of each."""

HTTP_CONNECTIONS = 64
OVER_HTTP = {"rest", "connect_proto", "connect_json"}

CALLERS = 4
"""Calls of SendEvents in flight: while one is committed, the next is read."""

STREAM_WINDOW = 16
"""Messages of the stream in flight."""

OPTIONS = (("grpc.max_receive_message_length", 16 * 1024 * 1024),)


class Refused(Exception):
    """The server rejected the events."""


@dataclass
class Load:
    """A load in progress: its target, its requests, and the responses so far."""

    address: str
    key: str
    requests: Iterator[Request]
    seconds: float
    events: int = 0
    matches: int = 0
    began: float = field(default_factory=perf_counter)
    times: list[float] = field(default_factory=list)

    def begin(self) -> None:
        """Start the clock."""
        self.began = perf_counter()

    def next(self) -> Request | None:
        """Return the next request to send, None once the time is over or all are sent."""
        return next(self.requests, None) if perf_counter() - self.began < self.seconds else None

    def note(self, request: Request, events: int) -> None:
        """Note that a request was answered."""
        self.events += events
        self.matches += request.matches

    def one(self) -> None:
        """Send single events, each after the answer to the one before."""
        connection = http2.Connection.open(self.address, SEND_EVENT, self.key)
        self.begin()
        while request := self.next():
            began = perf_counter()
            connection.call(request.body)
            connection.flush()
            while not list(connection.answered()):
                pass
            self.times.append(1_000 * (perf_counter() - began))
            self.note(request, 1)

    def calls(self, connections: list[Connection], in_flight: int) -> None:
        """Send single events over several connections, with a number of calls of each in flight."""
        pending = 0
        with selectors.DefaultSelector() as ready:
            self.begin()
            for connection in connections:
                under_way: dict[int, Request] = {}
                ready.register(connection.socket, selectors.EVENT_READ, (connection, under_way))
                pending += sum(self._call(connection, under_way) for _ in range(in_flight))
                connection.flush()
            while pending:
                for registered, _ in ready.select():
                    pending += self._next_calls(*registered.data)

    def _next_calls(self, connection: Connection, under_way: dict[int, Request]) -> int:
        """Read answers of a connection and begin as many calls. Return by how many the calls in flight changed."""
        change = 0
        for number in connection.answered():
            self.note(under_way.pop(number), 1)
            change += self._call(connection, under_way) - 1
        connection.flush()
        return change

    def _call(self, connection: Connection, under_way: dict[int, Request]) -> int:
        """Begin a call, unless it is time to end. Return the number of calls that were begun."""
        request = self.next()
        if request is None:
            return 0
        under_way[connection.call(request.body)] = request
        return 1

    async def batches(self, channel: grpc.aio.Channel) -> None:
        """Send batches from all callers."""
        call: Any = channel.unary_unary(SEND_EVENTS)

        async def send() -> None:
            while request := self.next():
                await call(request.body, metadata=self._metadata())
                self.note(request, BATCH)

        await asyncio.gather(*(send() for _ in range(CALLERS)))

    async def stream(self, channel: grpc.aio.Channel) -> None:
        """Send one stream."""
        # Imported here, as grpc below: loads of single calls start sooner without them.
        from signalbox.v1 import event_ingest_pb2 as pb

        window = asyncio.Semaphore(STREAM_WINDOW)
        sent: list[Request] = []

        async def messages() -> AsyncIterator[bytes]:
            while request := self.next():
                await window.acquire()
                sent.append(request)
                yield request.body + pb.StreamEventsRequest(sequence=len(sent)).SerializeToString()

        call: Any = channel.stream_stream(STREAM_EVENTS)
        answered, newest = 0, b""
        async for answer in call(messages(), metadata=self._metadata()):
            self.note(sent[answered], STREAM_BATCH)
            answered, newest = answered + 1, answer
            window.release()
        last = pb.StreamEventsResponse.FromString(newest)
        if answered != len(sent) or last.sequence != answered or len(last.results) != STREAM_BATCH:
            raise Refused(f"{len(sent)} messages were sent; {answered} were answered, the last one by {newest[:500]!r}")

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self.key}"),)

    def figures(self) -> dict[str, float]:
        """Return what was sent and in what time."""
        figures = {"events": self.events, "matches": self.matches, "seconds": perf_counter() - self.began}
        return figures | ({"p50": median(self.times)} if self.times else {})


async def run_aio(load: Load, kind: str) -> None:
    import grpc

    async with grpc.aio.insecure_channel(load.address, options=OPTIONS) as channel:
        await channel.channel_ready()
        load.begin()
        await (load.stream if kind == "stream" else load.batches)(channel)


def main(kind: str, address: str, key: str, requests: str, seconds: float) -> None:
    read = read_requests(Path(requests))
    load = Load(address, key, iter(read) if kind == "once" else cycle(read), seconds)
    if kind == "one":
        load.one()
    elif kind == "unary":
        load.calls([http2.Connection.open(address, SEND_EVENT, key) for _ in range(CONNECTIONS)], STREAMS)
    elif kind in OVER_HTTP:
        load.calls([http1.Connection.open(address) for _ in range(HTTP_CONNECTIONS)], 1)
    else:
        import uvloop

        uvloop.run(run_aio(load, kind))
    print(json.dumps(load.figures()))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4], float(sys.argv[5]))
