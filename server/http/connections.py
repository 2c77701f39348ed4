"""The connections of an HTTP server: how many there may be, and when one of them has taken too long.

A client without a key can open connections, so their number is bounded, in all and for each address. When it is
reached, the connections that have been idle longest make room, as a client must expect of any server; if none is idle,
the new one is answered 503. Deadlines are looked up twice a second for all connections, which costs a tenth of a
microsecond each; a timer for each request would cost more than a microsecond.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from dataclasses import dataclass
from heapq import nsmallest
from ipaddress import IPv6Address, IPv6Network
from math import inf
from typing import TYPE_CHECKING, Final, Protocol

import structlog

from server.http.exchange import header_lines
from server.http.framing import TooManyHeads
from server.http.known_heads import KnownHeads
from server.process.recurring import Recurring

if TYPE_CHECKING:
    from collections.abc import Sequence

    from server.metrics import Metrics

log = structlog.get_logger()

CHECK_SECONDS: Final = 0.5
READ_BYTES: Final = 32 * 1024
"""The most bytes that one read of a socket returns, and so what a connection keeps of pipelined requests."""

MAX_CONNECTIONS: Final = 10_000
"""Enough for any proxy; an idle connection takes a few kilobytes."""

MAX_HEADS: Final = 32 * 1024 * 1024
"""Bytes of the unfinished heads of all connections. Beyond that, only small heads may go on."""

SMALL_HEAD: Final = 2 * 1024
"""Bytes of a small head; those of all connections are another 20 MB."""

PIPELINED_AT_ONCE: Final = 16
"""Pipelined requests that are begun in one round of the event loop; others' requests come between the rounds."""

SPARE_FILES: Final = 100
"""File descriptors that connections leave to the database, the log and everything else."""

_CLOSED_AT_ONCE: Final = 0.01
"""The share of the limit that is closed when it is reached, so that not every new connection searches for idle ones."""

_LINGERING: Final = 100
"""Refused connections that are kept until the client has read why; more are closed at once."""

_LOG_SECONDS: Final = 60.0
_IPV6_NETWORK: Final = 64
"""The size of the networks that providers give to one customer."""


class TrackedConnection(Protocol):
    """A connection, as it is counted."""

    address: str

    @property
    def idle_since(self) -> float:
        """A time by which idle connections are ordered; infinite for others."""
        ...

    def check_time(self, now: float) -> None:
        """End the connection if a deadline has passed."""
        ...

    def close_idle(self) -> None:
        """Close the connection to make room for another one."""
        ...

    def read_on(self) -> None:
        """Read what arrived while a request was served."""
        ...


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """How many connections there may be, in all and from one address; `files` is the limit of file descriptors."""

    in_all: int = MAX_CONNECTIONS
    per_address: int = MAX_CONNECTIONS // 2
    files: float = inf


