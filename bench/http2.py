"""A gRPC client that costs little: about 10 us of CPU a call, as much as h2load.

Unlike h2load it sends different requests, waits for every answer, and notices calls that failed: a call that ends
without a message is an error. Only what a load needs of HTTP/2 is here.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RESET, SETTINGS, PING, GO_AWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, END_HEADERS, ACK = 1, 4, 1
LARGEST_WINDOW = 2**31 - 1
DEFAULT_WINDOW = 65_535
DEFAULT_FRAME = 16_384
RECEIVED_AT_ONCE = 1 << 18

_FRAME = struct.Struct(">BHBBI")
_UINT = struct.Struct(">I")
_MESSAGE = struct.Struct(">BI")


class Broken(Exception):
    """A call failed or the connection ended."""


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Return a frame."""
    return _FRAME.pack(len(payload) >> 16, len(payload) & 0xFFFF, kind, flags, stream) + payload


def head(authority: str, path: str, key: str) -> bytes:
    """Return the headers of a gRPC call, encoded without state."""

    def text(value: str) -> bytes:
        assert len(value) < 127
        return bytes((len(value),)) + value.encode()

    fields = {"content-type": "application/grpc", "te": "trailers", "authorization": f"Bearer {key}"}
    literal = b"".join(b"\x00" + text(name) + text(value) for name, value in fields.items())
    # POST and http are entries of the static table, :path and :authority names in it.
    return b"\x83\x86\x04" + text(path) + b"\x01" + text(authority) + literal


def messages(data: bytearray) -> Iterator[bytes]:
    """Take the complete gRPC messages from the data of a call, and leave the rest."""
    at = 0
    while len(data) - at >= _MESSAGE.size:
        _, size = _MESSAGE.unpack_from(data, at)
        after = at + _MESSAGE.size + size
        if after > len(data):
            break
        yield bytes(data[at + _MESSAGE.size : after])
        at = after
    del data[:at]


@dataclass
class Connection:
    """One connection, with any number of calls of one method under way."""

    head: bytes
    socket: socket.socket
    unsent: list[bytes] = field(default_factory=list)
    _rest: bytes = b""
    _next_stream: int = 1
    _window: int = DEFAULT_WINDOW
    _received: int = 0
    _with_message: set[int] = field(default_factory=set)

    @classmethod
    def open(cls, address: str, path: str, key: str) -> Connection:
        """Connect to a server, for calls of one method."""
        host, _, port = address.rpartition(":")
        connected = socket.create_connection((host, int(port)), 30)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        windows = struct.pack(">HI", 4, LARGEST_WINDOW)
        raised = _UINT.pack(LARGEST_WINDOW - DEFAULT_WINDOW)
        connected.sendall(PREFACE + frame(SETTINGS, 0, 0, windows) + frame(WINDOW_UPDATE, 0, 0, raised))
        return cls(head(address, path, key), connected)

    def call(self, body: bytes) -> int:
        """Begin a unary call, which is sent by `flush`. Return its number."""
        return self.begin(body, END_STREAM)

    def begin(self, body: bytes, flags: int = 0) -> int:
        """Begin a call with a first message, by default not the last one. Return its number."""
        stream = self._next_stream
        self._next_stream += 2
        self.unsent += (_FRAME.pack(0, len(self.head), HEADERS, END_HEADERS, stream), self.head)
        self.message(stream, body, flags)
        return stream

    def message(self, stream: int, body: bytes, flags: int = 0) -> None:
        """Add a message to a call."""
        size = len(body) + _MESSAGE.size
        self._window -= size
        if self._window < 0 or size > DEFAULT_FRAME:
            raise Broken("more is under way than the server lets in: use smaller requests or fewer at once")
        self.unsent += (_FRAME.pack(0, size, DATA, flags, stream), _MESSAGE.pack(0, len(body)), body)

    def flush(self) -> None:
        """Send everything that was begun."""
        if self.unsent:
            self.socket.sendall(b"".join(self.unsent))
            self.unsent.clear()

    def answered(self) -> Iterator[int]:
        """Wait for bytes of the server. Yield the numbers of calls that they complete. Raise Broken."""
        for stream, data in self.received():
            if data is None:
                yield stream

    def received(self) -> Iterator[tuple[int, bytes | None]]:
        """Wait for bytes of the server. Yield the data of each call, None if the call is complete. Raise Broken."""
        received = self.socket.recv(RECEIVED_AT_ONCE)
        if not received:
            raise Broken("the server closed the connection")
        data = self._rest + received if self._rest else received
        at, end = 0, len(data)
        while end - at >= _FRAME.size:
            high, low, kind, flags, stream = _FRAME.unpack_from(data, at)
            begin = at + _FRAME.size
            at = begin + (high << 16) + low
            if at > end:
                at = begin - _FRAME.size
                break
            if kind == DATA:
                self._with_message.add(stream)
                self._count(at - begin)
                yield stream, data[begin:at]
            elif kind != HEADERS:
                self._control(kind, flags, data[begin:at], stream)
            if flags & END_STREAM and kind <= HEADERS:
                if stream not in self._with_message:
                    raise Broken(f"a call failed: {data[begin:at]!r}")
                self._with_message.discard(stream)
                yield stream, None
        self._rest = data[at:]

    def _count(self, size: int) -> None:
        self._received += size
        if self._received > LARGEST_WINDOW // 2:
            self.unsent.append(frame(WINDOW_UPDATE, 0, 0, _UINT.pack(self._received)))
            self._received = 0

    def _control(self, kind: int, flags: int, payload: bytes, stream: int) -> None:
        if kind == SETTINGS and not flags & ACK:
            self.unsent.append(frame(SETTINGS, ACK, 0, b""))
        elif kind == PING and not flags & ACK:
            self.unsent.append(frame(PING, ACK, 0, payload))
        elif kind == WINDOW_UPDATE and stream == 0:
            self._window += _UINT.unpack(payload)[0]
        elif kind in {RESET, GO_AWAY}:
            raise Broken(f"the server ended a call or the connection: {payload!r}")
