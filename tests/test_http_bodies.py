"""Bodies as clients send them: compressed, with a byte order mark, and by clients that ask for HTTP/2."""

from __future__ import annotations

import asyncio
import gzip
import json
import shutil
import tracemalloc
import zlib
from typing import TYPE_CHECKING
from unittest.mock import patch

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from server.bridge.dialects import DIALECTS
from server.http import body as http_body
from server.http.body import GZIP_PIECE, decode_body, gunzip_parts
from server.http.errors import BodyTooLarge, MalformedBody
from tests.support.bridge import Caller, calling
from tests.support.messages import ADA, ORDER

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support.service import Service

LIMIT = 1024 * 1024
BODY = {"event": ORDER, "email": ADA, "data": {"order_total": 5, "currency": "ü"}}
PLAIN = json.dumps(BODY, ensure_ascii=False).encode()
ASCII = json.dumps(BODY).encode()
SEND = "POST /v1/events/send"

# Nothing here depends on the database.
on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)


@pytest_asyncio.fixture
async def arsel(lasting_service: Service) -> AsyncIterator[Caller]:
    async with calling(lasting_service, await lasting_service.shop(), "arsel") as caller:
        yield caller


def padded(size: int) -> bytes:
    return PLAIN + b" " * (size - len(PLAIN))


# Content-Encoding


@on_sqlite
@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", gzip.compress(PLAIN)),
        ("GZIP", gzip.compress(PLAIN, 0)),
        ("x-gzip", gzip.compress(PLAIN)),
        ("gzip", gzip.compress(padded(LIMIT))),
        ("identity", PLAIN),
        ("", PLAIN),
        ("gzip", gzip.compress(b"\xef\xbb\xbf" + PLAIN)),
    ],
    ids=["gzip", "another case", "x-gzip", "as large as may be", "identity", "none", "a byte order mark"],
)
async def test_gzip_is_decoded(arsel: Caller, encoding: str, body: bytes) -> None:
    answer = await arsel.call(SEND, body, {"content-encoding": encoding})
    assert answer.status_code == 202
    (recorded,) = await arsel.client.log()
    assert recorded.properties["currency"] == "ü"


@on_sqlite
@pytest.mark.parametrize(
    ("status", "body"),
    [
        (413, gzip.compress(padded(LIMIT + 1))),
        (413, gzip.compress(bytes(20 * LIMIT), 1)),
        (413, gzip.compress(PLAIN, 0) + bytes(LIMIT)),
        (400, gzip.compress(PLAIN)[:-1]),
        (400, gzip.compress(PLAIN)[:5]),
        (400, gzip.compress(PLAIN) + b"\0"),
        (400, gzip.compress(PLAIN[:9]) + gzip.compress(PLAIN[9:])),
        (400, gzip.compress(PLAIN)[:-8] + bytes(8)),
        (400, PLAIN),
        (400, zlib.compress(PLAIN)),
        (400, gzip.compress(b"\xff")),
    ],
    ids=[
        *("one byte too large", "a bomb", "too large as sent", "without its last byte", "without its data"),
        *("and more", "two members", "another checksum", "not compressed", "without its header", "no JSON within"),
    ],
)
async def test_invalid_or_oversized_gzip_is_refused(arsel: Caller, status: int, body: bytes) -> None:
    refused = await arsel.call(SEND, body, {"content-encoding": "gzip"})
    assert (refused.status_code, refused.json()["status_code"]) == (status, status)
    assert await arsel.client.log() == []


