"""What a client without a key can take of the HTTP port: bytes, time and connections, all of them bounded."""

from __future__ import annotations

import asyncio
import gc
import gzip
import random
import socket
import time
import weakref
from contextlib import AsyncExitStack, ExitStack, suppress
from typing import TYPE_CHECKING

import httptools
import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from server.bridge import app
from server.http import body
from server.http import connection as http_connection
from server.http import connections as http_connections
from server.http.body_framing import MAX_CHUNK_LINE, MAX_TRAILERS, ChunkedBody
from server.http.connections import ConnectionLimits, HttpConnections, connection_limits
from server.http.framing import HeadTooLarge, Malformed
from server.http.head import MAX_HEAD, MAX_HEADERS, MAX_LINE, RequestHead
from server.http.server import HttpServer
from server.metrics import Metrics
from server.sharing.loop_time import LoopTime
from signalbox.v1 import projects_pb2 as pb
from tests.support.framing import FIRST, HEALTH, HOST, KEY, chunks, request
from tests.support.raw_http import Answer, RawConnection, connection
from tests.support.service import serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Hashable, Iterator
    from pathlib import Path
    from typing import Any

    from tests.support.service import Service

# Nothing here depends on the database.
on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)

GET = b"GET / HTTP/1.1\r\nHost: x\r\n"


class Site:
    """A server with an application that answers once it is allowed to."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self.metrics = Metrics()
        self.connections = HttpConnections(limits, self.metrics)
        self.server = HttpServer(self, 0, self.connections)
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.served = 0
        self.content = b""
        self.address = ""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.served += 1
        await self.may_answer.wait()
        headers = [(b"content-length", b"%d" % len(self.content))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": self.content})

    def end_calls(self) -> None:
        self.may_answer.set()

    def refused(self) -> float:
        value = self.metrics.registry.get_sample_value("signalbox_refused_total", {"reason": "TOO_MANY_CONNECTIONS"})
        return value or 0


@pytest_asyncio.fixture
async def site(request: pytest.FixtureRequest) -> AsyncIterator[Site]:
    site = Site(getattr(request, "param", ConnectionLimits()))
    site.address = await site.server.start("127.0.0.1:0", None)
    yield site
    await site.server.stop()


async def true(condition: Callable[[], bool]) -> None:
    """Wait until a condition is true."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - nobody sets an event
            await asyncio.sleep(0.01)


def cuts(raw: bytes) -> Iterator[list[bytes]]:
    """Cut bytes into pieces of several sizes."""
    for size in (len(raw), 4_096, 1_000, 97):
        yield [raw[at : at + size] for at in range(0, len(raw), size)]


# The head


