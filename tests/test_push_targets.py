"""Where subscriptions may push to: URLs, addresses, names whose addresses change, and certificates."""

from __future__ import annotations

import asyncio
import re
import ssl
import subprocess
import time
from contextlib import asynccontextmanager, suppress
from functools import partial
from ipaddress import ip_network
from typing import TYPE_CHECKING, Any, Final
from unittest.mock import patch

import pytest
from grpc import StatusCode

from automation.subscriptions.push_url import normal_url
from server.delivery.push import resolver
from server.delivery.push.client import PushClient
from server.delivery.push.connector import RESPONSE_BYTES
from server.delivery.push.http_client import BODY_SECONDS
from server.delivery.push.networks import PushNetworks
from server.delivery.push.resolver import Resolver
from server.delivery.push.responses import PushFailed
from server.delivery.push.signing import Signer
from signalbox.v1 import match_stream_pb2 as pb
from tests.support.consumers import seconds, subscribe
from tests.support.receiver import OTHER_SECRET, SECRET, Receiver, answer, push_to, receiving
from tests.support.refusals import refusal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

    from tests.support.service import Client

REFUSED = [
    "0.0.0.0",  # noqa: S104 - not to listen on
    "10.1.2.3",
    "100.64.0.1",
    "100.100.100.200",
    "127.0.0.1",
    "127.255.255.254",
    "168.63.129.16",
    "169.254.169.254",
    "169.254.170.2",
    "172.16.0.1",
    "192.0.0.192",
    "192.0.2.1",
    "192.168.1.1",
    "192.88.99.1",
    "198.18.0.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b::808:808",
    "64:ff9b:1::1",
    "100::1",
    "2001::1",
    "2001:db8::1",
    "2002:7f00:1::1",
    "2002:808:808::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%2",
    "fec0::1",
    "ff02::1",
    "not an address",
]
PUBLIC = ["1.1.1.1", "8.8.8.8", "172.15.0.1", "172.32.0.1", "::ffff:8.8.8.8", "2606:4700:4700::1111"]


@pytest.mark.parametrize("address", REFUSED)
def test_addresses_that_are_not_public_are_refused(address: str) -> None:
    assert not PushNetworks().allows(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_allowed(address: str) -> None:
    assert PushNetworks().allows(address)


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("127.0.0.1", True),
        ("::ffff:127.0.0.1", True),
        ("127.1.0.1", False),
        ("64:ff9b::808:808", True),
        ("64:ff9b::7f00:1", True),
        ("64:ff9b::a00:1", False),
        ("::1", False),
    ],
)
def test_an_allowed_network_allows_what_an_address_stands_for(address: str, allowed: bool) -> None:
    networks = PushNetworks([ip_network("127.0.0.0/24"), ip_network("64:ff9b::/96")])
    assert networks.allows(address) is allowed


# URLs


