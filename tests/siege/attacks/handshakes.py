"""TLS handshakes by clients without a key: begun and left, held half open, and many at once."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING, ClassVar, Final

from tests.siege.attacks.attack import Attack
from tests.siege.target import PAUSE, open_connection

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.siege.target import Assault

BEGINNING: Final = 16
HALF_OPEN: Final = 2_000
HELD_SECONDS: Final = 2.0
READ_BYTES: Final = 16_384


def client_hello(protocol: str) -> bytes:
    """Return the first message of a handshake: all that it takes to make a server compute its keys and sign them."""
    context = ssl.create_default_context()
    context.set_alpn_protocols([protocol])
    hello = ssl.MemoryBIO()
    connection = context.wrap_bio(ssl.MemoryBIO(), hello, server_hostname="siege")
    with suppress(ssl.SSLWantReadError):
        connection.do_handshake()
    return hello.read()


class _Handshakes(Attack):
    """Handshakes with one of the ports; an answer to the greeting of a handshake is not read on."""

    over_tls: ClassVar = True
    has_floor: ClassVar = False
    protocol: ClassVar = "http/1.1"

    async def prepare(self, assault: Assault) -> None:
        self._hello = client_hello(self.protocol)

    def address(self, assault: Assault) -> str:
        """Return where to connect."""
        return assault.target.http if self.protocol == "http/1.1" else assault.target.grpc


class HttpHandshakes(_Handshakes):
    """Handshakes that make the server compute, and are left then."""

    what: ClassVar = "16 clients without a key that begin TLS handshakes over HTTP, read the answer and close"

    async def run(self, assault: Assault) -> None:
        await asyncio.gather(*(self._repeat(assault) for _ in range(BEGINNING)))

    async def _repeat(self, assault: Assault) -> None:
        while not assault.over:
            answer = await self._begin(assault)
            assault.answers[answer] += 1
            if answer != "answered":
                await asyncio.sleep(PAUSE)

    async def _begin(self, assault: Assault) -> str:
        try:
            async with asyncio.timeout(assault.remaining):
                reader, writer = await open_connection(self.address(assault))
                try:
                    writer.write(self._hello)
                    return "answered" if await reader.read(READ_BYTES) else "closed"
                finally:
                    writer.transport.abort()
        except TimeoutError:
            return "not answered"
        except OSError as error:
            return type(error).__name__


class GrpcHandshakes(HttpHandshakes):
    """The same over gRPC."""

    what: ClassVar = "16 clients without a key that begin TLS handshakes over gRPC, read the answer and close"
    has_floor: ClassVar = True
    protocol: ClassVar = "h2"


class HttpHalfHandshakes(_Handshakes):
    """Handshakes that are begun by half a message, held open, and gone on with all at once."""

    what: ClassVar = "2,000 connections without a key that hold half a TLS handshake over HTTP, and go on at once"

    async def run(self, assault: Assault) -> None:
        while not assault.over:
            await self._hold(assault)

    async def _hold(self, assault: Assault) -> None:
        held: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        half = len(self._hello) // 2
        try:
            for _ in range(assault.target.sized(HALF_OPEN, 50)):
                if assault.over:
                    return
                try:
                    reader, writer = await open_connection(self.address(assault))
                except OSError as error:
                    assault.answers[type(error).__name__] += 1
                    continue
                writer.write(self._hello[:half])
                held.append((reader, writer))
            await asyncio.sleep(min(HELD_SECONDS, assault.remaining / 2))
            for _, writer in held:
                writer.write(self._hello[half:])
            await self._read(assault, [reader for reader, _ in held])
        finally:
            for _, writer in held:
                writer.transport.abort()

    async def _read(self, assault: Assault, readers: Iterable[asyncio.StreamReader]) -> None:
        for reader in readers:
            try:
                async with asyncio.timeout(assault.remaining):
                    assault.answers["answered" if await reader.read(READ_BYTES) else "closed"] += 1
            except TimeoutError:
                assault.answers["not answered"] += 1
            except OSError as error:
                assault.answers[type(error).__name__] += 1


class GrpcHalfHandshakes(HttpHalfHandshakes):
    """The same over gRPC."""

    what: ClassVar = "2,000 connections without a key that hold half a TLS handshake over gRPC, and go on at once"
    has_floor: ClassVar = True
    protocol: ClassVar = "h2"
