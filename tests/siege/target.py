"""What an attack knows of the server, how it calls it, and what it was answered."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import grpc

from tests.siege.samples import OK, UNANSWERED
from tests.support.refusals import read_refusal
from tests.support.service import CHANNEL_OPTIONS, Client, Service

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from server.settings import Tls

PAUSE: Final = 0.1
"""Seconds that an attacker rests after a refusal: it is one machine, which shares its cores with what it attacks."""

ATTACKER: Final = "127.0.0.2"
"""The address that connections of the attacker come from; the neighbour's come from another one."""

RETRIABLE: Final = frozenset({grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE})


@dataclass(frozen=True)
class Target:
    """A server under siege, with keys of the attacker's project, and the neighbour's; `admin` may do everything.

    `scale` is at most 1: an attack in short form sends that share of its input. `tls` are the files of a server that
    speaks TLS.
    """

    grpc: str
    http: str
    admin: str
    project: str
    secrets: tuple[str, ...]
    neighbour: str
    process: int
    scale: float = 1.0
    tls: Tls | None = None

    @property
    def trusted(self) -> str:
        """The certificate that clients must trust; empty if the server speaks no TLS."""
        return "" if self.tls is None else self.tls.certificate.read_text()

    def sized(self, count: int, least: int = 1) -> int:
        """Return a count of the full form, scaled."""
        return max(round(count * self.scale), min(least, count))


@dataclass
class Assault:
    """An attack under way: until when, and what it was answered."""

    target: Target
    until: float = 0.0
    answers: Counter[str] = field(default_factory=Counter)
    facts: list[str] = field(default_factory=list)
    misses: list[str] = field(default_factory=list)

    @asynccontextmanager
    async def client(self, key: int = 0) -> AsyncIterator[Client]:
        """Connect anew with one of the attacker's keys."""
        options = (*CHANNEL_OPTIONS, ("grpc.use_local_subchannel_pool", 1))
        channel = grpc.aio.insecure_channel(self.target.grpc, options=options)
        try:
            secrets = self.target.secrets
            yield Service(self.target.grpc, channel).client(secrets[key % len(secrets)])
        finally:
            await channel.close()

    @property
    def remaining(self) -> float:
        """The seconds until the attack is over, at least a moment."""
        return max(self.until - time.monotonic(), 0.01)

    @property
    def over(self) -> bool:
        """Whether the time of the attack is over."""
        return time.monotonic() >= self.until

    async def repeat(self, workers: int, call: Callable[[], Awaitable[Any]], expected: str = OK) -> None:
        """Make the same call again and again, `workers` at a time, until the attack is over."""
        await asyncio.gather(*(self._repeat(call, expected) for _ in range(workers)))

    async def _repeat(self, call: Callable[[], Awaitable[Any]], expected: str) -> None:
        while not self.over:
            if await self.made(call()) not in (OK, expected):
                await asyncio.sleep(PAUSE)

    async def made(self, call: Awaitable[Any]) -> str:
        """Make a call, for as long as the attack goes on, and note how it ended."""
        outcome = UNANSWERED
        try:
            async with asyncio.timeout(self.remaining):
                await call
            outcome = OK
        except TimeoutError:
            pass
        except grpc.aio.AioRpcError as error:
            outcome = outcome_of(error)
        self.answers[outcome] += 1
        return outcome

    async def prepared(self, call: Awaitable[Any]) -> bool:
        """Make a call that prepares the attack; a limit may refuse it, which is noted."""
        try:
            await call
        except grpc.aio.AioRpcError as error:
            self.answers[f"preparing: {outcome_of(error)}"] += 1
            return False
        return True


def outcome_of(error: grpc.aio.AioRpcError) -> str:
    """Return code and reason of a failed call, and whether it lacks the time after which to repeat it."""
    refused = read_refusal(error)
    name = refused.reason or f"{refused.code.name} without reason"
    unhelpful = refused.code in RETRIABLE and refused.retry_after is None
    return f"{name} (no RetryInfo)" if unhelpful else name


async def open_connection(address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to HOST:PORT as the attacker."""
    host, _, port = address.rpartition(":")
    return await asyncio.open_connection(host, int(port), local_addr=(ATTACKER, 0))
