"""A health probe: asks `/healthz` and `/readyz` again and again over one kept connection."""

from __future__ import annotations

import asyncio
import ssl
import time
from typing import TYPE_CHECKING, Final

from tests.siege.samples import OK, PROBES, Sample

if TYPE_CHECKING:
    from collections.abc import Callable

INTERVAL: Final = 0.01
PATIENCE: Final = 30.0


class Probe:
    """Notes how long each answer took, counted from the moment at which the question was due."""

    def __init__(self, address: str, note: Callable[[Sample], None], trusted: str = "") -> None:
        self._tls = ssl.create_default_context(cadata=trusted) if trusted else None
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self._note = note

    async def run(self) -> None:
        """Probe until cancelled; a connection that breaks is noted and made anew."""
        while True:
            begun = time.monotonic()
            try:
                await self._over_one_connection()
            except (OSError, EOFError, TimeoutError) as error:
                self._note(Sample(PROBES[0], begun, time.monotonic() - begun, type(error).__name__))
                await asyncio.sleep(INTERVAL)

    async def _over_one_connection(self) -> None:
        reader, writer = await asyncio.open_connection(self._host, self._port, ssl=self._tls)
        try:
            due = time.monotonic()
            while True:
                due = max(due + INTERVAL, time.monotonic() - INTERVAL)
                await asyncio.sleep(due - time.monotonic())
                for path in PROBES:
                    begun = max(due, time.monotonic() - INTERVAL)
                    status = await self._ask(reader, writer, path)
                    outcome = OK if status == 200 else str(status)
                    self._note(Sample(path, begun, time.monotonic() - begun, outcome))
        finally:
            writer.close()

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str) -> int:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: probe\r\n\r\n".encode())
        async with asyncio.timeout(PATIENCE):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            _, _, rest = head.partition("content-length:")
            await reader.readexactly(int(rest.split("\r\n")[0]))
        return int(head.split(" ")[1])
