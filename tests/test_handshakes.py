"""TLS handshakes with the HTTP port: they are counted from the first byte on, and take turns."""

from __future__ import annotations

import asyncio
import ssl
import time
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest

from server.http import handshakes
from server.http.connections import ConnectionLimits, HttpConnections
from server.http.handshakes import HANDSHAKE_SECONDS, Handshakes, PlainConnection
from server.http.server import HttpServer
from server.settings import Tls
from server.sharing.loop_time import SLICE_SECONDS
from tests.siege.attacks.handshakes import client_hello
from tests.support.authority import Authority
from tests.support.raw_http import RawConnection, connection

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
HELLO = client_hello("http/1.1")
FEW = 4


class Site:
    """A server over TLS whose application answers with a word."""

    def __init__(self, authority: Authority, limits: ConnectionLimits) -> None:
        self.authority = authority
        self.connections = HttpConnections(limits)
        self.server = HttpServer(self, 0, self.connections)
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.asked = 0
        self.address = ""

    async def start(self) -> None:
        self.address = await self.server.start("127.0.0.1:0", Tls(self.authority.certificate, self.authority.key))

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.asked += 1
        await self.may_answer.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
        await send({"type": "http.response.body", "body": b"word"})

    def end_calls(self) -> None:
        self.may_answer.set()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "authority")


@asynccontextmanager
async def site(authority: Authority, limits: ConnectionLimits | None = None) -> AsyncIterator[Site]:
    served = Site(authority, limits or ConnectionLimits())
    await served.start()
    try:
        yield served
    finally:
        await served.server.stop()


async def true(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - nobody sets an event
            await asyncio.sleep(0.01)


class SecureClient:
    """A client whose every byte can be sent by itself."""

    def __init__(self, raw: RawConnection, authority: Authority) -> None:
        self._raw = raw
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = ssl.create_default_context(cadata=authority.trust())
        self._secure = context.wrap_bio(self._incoming, self._outgoing, server_hostname="127.0.0.1")

    async def ask(self, request: bytes, size: int) -> bytes:
        """Send a request in the segment that ends the handshake, all in pieces of a size; return the answer."""
        while True:
            try:
                self._secure.do_handshake()
                break
            except ssl.SSLWantReadError:
                await self._send(size)
                self._incoming.write(await self._raw.some())
        self._secure.write(request)
        await self._send(size)
        while True:
            try:
                return self._secure.read(65_536)
            except ssl.SSLWantReadError:
                self._incoming.write(await self._raw.some())

    async def _send(self, size: int) -> None:
        data = self._outgoing.read()
        await self._raw.send(*(data[at : at + size] for at in range(0, len(data), size)))


@pytest.mark.parametrize("size", [1, 100, 100_000])
async def test_a_request_may_come_with_the_end_of_the_handshake_and_in_any_pieces(
    authority: Authority, size: int
) -> None:
    async with site(authority) as served, connection(served.address) as raw:
        answer = await SecureClient(raw, authority).ask(REQUEST, size)
        assert answer.endswith(b"word")
        assert len(served.connections) == 1
        raw.end()
        await true(lambda: len(served.connections) == 0)


async def test_clients_that_do_not_go_on_are_counted_and_make_room(authority: Authority) -> None:
    limits = ConnectionLimits(2 * FEW, FEW)
    async with site(authority, limits) as served, AsyncExitStack() as stack:

        async def connect(source: str) -> RawConnection:
            raw = await stack.enter_async_context(connection(served.address, source))
            await raw.send(HELLO[: len(HELLO) // 2])
            return raw

        held = [await connect("127.0.0.2") for _ in range(3 * FEW)]
        # Each that came after the address had its share has closed the one that waited longest.
        for raw in held[:-FEW]:
            assert await raw.answers() == []
        assert len(served.connections) == FEW
        raw = await stack.enter_async_context(connection(served.address))
        assert (await SecureClient(raw, authority).ask(REQUEST, 100_000)).endswith(b"word")


async def test_a_connection_beyond_the_limit_is_closed_at_once(authority: Authority) -> None:
    async with site(authority, ConnectionLimits(1)) as served, connection(served.address) as busy:
        secured = SecureClient(busy, authority)
        served.may_answer.clear()
        asking = asyncio.create_task(secured.ask(REQUEST, 100_000))
        await true(lambda: served.asked > 0)
        async with connection(served.address) as refused:
            with suppress(ConnectionError):
                assert await refused.some() == b""
        served.may_answer.set()
        assert (await asking).endswith(b"word")


async def test_a_handshake_that_fails_is_counted_no_longer(authority: Authority) -> None:
    async with site(authority) as served:
        for sent in (REQUEST, HELLO[:-4] + b"fail", b"\x16\x03\x01\xff\xff"):
            async with connection(served.address) as raw:
                await raw.send(sent)
                raw.end()
                with suppress(ConnectionError):
                    await raw.some()
            await true(lambda: len(served.connections) == 0)
        assert served.connections._heads == 0


async def test_a_client_has_a_limited_time_for_its_first_message(authority: Authority) -> None:
    async with site(authority) as served, connection(served.address) as raw:
        await raw.send(HELLO[:100])
        await true(lambda: len(served.connections) == 1 and served.connections._heads == 100)
        now = asyncio.get_running_loop().time()
        served.connections.check(now + HANDSHAKE_SECONDS - 1)
        assert len(served.connections) == 1
        served.connections.check(now + HANDSHAKE_SECONDS)
        with suppress(ConnectionError):
            assert await raw.some() == b""
        await true(lambda: len(served.connections) == 0)


async def test_a_client_has_a_limited_time_for_the_rest_of_the_handshake(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handshakes, "HANDSHAKE_SECONDS", 0.2)
    async with site(authority) as served, connection(served.address) as raw:
        await raw.send(HELLO)
        assert await raw.some()
        assert len(served.connections) == 1
        await true(lambda: len(served.connections) == 0)


async def test_handshakes_that_begin_together_let_others_in_between(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    began: list[str] = []
    rounds = 0

    def begin(_handshakes: Handshakes, connection: PlainConnection) -> None:
        began.append(connection.address)
        end = time.process_time() + SLICE_SECONDS
        while time.process_time() < end:
            pass

    monkeypatch.setattr(Handshakes, "_begin", begin)
    async with site(authority) as served, AsyncExitStack() as stack:
        flood = [await stack.enter_async_context(connection(served.address, "127.0.0.2")) for _ in range(20)]
        other = await stack.enter_async_context(connection(served.address))
        for raw in (*flood, other):
            await raw.send(HELLO)
        while len(began) < 21:
            rounds += 1
            await asyncio.sleep(0)
    assert rounds >= 20
    assert "127.0.0.1" in began[:-5]


async def test_a_client_cannot_have_the_keys_computed_anew(authority: Authority) -> None:
    """By renegotiation, which TLS 1.2 has; TLS 1.3 has only updates of keys, of which OpenSSL allows 32 in a row."""
    async with site(authority) as served:
        command = ["openssl", "s_client", "-connect", served.address, "-tls1_2"]
        client = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        out, _ = await asyncio.wait_for(client.communicate(b"R\n"), 20)
    assert b"RENEGOTIATING" in out
    assert b"no renegotiation" in out


def test_the_loop_of_asyncio_will_do(authority: Authority) -> None:
    """Where uvloop is not installed."""

    async def ask() -> bytes:
        async with site(authority) as served, connection(served.address) as raw:
            return await SecureClient(raw, authority).ask(REQUEST, 100)

    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        assert runner.run(ask()).endswith(b"word")