NORMAL = [
    ("https://Example.COM", "https://example.com/"),
    ("HTTP://example.com:8080/a?b=c%20d", "http://example.com:8080/a?b=c%20d"),
    ("https://bücher.example/x", "https://xn--bcher-kva.example/x"),
    ("https://example.com.?q", "https://example.com./?q"),
    ("https://[2606:4700::0001]/", "https://[2606:4700::1]/"),
    ("https://8.8.8.8/", "https://8.8.8.8/"),
    ("https://\uff18.8.8.8/", "https://8.8.8.8/"),
    ("https://example.com/@user", "https://example.com/@user"),
    ("https://under_score.example/", "https://under_score.example/"),
]
WRONG_URLS = {
    "": "must begin with https:// or http://",
    "example.com/hook": "must begin with https:// or http://",
    "ftp://example.com/": "must begin with https:// or http://",
    "file:///etc/passwd": "must begin with https:// or http://",
    "gopher://127.0.0.1:6379/_": "must begin with https:// or http://",
    "unix:///run/docker.sock": "must begin with https:// or http://",
    "https://ada:secret@example.com/": "must not have a user or password",
    "https://example.com@127.0.0.1/": "must not have a user or password",
    "https://example.com/#part": "must not have a fragment",
    "https://127.0.0.1#@example.com/": "must not have a fragment",
    "https://example.com\\@127.0.0.1/": "must not contain blanks",
    "https://exa mple.com/": "must not contain blanks",
    "https://example.com/\r\nX: y": "must not contain blanks",
    "https://example.com/\x00": "must not contain blanks",
    "https:///path": "must have a host",
    "https://:443/": "must have a host",
    "https://example.com:0/": "has the port 0",
    "https://example.com:65536/": "has the port 65536",
    "https://example.com:https/": "must have a host, and after it nothing but a port",
    "https://example.com:/": "must have a host, and after it nothing but a port",
    "https://2130706433/": "has a host that is a number",
    "https://0x7f000001/": "has a host that is a number",
    "https://0x7f.0.0.1/": "has a host that is a number",
    "https://0177.0.0.1/": "has a host that is a number",
    "https://127.1/": "has a host that is a number",
    "https://127.0.0.1./": "has a host that is a number",
    "https://\uff11\uff12\uff17.1/": "has a host that is a number",
    "https://a..example/": "has a host that is not a valid name",
    "https://-a.example/": "has a host that is not a valid name",
    "https://%31%32%37.example/": "has a host that is not a valid name",
    "https://[::1/": "must have a host, and after it nothing but a port",
    "https://[::1%25eth0]/": "is not an IPv6 address",
    "https://[v1.x]/": "is not an IPv6 address",
    "https://::1/": "must have a host, and after it nothing but a port",
    f"https://{'a.' * 127}example/": "has a host that is not a valid name",
    "https://example.com/ü": "percent-encode them",
    f"https://example.com/{'a' * 2_029}": "has 2,049 characters",
}


@pytest.mark.parametrize(("url", "normal"), NORMAL)
def test_a_url_has_a_normal_form(url: str, normal: str) -> None:
    assert normal_url(url) == normal == normal_url(normal)


@pytest.mark.parametrize(("url", "problem"), WRONG_URLS.items())
def test_a_url_that_readers_take_for_different_ones_is_refused(url: str, problem: str) -> None:
    with pytest.raises(ValueError, match=re.escape(problem)):
        normal_url(url)


# What is refused before anything is written


