"""Sends single events to two servers by turns: `python -m bench.turns KEY REQUESTS SECONDS ADDRESS OTHER_ADDRESS`.

The machine's speed drifts within a second, and more from one process of a load to the next. So one process loads both
servers, each for TURN_SECONDS at a time over connections that stay open, and waits at the end of a turn for every
answer. `SECONDS` is the time of each server. Prints the figures of `bench.load` for the first server, and `other`, the
events per second of the other one.
"""

from __future__ import annotations

import json
import sys
from itertools import cycle
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from bench import http2
from bench.data import SEND_EVENT, read_requests
from bench.load import CONNECTIONS, STREAMS, Load

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.data import Request
    from bench.load import Connection

TURN_SECONDS = 0.15
"""Some 500 events: at the end of a turn fewer than 64 calls are in flight, for a tenth of it."""


class Side:
    """One of the servers, and what was sent to it."""

    def __init__(self, address: str, key: str, requests: Sequence[Request]) -> None:
        self.load = Load(address, key, cycle(requests), TURN_SECONDS)
        self.seconds = 0.0
        self._connections: list[Connection] = [
            http2.Connection.open(address, SEND_EVENT, key) for _ in range(CONNECTIONS)
        ]

    def take_turn(self) -> None:
        """Send events for a turn."""
        began = perf_counter()
        self.load.calls(self._connections, STREAMS)
        self.seconds += perf_counter() - began


def main(key: str, requests: str, seconds: float, *addresses: str) -> None:
    read = read_requests(Path(requests))
    sides = [Side(address, key, read) for address in addresses]
    # In the order A B B A, in which neither side is the earlier one.
    while sum(side.seconds for side in sides) < seconds * len(sides):
        for side in (*sides, *reversed(sides)):
            side.take_turn()
    first, other = sides
    figures = {"events": first.load.events, "matches": first.load.matches, "seconds": first.seconds}
    print(json.dumps(figures | {"other": other.load.events / other.seconds}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]), *sys.argv[4:])
