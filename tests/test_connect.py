"""Every RPC over HTTP by the Connect protocol: the same results and errors as over gRPC."""

from __future__ import annotations

import asyncio
import gc
import gzip
import json
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.message_factory import GetMessageClass
from structlog.testing import capture_logs

from server.connect.codecs import LARGE_BYTES
from server.connect.compression import deflated, inflated
from server.rpc import call_limits
from server.rpc.call_limits import MAX_MESSAGE_BYTES
from server.rpc.servicers import match_stream
from server.sharing.loop_time import LoopTime
from signalbox.v1 import event_definitions_pb2, event_ingest_pb2, match_stream_pb2, projects_pb2
from tests.support.automations import automate
from tests.support.connect import (
    FORMS,
    METHODS,
    ConnectCaller,
    ConnectError,
    connecting,
    envelope,
    error_of,
    path_of,
)
from tests.support.messages import ADA, ORDER, event, struct
from tests.support.raw_http import connection
from tests.support.refusals import read_refusal, refusal
from tests.support.service import ADMIN_KEY, serving
from tests.support.wire import call_raw

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Iterator

    from tests.support.service import Client, Service
    from tests.support.stores import Store

pytestmark = pytest.mark.lasting
# These tests are about a transport; what is called runs on both databases over gRPC.
on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)


UNARY = [name for name, method in METHODS.items() if not method.server_streaming]
STREAMS = [name for name, method in METHODS.items() if method.server_streaming and not method.client_streaming]
BOTH_WAYS = [name for name, method in METHODS.items() if method.client_streaming]

EARLIEST = match_stream_pb2.StartPoint(log_end=match_stream_pb2.LOG_END_EARLIEST)
BOMB = gzip.compress(b" " * (64 << 20), 1)
ORDERED: dict[str, Any] = {"event": {"name": ORDER, "email": ADA, "properties": {"order_total": "129.99"}}}


@pytest.fixture(autouse=True)
def _no_call_fails_within_the_server() -> Iterator[None]:
    with capture_logs() as logs:
        yield
    assert [entry for entry in logs if entry["log_level"] == "error"] == []


@pytest.fixture
async def caller(service: Service, shop: Client) -> AsyncIterator[ConnectCaller]:
    """A caller of the shop."""
    async with connecting(service, shop) as made:
        yield made


def request_of(method: str) -> Any:
    return GetMessageClass(METHODS[method].input_type)()


async def refused(call: Awaitable[Any]) -> ConnectError:
    with pytest.raises(ConnectError) as caught:
        await call
    return caught.value


async def outcome(call: Awaitable[Any]) -> Any:
    """Return the response or the refusal of a call over either transport."""
    try:
        return await call
    except ConnectError as error:
        return error.refusal
    except Exception as error:
        return read_refusal(error)  # type: ignore[arg-type]


# Every RPC


def test_every_rpc_is_called_by_these_tests() -> None:
    assert len(UNARY) + len(STREAMS) + len(BOTH_WAYS) == len(METHODS) > 50


@pytest.mark.parametrize("form", FORMS)
@on_sqlite
async def test_an_empty_request_is_answered_as_over_grpc(service: Service, caller: ConnectCaller, form: str) -> None:
    different = {}
    for method in UNARY:
        descriptor = METHODS[method]
        admin = descriptor.containing_service.name == "Projects"
        caller.authenticate(client := service.admin if admin else caller.client)
        path = path_of(descriptor).removeprefix("/signalbox.v1.")
        expected = await outcome(call_raw(service.channel, path, b"", client.metadata))
        if isinstance(expected, bytes):
            expected = GetMessageClass(descriptor.output_type).FromString(expected)
        found = await outcome(caller.call(method, request_of(method), form))
        if found != expected:
            different[method] = (found, expected)
    assert different == {}


@pytest.mark.parametrize("form", FORMS)
@on_sqlite
async def test_every_rpc_needs_a_key(caller: ConnectCaller, form: str) -> None:
    caller.headers["authorization"] = ""
    for method in [*UNARY, *STREAMS]:
        found = await refused(first(caller, method, form))
        assert (found.body["code"], found.refusal.reason) == ("unauthenticated", "API_KEY_MISSING"), method
        assert found.status == (401 if method in UNARY else 200)