WRONG_PUSHES: list[tuple[dict[str, Any], str, str, str]] = [
    ({"url": "https://ada:secret@8.8.8.8/"}, "url", "INVALID_URL", "must not have a user or password"),
    ({"url": "http://127.0.0.1:1/"}, "url", "UNREACHABLE_HOST", "127.0.0.1 is not public, and --push-networks"),
    ({"url": "http://[::ffff:127.0.0.1]/"}, "url", "UNREACHABLE_HOST", "is not public"),
    ({"url": "http://localhost/"}, "url", "UNREACHABLE_HOST", "is not public"),
    ({"url": "http://169.254.169.254/latest/meta-data/"}, "url", "UNREACHABLE_HOST", "169.254.169.254 is not public"),
    ({"url": "http://no-such-host.invalid/"}, "url", "UNREACHABLE_HOST", "no-such-host.invalid could not be resolved"),
    ({"secrets": ["secret"]}, "secrets[0]", "INVALID_SECRET", "must be whsec_ and 24 to 64 bytes in base64"),
    ({"secrets": ["whsec_"]}, "secrets[0]", "INVALID_SECRET", "24 to 64 bytes"),
    ({"secrets": ["whsec_" + 31 * "A" + "="]}, "secrets[0]", "INVALID_SECRET", "24 to 64 bytes"),
    ({"secrets": ["whsec_" + 88 * "A"]}, "secrets[0]", "INVALID_SECRET", "24 to 64 bytes"),
    ({"secrets": [SECRET, "whsec_" + 32 * "*"]}, "secrets[1]", "INVALID_SECRET", "base64"),
    ({"secrets": [SECRET + "="]}, "secrets[0]", "INVALID_SECRET", "base64"),
    ({"secrets": [SECRET + "=="]}, "secrets[0]", "INVALID_SECRET", "base64"),
    ({"secrets": [OTHER_SECRET.removesuffix("=")]}, "secrets[0]", "INVALID_SECRET", "base64"),
    ({"secrets": [" " + SECRET]}, "secrets[0]", "INVALID_SECRET", "base64"),
    ({"secrets": [SECRET + "\n"]}, "secrets[0]", "INVALID_SECRET", "base64"),
    ({"secrets": ["whsec_" + 30 * "A" + "-_"]}, "secrets[0]", "INVALID_SECRET", "base64"),
    ({"secrets": [SECRET, SECRET]}, "secrets", "DUPLICATE_SECRET", "the same secret twice"),
    # The last characters of both stand for the same byte.
    (
        {"secrets": ["whsec_" + 33 * "A" + "A==", "whsec_" + 33 * "A" + "B=="]},
        "secrets",
        "DUPLICATE_SECRET",
        "the same secret twice",
    ),
    ({"secrets": [SECRET, OTHER_SECRET, "whsec_" + 32 * "A"]}, "secrets", "OUT_OF_RANGE", "has 3 secrets"),
    ({"timeout": seconds(0.5)}, "timeout", "OUT_OF_RANGE", "must be 1 to 60 seconds"),
    ({"timeout": seconds(61)}, "timeout", "OUT_OF_RANGE", "must be 1 to 60 seconds"),
    ({"max_in_flight": -1}, "max_in_flight", "OUT_OF_RANGE", "must be 1 to 128"),
    ({"max_in_flight": 129}, "max_in_flight", "OUT_OF_RANGE", "must be 1 to 128"),
    ({"headers": {"Host": "x"}}, "headers", "INVALID_HEADER", "Host is set by the server itself"),
    ({"headers": {"Webhook-Id": "x"}}, "headers", "INVALID_HEADER", "Webhook-Id is set by the server itself"),
    ({"headers": {"content-length": "0"}}, "headers", "INVALID_HEADER", "is set by the server itself"),
    ({"headers": {"Transfer-Encoding": "chunked"}}, "headers", "INVALID_HEADER", "is set by the server itself"),
    ({"headers": {"X": "a\r\nY: b"}}, "headers", "INVALID_HEADER", "printable ASCII characters"),
    ({"headers": {"X": ""}}, "headers", "INVALID_HEADER", "printable ASCII characters"),
    ({"headers": {"X": "a\x7f"}}, "headers", "INVALID_HEADER", "printable ASCII characters"),
    ({"headers": {"X": "a" * 1_001}}, "headers", "INVALID_HEADER", "1 to 1,000"),
    ({"headers": {"X\n": "a"}}, "headers", "INVALID_HEADER", "a name that is not one of HTTP"),
    ({"headers": {"": "a"}}, "headers", "INVALID_HEADER", "a name that is not one of HTTP"),
    ({"headers": {"X-a": "a", "x-A": "b"}}, "headers", "INVALID_HEADER", "is given twice"),
    ({"headers": {f"x{number}": "a" for number in range(21)}}, "headers", "TOO_LARGE", "at most 20"),
]


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
@pytest.mark.parametrize(("push", "field", "reason", "problem"), WRONG_PUSHES)
@pytest.mark.lasting
async def test_a_wrong_push_is_refused_and_nothing_written(
    shop: Client, push: dict[str, Any], field: str, reason: str, problem: str
) -> None:
    wanted = {"url": "http://8.8.8.8/", "secrets": [SECRET]} | push
    refused = await refusal(push_to(shop, wanted.pop("url"), push=wanted))
    assert (refused.code, refused.reason) == (StatusCode.INVALID_ARGUMENT, "INVALID_SUBSCRIPTION")
    assert [(path, name) for path, name in refused.violations] == [(f"subscription.push.{field}", reason)]
    assert problem in refused.message
    assert SECRET not in refused.message
    assert not (await shop.matches.ListSubscriptions(pb.ListSubscriptionsRequest())).subscriptions


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
@pytest.mark.lasting
async def test_a_wrong_change_is_refused_and_nothing_written(shop: Client) -> None:
    await subscribe(shop)
    changes: list[tuple[dict[str, Any], str]] = [
        ({"push": pb.PushChanges(paused=True)}, "push.url is missing"),
        ({"push": pb.PushChanges(url="http://127.0.0.1/"), "name": "other"}, "is not public"),
        ({"push": pb.PushChanges(url="http://8.8.8.8/"), "clear_push": True}, "are both set"),
        ({"push": pb.PushChanges(url="http://8.8.8.8/", secrets=[SECRET], rotate_secret=True)}, "are both set"),
        ({"push": pb.PushChanges(url="http://8.8.8.8/", secrets=["x"])}, "must be whsec_"),
    ]
    for change, problem in changes:
        request = pb.UpdateSubscriptionRequest(subscription="engine", **change)
        refused = await refusal(shop.matches.UpdateSubscription(request))
        assert refused.code is StatusCode.INVALID_ARGUMENT
        assert problem in refused.message
    (found,) = (await shop.matches.ListSubscriptions(pb.ListSubscriptionsRequest())).subscriptions
    assert (found.name, found.etag, found.HasField("push")) == ("engine", "1", False)


