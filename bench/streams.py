"""Holds many streams open and reads them: `python -m bench.streams watch|consume ADDRESS KEY COUNT SUBSCRIPTION`.

Prints `ready` when every stream has its first message. Each line on stdin is a position of the match log; `caught up`
is printed when every watcher has received everything up to it. Ends with stdin.
"""

from __future__ import annotations

import selectors
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bench.http2 import Connection, messages
from bench.lag import CONSUME, WATCH
from signalbox.v1 import match_stream_pb2

if TYPE_CHECKING:
    from collections.abc import Iterator

STREAMS = 100
"""Streams of one connection."""


@dataclass
class Streams:
    """All streams. `watchers` has the last message of each watcher, which is parsed only by `reached`."""

    address: str
    key: str
    ready: selectors.DefaultSelector = field(default_factory=selectors.DefaultSelector)
    watchers: dict[tuple[int, int], bytes] = field(default_factory=dict)
    silent: set[tuple[int, int]] = field(default_factory=set)
    rest: dict[tuple[int, int], bytearray] = field(default_factory=dict)

    def open(self, path: str, bodies: Iterator[bytes]) -> None:
        """Open a stream for each first message."""
        connection = None
        for number, body in enumerate(bodies):
            if number % STREAMS == 0 or connection is None:
                connection = Connection.open(self.address, path, self.key)
                self.ready.register(connection.socket, selectors.EVENT_READ, connection)
            flags = 1 if path == WATCH else 0
            stream = (id(connection), connection.begin(body, flags))
            self.silent.add(stream)
            self.rest[stream] = bytearray()
            if path == WATCH:
                self.watchers[stream] = b""
            connection.flush()

    def read(self) -> bool:
        """Read what has arrived. Return whether stdin has a line or has ended."""
        commanded = False
        for registered, _ in self.ready.select():
            if registered.data is None:
                commanded = True
            else:
                self._read(registered.data)
        return commanded

    def _read(self, connection: Connection) -> None:
        for number, data in connection.received():
            stream = (id(connection), number)
            if data is None:
                raise EOFError(f"stream {number} has ended")
            rest = self.rest[stream]
            rest += data
            for message in messages(rest):
                self.silent.discard(stream)
                if stream in self.watchers:
                    self.watchers[stream] = message
        connection.flush()

    def reached(self, position: int) -> bool:
        """Return whether every watcher has received everything up to a position."""
        parse = match_stream_pb2.WatchMatchesResponse.FromString
        return all(parse(message).position >= position for message in self.watchers.values())


def openings(subscription: str, count: int) -> Iterator[bytes]:
    """Yield the first messages of consumers."""
    opening = match_stream_pb2.OpenConsumer(subscription=subscription)
    for _ in range(count):
        yield match_stream_pb2.ConsumeMatchesRequest(open=opening).SerializeToString()


def main(kind: str, address: str, key: str, count: int, subscription: str) -> None:
    streams = Streams(address, key)
    if kind == "watch":
        watch = match_stream_pb2.WatchMatchesRequest().SerializeToString()
        streams.open(WATCH, iter([watch] * count))
    else:
        streams.open(CONSUME, openings(subscription, count))
    while streams.silent:
        streams.read()
    print("ready", flush=True)
    streams.ready.register(sys.stdin, selectors.EVENT_READ, None)
    while True:
        while not streams.read():
            pass
        line = sys.stdin.readline()
        if not line:
            return
        while not streams.reached(int(line)):
            # stdin is silent until this is answered.
            streams.read()
        print("caught up", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5])