@on_sqlite
async def test_every_rpc_needs_its_scope(service: Service, caller: ConnectCaller) -> None:
    of_contacts = await service.key(caller.client.project, "contacts:read", "contacts:write")
    of_events = await service.key(caller.client.project, "events:read")
    for method in {*UNARY, *STREAMS} - {"WhoAmI"}:
        of_others = of_events if METHODS[method].containing_service.name == "Contacts" else of_contacts
        caller.authenticate(of_others)
        found = await refused(first(caller, method, "json"))
        assert found.refusal.reason in {"SCOPE_MISSING", "ADMIN_REQUIRED"}, method
        assert (found.body["code"], found.status) == ("permission_denied", 403 if method in UNARY else 200)


async def first(caller: ConnectCaller, method: str, form: str) -> Any:
    """Call an RPC with an empty request, and return the first response."""
    if method in UNARY:
        return await caller.call(method, request_of(method), form)
    async with caller.streaming(method, request_of(method), form) as responses:
        return await anext(responses)


@pytest.mark.parametrize("content_type", ["json", "proto", "connect+json", "connect+proto"])
@pytest.mark.parametrize("method", BOTH_WAYS)
@on_sqlite
async def test_an_rpc_in_which_both_sides_stream_names_another_one(
    caller: ConnectCaller, method: str, content_type: str
) -> None:
    response = await caller.post(method, b"", f"application/{content_type}")
    if content_type.startswith("connect+"):
        # Of another status, clients of streams show the number alone.
        assert (response.content[0], response.headers["content-type"]) == (2, f"application/{content_type}")
        found = ConnectError(response.status_code, json.loads(response.content[5:])["error"])
    else:
        found = error_of(response)
    assert found.status == (200 if content_type.startswith("connect+") else 501)
    assert (found.body["code"], found.refusal.reason) == ("unimplemented", "NOT_OVER_HTTP")
    alternative = {"ConsumeMatches": "PullMatches", "StreamEvents": "SendEvents"}[method]
    assert f"Over HTTP, call {alternative}" in found.body["message"]


# Single calls


@pytest.mark.parametrize("form", FORMS)
@on_sqlite
async def test_an_event_is_sent_and_read(caller: ConnectCaller, form: str) -> None:
    sent = event_ingest_pb2.SendEventRequest(event=event(properties=struct({"order_total": "129.99"})))
    receipt = (await caller.call("SendEvent", sent, form)).receipt
    assert dict(receipt.event.properties) == {"order_total": 129.99}
    found = await caller.call("GetEvent", event_ingest_pb2.GetEventRequest(id=receipt.event.id), form)
    assert found.event == receipt.event == await caller.client.get(receipt.event.id)


@on_sqlite
async def test_a_plain_json_object_is_a_payload(caller: ConnectCaller) -> None:
    response = await caller.post("SendEvent", ORDERED)
    receipt = response.json()["receipt"]
    assert receipt["event"]["properties"] == {"order_total": 129.99}
    assert receipt["event"]["coercions"] == [
        {"path": "properties.order_total", "kind": "KIND_CONVERTED", "from": "129.99", "to": 129.99}
    ]
    assert response.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("form", FORMS)
@on_sqlite
async def test_an_error_is_that_of_grpc(caller: ConnectCaller, form: str) -> None:
    sent = event_ingest_pb2.SendEventRequest(event=event(properties=struct({"order_total": "x", "currency": [1]})))
    found = await refused(caller.call("SendEvent", sent, form))
    expected = await refusal(caller.client.ingest.SendEvent(sent))
    assert found.refusal == expected
    assert len(expected.violations) == 2
    assert (found.status, found.body["code"]) == (400, "invalid_argument")


