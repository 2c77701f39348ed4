"""HTTP as bytes: requests that no client library would send, and what comes back on the connection."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator

IDLE_SECONDS = 30.0


class Answer(NamedTuple):
    """One answer; an interim one (100) has no headers and no body."""

    status: int
    headers: dict[str, str]
    body: bytes


class RawConnection:
    """A connection to a server over which bytes are sent as they are."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, *segments: bytes) -> None:
        """Send segments, each on its own if the kernel does so."""
        for segment in segments:
            self._writer.write(segment)
            with suppress(ConnectionError):
                await self._writer.drain()

    def end(self) -> None:
        """Send nothing more."""
        self._writer.write_eof()

    async def answer(self, *, head: bool = False) -> Answer:
        """Read the next answer."""
        async with asyncio.timeout(IDLE_SECONDS):
            lines = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            status = int(lines[0].split(" ")[1])
            headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
            length = 0 if head else int(headers.get("content-length", "0"))
            return Answer(status, headers, await self._reader.readexactly(length))

    async def some(self) -> bytes:
        """Read what arrives next; nothing after the end."""
        async with asyncio.timeout(IDLE_SECONDS):
            return await self._reader.read(65_536)

    async def part(self, end: bytes) -> bytes:
        """Read up to some bytes, and those."""
        async with asyncio.timeout(IDLE_SECONDS):
            return await self._reader.readuntil(end)

    async def answers(self) -> list[Answer]:
        """Read answers until the server closes the connection."""
        async with asyncio.timeout(IDLE_SECONDS):
            return list(parsed(await self._reader.read()))


def parsed(content: bytes, heads: Iterable[int] = ()) -> Iterator[Answer]:
    """Read one answer after the other; those whose index is in `heads` have no body."""
    index = 0
    while content:
        head, _, content = content.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines[1:])
        length = 0 if index in heads else int(headers.get("content-length", "0"))
        yield Answer(int(lines[0].split(" ")[1]), headers, content[:length])
        content = content[length:]
        index += 1


@asynccontextmanager
async def connection(address: str, source: str = "") -> AsyncIterator[RawConnection]:
    """Connect to HOST:PORT, from a source address if one is given."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), local_addr=(source, 0) if source else None)
    try:
        yield RawConnection(reader, writer)
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
