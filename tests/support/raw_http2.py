"""A client of HTTP/2 that sends what it is told to, on a socket of its own.

It knows as much of the protocol as is needed to open calls and leave them unfinished, which no library does.
"""

from __future__ import annotations

import asyncio
import struct
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, END_HEADERS, ACK = 1, 4, 1
INITIAL_WINDOW_SIZE = 4

FRAME = 16_384
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


class RawConnection:
    """One connection.

    `greeted` is set once the server has sent its settings, `goaway` once it wants no further calls, and `closed` once
    it has closed everything; `ended` has the streams that it ended, and `windows` what may be sent on each.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._last = -1
        self.windows: dict[int, int] = {0: 65_535}
        self._initial_window = 65_535
        self._changed = asyncio.Event()
        self.ended: dict[int, bytes] = {}
        self.settings: dict[int, int] = {}
        self.answers_pings = True
        self.greeted = asyncio.Event()
        self.goaway = asyncio.Event()
        self.closed = asyncio.Event()

    async def open(self, method: str, *metadata: tuple[str, str]) -> int:
        """Begin a call by its headers, `open("/signalbox.v1.EventIngest/SendEvent")`, and return its stream."""
        self._last += 2
        self.windows[self._last] = self._initial_window
        block = header_block(method, *metadata)
        parts = [block[at : at + FRAME] for at in range(0, len(block), FRAME)]
        for index, part in enumerate(parts):
            last = END_HEADERS if index == len(parts) - 1 else 0
            await self.frame(CONTINUATION if index else HEADERS, last, self._last, part)
        return self._last

    async def send(self, stream: int, content: bytes) -> None:
        """Send bytes of a call's messages, as the windows allow."""
        rest = memoryview(content)
        while rest:
            room = min(FRAME, self.windows[0], self.windows[stream])
            if room <= 0:
                await self.next_frame()
                if self.closed.is_set() or stream in self.ended:
                    return
                continue
            part, rest = bytes(rest[:room]), rest[room:]
            await self.frame(DATA, 0, stream, part)
            self.windows[0] -= len(part)
            self.windows[stream] -= len(part)

    async def frame(self, kind: int, flags: int, stream: int, content: bytes = b"") -> None:
        self._writer.write(frame_bytes(kind, flags, stream, content))
        with suppress(ConnectionError):
            await self._writer.drain()

    async def read(self) -> None:
        """Answer what keeps the connection alive, and note the rest."""
        try:
            while True:
                head = await self._reader.readexactly(9)
                size, kind, flags = int.from_bytes(head[:3], "big"), head[3], head[4]
                stream = int.from_bytes(head[5:], "big")
                await self._read_frame(kind, flags, stream, await self._reader.readexactly(size))
                self._changed.set()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.closed.set()
            self._changed.set()

    async def _read_frame(self, kind: int, flags: int, stream: int, content: bytes) -> None:
        if kind == SETTINGS and not flags & ACK:
            for at in range(0, len(content), 6):
                name, value = struct.unpack(">HI", content[at : at + 6])
                self.settings[name] = value
                if name == INITIAL_WINDOW_SIZE:
                    for each in self.windows:
                        self.windows[each] += value - self._initial_window if each else 0
                    self._initial_window = value
            self.greeted.set()
            await self.frame(SETTINGS, ACK, 0)
        elif kind == PING and not flags & ACK and self.answers_pings:
            await self.frame(PING, ACK, 0, content)
        elif kind == GOAWAY:
            self.goaway.set()
        elif kind == WINDOW_UPDATE:
            self.windows[stream] = self.windows.get(stream, 0) + int.from_bytes(content, "big")
        elif kind == RST_STREAM or (kind == HEADERS and flags & END_STREAM):
            self.ended[stream] = self.ended.get(stream, b"") + content

    async def next_frame(self) -> None:
        """Wait until something has arrived."""
        self._changed.clear()
        await self._changed.wait()

    async def ending(self, stream: int) -> bytes:
        """Wait until the server ends a stream, and return the header block that it did so with."""
        while stream not in self.ended and not self.closed.is_set():
            await self.next_frame()
        return self.ended.get(stream, b"")


@asynccontextmanager
async def raw_connection(address: str, window: int = 65_535) -> AsyncIterator[RawConnection]:
    """Connect to a server at HOST:PORT, which may send `window` bytes of each response."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    connection = RawConnection(reader, writer)
    writer.write(PREFACE)
    await connection.frame(SETTINGS, 0, 0, struct.pack(">HI", INITIAL_WINDOW_SIZE, window))
    reading = asyncio.create_task(connection.read())
    try:
        yield connection
    finally:
        reading.cancel()
        writer.close()
        with suppress(ConnectionError, asyncio.CancelledError):
            await reading


def frame_bytes(kind: int, flags: int, stream: int, content: bytes = b"") -> bytes:
    """Write a frame."""
    return struct.pack(">I", len(content))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + content


def header_block(method: str, *metadata: tuple[str, str]) -> bytes:
    """Write the headers of a call."""
    headers = [
        *[(":method", "POST"), (":scheme", "http"), (":path", method), (":authority", "localhost")],
        *[("te", "trailers"), ("content-type", "application/grpc"), *metadata],
    ]
    return b"".join(literal(name, value) for name, value in headers)


def literal(name: str, value: str) -> bytes:
    """Write one header."""
    return b"\x00" + _text(name) + _text(value)


def message_head(size: int) -> bytes:
    """Return what precedes a message of this size."""
    return struct.pack(">BI", 0, size)


def _text(text: str) -> bytes:
    """Write a text as HPACK does, in the form without compression."""
    encoded = text.encode()
    if len(encoded) < 127:
        return bytes([len(encoded)]) + encoded
    rest, size = len(encoded) - 127, bytearray([127])
    while rest > 127:
        size.append(rest & 127 | 128)
        rest >>= 7
    return bytes([*size, rest]) + encoded