def connection_limits(files: int, in_all: int | None, per_address: int | None) -> ConnectionLimits:
    """Return the limits that are set, or else half of the file descriptors, and half of that for one address.

    The other half is for gRPC. One address may be that of a proxy, so its share is large.
    """
    chosen = in_all or max(1, min(MAX_CONNECTIONS, (files - SPARE_FILES) // 2))
    return ConnectionLimits(chosen, per_address or max(1, chosen // 2), files)


def address_of(transport: asyncio.BaseTransport) -> str:
    """Return the address of a client, of IPv6 its network."""
    peer = transport.get_extra_info("peername")
    host = str(peer[0]) if isinstance(peer, tuple) and peer else ""
    if ":" not in host:
        return host
    address = IPv6Address(host.partition("%")[0])
    return str(address.ipv4_mapped or IPv6Network((address, _IPV6_NETWORK), strict=False))


def file_of(transport: asyncio.BaseTransport) -> int:
    """Return the file descriptor of a connection: the lowest free one, so it shows how many are in use."""
    file = transport.get_extra_info("socket")
    return -1 if file is None else int(file.fileno())


class HttpConnections:
    """The open connections of one server."""

    def __init__(self, limits: ConnectionLimits | None = None, metrics: Metrics | None = None) -> None:
        self.buffer = memoryview(bytearray(READ_BYTES))
        self.known_heads = KnownHeads()
        self._limits = limits or ConnectionLimits()
        self._metrics = metrics
        self._open: dict[TrackedConnection, None] = {}
        self._leaving: dict[TrackedConnection, None] = {}  # refused, or closed to make room; not counted any more
        self._pipelined: deque[TrackedConnection] = deque()
        self._heads = 0  # bytes of unfinished heads
        self._by_address: Counter[str] = Counter()
        self._none_idle: set[str] = set()  # the addresses, empty for all, searched in vain since the last check
        self._refused = self._closed = 0  # since the last line in the log
        self._logged = -inf
        self._default_headers: Sequence[tuple[bytes, bytes]] = ()
        self._default_lines = b""
        self._task = Recurring("http connections", self._check)

    def __len__(self) -> int:
        return len(self._open)

    def start(self) -> None:
        """Start to look after deadlines."""
        self._task.start()

    async def close(self) -> None:
        """Stop looking after deadlines."""
        await self._task.close()

    def add(self, connection: TrackedConnection, file: int = -1) -> bool:
        """Count a connection, after making room for it. Return false if there is none."""
        limits, address = self._limits, connection.address
        full = len(self._open) >= limits.in_all or file >= limits.files - SPARE_FILES
        if (full and not self._make_room("", limits.in_all)) or (
            self._by_address[address] >= limits.per_address and not self._make_room(address, limits.per_address)
        ):
            self._refused += 1
            if self._metrics is not None:
                self._metrics.refusals.count("TOO_MANY_CONNECTIONS")
            return False
        self._open[connection] = None
        self._by_address[address] += 1
        return True

    def linger(self, connection: TrackedConnection) -> bool:
        """Keep a refused connection until its client has read why. Return false if too many are kept."""
        if len(self._leaving) >= _LINGERING:
            return False
        self._leaving[connection] = None
        return True

    def discard(self, connection: TrackedConnection) -> None:
        """Forget a connection that is lost."""
        self._leaving.pop(connection, None)
        if connection not in self._open:
            return
        del self._open[connection]
        self._by_address[connection.address] -= 1
        if not self._by_address[connection.address]:
            del self._by_address[connection.address]

    def count_head(self, size: int, head: int) -> None:
        """Add bytes to those of unfinished heads, which make `head` bytes of one. Raise TooManyHeads."""
        self._heads += size
        if self._heads > MAX_HEADS and head > SMALL_HEAD:
            if self._metrics is not None:
                self._metrics.refusals.count("TOO_MANY_HEADS")
            raise TooManyHeads("The server has too many unfinished requests; try again in a second")

    def default_lines(self, headers: Sequence[tuple[bytes, bytes]]) -> bytes:
        """Return the lines of the headers that every response has. They are replaced each second, never changed."""
        if headers is not self._default_headers:
            self._default_headers, self._default_lines = headers, header_lines(headers)
        return self._default_lines

    def read_later(self, connection: TrackedConnection) -> None:
        """Let a connection read its next pipelined request, in one of the next rounds of the event loop."""
        if not self._pipelined:
            asyncio.get_running_loop().call_soon(self._read_pipelined)
        self._pipelined.append(connection)

    def _read_pipelined(self) -> None:
        for _ in range(min(len(self._pipelined), PIPELINED_AT_ONCE)):
            self._pipelined.popleft().read_on()
        if self._pipelined:
            asyncio.get_running_loop().call_soon(self._read_pipelined)

    def check(self, now: float) -> None:
        """End the connections whose deadline has passed; report once a minute what was refused."""
        self._none_idle.clear()
        for connection in (*self._open, *self._leaving):
            connection.check_time(now)
        if (self._refused or self._closed) and now >= self._logged + _LOG_SECONDS:
            log.warning(
                "http_connections_limited",
                open=len(self._open),
                limit=self._limits.in_all,
                limit_per_address=self._limits.per_address,
                refused=self._refused,
                idle_closed=self._closed,
            )
            self._refused, self._closed, self._logged = 0, 0, now

    async def _check(self) -> float:
        self.check(asyncio.get_running_loop().time())
        return CHECK_SECONDS

    def _make_room(self, address: str, limit: int) -> bool:
        """Close the connections that have been idle longest, of one address or of all. Return false if none is idle."""
        if address in self._none_idle:
            return False
        idle = [each for each in self._open if (not address or each.address == address) and each.idle_since < inf]
        longest = nsmallest(max(1, int(limit * _CLOSED_AT_ONCE)), idle, key=lambda each: each.idle_since)
        for connection in longest:
            self.discard(connection)
            self._leaving[connection] = None
            connection.close_idle()
        self._closed += len(longest)
        if not longest:
            self._none_idle.add(address)
        return bool(longest)