@on_sqlite
async def test_the_admin_key_names_a_project(caller: ConnectCaller) -> None:
    caller.headers["authorization"] = f"Bearer {ADMIN_KEY}"
    assert (await caller.call("SendEvent", ORDERED)).receipt.event.position == 1
    caller.headers["signalbox-project"] = ""
    assert (await refused(caller.call("SendEvent", ORDERED))).refusal.reason == "PROJECT_REQUIRED"
    caller.headers["signalbox-project"] = "nowhere"
    assert (await refused(caller.call("SendEvent", ORDERED))).status == 404


@on_sqlite
async def test_a_key_of_a_dialect_is_a_key(service: Service, caller: ConnectCaller) -> None:
    secret = await service.secret(caller.client.project, projects_pb2.DIALECT_AUTOSEND)
    caller.headers["authorization"] = f"Bearer {secret}"
    assert (await caller.call("SendEvent", ORDERED)).receipt.event.position == 1


@pytest.mark.parametrize("form", FORMS)
@on_sqlite
async def test_many_events_are_sent_and_listed_in_slices(caller: ConnectCaller, form: str) -> None:
    events = [event(properties=struct({"order_total": n, "currency": "x" * 500})) for n in range(400)]
    request = event_ingest_pb2.SendEventsRequest(events=events, view=event_ingest_pb2.RESULT_VIEW_COERCED)
    assert request.ByteSize() > call_limits.SMALL_BYTES
    results = (await caller.call("SendEvents", request, form)).results
    assert [result.receipt.event.position for result in results] == [*range(1, 401)]
    page = await caller.call("ListEvents", event_ingest_pb2.ListEventsRequest(page_size=400, after_position=0), form)
    assert page.ByteSize() > LARGE_BYTES
    assert list(page.events) == await caller.client.log()


# What is refused


BAD: list[tuple[str, dict[str, Any], int, str, str]] = [
    ("a path of no RPC", {"path": "/signalbox.v1.EventIngest/SendEvnt"}, 404, "unimplemented", "There is no POST"),
    ("a service of nobody", {"path": "/signalbox.v1.Nobody/SendEvent"}, 404, "unimplemented", "There is no POST"),
    ("another method", {"verb": "GET"}, 405, "unimplemented", "GET is not allowed"),
    ("another type", {"content_type": "text/plain"}, 415, "invalid_argument", 'not "text/plain"'),
    ("no type", {"content_type": ""}, 415, "invalid_argument", '"Content-Type: application/json"'),
    (
        "the type of a stream",
        {"content_type": "application/connect+json"},
        415,
        "invalid_argument",
        "must be sent with",
    ),
    ("the type of gRPC", {"content_type": "application/grpc"}, 415, "invalid_argument", "must be sent with"),
    ("JSON and more", {"body": b'{"event":{}} x'}, 400, "invalid_argument", "not valid JSON"),
    ("half of JSON", {"body": b'{"event":{'}, 400, "invalid_argument", "not valid JSON"),
    ("no JSON at all", {"body": b""}, 400, "invalid_argument", "not valid JSON"),
    ("a list", {"body": b"[]"}, 400, "invalid_argument", "must be an object, not a list"),
    ("an unknown field", {"body": b'{"event":{"nam":"x"}}'}, 400, "invalid_argument", "event.nam is not a field"),
    ("a wrong type", {"body": b'{"event":{"name":[]}}'}, 400, "invalid_argument", "event.name must be a text"),
    ("NaN", {"body": b'{"event":{"properties":{"a":NaN}}}'}, 400, "invalid_argument", "not valid JSON"),
    ("half a pair", {"body": b'{"event":{"name":"\\ud800"}}'}, 400, "invalid_argument", "half a surrogate pair"),
    ("no UTF-8", {"body": b'{"event":{"name":"\xff"}}'}, 400, "invalid_argument", "not valid JSON"),
    (
        "no UTF-8 at",
        {"body": b'{"event":{"name":"caf\xe9"}}'},
        400,
        "invalid_argument",
        "must be UTF-8, and byte 21 is not",
    ),
    (
        "a charset",
        {"body": b'{"event":{"name":"caf\xe9"}}', "content_type": "application/json; charset=iso-8859-1"},
        400,
        "invalid_argument",
        'must be UTF-8, not "iso-8859-1"',
    ),
    ("nothing", {"body": b""}, 400, "invalid_argument", "is empty; a message without fields is {}"),
    ("deep JSON", {"body": b'{"event":' * 5_000}, 400, "invalid_argument", "JSON"),
    (
        "no message",
        {"body": b"\xff\xff", "content_type": "application/proto"},
        400,
        "invalid_argument",
        "not a valid signalbox.v1.SendEventRequest",
    ),
    ("another version", {"connect-protocol-version": "2"}, 400, "invalid_argument", "must be 1"),
    ("a deadline of no number", {"connect-timeout-ms": "soon"}, 400, "invalid_argument", 'not "soon"'),
    ("a deadline below zero", {"connect-timeout-ms": "-1"}, 400, "invalid_argument", 'not "-1"'),
    ("a deadline in a year", {"connect-timeout-ms": "31536000000"}, 400, "invalid_argument", "at most 10 digits"),
    ("a deadline of zero", {"connect-timeout-ms": "0"}, 504, "deadline_exceeded", "deadline"),
    ("an unknown encoding", {"content-encoding": "br"}, 501, "unimplemented", '"Content-Encoding: gzip"'),
    ("no gzip", {"content-encoding": "gzip"}, 400, "invalid_argument", "not valid gzip"),
    (
        "gzip and more",
        {"content-encoding": "gzip", "body": gzip.compress(b"{}") + b"x"},
        400,
        "invalid_argument",
        "other data after the end",
    ),
    (
        "half of gzip",
        {"content-encoding": "gzip", "body": gzip.compress(b"{}" * 99)[:-9]},
        400,
        "invalid_argument",
        "truncated",
    ),
    (
        "a bomb",
        {"content-encoding": "gzip", "body": BOMB},
        429,
        "resource_exhausted",
        "larger than",
    ),
    ("too many bytes", {"body": b" " * ((1 << 20) + 1)}, 429, "resource_exhausted", "larger than 1,048,576 bytes"),
]


