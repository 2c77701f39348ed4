"""Where a request ends, and what becomes of bytes of which that is not certain."""

from __future__ import annotations

import asyncio
import json
import os
import random
from itertools import count, pairwise
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
import uvicorn
from structlog.testing import capture_logs
from uvicorn.server import ServerState

from server.http.connection import DROPPED_BYTES, HttpConnection
from server.http.connections import HttpConnections
from server.http.head import HEAD_END
from server.http.known_heads import MAX_BYTES, MAX_HEADS, KnownHead, KnownHeads
from signalbox.v1 import projects_pb2 as pb
from tests.support.framing import (
    AFTER_ANOTHER,
    ANOTHER,
    CLEAR,
    FIRST,
    HEALTH,
    HOST,
    KEY,
    PATH,
    REFUSED,
    SECOND,
    UPGRADE,
    Framing,
    chunked,
    request,
    sized,
)
from tests.support.process import server_process
from tests.support.raw_http import connection, parsed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from tests.support.service import Client

STEP = int(os.environ.get("SIGNALBOX_FRAMING_STEP", "5"))
"""Requests are cut in two beside every end of a line, and at every STEPth place between; at 1, everywhere."""

NOBODY = b"nobody".ljust(len(KEY), b"x")

_numbers = count(1)


class Caller:
    """A project whose key of Arsel sends raw bytes to the real server."""

    def __init__(self, address: str, secret: str, client: Client) -> None:
        self.address = address
        self.client = client
        self._secret = secret.encode()
        self._seen = 0
        assert len(self._secret) == len(KEY)

    def own(self, raw: bytes) -> bytes:
        return raw.replace(KEY, self._secret)

    async def totals(self) -> tuple[Any, ...]:
        """Return the totals recorded since the last call."""
        recorded = [each.properties["order_total"] for each in await self.client.log()]
        self._seen, seen = len(recorded), self._seen
        return tuple(recorded[seen:])


@pytest_asyncio.fixture(scope="module")
async def caller(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Caller]:
    """Send to a server in a process of its own, which runs on uvloop where that is installed."""
    folder = tmp_path_factory.mktemp("framing")
    async with server_process(f"sqlite:///{folder}/signalbox.db", folder) as process:
        client = await process.service.shop()
        secret = f"be_{next(_numbers):0>{len(KEY) - 3}}"
        key = pb.CreateApiKeyRequest(project=client.project, dialect=pb.DIALECT_ARSEL, secret=secret)
        await process.service.admin.projects.CreateApiKey(key)
        yield Caller(process.service.http_address, secret, client)
        assert "error" not in process.log()


# The table, over a real socket


@pytest.mark.parametrize("framing", [*CLEAR, *REFUSED], ids=str)
async def test_a_request_is_served_or_refused_whole(caller: Caller, framing: Framing) -> None:
    async with connection(caller.address) as raw:
        await raw.send(caller.own(framing.sent))
        found = []
        for number, _ in enumerate(framing.statuses):
            answer = await raw.answer(head=number == 0 and framing.sent.startswith(b"HEAD"))
            found.append(answer.status)
        if framing.stays_open:
            await raw.send(HEALTH)
            assert (await raw.answer()).status == 200
        else:
            assert answer.headers["connection"] == "close"
            assert await raw.answers() == []
    assert (tuple(found), await caller.totals()) == (framing.statuses, framing.totals)


# The law: segments of TCP change nothing