@on_sqlite
@pytest.mark.parametrize("dialect", [dialect.name.value for dialect in DIALECTS])
@pytest.mark.parametrize("encoding", ["br", "deflate", "zstd", "gzip, gzip", "gzip, identity"])
async def test_an_unsupported_encoding_is_refused_with_the_supported_ones(
    lasting_service: Service, dialect: str, encoding: str
) -> None:
    async with calling(lasting_service, await lasting_service.project(), dialect) as caller:
        path = {"opensend": "/events", "emailsendx": "/api/v1/contacts", "resend": "/events"}.get(dialect, "/v1/events")
        refused = await caller.call(f"POST {path}", b"{}", {"content-encoding": encoding})
    assert (refused.status_code, refused.headers["accept-encoding"]) == (415, "gzip, identity")
    assert f'not "{encoding}"' in json.dumps(refused.json(), ensure_ascii=False).replace('\\"', '"')


def refused_as(body: bytes, limit: int, step: int, piece: int) -> type[Exception] | bytes:
    try:
        with patch.object(http_body, "GZIP_PIECE", piece):
            return b"".join(gunzip_parts(body, limit, step))
    except (BodyTooLarge, MalformedBody) as error:
        return type(error)


@given(st.binary(max_size=60), st.integers(0, 9), st.integers(1, 70), st.integers(1, 70))
def test_gzip_is_the_same_in_steps_of_any_size(content: bytes, level: int, step: int, piece: int) -> None:
    packed = gzip.compress(content * 3, level)
    size = 3 * len(content)
    assert refused_as(packed, size, step, piece) == content * 3
    if size:
        assert refused_as(packed, size - 1, step, piece) is BodyTooLarge
    assert refused_as(packed + b"x", size, step, piece) is MalformedBody
    assert refused_as(packed[:-1], size, step, piece) is MalformedBody


def test_no_step_of_gzip_reads_more_than_a_piece() -> None:
    empty = b"\0\0\0\xff\xff"
    body = gzip.compress(b"")[:10] + empty * 100_000 + b"\1" + empty[1:] + bytes(8)
    assert len(list(gunzip_parts(body, LIMIT, LIMIT))) >= len(body) // GZIP_PIECE


# Content-Type and other headers


@on_sqlite
@pytest.mark.parametrize(
    "kind",
    [
        *("application/json; charset=utf-8", "application/json;charset=UTF8", 'Application/JSON; Charset="utf-8"'),
        *("application/problem+json; charset=utf-8", "application/json; odata=verbose", "application/json;"),
    ],
)
async def test_utf_8_is_read_however_it_is_declared(arsel: Caller, kind: str) -> None:
    assert (await arsel.call(SEND, PLAIN, {"content-type": kind})).status_code == 202


@on_sqlite
@pytest.mark.parametrize("charset", ["iso-8859-1", "windows-1252", "utf-16", "us-ascii", "zlib_codec"])
async def test_another_character_set_is_refused_unless_the_body_is_ascii(arsel: Caller, charset: str) -> None:
    kind = {"content-type": f"application/json; charset={charset}"}
    assert (await arsel.call(SEND, ASCII, kind)).status_code == 202
    refused = await arsel.call(SEND, PLAIN, kind)
    assert (refused.status_code, refused.json()["message"]) == (415, f'The body must be UTF-8, not "{charset}"')


@on_sqlite
async def test_one_byte_order_mark_is_skipped(arsel: Caller) -> None:
    mark = b"\xef\xbb\xbf"
    assert (await arsel.call(SEND, mark + PLAIN)).status_code == 202
    assert (await arsel.call(SEND, mark)).status_code == (await arsel.call(SEND, b"")).status_code
    for broken in (mark + mark + PLAIN, mark[:2] + PLAIN, b" " + mark + PLAIN, PLAIN.decode().encode("utf-16")):
        assert (await arsel.call(SEND, broken)).status_code == 400


