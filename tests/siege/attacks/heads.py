"""Requests of the bridge whose head has no end, or is too large, and more requests than anybody reads answers of."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, ClassVar, Final

from tests.siege.attacks.attack import Attack
from tests.siege.target import open_connection

if TYPE_CHECKING:
    from tests.siege.target import Assault

CHUNK: Final = 16 * 1024
MOST: Final = 64 * 1024 * 1024
"""The number of bytes after which an attacker has seen that nothing stops it."""

STUCK_SECONDS: Final = 1.0


async def pour(assault: Assault, head: bytes, chunk: bytes, *, read: bool = True) -> None:
    """Send a head and then chunks without end on one connection; note what ended it."""
    try:
        reader, writer = await open_connection(assault.target.http)
    except OSError as error:
        assault.answers[type(error).__name__] += 1
        return
    answer = asyncio.create_task(reader.readline() if read else asyncio.Event().wait())
    try:
        assault.answers[await _pour(assault, writer, answer, head, chunk)] += 1
    finally:
        answer.cancel()
        await asyncio.gather(answer, return_exceptions=True)
        writer.transport.abort()


async def _pour(
    assault: Assault, writer: asyncio.StreamWriter, answer: asyncio.Task[object], head: bytes, chunk: bytes
) -> str:
    sent = len(head)
    writer.write(head)
    while not assault.over and not answer.done():
        if sent > assault.target.sized(MOST):
            return "read without end"
        writer.write(chunk)
        sent += len(chunk)
        try:
            async with asyncio.timeout(STUCK_SECONDS):
                await writer.drain()
        except TimeoutError:
            return "read no more"
        except ConnectionError:
            break
        await asyncio.sleep(0)
    return await _status(answer) if not assault.over or answer.done() else "waited for more"


async def _status(answer: asyncio.Task[object]) -> str:
    """Return the status of an answer, or how the connection ended without one."""
    with suppress(TimeoutError, OSError):
        line = await asyncio.wait_for(asyncio.shield(answer), STUCK_SECONDS)
        if isinstance(line, bytes) and line.startswith(b"HTTP/"):
            return line.split()[1].decode()
    return "closed"


class _Pouring(Attack):
    """Connections side by side, each made anew when it was ended."""

    has_floor: ClassVar = False
    connections: ClassVar = 4
    heads: ClassVar[tuple[bytes, ...]]
    chunk: ClassVar[bytes] = b"a" * CHUNK
    read: ClassVar = True

    async def run(self, assault: Assault) -> None:
        await asyncio.gather(*(self._repeat(assault, number) for number in range(self.connections)))

    async def _repeat(self, assault: Assault, number: int) -> None:
        while not assault.over:
            await pour(assault, self.heads[number % len(self.heads)], self.chunk, read=self.read)
            await asyncio.sleep(0.1)


class EndlessHeads(_Pouring):
    """A header, or a URL, that does not end."""

    what: ClassVar = "4 connections, each with a header or a URL that does not end"
    heads: ClassVar = (b"GET /healthz HTTP/1.1\r\nHost: siege\r\nX-Endless: ", b"GET /healthz?")


class LargeHeads(_Pouring):
    """Whole requests, each with 100 KB of headers."""

    what: ClassVar = "4 connections with requests of 100 KB of headers, one after the other"
    heads: ClassVar = (b"",)
    chunk: ClassVar = (
        b"GET /healthz HTTP/1.1\r\nHost: siege\r\n"
        + b"".join(b"X-%d: %s\r\n" % (number, b"a" * 1_000) for number in range(100))
        + b"\r\n"
    )


class Pipelining(_Pouring):
    """Requests without end whose answers nobody reads."""

    what: ClassVar = "4 connections that pipeline requests without end and read no answer"
    heads: ClassVar = (b"",)
    chunk: ClassVar = b"GET /healthz HTTP/1.1\r\nHost: siege\r\n\r\n" * 400
    read: ClassVar = False