TOO_LARGE = {
    "an unfinished header": (431, GET + b"X: " + b"a" * MAX_HEAD),
    "an unfinished name of a header": (431, GET + b"a" * MAX_HEAD),
    "many headers, unfinished": (431, GET + (b"X: " + b"a" * 1_000 + b"\r\n") * 70),
    "a head of many bytes": (431, GET + (b"X: " + b"a" * 1_000 + b"\r\n") * 70 + b"\r\n"),
    "a large header": (431, GET + b"X: " + b"a" * MAX_LINE + b"\r\n\r\n"),
    "many headers": (431, GET + b"X: a\r\n" * MAX_HEADERS + b"\r\n"),
    "an unfinished target": (414, b"GET /" + b"a" * MAX_LINE),
    "a long target": (414, b"GET /" + b"a" * MAX_LINE + b" HTTP/1.1\r\nHost: x\r\n\r\n"),
    "empty lines": (431, b"\r\n" * (MAX_HEAD // 2 + 1)),
}


@pytest.mark.parametrize(("status", "sent"), TOO_LARGE.values(), ids=TOO_LARGE)
async def test_a_head_is_bounded(site: Site, status: int, sent: bytes) -> None:
    for segments in cuts(sent):
        async with connection(site.address) as raw:
            await raw.send(*segments)
            (answer,) = await raw.answers()
            assert (answer.status, answer.headers["connection"]) == (status, "close")
    assert site.served == 0


_large = GET + (b"X: " + b"a" * 16_000 + b"\r\n") * 4
FITTING = {
    "a head of all bytes": _large + b"Y: " + b"a" * (MAX_HEAD - len(_large) - 7) + b"\r\n",
    "many headers": GET + b"X: a\r\n" * (MAX_HEADERS - 1),
    "a long target": b"GET /" + b"a" * (MAX_LINE - 1) + b" HTTP/1.1\r\nHost: x\r\n",
    "empty lines": b"\r\n" * 1_000 + GET,
}


@pytest.mark.parametrize("sent", FITTING.values(), ids=FITTING)
async def test_a_head_up_to_the_bounds_is_served(site: Site, sent: bytes) -> None:
    async with connection(site.address) as raw:
        for segments in cuts(sent + b"\r\n"):
            await raw.send(*segments)
            assert (await raw.answer()).status == 200


def test_an_unfinished_head_costs_the_same_for_each_byte() -> None:
    seconds = []
    for size in (5_000, 50_000):
        head, begun = RequestHead(), time.process_time()
        for segment in (GET, b"X: ", *[b"a"] * size):
            head.feed(segment, 0)
        seconds.append(time.process_time() - begun)
    assert seconds[1] < 40 * seconds[0]


@given(st.data())
def test_a_head_is_the_same_however_it_is_cut(data: st.DataObject) -> None:
    raw = b"\r\n" + GET + b"Authorization: Bearer key\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n"
    after = b"POST / HTTP/1.1\r\nHost: y\r\n\r\n"
    at, sent = 0, raw + after
    head = RequestHead()
    while not head.complete:
        end = data.draw(st.integers(at + 1, len(sent)))
        used = head.feed(sent[at:end], 0)
        assert used == end - at or head.complete
        at += used
    assert (at, head.method, head.target, [name for name, _ in head.headers]) == (
        len(raw),
        "GET",
        b"/",
        [b"host", b"authorization", b"upgrade", b"connection"],
    )


async def test_unfinished_heads_are_bounded_together(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_connections, "MAX_HEADS", 100_000)
    async with AsyncExitStack() as stack:
        for _ in range(2):
            raw = await stack.enter_async_context(connection(site.address))
            await raw.send(GET + b"X: " + b"a" * 45_000)
        await true(lambda: site.connections._heads > 90_000)
        async with connection(site.address) as third:
            await third.send(GET + b"X: " + b"a" * 45_000)
            (answer,) = await third.answers()
            assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        await opened(site, stack, 1)
    await emptied(site)
    assert site.connections._heads == 0


# The body in chunks


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=5), st.data())
def test_chunks_are_the_same_however_they_are_cut(parts: list[bytes], data: st.DataObject) -> None:
    raw = b"".join(b"%x;x=y\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\nAuthorization: key\r\n\r\n"
    chunked, found, at, sent = ChunkedBody(), bytearray(), 0, raw + GET
    while not chunked.complete:
        end = data.draw(st.integers(at + 1, len(sent)))
        at += chunked.feed(sent[at:end], 0, found.extend)
    assert (bytes(found), at) == (b"".join(parts), len(raw))


class HttptoolsBody:
    """The same body as httptools reads it: complete, in part, or refused."""

    def __init__(self, raw: bytes) -> None:
        self.body = b""
        self.outcome = "in part"
        with suppress(httptools.HttpParserError):
            httptools.HttpRequestParser(self).feed_data(CHUNKED_HEAD + raw)

    def on_body(self, part: bytes) -> None:
        self.body += part

    def on_message_complete(self) -> None:
        self.outcome = "complete"


CHUNKED_HEAD = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
SEEDS = [
    b"5\r\nabcde\r\n0\r\n\r\n",
    b'1;a;b=c;d="e \\" f"\r\nx\r\n00\r\nX: y\r\nZ:\r\n\r\n',
    b"3;a=b\r\n\r\n0\r\n0;e\r\n\r\n",
]


@pytest.mark.parametrize("seed", SEEDS)
def test_chunks_that_are_read_are_read_the_same_by_another_server(seed: bytes) -> None:
    chance = random.Random(len(seed))  # noqa: S311 - the same changes each time
    complete = 0
    for _ in range(5_000):
        raw = bytearray(seed)
        for _ in range(chance.randrange(3)):
            at, byte = chance.randrange(len(raw)), chance.choice(b"0123aF;=\"\\' \t\r\n:,X-+\x00\x7f\xff(")
            raw[at : at + chance.randrange(2)] = [byte] if chance.random() < 0.7 else []
        chunked, found = ChunkedBody(), bytearray()
        with suppress(Malformed):
            chunked.feed(bytes(raw), 0, found.extend)
        if chunked.complete:
            complete += 1
            other = HttptoolsBody(bytes(raw))
            assert (other.outcome, other.body) == ("complete", bytes(found)), bytes(raw)
    assert complete > 1_000


def feed_all(chunked: ChunkedBody, segments: list[bytes]) -> None:
    for segment in segments:
        assert chunked.feed(segment, 0, lambda _: None) == len(segment)


@pytest.mark.parametrize(
    ("sent", "error"),
    [
        (b"1;" + b"a" * MAX_CHUNK_LINE, Malformed),
        (b"0" * (MAX_CHUNK_LINE + 1), Malformed),
        (b"1\r\naa" + b"a" * MAX_CHUNK_LINE, Malformed),
        (b"0\r\nX: " + b"a" * MAX_TRAILERS, HeadTooLarge),
        (b"0\r\n" + b"X: a\r\n" * MAX_TRAILERS, HeadTooLarge),
    ],
    ids=["an extension", "zeros", "no end of a chunk", "a trailer", "trailers"],
)
def test_lines_between_chunks_are_bounded(sent: bytes, error: type[Exception]) -> None:
    for segments in cuts(sent):
        chunked = ChunkedBody()
        with pytest.raises(error):
            feed_all(chunked, segments)


# Time


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HEAD_SECONDS", "LINGER_SECONDS", "WRITE_SECONDS"):
        monkeypatch.setattr(http_connection, name, 0.1)
    monkeypatch.setattr(http_connection, "WRITE_BYTES", 1_000_000_000)
    monkeypatch.setattr(http_connections, "CHECK_SECONDS", 0.02)


async def emptied(site: Site) -> None:
    await true(lambda: not len(site.connections))


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize(("sent", "statuses"), [(b"", []), (b"\r\n", [408]), (GET, [408]), (HEALTH + GET, [200, 408])])
async def test_a_head_must_arrive_in_time(site: Site, sent: bytes, statuses: list[int]) -> None:
    async with connection(site.address) as raw:
        await raw.send(sent)
        assert [answer.status for answer in await raw.answers()] == statuses
    await emptied(site)


@pytest.mark.usefixtures("hurried")
async def test_a_head_that_trickles_in_gets_no_more_time(site: Site) -> None:
    async with connection(site.address) as raw:
        answer = asyncio.create_task(raw.answer())
        while not answer.done():
            await raw.send(b"\r\n")
            await asyncio.sleep(0.01)
        assert answer.result().status == 408


@pytest.mark.usefixtures("hurried")
async def test_a_client_that_does_not_read_its_answer_is_disconnected(site: Site) -> None:
    site.content = bytes(50_000_000)
    async with connection(site.address) as raw:
        await raw.send(HEALTH * 2)
        await emptied(site)


@pytest.mark.usefixtures("hurried")
async def test_a_client_that_sends_on_after_its_refusal_is_disconnected(site: Site) -> None:
    async with connection(site.address) as raw:
        await raw.send(request(HOST, b"X: \0") + GET)
        assert (await raw.answer()).status == 400
        async with asyncio.timeout(20):
            while len(site.connections):
                await raw.send(b"a" * 1_000)
                await asyncio.sleep(0.001)


# Connections


async def opened(site: Site, stack: AsyncExitStack, count: int, source: str = "127.0.0.1") -> list[RawConnection]:
    """Open connections and send a request over each of them."""
    found = [await stack.enter_async_context(connection(site.address, source)) for _ in range(count)]
    for raw in found:
        await raw.send(HEALTH)
        if site.may_answer.is_set():
            assert (await raw.answer()).status == 200
    return found


async def later() -> None:
    """Wait until the clock of the event loop, which counts milliseconds, has advanced."""
    loop = asyncio.get_running_loop()
    before = loop.time()
    while loop.time() == before:  # noqa: ASYNC110 - a clock does not tell
        await asyncio.sleep(0)


FEW = pytest.mark.parametrize("site", [ConnectionLimits(in_all=6, per_address=4)], indirect=True)


@FEW
async def test_the_connection_that_is_idle_longest_makes_room(site: Site) -> None:
    async with AsyncExitStack() as stack:
        first, second, *_ = await opened(site, stack, 4)
        await later()
        await first.send(HEALTH)
        assert (await first.answer()).status == 200
        await opened(site, stack, 1)
        assert await second.answers() == []
        others = await opened(site, stack, 2, "127.0.0.2")
        await opened(site, stack, 1, "127.0.0.3")
        await later()
        await others[0].send(HEALTH)
        assert (await others[0].answer()).status == 200
        assert len(site.connections) == 6
    assert site.refused() == 0


@FEW
async def test_where_none_is_idle_a_new_connection_is_refused(site: Site) -> None:
    site.may_answer.clear()
    with capture_logs() as logs:
        async with AsyncExitStack() as stack:
            busy = await opened(site, stack, 4)
            for source, more in (("127.0.0.1", 0), ("127.0.0.2", 2), ("127.0.0.3", 0)):
                busy += await opened(site, stack, more, source)
                await true(lambda: site.served == len(busy))  # noqa: B023 - awaited at once
                if more:
                    continue
                (refused,) = await opened(site, stack, 1, source)
                (answer,) = await refused.answers()
                assert (answer.status, answer.headers["retry-after"]) == (503, "1")
            site.connections.check(asyncio.get_running_loop().time())
            site.connections.check(asyncio.get_running_loop().time())
            site.may_answer.set()
            assert [(await raw.answer()).status for raw in busy] == [200] * 6
            await opened(site, stack, 1, "127.0.0.3")
    assert site.refused() == 2
    assert [line["event"] for line in logs] == ["http_connections_limited"]


@pytest.mark.parametrize("site", [ConnectionLimits(files=1)], indirect=True)
async def test_connections_are_refused_before_file_descriptors_run_out(site: Site) -> None:
    async with connection(site.address) as raw:
        await raw.send(HEALTH)
        assert [answer.status for answer in await raw.answers()] == [503]


def test_limits_follow_from_the_file_descriptors() -> None:
    assert connection_limits(1_024, None, None) == ConnectionLimits(462, 231, 1_024)
    assert connection_limits(1_048_576, None, None) == ConnectionLimits(10_000, 5_000, 1_048_576)
    assert connection_limits(1_024, 30, 10) == ConnectionLimits(30, 10, 1_024)


# Pipelining


async def test_requests_are_not_read_ahead(site: Site) -> None:
    site.may_answer.clear()
    async with connection(site.address) as raw:
        sending = asyncio.create_task(raw.send(HEALTH * 2_000))
        await true(lambda: site.served > 0)
        await asyncio.sleep(0.05)
        (http,) = site.connections._open
        assert (site.served, len(http._rest) <= http_connections.READ_BYTES) == (1, True)  # type: ignore[attr-defined]
        site.may_answer.set()
        for _ in range(2_000):
            assert (await raw.answer()).status == 200
        await sending
    assert site.served == 2_000


# Bodies


async def test_bodies_that_are_not_finished_take_the_share_of_their_project_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = 64 * 1024
    monkeypatch.setattr(body, "BODIES_OF_PROJECT", limit)
    monkeypatch.setattr(body, "ALL_BODIES", 4 * limit)
    monkeypatch.setattr(body, "BODY_WAIT_SECONDS", 0.2)
    async with (
        serving(f"sqlite:///{tmp_path}/signalbox.db", http_body_bytes=limit) as service,
        AsyncExitStack() as stack,
    ):
        secrets = [await service.secret((await service.shop()).project, pb.DIALECT_ARSEL) for _ in range(2)]
        flood, other = (b"Authorization: Bearer " + secret.encode() for secret in secrets)
        large = FIRST.ljust(limit - 100)

        def head(key: bytes, *headers: bytes) -> bytes:
            lines = (b"POST /v1/events/send HTTP/1.1", HOST, key, *(headers or (b"Content-Length: %d" % len(large),)))
            return b"\r\n".join([*lines, b"", b""])

        async def answered(sent: bytes) -> Answer:
            async with connection(service.http_address) as raw:
                await raw.send(sent)
                return await raw.answer()

        holding = await stack.enter_async_context(connection(service.http_address))
        await holding.send(head(flood) + large[:-1])
        # Until the first one has its share, this one could come first.
        await asyncio.sleep(0.1)
        refused = await answered(head(flood) + large)
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        assert b"together" in refused.body
        for key in (other, flood):
            # Small bodies do not wait, and neither do the bodies of others.
            small = head(key, b"Content-Length: %d" % len(FIRST)) + FIRST
            assert (await answered(small)).status == 202
        assert (await answered(head(other) + large)).status == 202
        await holding.send(large[-1:])
        assert (await holding.answer()).status == 202
        for sent in (
            head(flood) + large,
            head(flood, b"Transfer-Encoding: chunked") + chunks(large, 10_000) + b"0\r\n\r\n",
            head(flood, b"Content-Encoding: gzip", b"Content-Length: %d" % len(gzip.compress(large)))
            + gzip.compress(large),
            head(flood) + large,
        ):
            assert (await answered(sent)).status == 202


@on_sqlite
async def test_only_large_bodies_wait_for_a_turn(lasting_service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    costs: list[int] = []
    turn = LoopTime.round

    async def noted(self: LoopTime, key: Hashable, cost: int) -> None:
        costs.append(cost)
        await turn(self, key, cost)

    monkeypatch.setattr(LoopTime, "round", noted)
    secret = await lasting_service.secret((await lasting_service.shop()).project, pb.DIALECT_ARSEL)
    large = FIRST.ljust(100_000)
    for sent, turns in ((FIRST, 0), (large, 1), (gzip.compress(large), 2)):
        encoding = () if sent.startswith(FIRST) else (b"Content-Encoding: gzip",)
        head = request(HOST, b"Content-Length: %d" % len(sent), *encoding).replace(KEY, secret.encode())
        async with connection(lasting_service.http_address) as raw:
            await raw.send(head + sent)
            assert (await raw.answer()).status == 202
        assert len(costs) == turns


@on_sqlite
async def test_bodies_of_clients_without_a_key_are_not_read(lasting_service: Service) -> None:
    async with connection(lasting_service.http_address) as raw:
        await raw.send(request(HOST, b"Content-Length: 1000000") + b"a" * 1_000)
        assert [answer.status for answer in await raw.answers()] == [401]


async def test_pipelined_requests_leave_room_for_others() -> None:
    connections, read = HttpConnections(), []

    class Pipelining:
        def read_on(self) -> None:
            read.append(self)

    for _ in range(40):
        connections.read_later(Pipelining())  # type: ignore[arg-type]  # reading is all that is asked for
    counts = []
    while len(read) < 40:
        await asyncio.sleep(0)
        counts.append(len(read))
    assert counts == [16, 32, 40]


# Reads


@on_sqlite
async def test_clients_that_do_not_read_take_the_share_of_their_project_alone(
    lasting_service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "READ_WAIT_SECONDS", 0.3)
    flood, other = [await lasting_service.shop() for _ in range(2)]
    keys = [await lasting_service.secret(each.project, pb.DIALECT_ARSEL) for each in (flood, other)]
    for number in range(100):
        await flood.upsert(f"c{number}@example.com", properties={"note": "x" * 60_000})

    def read(secret: str) -> bytes:
        head = (b"GET /v1/contacts?limit=100 HTTP/1.1", HOST, b"Authorization: Bearer " + secret.encode())
        return b"\r\n".join([*head, b"", b""])

    async def answered(secret: str) -> Answer:
        async with connection(lasting_service.http_address) as raw:
            await raw.send(read(secret))
            return await raw.answer()

    loop = asyncio.get_running_loop()
    host, _, port = lasting_service.http_address.rpartition(":")
    with ExitStack() as stack:
        for _ in range(app.READS_OF_PROJECT):
            unread = stack.enter_context(socket.socket())
            unread.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            unread.setblocking(False)
            await loop.sock_connect(unread, (host, int(port)))
            await loop.sock_sendall(unread, read(keys[0]))
            assert (await loop.sock_recv(unread, 12)) == b"HTTP/1.1 200"
        refused = await answered(keys[0])
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        assert (await answered(keys[1])).status == 200
    assert (await answered(keys[0])).status == 200


# Memory


def test_a_head_is_freed_without_a_search_for_cycles() -> None:
    head = RequestHead()
    head.feed(GET + b"\r\n", 0)
    head.release()
    freed = weakref.ref(head)
    gc.disable()
    try:
        del head
        assert freed() is None
    finally:
        gc.enable()