class Wire(asyncio.Transport):
    """What a connection writes, kept; like a socket, it delivers nothing while reading is paused."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False
        self._reading = asyncio.Event()
        self._reading.set()

    def write(self, data: Any) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True
        self._reading.set()

    def is_closing(self) -> bool:
        return self.closed

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.closed = True

    @property
    def reading(self) -> bool:
        return self._reading.is_set()

    def pause_reading(self) -> None:
        self._reading.clear()

    def resume_reading(self) -> None:
        self._reading.set()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    async def readable(self) -> None:
        await self._reading.wait()


class Recorder:
    """An application that answers as the bridge does, and remembers the totals."""

    def __init__(self) -> None:
        self.totals: list[int] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body, more = body + message["body"], message["more_body"]
        content = b"{}"
        headers = [(b"content-length", b"2")]
        await send({"type": "http.response.start", "status": self._status(scope, body), "headers": headers})
        await send({"type": "http.response.body", "body": content})

    def _status(self, scope: Any, body: bytes) -> int:
        assert dict(scope["headers"]).get(b"authorization") == b"Bearer " + KEY
        if scope["method"] != "POST":
            return {"DELETE": 404}.get(scope["method"], 200)
        try:
            self.totals.append(json.loads(body)["data"]["order_total"])
        except ValueError:
            return 400
        return 202


def opened(application: Any, connections: HttpConnections | None = None) -> tuple[HttpConnection, Wire]:
    """Connect to an application."""
    CONFIG.loaded_app = application
    http, wire = HttpConnection(CONFIG, ServerState(), {}, connections=connections), Wire()
    http.connection_made(wire)
    return http, wire


def http_tasks(http: HttpConnection) -> set[asyncio.Task[None]]:
    return http._server_state.tasks


CONFIG = uvicorn.Config("", lifespan="off", log_config=None)


async def outcome(
    segments: Sequence[bytes], head_first: bool, connections: HttpConnections | None = None
) -> tuple[tuple[int, ...], tuple[int, ...], bool]:
    """Deliver segments to a connection: the totals, the statuses, and whether it stays open."""
    recorder = Recorder()
    http, wire = opened(recorder, connections)
    for segment in segments:
        await wire.readable()
        if wire.closed:
            break
        http.data_received(segment)
        await asyncio.sleep(0)
    await asyncio.sleep(0)  # in which the next request of a pipeline is read
    while tasks := http_tasks(http):
        await asyncio.gather(*tasks)
        await asyncio.sleep(0)
    answers = [each.status for each in parsed(wire.written, {0} if head_first else ()) if each.status != 100]
    http.connection_lost(None)
    return tuple(recorder.totals), tuple(answers), not wire.closed


def splits(raw: bytes, beginning: int) -> Iterator[list[bytes]]:
    """Cut bytes into single bytes, in two at places after the beginning, and at random places."""
    chance = random.Random(len(raw))  # noqa: S311 - places to cut at, the same ones each time
    yield [raw]
    yield [raw[at : at + 1] for at in range(len(raw))]
    at_lines = (at for at in range(beginning, len(raw)) if any(byte in b"\r\n" for byte in raw[at - 1 : at + 1]))
    between = range(beginning + len(raw) % STEP, len(raw), STEP)
    yield from ([raw[:at], raw[at:]] for at in sorted({*at_lines, *between}))
    for _ in range(5):
        cuts = [0, *sorted(chance.sample(range(1, len(raw)), min(5, len(raw) - 1))), len(raw)]
        yield [raw[start:end] for start, end in pairwise(cuts)]


@pytest.mark.parametrize("framing", [*CLEAR, *REFUSED, *AFTER_ANOTHER], ids=str)
async def test_segments_of_tcp_change_nothing(framing: Framing) -> None:
    wanted = (framing.totals, framing.statuses, framing.stays_open)
    beginning = len(ANOTHER) if framing in AFTER_ANOTHER else 1
    for segments in splits(framing.sent, beginning):
        assert await outcome(segments, framing.sent.startswith(b"HEAD")) == wanted, segments


async def test_a_head_that_arrived_before_changes_nothing() -> None:
    connections = HttpConnections()
    for framing in [*CLEAR, *REFUSED, *AFTER_ANOTHER] * 2:
        wanted = (framing.totals, framing.statuses, framing.stays_open)
        assert await outcome([framing.sent], framing.sent.startswith(b"HEAD"), connections) == wanted, framing


def test_heads_that_arrived_before_are_bounded() -> None:
    heads, known = KnownHeads(), KnownHead({}, {}, 0, keep_alive=True)
    largest = b"x" * (MAX_BYTES - len(HEAD_END)) + HEAD_END
    for head in (largest, b"x" + largest):
        heads.add(head, known)
    assert [*heads._heads] == [largest]
    assert [heads.find(data + b"rest", 0) for data in (largest, b"x" + largest)] == [(known, MAX_BYTES), None]
    for number in range(MAX_HEADS):
        heads.add(b"%d\r\n\r\n" % number, known)
    last = MAX_HEADS - 1
    found = [heads.find(b"GET %d\r\n\r\nrest" % number, 4) for number in (0, last)]
    assert found == [None, (known, 4 + len(b"%d\r\n\r\n" % last))]


async def test_a_trailer_is_never_a_header() -> None:
    seen = set()

    async def application(scope: Any, receive: Any, send: Any) -> None:
        seen.add((scope["raw_path"], *scope["headers"]))
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    first = b"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nAuthorization: k\r\n\r\n"
    for segments in splits(first + b"GET /b HTTP/1.1\r\nHost: y\r\n\r\n", 1):
        http, wire = opened(application)
        for segment in segments:
            await wire.readable()
            http.data_received(segment)
            await asyncio.sleep(0)
        while tasks := http_tasks(http):
            await asyncio.gather(*tasks)
    assert seen == {
        (b"/a", (b"host", b"x"), (b"transfer-encoding", b"chunked")),
        (b"/b", (b"host", b"y")),
    }


# Answers before the body


@pytest.mark.parametrize("upgrade", [(), UPGRADE], ids=["plain", "upgrade"])
async def test_a_body_that_comes_after_its_answer_is_never_a_request(caller: Caller, upgrade: tuple[bytes]) -> None:
    nowhere = caller.own(sized(sized(SECOND), *upgrade, target=b"/v1/nowhere"))
    head, _, body = nowhere.partition(b"\r\n\r\n")
    async with connection(caller.address) as raw:
        await raw.send(head + b"\r\n\r\n")
        assert (await raw.answer()).status == 404
        await raw.send(*(body[at : at + 50] for at in range(0, len(body), 50)))
        await raw.send(caller.own(sized(FIRST)))
        assert (await raw.answer()).status == 202
    assert await caller.totals() == (1,)


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (401, [b"Content-Length: 10"]),
        (404, [b"Content-Length: %d" % (DROPPED_BYTES + 1)]),
        (404, [b"Transfer-Encoding: chunked"]),
        (401, [b"Content-Length: 10", b"Expect: 100-continue"]),
        (413, [b"Content-Length: 18446744073709551615"]),
    ],
    ids=["without a key", "large", "of unknown length", "held back", "too large"],
)
async def test_an_early_answer_ends_the_connection_unless_a_short_rest_is_known(
    caller: Caller, status: int, headers: list[bytes]
) -> None:
    sent = request(HOST, *headers, target=b"/v1/nowhere" if status == 404 else PATH)
    sent = sent.replace(KEY, NOBODY) if status == 401 else caller.own(sent)
    async with connection(caller.address) as raw:
        await raw.send(sent)
        answer = await raw.answer()
        assert (answer.status, answer.headers["connection"]) == (status, "close")
        await raw.send(b"5\r\n", caller.own(sized(SECOND)))
        assert await raw.answers() == []
    assert await caller.totals() == ()


async def test_a_client_that_still_sends_can_read_why_it_was_refused(caller: Caller) -> None:
    size = 20 * 1024 * 1024
    async with connection(caller.address) as raw:
        await raw.send(caller.own(request(HOST, b"Content-Length: %d" % size)))
        await raw.send(*[b" " * 65_536] * (size // 65_536))
        assert [answer.status for answer in await raw.answers()] == [413]


async def test_a_body_that_is_held_back_is_asked_for(caller: Caller) -> None:
    async with connection(caller.address) as raw:
        head, _, body = caller.own(sized(FIRST, b"Expect: 100-continue")).partition(b"\r\n\r\n")
        await raw.send(head + b"\r\n\r\n")
        assert await raw.answer() == (100, {}, b"")
        await raw.send(body)
        assert (await raw.answer()).status == 202
    assert await caller.totals() == (1,)


# Connections that end


async def test_a_client_that_has_sent_all_gets_all_answers(caller: Caller) -> None:
    async with connection(caller.address) as raw:
        await raw.send(caller.own(sized(FIRST) + HEALTH + chunked(SECOND)))
        raw.end()
        assert [answer.status for answer in await raw.answers()] == [202, 200, 202]
    assert await caller.totals() == (1, 2)


@pytest.mark.parametrize("whole", [sized(FIRST), chunked(FIRST), sized(FIRST, *UPGRADE), chunked(FIRST, *UPGRADE)])
async def test_a_request_that_breaks_off_is_not_executed(caller: Caller, whole: bytes) -> None:
    for size in (len(whole) - 1, len(whole) - len(FIRST), 20):
        async with connection(caller.address) as raw:
            await raw.send(caller.own(whole)[:size])
            raw.end()
            assert await raw.answers() == []
    assert await caller.totals() == ()


async def test_requests_wait_while_one_is_served() -> None:
    release, served = asyncio.Event(), []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        served.append(scope["raw_path"])
        await release.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    http, wire = opened(application)
    http.data_received(HEALTH + HEALTH.replace(b"healthz", b"readyz"))
    await asyncio.sleep(0.01)
    assert (served, wire.reading) == ([b"/healthz"], False)
    release.set()
    await asyncio.gather(*http_tasks(http))
    await asyncio.gather(*http_tasks(http))
    assert (served, wire.reading) == ([b"/healthz", b"/readyz"], True)
    http.shutdown()
    assert wire.closed


async def test_an_answer_of_unknown_length_goes_out_in_chunks() -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})
        for part in (b"one", b"", b"two"):
            await send({"type": "http.response.body", "body": part, "more_body": part != b"two"})

    http, wire = opened(application)
    http.data_received(HEALTH)
    await asyncio.gather(*http_tasks(http))
    assert wire.written == b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"
    assert not wire.closed


@pytest.mark.parametrize("sent", [b"", b"x", b"xyz"], ids=len)
async def test_an_answer_that_is_not_as_long_as_announced_closes_the_connection(sent: bytes) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": sent})

    http, wire = opened(application)
    with capture_logs() as logs:
        http.data_received(HEALTH)
        await asyncio.gather(*http_tasks(http))
    assert wire.closed
    assert [each["event"] for each in logs] == ["request_failed"]


async def test_http_2_is_refused_by_its_name(caller: Caller) -> None:
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    for sent in (preface, preface[:18]):
        async with connection(caller.address) as raw:
            await raw.send(sent)
            (answer,) = await raw.answers()
            assert answer.status == 400
            assert b"It is HTTP/2; gRPC has a port of its own" in answer.body
