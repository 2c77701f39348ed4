"""Sends requests of a file to a server: `python -m bench.load unary|batches|stream ADDRESS KEY REQUESTS SECONDS`.

Requests were serialized before. Every call is answered before the load ends, and a call that fails ends it. Answers
are not parsed: events and matches are counted in the logs afterwards. Prints
`{"events": ..., "matches": ..., "seconds": ...}`.
"""

from __future__ import annotations

import asyncio
import json
import selectors
import sys
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import grpc
import uvloop

from bench.data import BATCH, SEND_EVENT, SEND_EVENTS, STREAM_BATCH, STREAM_EVENTS, read_requests
from bench.http2 import Connection
from signalbox.v1 import event_ingest_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from bench.data import Request

CONNECTIONS, STREAMS = 8, 8
"""Calls of SendEvent in flight: connections, and calls of each."""

CALLERS = 4
"""Calls of SendEvents in flight: while one is committed, the next is read."""

STREAM_WINDOW = 16
"""Messages of the stream in flight."""

OPTIONS = (("grpc.max_receive_message_length", 16 * 1024 * 1024),)


class Refused(Exception):
    """The server rejected the events."""


@dataclass
class Load:
    """What is sent to whom, and what was answered so far."""

    address: str
    key: str
    requests: Iterator[Request]
    seconds: float
    events: int = 0
    matches: int = 0
    began: float = field(default_factory=perf_counter)

    def begin(self) -> None:
        """Begin the time."""
        self.began = perf_counter()

    def goes_on(self) -> bool:
        """Return whether to send another request."""
        return perf_counter() - self.began < self.seconds

    def note(self, request: Request, events: int) -> None:
        """Note that a request was answered."""
        self.events += events
        self.matches += request.matches

    def unary(self) -> None:
        """Send single events over several connections, with several calls of each in flight."""
        with selectors.DefaultSelector() as ready:
            for _ in range(CONNECTIONS):
                connection = Connection.open(self.address, SEND_EVENT, self.key)
                ready.register(connection.socket, selectors.EVENT_READ, (connection, {}))
            self.begin()
            pending = 0
            for registered in list(ready.get_map().values()):
                connection, calls = registered.data
                for _ in range(STREAMS):
                    request = next(self.requests)
                    calls[connection.call(request.body)] = request
                    pending += 1
                connection.flush()
            while pending:
                for registered, _ in ready.select():
                    pending += self._next_calls(*registered.data)
            for registered in list(ready.get_map().values()):
                registered.data[0].socket.close()

    def _next_calls(self, connection: Connection, calls: dict[int, Request]) -> int:
        """Read answers of a connection and begin as many calls. Return by how many the calls in flight changed."""
        change = 0
        for stream in connection.answered():
            self.note(calls.pop(stream), 1)
            if self.goes_on():
                request = next(self.requests)
                calls[connection.call(request.body)] = request
            else:
                change -= 1
        connection.flush()
        return change

    async def batches(self, channel: grpc.aio.Channel) -> None:
        """Send batches from all callers."""
        call: Any = channel.unary_unary(SEND_EVENTS)

        async def send() -> None:
            while self.goes_on():
                request = next(self.requests)
                await call(request.body, metadata=self._metadata())
                self.note(request, BATCH)

        await asyncio.gather(*(send() for _ in range(CALLERS)))

    async def stream(self, channel: grpc.aio.Channel) -> None:
        """Send one stream."""
        window = asyncio.Semaphore(STREAM_WINDOW)
        sent: list[Request] = []

        async def messages() -> AsyncIterator[bytes]:
            while self.goes_on():
                await window.acquire()
                sent.append(next(self.requests))
                yield sent[-1].body + pb.StreamEventsRequest(sequence=len(sent)).SerializeToString()

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


async def run_aio(load: Load, kind: str) -> None:
    async with grpc.aio.insecure_channel(load.address, options=OPTIONS) as channel:
        await channel.channel_ready()
        load.begin()
        await {"batches": load.batches, "stream": load.stream}[kind](channel)


def main(kind: str, address: str, key: str, requests: str, seconds: float) -> None:
    load = Load(address, key, cycle(read_requests(Path(requests))), seconds)
    if kind == "unary":
        load.unary()
    else:
        uvloop.run(run_aio(load, kind))
    print(json.dumps({"events": load.events, "matches": load.matches, "seconds": perf_counter() - load.began}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4], float(sys.argv[5]))