@pytest.mark.parametrize(("sent", "status", "code", "text"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
@on_sqlite
async def test_a_bad_request_says_what_is_wrong(
    caller: ConnectCaller, sent: dict[str, Any], status: int, code: str, text: str
) -> None:
    sent = dict(sent)
    path, verb = sent.pop("path", "/signalbox.v1.EventIngest/SendEvent"), sent.pop("verb", "POST")
    body = sent.pop("body", json.dumps(ORDERED).encode())
    headers = {**caller.headers, "content-type": sent.pop("content_type", "application/json"), **sent}
    response = await caller.http.request(verb, path, content=None if verb == "GET" else body, headers=headers)
    found = error_of(response)
    assert (found.status, found.body["code"]) == (status, code)
    assert text in found.body["message"]
    assert found.refusal.domain == "signalbox"
    if status == 405:
        assert response.headers["allow"] == "POST"
    if status == 415:
        assert response.headers["accept-post"] == "application/json, application/proto"
    assert await caller.client.positions() == []


BAD_STREAMS: list[tuple[str, bytes, dict[str, str], str, str]] = [
    ("no envelope", b"", {}, "invalid_argument", "must be one envelope"),
    ("JSON without one", b"{}", {}, "invalid_argument", "must be one envelope"),
    ("half a message", envelope(b"{}")[:-1], {}, "invalid_argument", "has 2 bytes, but 1 follow"),
    ("two", envelope(b"{}") * 2, {}, "invalid_argument", "has 2 bytes, but 9 follow"),
    ("an end", envelope(b"{}", 2), {}, "invalid_argument", "flags of the envelope are 2"),
    ("no JSON", envelope(b"}"), {}, "invalid_argument", "not valid JSON"),
    ("compressed by nothing", envelope(b"{}", 1), {}, "invalid_argument", "does not say how"),
    ("no gzip", envelope(b"{}", 1), {"connect-content-encoding": "gzip"}, "invalid_argument", "not valid gzip"),
    (
        "an encoding",
        envelope(b"{}", 1),
        {"connect-content-encoding": "br"},
        "unimplemented",
        '"Connect-Content-Encoding: gzip" or',
    ),
    (
        "a bomb",
        envelope(BOMB, 1),
        {"connect-content-encoding": "gzip"},
        "resource_exhausted",
        "larger",
    ),
    ("a long message", b"\0\x7f\xff\xff\xff{}", {}, "resource_exhausted", "larger"),
    ("a deadline of zero", envelope(b"{}"), {"connect-timeout-ms": "0"}, "deadline_exceeded", "deadline"),
    ("a deadline in a year", envelope(b"{}"), {"connect-timeout-ms": "31536000000"}, "invalid_argument", "10 digits"),
    ("another version", envelope(b"{}"), {"connect-protocol-version": "2"}, "invalid_argument", "must be 1"),
]


@pytest.mark.parametrize(
    ("body", "headers", "code", "text"), [row[1:] for row in BAD_STREAMS], ids=[row[0] for row in BAD_STREAMS]
)
@on_sqlite
async def test_a_bad_request_for_a_stream_ends_it(
    caller: ConnectCaller, body: bytes, headers: dict[str, str], code: str, text: str
) -> None:
    response = await caller.post("WatchMatches", body, "application/connect+json", **headers)
    assert (response.status_code, response.content[0]) == (200, 2)
    error = json.loads(response.content[5:])["error"]
    assert error["code"] == code
    assert text in error["message"]


@pytest.mark.parametrize(
    "path",
    [
        "/signalbox.v1.EventIngest/sendEvent",
        "/signalbox.v1.eventIngest/SendEvent",
        "/signalbox.v1.EventIngest/SendEvent/",
        "/signalbox.v1.EventIngest%2FSendEvent",
        "/signalbox.v1.EventIngest/Send%45vent",
        "/signalbox.v1.EventIngest//SendEvent",
        "/signalbox.v1.EventIngest/send_event",
    ],
)
@on_sqlite
async def test_an_unknown_path_names_the_one_that_was_meant(caller: ConnectCaller, path: str) -> None:
    response = await caller.http.post(path, content=b"{}", headers=caller.headers)
    message = error_of(response).body["message"]
    assert message == f"There is no POST {path} here; did you mean /signalbox.v1.EventIngest/SendEvent?"


@pytest.mark.parametrize("method", [*STREAMS, *BOTH_WAYS])
@on_sqlite
async def test_a_stream_over_grpc_without_a_key_is_refused_and_nothing_is_logged(service: Service, method: str) -> None:
    path = path_of(METHODS[method])
    # Of a method that streams, one request or many are the same on the wire.
    call: Any = service.channel.unary_stream(path)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(b"").read()
    assert read_refusal(caught.value).reason == "API_KEY_MISSING"


@pytest.mark.parametrize("encoding", ["gzip", "identity"])
@on_sqlite
async def test_an_empty_message_is_not_compressed_whatever_the_encoding(caller: ConnectCaller, encoding: str) -> None:
    response = await caller.post("ListEvents", b"", "application/proto", content_encoding=encoding)
    assert response.status_code == 200


@on_sqlite
async def test_a_repeated_header_is_refused(service: Service, caller: ConnectCaller) -> None:
    headers = [*caller.headers.items(), ("content-type", "application/json"), ("authorization", "Bearer sb_other")]
    response = await caller.http.post("/signalbox.v1.EventIngest/SendEvent", content=b"{}", headers=headers)
    assert (response.status_code, error_of(response).refusal.reason) == (400, "REPEATED_HEADER")


@on_sqlite
async def test_a_message_of_the_largest_size_is_read(caller: ConnectCaller) -> None:
    for size, reason in ((MAX_MESSAGE_BYTES, "MALFORMED_REQUEST"), (MAX_MESSAGE_BYTES + 1, "BODY_TOO_LARGE")):
        response = await caller.post("SendEvent", b"\xff" * size, "application/proto")
        assert error_of(response).refusal.reason == reason


# Compression


async def test_only_large_messages_wait_for_a_turn_to_be_compressed() -> None:
    loop_time, content = LoopTime(), bytes(1 << 20)
    compressed = gzip.compress(content)
    async with loop_time.slices("other"):
        assert await inflated(gzip.compress(b"{}"), MAX_MESSAGE_BYTES, loop_time) == b"{}"
        await deflated(b"{}", loop_time)
        waiting = asyncio.gather(inflated(compressed, MAX_MESSAGE_BYTES, loop_time), deflated(content, loop_time))
        for _ in range(5):
            await asyncio.sleep(0)
        assert loop_time.turns.waiting == 2
    inflated_content, deflated_content = await waiting
    assert inflated_content == gzip.decompress(deflated_content) == content


@pytest.mark.parametrize("form", FORMS)
@on_sqlite
async def test_requests_and_responses_are_compressed(caller: ConnectCaller, form: str) -> None:
    events = [event(properties=struct({"currency": "x" * 3_000})) for _ in range(100)]
    request = event_ingest_pb2.SendEventsRequest(events=events)
    content = request.SerializeToString()
    sent = await caller.post("SendEvents", gzip.compress(content), "application/proto", content_encoding="gzip")
    assert sent.status_code == 200
    listing = event_ingest_pb2.ListEventsRequest(page_size=100)
    whole = await caller.call("ListEvents", listing, form, accept_encoding="identity")
    assert await caller.call("ListEvents", listing, form, accept_encoding="gzip;q=0, br") == whole
    response = await caller.post(
        "ListEvents", b"{}" if form == "json" else b"", f"application/{form}", accept_encoding="br, gzip"
    )
    assert response.headers["content-encoding"] == "gzip"
    assert int(response.headers["content-length"]) < len(response.content) // 20
    assert len(whole.events) == 100


@on_sqlite
async def test_a_small_response_is_not_compressed(caller: ConnectCaller) -> None:
    response = await caller.post("ListEvents", {}, accept_encoding="gzip")
    assert "content-encoding" not in response.headers


@pytest.mark.parametrize("form", FORMS)
@on_sqlite
async def test_the_messages_of_a_stream_are_compressed(caller: ConnectCaller, form: str) -> None:
    await automate(caller.client)
    await caller.client.send_all([event(properties=struct({"order_total": 5, "currency": "x" * 3_000}))] * 10)
    request = match_stream_pb2.WatchMatchesRequest(start=EARLIEST)
    async with caller.streaming("WatchMatches", request, form, connect_accept_encoding="gzip") as responses:
        found = await anext(responses)
        while not found.matches:
            found = await anext(responses)
        assert found.matches[0].event.properties["currency"] == "x" * 3_000


# Deadlines


@on_sqlite
async def test_a_call_ends_at_its_deadline(caller: ConnectCaller) -> None:
    subscription = match_stream_pb2.Subscription(name="mailer")
    await caller.client.matches.CreateSubscription(
        match_stream_pb2.CreateSubscriptionRequest(subscription=subscription)
    )
    waiting = {"subscription": "mailer", "consumerId": "one", "wait": "30s"}
    found = await refused(caller.call("PullMatches", waiting, connect_timeout_ms="100"))
    assert (found.status, found.refusal.reason) == (504, "DEADLINE_EXCEEDED")
    # The next call is not ended by it.
    assert (await caller.call("SendEvent", ORDERED, connect_timeout_ms="9999999999")).receipt.event.position == 1


@pytest.mark.parametrize("form", FORMS)
@on_sqlite
async def test_a_stream_ends_at_its_deadline(caller: ConnectCaller, form: str) -> None:
    request = match_stream_pb2.WatchMatchesRequest()
    async with caller.streaming("WatchMatches", request, form, connect_timeout_ms="300") as responses:
        assert (await anext(responses)).cursor
        found = await refused(anext(responses))
    assert found.body["code"] == "deadline_exceeded"


# Streams


@pytest.mark.parametrize("form", FORMS)
@on_sqlite
async def test_matches_are_watched_from_a_cursor(caller: ConnectCaller, form: str) -> None:
    await automate(caller.client)
    request = match_stream_pb2.WatchMatchesRequest(start=EARLIEST)
    async with caller.streaming("WatchMatches", request, form) as responses:
        cursor = (await anext(responses)).cursor
        for total in (5, 6):
            sent = await caller.client.send(event(properties=struct({"order_total": total})))
            response = await anext(responses)
            assert [match.event.id for match in response.matches] == [sent.event.id]
    request.start.cursor = cursor
    async with caller.streaming("WatchMatches", request, form) as responses:
        assert [match.position for match in (await anext(responses)).matches] == [1, 2]


HALF_CLOSED: list[tuple[str, dict[str, Any], int]] = [
    ("SendEvent", ORDERED, 0),
    ("PullMatches", {"subscription": "mailer", "consumerId": "a", "wait": "30s"}, 0),
    ("PullMatches", {"subscription": "mailer", "consumerId": "a", "wait": "30s"}, 1),
]


@pytest.mark.parametrize(("method", "request_body", "match_count"), HALF_CLOSED)
@on_sqlite
async def test_a_client_that_sends_nothing_more_is_answered(
    service: Service, caller: ConnectCaller, method: str, request_body: dict[str, Any], match_count: int
) -> None:
    """A wait ends: what is leased for a client that has gone would count an attempt."""
    await automate(caller.client)
    start = match_stream_pb2.StartPoint(log_end=match_stream_pb2.LOG_END_LATEST)
    subscription = match_stream_pb2.Subscription(name="mailer")
    wanted = match_stream_pb2.CreateSubscriptionRequest(subscription=subscription, start=start)
    await caller.client.matches.CreateSubscription(wanted)
    for _ in range(match_count):
        await caller.client.send()
    body = json.dumps(request_body).encode()
    async with connection(service.http_address) as http:
        head = [f"POST {path_of(METHODS[method])} HTTP/1.1", "host: signalbox", "content-type: application/json"]
        head += [f"authorization: Bearer {caller.client.secret}", f"content-length: {len(body)}"]
        await http.send("\r\n".join([*head, "", ""]).encode() + body)
        http.end()
        [answer] = await http.answers()
    assert answer.status == 200
    assert len(json.loads(answer.body).get("deliveries", ())) == match_count


@pytest.mark.parametrize("form", FORMS)
@on_sqlite
async def test_a_stream_that_has_an_end_ends_without_an_error(caller: ConnectCaller, form: str) -> None:
    await caller.client.send()
    request = event_definitions_pb2.BacktestSchemaRequest(event_definition=ORDER, schema=event_definitions_pb2.Schema())
    async with caller.streaming("BacktestSchema", request, form) as responses:
        found = [response async for response in responses]
    expected = [response async for response in caller.client.definitions.BacktestSchema(request)]
    assert found[-1] == expected[-1]


@on_sqlite
async def test_a_stream_ends_when_its_key_is_revoked(service: Service, caller: ConnectCaller) -> None:
    request = projects_pb2.CreateApiKeyRequest(project=caller.client.project, dialect=projects_pb2.DIALECT_NATIVE)
    made = await service.admin.projects.CreateApiKey(request)
    caller.headers["authorization"] = f"Bearer {made.secret}"
    async with caller.streaming("WatchMatches", match_stream_pb2.WatchMatchesRequest()) as responses:
        await anext(responses)
        await service.admin.projects.RevokeApiKey(projects_pb2.RevokeApiKeyRequest(id=made.api_key.id))
        async with asyncio.timeout(10):
            found = await refused(anext(responses))
    assert found.refusal.reason == "API_KEY_INVALID"


@on_sqlite
async def test_the_streams_of_both_transports_share_one_limit(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call_limits, "MAX_STREAMS", 4)
    async with serving(store.url) as service:
        client = await service.shop()
        async with connecting(service, client) as caller:
            request = match_stream_pb2.WatchMatchesRequest()
            over_grpc = client.matches.WatchMatches(request)
            await over_grpc.read()
            async with caller.streaming("WatchMatches", request) as responses:
                await anext(responses)
                async with caller.streaming("WatchMatches", request) as further:
                    found = await refused(anext(further))
                assert (found.body["code"], found.refusal.reason) == ("resource_exhausted", "TOO_MANY_STREAMS")
                assert found.refusal.retry_after
            # What one client has left, another one has.
            async with asyncio.timeout(10):
                while not await can_watch(caller):  # noqa: ASYNC110 - only trying shows it
                    await asyncio.sleep(0.02)


@on_sqlite
async def test_a_stream_ends_at_a_shutdown_and_says_so(store: Store) -> None:
    async with serving(store.url) as service:
        client = await service.shop()
        caller = await connecting(service, client).__aenter__()
        streaming = caller.streaming("WatchMatches", match_stream_pb2.WatchMatchesRequest())
        responses = await streaming.__aenter__()
        await anext(responses)
        ending = asyncio.create_task(refused(anext(responses)))
    found = await ending
    assert (found.body["code"], found.refusal.reason) == ("unavailable", "SERVER_STOPPING")
    await streaming.__aexit__(None, None, None)
    await caller.http.aclose()


@on_sqlite
async def test_a_client_that_reads_nothing_is_ended(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(match_stream, "SLOW_HEARTBEATS", 0.2)
    monkeypatch.setattr(call_limits, "MAX_STREAMS", 2)
    async with serving(store.url) as service:
        client = await service.shop()
        await automate(client)
        body = envelope(json.dumps({"start": {"logEnd": "LOG_END_EARLIEST"}, "heartbeatInterval": "1s"}).encode())
        async with connecting(service, client) as caller, connection(service.http_address) as unread:
            lines = [
                "POST /signalbox.v1.MatchStream/WatchMatches HTTP/1.1",
                "host: signalbox",
                f"authorization: Bearer {client.secret}",
                "content-type: application/connect+json",
                f"content-length: {len(body)}",
            ]
            await unread.send("\r\n".join([*lines, "", ""]).encode() + body)
            async with asyncio.timeout(60):
                while await can_watch(caller):  # noqa: ASYNC110 - only trying shows it
                    await asyncio.sleep(0.01)
                # It has the only place, until the server has more for it than the connection takes.
                while not await can_watch(caller):
                    await client.send_all([event(properties=struct({"currency": "x" * 10_000}))] * 100)


async def can_watch(caller: ConnectCaller) -> bool:
    """Return whether the project may open a stream."""
    try:
        async with caller.streaming("WatchMatches", match_stream_pb2.WatchMatchesRequest()) as responses:
            await anext(responses)
    except ConnectError as error:
        if error.refusal.reason != "TOO_MANY_STREAMS":
            raise
        return False
    return True


@on_sqlite
async def test_calls_leave_nothing_to_the_garbage_collector(service: Service, caller: ConnectCaller) -> None:
    def head(body: bytes) -> bytes:
        lines = [
            "POST /signalbox.v1.EventIngest/SendEvent HTTP/1.1",
            "host: signalbox",
            f"authorization: Bearer {caller.client.secret}",
            "content-type: application/json",
            f"content-length: {len(body)}",
        ]
        return "\r\n".join([*lines, "", ""]).encode() + body

    bodies = [json.dumps(ORDERED).encode(), b'{"event":{"nam":1}}']
    async with connection(service.http_address) as raw:
        for body in bodies:
            await raw.send(head(body))
            await raw.answer()
        for _ in range(3):
            gc.collect()
            gc.disable()
            try:
                for body in bodies * 20:
                    await raw.send(head(body))
                    await raw.answer()
                gc.set_debug(gc.DEBUG_SAVEALL)
                gc.collect()
                left = {type(each).__name__ for each in gc.garbage if type(each).__module__.startswith("server.")}
            finally:
                gc.set_debug(0)
                gc.garbage.clear()
                gc.enable()
            # A server of an earlier test may have ended meanwhile; what calls leave, they leave each time.
            if not left:
                break
    assert left == set()