# Connections


class Names:
    """A name server whose answers change: each look-up takes the next one, and the last one again and again."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.asked: list[str] = []
        self._answers = list(answers)

    def __call__(self, host: str) -> Sequence[str]:
        self.asked.append(host)
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]


@asynccontextmanager
async def pushing(names: Callable[[str], Sequence[str]], *allowed: str) -> AsyncIterator[PushClient]:
    client = PushClient(Resolver(PushNetworks([ip_network(network) for network in allowed])))
    try:
        with patch.object(resolver, "system_lookup", names):
            yield client
    finally:
        await client.close()


async def post(client: PushClient, url: str, timeout_seconds: float = 5) -> int:
    headers = {"content-type": "application/json"} | signed(b"{}")
    return (await client.post(url, headers, b"{}", timeout_seconds)).status


def signed(body: bytes) -> dict[str, str]:

    return Signer([SECRET]).headers("m1", round(time.time()), body)


async def failure(client: PushClient, url: str, timeout_seconds: float = 5) -> str:
    with pytest.raises(PushFailed) as failed:
        await post(client, url, timeout_seconds)
    return str(failed.value)


async def test_a_name_that_changes_to_a_forbidden_address_is_not_connected_to() -> None:
    async with receiving() as receiver:
        names = Names(["127.0.0.1"], ["127.0.0.2"], ["169.254.169.254", "::ffff:127.0.0.3"])
        async with pushing(names, "127.0.0.1/32") as client:
            url = f"http://hooks.example:{receiver.port}/"
            await client.check_host(url)
            refused = "the address 127.0.0.2 is not public, and --push-networks does not allow it"
            assert await failure(client, url) == refused
            assert "169.254.169.254, ::ffff:127.0.0.3" in await failure(client, url)
        assert receiver.connections == 0
        assert names.asked == ["hooks.example"] * 3


async def test_a_host_is_resolved_once_for_a_connection_and_named_in_the_request() -> None:
    async with receiving() as receiver:
        names = Names(["10.0.0.1", "127.0.0.1"], ["127.0.0.2"])
        async with pushing(names, "127.0.0.1/32") as client:
            url = f"http://hooks.example:{receiver.port}/"
            assert [await post(client, url) for _ in range(3)] == [200, 200, 200]
        assert names.asked == ["hooks.example"]
        assert receiver.connections == 1
        assert receiver.requests[0].headers["host"] == f"hooks.example:{receiver.port}"


async def test_the_address_of_the_socket_is_checked_even_if_the_resolver_lets_it_pass() -> None:
    async with receiving() as receiver:
        client = PushClient(Resolver(PushNetworks()))
        client._resolver.resolve = lambda host: asyncio.sleep(0, ["127.0.0.1"])  # type: ignore[method-assign]
        assert "127.0.0.1 is not public" in await failure(client, f"http://hooks.example:{receiver.port}/")
        assert "127.0.0.1 is not public" in await failure(client, receiver.url)
        await client.close()
        assert receiver.connections == 0


@pytest.mark.parametrize("unasked", [answer(200), answer(408), b"HTTP/1.1 100 Continue\r\n\r\n", b"nonsense"])
async def test_what_arrives_on_an_unused_connection_is_no_response_to_the_next_request(unasked: bytes) -> None:
    async with receiving() as receiver, pushing(Names([]), "127.0.0.0/8") as client:
        receiver.always(answer(200), answer(500))
        assert await post(client, receiver.url) == 200
        await receiver.write(unasked)
        assert [await post(client, receiver.url) for _ in range(2)] == [500, 500]
        assert len(receiver.requests) == 3
        assert receiver.connections == 2


async def test_a_redirect_is_not_followed() -> None:
    async with receiving() as receiver, receiving() as inner:
        receiver.always(*(answer(status, location=inner.url) for status in (301, 302, 303, 307, 308)))
        async with pushing(Names([]), "127.0.0.0/8") as client:
            assert [await post(client, receiver.url) for _ in range(5)] == [301, 302, 303, 307, 308]
        assert inner.connections == 0


async def test_a_name_that_takes_long_to_resolve_is_part_of_the_timeout() -> None:
    def slowly(host: str) -> Sequence[str]:

        time.sleep(1)
        return ["127.0.0.1"]

    async with pushing(slowly, "127.0.0.0/8") as client:
        assert await failure(client, "http://hooks.example/", 0.1) == "no connection within 0.1 s"


async def test_what_goes_wrong_with_a_connection_is_named() -> None:
    def unknown(host: str) -> Sequence[str]:
        raise OSError("unknown")

    async with receiving() as receiver, pushing(unknown, "127.0.0.0/8") as client:
        assert await failure(client, "http://hooks.example/") == "the host hooks.example could not be resolved"
        port = receiver.port
        await receiver.stop()
        assert (await failure(client, f"http://127.0.0.1:{port}/")).startswith("the connection failed: Connect")


async def test_a_receiver_without_tls_is_named() -> None:
    def nonsense(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"this is no TLS")
        writer.close()

    server = await asyncio.start_server(nonsense, "127.0.0.1", 0)
    async with server, pushing(Names([]), "127.0.0.0/8") as client:
        port = server.sockets[0].getsockname()[1]
        assert await failure(client, f"https://127.0.0.1:{port}/") == "no TLS connection could be made"


@asynccontextmanager
async def flooding(head: bytes, flood: bytes) -> AsyncIterator[str]:
    """A receiver that answers with a head, and then repeats something until the connection is closed."""

    async def answer_endlessly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head)
        with suppress(ConnectionError):
            while True:
                writer.write(flood * (1 + 100_000 // len(flood)))
                await writer.drain()

    server = await asyncio.start_server(answer_endlessly, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"


@pytest.mark.parametrize("greeting", [b"220 mail.example ESMTP\r\n", answer(200), b""])
async def test_a_host_that_speaks_or_hangs_up_first_is_connected_to_once(greeting: bytes) -> None:
    connections = []

    def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        writer.write(greeting)
        writer.close()

    async def confirm() -> bool:
        await asyncio.sleep(0.05)
        return True

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    async with server, pushing(Names([]), "127.0.0.0/8") as client:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        with pytest.raises(PushFailed, match="before the request") as failed:
            await client.post(url, {}, b"{}", 1, confirm)
        assert failed.value.unsent
        assert len(connections) == 1


INTERIM = (b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n")


@pytest.mark.parametrize("flood", [*INTERIM, b"\r\n"])
async def test_a_receiver_that_never_comes_to_a_status_is_left_after_a_few_bytes(flood: bytes) -> None:
    async with flooding(b"", flood) as url, pushing(Names([]), "127.0.0.0/8") as client:
        assert await failure(client, url) == "the response has no status within 32 KiB"


@pytest.mark.parametrize(
    ("framing", "flood"),
    [
        ("transfer-encoding: chunked\r\n\r\n1;", b"endless-extension"),
        ("transfer-encoding: chunked\r\n\r\n", b"1\r\na\r\n"),
        ("content-length: 1000000000\r\n\r\n", b"a"),
        ("x: y\r\n\r\n", b"a"),
    ],
)
async def test_the_status_counts_however_much_follows(framing: str, flood: bytes) -> None:
    head = f"HTTP/1.1 200 OK\r\n{framing}".encode()
    async with flooding(head, flood) as url, pushing(Names([]), "127.0.0.0/8") as client:
        assert await post(client, url) == 200


WRONG_AFTER_THE_HEAD: Final = {
    "bytes beyond the length": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok, and more",
    "a body where there is none": b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\nok",
    "a body of 204": b"HTTP/1.1 204 No Content\r\n\r\nok",
    "a body of 204 with its length": b"HTTP/1.1 204 No Content\r\ncontent-length: 2\r\n\r\nok",
    "chunks of 204": b"HTTP/1.1 204 No Content\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "a body of 304": b"HTTP/1.1 304 Not Modified\r\n\r\nok",
    "a wrong chunk": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nok\r\n",
    "a wrong chunk after another": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\nno\r\n",
    "bytes after the last chunk": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nok",
    "lines without CR": b"HTTP/1.1 200 OK\ncontent-length: 0\n\nok",
    "an interim response": INTERIM[0] + b"HTTP/1.1 429 Slow\r\nretry-after: 7\r\ncontent-length: 0\r\n\r\nslow",
    "a second response": answer(200) + answer(500),
}


@pytest.mark.parametrize("wrong", sorted(WRONG_AFTER_THE_HEAD))
async def test_the_status_counts_whatever_follows_and_however_it_is_split(wrong: str) -> None:
    response = WRONG_AFTER_THE_HEAD[wrong]
    status = int(response.removeprefix(INTERIM[0]).split()[1])
    splits = [[response], *([response[:at], response[at:]] for at in range(1, len(response)))]
    closed = asyncio.Event()

    async def answer_in_parts(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for part in splits[-1]:
            writer.write(part)
            await asyncio.sleep(0.001)
        writer.close()
        closed.set()

    server = await asyncio.start_server(answer_in_parts, "127.0.0.1", 0)
    async with server, pushing(Names([]), "127.0.0.0/8") as client:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        while splits:
            assert await post(client, url) == status, splits[-1]
            await closed.wait()
            closed.clear()
            splits.pop()


async def test_a_body_that_cannot_be_parsed_is_not_waited_for() -> None:
    wrong = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nok\r\n"
    async with flooding(wrong, b"a") as url, pushing(Names([]), "127.0.0.0/8") as client:
        began = asyncio.get_running_loop().time()
        assert await post(client, url) == 200
        assert asyncio.get_running_loop().time() - began < BODY_SECONDS


async def test_a_long_header_is_no_failure() -> None:
    async with receiving() as receiver, pushing(Names([]), "127.0.0.0/8") as client:
        receiver.always(answer(200, content_security_policy="a" * (RESPONSE_BYTES - 200)))
        assert await post(client, receiver.url) == 200


@pytest.mark.parametrize("interim", INTERIM)
async def test_interim_responses_before_a_status_are_skipped(interim: bytes) -> None:
    before = interim * ((RESPONSE_BYTES - len(answer(200))) // len(interim))
    async with receiving() as receiver, pushing(Names([]), "127.0.0.0/8") as client:
        receiver.always(before + answer(200), before + answer(500))
        assert [await post(client, receiver.url) for _ in range(2)] == [200, 500]
        assert receiver.connections == 1


async def test_no_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1/")
    async with receiving() as receiver, pushing(Names([]), "127.0.0.0/8") as client:
        assert await post(client, receiver.url) == 200


async def test_tls_verifies_the_certificate_for_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    names = ("-subj", "/CN=hooks.example", "-addext", "subjectAltName=DNS:hooks.example", "-days", "2")
    making = [*command, "-keyout", key, "-out", certificate, *names]
    await asyncio.to_thread(partial(subprocess.run, making, check=True, capture_output=True))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    shown: list[str | None] = []
    context.sni_callback = lambda _, name, __: shown.append(name)
    receiver = Receiver()
    await receiver.start(context)
    async with pushing(Names(["127.0.0.1"]), "127.0.0.0/8") as client:
        url = f"https://hooks.example:{receiver.port}/"
        untrusted = "the certificate of the receiver is not valid for its host"
        assert await failure(client, url) == untrusted
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        async with pushing(Names(["127.0.0.1"]), "127.0.0.0/8") as trusting:
            assert await post(trusting, url) == 200
            assert await failure(trusting, f"https://other.example:{receiver.port}/") == untrusted
    await receiver.stop()
    assert shown == ["hooks.example", "hooks.example", "other.example"]
