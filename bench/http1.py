"""A client of HTTP/1.1 for loads: prepared requests, one at a time on a connection; a response must be 2xx."""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.http2 import RECEIVED_AT_ONCE, Broken

if TYPE_CHECKING:
    from collections.abc import Iterator

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)


@dataclass
class Connection:
    """One connection."""

    socket: socket.socket
    calls: int = 0
    _unsent: bytes = b""
    _data: bytes = b""

    @classmethod
    def open(cls, address: str) -> Connection:
        """Connect to a server."""
        host, _, port = address.rpartition(":")
        connected = socket.create_connection((host, int(port)), 30)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return cls(connected)

    def call(self, request: bytes) -> int:
        """Begin a call, which is sent by `flush`. Return its number."""
        self._unsent = request
        self.calls += 1
        return self.calls

    def flush(self) -> None:
        """Send what was begun."""
        if self._unsent:
            self.socket.sendall(self._unsent)
            self._unsent = b""

    def answered(self) -> Iterator[int]:
        """Wait for bytes of the server. Yield the number of the call if they complete it. Raise Broken."""
        received = self.socket.recv(RECEIVED_AT_ONCE)
        if not received:
            raise Broken("the server closed the connection")
        self._data += received
        head, ended, body = self._data.partition(b"\r\n\r\n")
        length = _LENGTH.search(head + b"\r\n")
        if not ended or (length and len(body) < int(length[1])):
            return
        if not length or not head.startswith(b"HTTP/1.1 2"):
            raise Broken(f"a call failed: {self._data[:1_000]!r}")
        self._data = b""
        yield self.calls