@on_sqlite
@pytest.mark.parametrize(
    ("name", "one", "other"),
    [
        ("authorization", "Bearer {key}", "Bearer be_nobody"),
        ("content-type", "application/json", "text/plain"),
        ("content-encoding", "identity", "gzip"),
        ("idempotency-key", "one", "other"),
    ],
)
async def test_a_header_that_comes_twice_is_refused(arsel: Caller, name: str, one: str, other: str) -> None:
    usual = [("authorization", f"Bearer {arsel.secret}"), ("content-type", "application/json")]
    sent = [header for header in usual if header[0] != name] + [(name, one.format(key=arsel.secret))]
    for values, status in (
        ([*sent, (name, other)], 400),
        ([(name, other), *sent], 400),
        (sent + sent[-1:], 400),
        (sent, 202),
    ):
        answer = await arsel.http.request("POST", "/v1/events/send", content=PLAIN, headers=values)
        assert answer.status_code == status
    assert answer.json()["status"] == "accepted"
    assert len(await arsel.client.log()) == 1


# Real clients

JAVA = """
import java.net.URI;
import java.net.http.*;

class Send {
    public static void main(String[] words) throws Exception {
        HttpClient client = HttpClient.newHttpClient();
        for (int sent = 0; sent < 2; sent++) {
            HttpRequest request = HttpRequest.newBuilder(URI.create(words[0]))
                .header("Authorization", "Bearer " + words[1]).header("Content-Type", "application/json")
                .POST(HttpRequest.BodyPublishers.ofString(words[2])).build();
            System.out.println(client.send(request, HttpResponse.BodyHandlers.ofString()).statusCode());
        }
    }
}
"""

NODE = """
const [url, key, body] = process.argv.slice(2)
const headers = { authorization: `Bearer ${key}`, 'content-type': 'application/json' }
const streamed = new Blob([body]).stream()
const send = async (content, more) =>
    console.log((await fetch(url, { method: 'POST', headers, body: content, ...more })).status)
await send(body)
await send(streamed, { duplex: 'half' })
"""


async def output(*command: str) -> list[str]:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    printed, complaints = await process.communicate()
    assert process.returncode == 0, complaints.decode()
    return printed.decode().split()


def installed(program: str) -> str:
    found = shutil.which(program)
    return found or pytest.skip(f"{program} is not installed")


@on_sqlite
async def test_curl_that_asks_for_http_2_is_served(arsel: Caller) -> None:
    url = f"{arsel.base_url}/v1/events/send"
    headers = ("-H", f"Authorization: Bearer {arsel.secret}", "-H", "Content-Type: application/json")
    for more in ((), ("-H", "Transfer-Encoding: chunked"), ("-H", "Expect: 100-continue")):
        sent = ("-sS", "--http2", *headers, *more, "-d", PLAIN.decode(), "-o", "/dev/null", "-w", "%{http_code}\n")
        assert await output(installed("curl"), *sent, url, "--next", *sent, url) == ["202", "202"]
    assert len(await arsel.client.log()) == 6


@on_sqlite
async def test_the_http_client_of_java_is_served(arsel: Caller, tmp_path: Path) -> None:
    source = tmp_path / "Send.java"
    source.write_text(JAVA)
    java, words = installed("java"), (f"{arsel.base_url}/v1/events/send", arsel.secret, ASCII.decode())
    assert await output(java, "-XX:TieredStopAtLevel=1", str(source), *words) == ["202", "202"]
    assert len(await arsel.client.log()) == 2


@on_sqlite
async def test_fetch_is_served(arsel: Caller, tmp_path: Path) -> None:
    source = tmp_path / "send.mjs"
    source.write_text(NODE)
    words = (f"{arsel.base_url}/v1/events/send", arsel.secret, ASCII.decode())
    assert await output(installed("node"), str(source), *words) == ["202", "202"]
    assert len(await arsel.client.log()) == 2


def test_decoded_bodies_are_bounded_while_they_are_decoded() -> None:
    bomb = gzip.compress(bytes(20 * LIMIT), 1)
    tracemalloc.start()
    try:
        with pytest.raises(BodyTooLarge):
            decode_body({b"content-encoding": b"gzip"}, bomb, LIMIT)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * LIMIT
