"""A receiver of webhooks on a real socket, which answers as a test wants and verifies what it gets."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from ipaddress import ip_network
from typing import TYPE_CHECKING, Any

from google.protobuf import json_format
from standardwebhooks import Webhook, WebhookVerificationError

from signalbox.v1 import match_pb2
from signalbox.v1 import match_stream_pb2 as pb
from tests.support.consumers import WAIT, subscribe

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Awaitable, Callable
    from typing import TypeAlias

    from tests.support.service import Client

LOOPBACK = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
SECRET = "whsec_" + "c2VjcmV0IG9mIHRoZSB0ZXN0cywgMjQgYnl0ZXMh"
OTHER_SECRET = "whsec_" + "YW5vdGhlciBzZWNyZXQgb2YgdGhlIHRlc3RzLCBsb25nZXI="


@dataclass(frozen=True, slots=True)
class Received:
    """One request: `headers` with names in lower case, and the number of the connection that it came on.

    `is_lost` returns whether the sender has closed the connection.
    """

    line: str
    headers: dict[str, str]
    body: bytes
    connection: int
    is_lost: Callable[[], bool]

    @property
    def match(self) -> match_pb2.Match:
        return json_format.Parse(self.body, match_pb2.Match())

    @property
    def position(self) -> int:
        return self.match.position

    @property
    def attempt(self) -> int:
        return int(self.headers["signalbox-attempt"])


if TYPE_CHECKING:
    Answer: TypeAlias = Callable[[Received], Awaitable[bytes | None]]


def answer(status: int = 200, body: bytes = b"", **headers: str) -> bytes:
    """Write a response."""
    lines = [f"HTTP/1.1 {status} Text", f"content-length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


class Receiver:
    """Answers 200 unless `answering` is set; None as an answer drops the connection."""

    def __init__(self) -> None:
        self.requests: list[Received] = []
        self.answering: Answer | None = None
        self.secret = SECRET
        self.forged: list[WebhookVerificationError] = []
        self.connections = 0
        self._arrived = asyncio.Condition()
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    @property
    def positions(self) -> list[int]:
        return [request.position for request in self.requests]

    def always(self, *responses: bytes | None) -> None:
        """Return these answers in turn, then the last one repeatedly."""
        left = list(responses)

        async def next_one(_: Received) -> bytes | None:
            return left.pop(0) if len(left) > 1 else left[0]

        self.answering = next_one

    async def start(self, tls: ssl.SSLContext | None = None) -> None:
        """Listen, on the same port if it has listened before."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Listen no more, and drop all connections."""
        if self._server is not None:
            self._server.close()
            self.drop()
            await self._server.wait_closed()

    def drop(self) -> None:
        """Drop all connections."""
        for writer in list(self._open):
            writer.transport.abort()

    async def write(self, text: bytes) -> None:
        """Write something to all connections that nobody has asked for, and wait until it may have arrived."""
        for writer in self._open:
            writer.write(text)
            await writer.drain()
        await asyncio.sleep(0.05)

    async def received(self, count: int, seconds: float = WAIT) -> list[Received]:
        """Wait until there are this many requests."""
        try:
            async with asyncio.timeout(seconds), self._arrived:
                await self._arrived.wait_for(lambda: len(self.requests) >= count)
        except TimeoutError:
            came = [(request.position, request.attempt) for request in self.requests]
            raise AssertionError(f"{len(came)} of {count} requests came within {seconds} s: {came}") from None
        return self.requests

    def _verify(self, request: Received) -> None:
        try:
            Webhook(self.secret).verify(request.body, request.headers)
        except WebhookVerificationError as error:
            self.forged.append(error)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        number = self.connections
        self._open.add(writer)
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                pairs = (line.partition(":") for line in head[1:] if line)
                headers = {name.lower(): value.strip() for name, _, value in pairs}
                body = await reader.readexactly(int(headers["content-length"]))
                request = Received(head[0], headers, body, number, reader.at_eof)
                self._verify(request)
                async with self._arrived:
                    self.requests.append(request)
                    self._arrived.notify_all()
                response = await self.answering(request) if self.answering else answer()
                if response is None:
                    break
                writer.write(response)
                await writer.drain()
        self._open.discard(writer)
        writer.close()


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    """Run a receiver until the context is left."""
    receiver = Receiver()
    await receiver.start()
    try:
        yield receiver
    finally:
        await receiver.stop()
    assert receiver.forged == []


async def push_to(client: Client, url: str, name: str = "engine", **rules: Any) -> pb.Subscription:
    """Create a subscription that pushes; `push` has further settings."""
    settings = {"secrets": [SECRET], **rules.pop("push", {})}
    return await subscribe(client, name, push=pb.Push(url=url, **settings), **rules)


async def change_push(client: Client, name: str = "engine", **changes: Any) -> pb.Subscription:
    """Change how a subscription pushes."""
    request = pb.UpdateSubscriptionRequest(subscription=name, push=pb.PushChanges(**changes))
    return (await client.matches.UpdateSubscription(request)).subscription


def body_of(request: Received) -> dict[str, Any]:
    """Return the body as plain values."""
    decoded: dict[str, Any] = json.loads(request.body)
    return decoded
