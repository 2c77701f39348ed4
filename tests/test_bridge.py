"""What the REST bridge does for every dialect: keys, shapes of errors, bodies, limits and its own pages."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import pytest_asyncio

from server.bridge.dialects import DIALECTS
from server.bridge.rate_limits import RateLimit, RateLimiter
from server.bridge.system import System
from server.errors import RateLimited, StorageUnavailable
from server.metrics import Metrics
from signalbox.v1 import match_stream_pb2, projects_pb2
from tests.support.automations import automate
from tests.support.bridge import NUMBER, TEXT, UNSENT, Caller, calling
from tests.support.messages import ADA, event, schema
from tests.support.service import ADMIN_KEY, serving
from tests.support.speakers import ARSEL, AUTOSEND, EMAILSENDX, EVENT, SPEAKERS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from tests.support.service import Client, Service
    from tests.support.speakers import Speaker
    from tests.support.stores import Store

every_dialect = pytest.mark.parametrize("speaker", SPEAKERS, ids=str)

# What is counted before anything is read meets no database.
on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)

BOTH_SHAPES = {
    "success": False,
    "error": {"message": "Unauthorized", "code": "UNAUTHORIZED"},
    "status_code": 401,
    "name": "unauthorized",
    "message": "Invalid or missing API key",
}


class World:
    """A project that knows Ada and the event, and callers of it in any dialect."""

    def __init__(self, service: Service, client: Client, contact_id: str, stack: AsyncExitStack) -> None:
        self.service = service
        self.client = client
        self.contact_id = contact_id
        self._stack = stack

    async def caller(self, speaker: Speaker, *scopes: str) -> Caller:
        return await self._stack.enter_async_context(calling(self.service, self.client, speaker.dialect, *scopes))

    def send(self, speaker: Speaker, seats: Any = 1) -> tuple[str, Any]:
        return speaker.send(self.contact_id, seats)


@asynccontextmanager
async def world_of(service: Service) -> AsyncIterator[World]:
    client = await service.project()
    await client.define(EVENT, schema(seats="number"))
    contact = await client.upsert()
    async with AsyncExitStack() as stack:
        yield World(service, client, contact.id, stack)


@pytest_asyncio.fixture
async def world(lasting_service: Service) -> AsyncIterator[World]:
    async with world_of(lasting_service) as made:
        yield made


def refused(response: httpx.Response, speaker: Speaker, status: int) -> str:
    """Check that an answer refuses in the shape of a dialect, and give its text."""
    assert response.status_code == status, response.text
    return speaker.fault(response.json(), status)


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


# Whose dialect it is


@every_dialect
async def test_the_dialect_is_that_of_the_key(world: World, speaker: Speaker) -> None:
    caller = await world.caller(speaker)
    assert caller.secret.startswith(speaker.prefixes)
    assert (await caller.call(*world.send(speaker))).status_code == speaker.sent
    assert (await caller.call(f"GET {speaker.listing}")).status_code == 200


async def test_one_path_answers_two_keys_of_a_project_each_in_its_dialect(world: World) -> None:
    call, body = world.send(AUTOSEND)
    assert world.send(ARSEL)[0] == call
    answer = await (await world.caller(AUTOSEND)).call(call, body)
    assert (answer.status_code, set(answer.json())) == (201, {"success", "data"})
    answer = await (await world.caller(ARSEL)).call(call, world.send(ARSEL)[1])
    assert (answer.status_code, set(answer.json())) == (202, {"id", "status"})


@every_dialect
async def test_a_dialect_is_served_under_its_name_too(world: World, speaker: Speaker) -> None:
    caller = await world.caller(speaker)
    call, body = world.send(speaker)
    mounted = call.replace(" ", f" /{speaker.dialect}", 1)
    assert (await caller.call(mounted, body)).status_code == speaker.sent
    assert (await caller.call(f"GET /{speaker.dialect}{speaker.listing}")).status_code == 200
    refused(await caller.call(f"GET /{speaker.dialect}"), speaker, 404)
    refused(await caller.call(f"GET /{speaker.dialect}/{speaker.dialect}{speaker.listing}"), speaker, 404)


@every_dialect
async def test_under_a_dialects_name_the_keys_of_others_are_none(world: World, speaker: Speaker) -> None:
    call = f"GET /{speaker.dialect}{speaker.listing}"
    for other in SPEAKERS:
        if other is not speaker:
            refused(await (await world.caller(other)).call(call), speaker, 401)
    caller = await world.caller(speaker)
    for headers in ({"authorization": ""}, bearer("unknown"), bearer(world.client.secret), bearer("be_AS_os_esx_")):
        refused(await caller.call(call, headers=headers), speaker, 401)


@every_dialect
async def test_a_path_of_another_dialect_is_not_there(world: World, speaker: Speaker) -> None:
    caller = await world.caller(speaker)
    message = refused(await caller.call(f"GET {speaker.lacking}"), speaker, 404)
    assert message == f"There is no GET {speaker.lacking} here"


# Keys that are none


@every_dialect
async def test_the_beginning_of_an_unknown_key_tells_the_shape(world: World, speaker: Speaker) -> None:
    caller = await world.caller(speaker)
    for prefix in speaker.prefixes:
        for path in ("/v1/events", "/api/v1/contacts", "/nowhere", "/"):
            response = await caller.call(f"PUT {path}x", {}, bearer(f"{prefix}unknown"))
            refused(response, speaker, 401)


@pytest.mark.parametrize(
    "headers", [{"authorization": ""}, bearer("unknown"), {"authorization": "Basic YTpi"}], ids=str
)
async def test_without_a_key_that_tells_the_path_does(world: World, headers: dict[str, str]) -> None:
    caller = await world.caller(AUTOSEND)
    for path in ("/api/v1/contacts", "/api/v1", "/api/v1/nowhere"):
        refused(await caller.call(f"GET {path}", headers=headers), EMAILSENDX, 401)
    for path in ("/v1/events", "/v1/contacts/x", "/v1/nowhere"):
        response = await caller.call(f"GET {path}", headers=headers)
        assert (response.status_code, response.json()) == (401, BOTH_SHAPES)


async def test_a_path_that_is_nobodys_is_not_there(world: World) -> None:
    caller = await world.caller(AUTOSEND)
    response = await caller.call("GET /nowhere", headers={"authorization": ""})
    assert (response.status_code, response.json()) == (404, {"error": "There is no GET /nowhere here"})
    response = await caller.call("GET /nowhere", headers=bearer("unknown"))
    assert (response.status_code, response.json()) == (401, {"error": "The API key is unknown or revoked"})


async def test_native_and_admin_keys_are_for_grpc(world: World) -> None:
    caller = await world.caller(AUTOSEND)
    for secret in (world.client.secret, ADMIN_KEY):
        response = await caller.call("GET /v1/events", headers=bearer(secret))
        assert (response.status_code, response.json()) == (401, BOTH_SHAPES)
        refused(await caller.call("GET /api/v1/contacts", headers=bearer(secret)), EMAILSENDX, 401)


@every_dialect
async def test_a_revoked_key_is_none(world: World, speaker: Speaker) -> None:
    caller = await world.caller(speaker)
    assert (await caller.call(f"GET {speaker.listing}")).status_code == 200
    projects = world.service.admin.projects
    keys = (await projects.ListApiKeys(projects_pb2.ListApiKeysRequest(project=world.client.project))).api_keys
    for key in keys:
        await projects.RevokeApiKey(projects_pb2.RevokeApiKeyRequest(id=key.id))
    refused(await caller.call(f"GET {speaker.listing}"), speaker, 401)


@every_dialect
async def test_a_key_may_do_what_its_scopes_say(world: World, speaker: Speaker) -> None:
    caller = await world.caller(speaker, "matches:read")
    for call, body in (world.send(speaker), (f"GET {speaker.listing}", UNSENT)):
        assert ":" in refused(await caller.call(call, body), speaker, 403)
    assert await world.client.log() == []


@every_dialect
async def test_only_one_dialect_takes_the_key_in_a_header_of_its_own(world: World, speaker: Speaker) -> None:
    caller = await world.caller(speaker)
    response = await caller.call(f"GET {speaker.listing}", headers={"authorization": "", "x-api-key": caller.secret})
    if speaker is EMAILSENDX:
        assert response.status_code == 200
    else:
        refused(response, speaker, 401)


# Paths, methods and bodies


@pytest.mark.parametrize(
    ("segment", "decoded"),
    [
        ("a%2Fb", "a/b"),
        ("a%20b", "a b"),
        ("ada%40example.com", "ada@example.com"),
        ("ada@example.com", "ada@example.com"),
        ("%E2%82%AC", "€"),
        ("100%25", "100%"),
        ("a+b", "a+b"),
    ],
)
async def test_a_segment_is_decoded_and_stays_one(world: World, segment: str, decoded: str) -> None:
    caller = await world.caller(ARSEL)
    for path in (f"/v1/events/{segment}", f"/arsel/v1/events/{segment}"):
        assert refused(await caller.call(f"GET {path}"), ARSEL, 404) == f"Event {decoded} not found"
    named = await (await world.caller(AUTOSEND)).call(f"GET /v1/events/eventName/{segment}")
    assert refused(named, AUTOSEND, 404) == "Event not found"


@pytest.mark.parametrize("segment", ["", "%FF", "a/b"])
async def test_what_is_no_segment_is_not_there(world: World, segment: str) -> None:
    caller = await world.caller(ARSEL)
    assert "There is no" in refused(await caller.call(f"GET /v1/events/{segment}"), ARSEL, 404)


@every_dialect
async def test_a_get_may_have_a_body(world: World, speaker: Speaker) -> None:
    caller = await world.caller(speaker)
    bodies: tuple[Any, ...] = ({}, b"{", b"")
    for body in bodies:
        assert (await caller.call(f"GET {speaker.listing}", body)).status_code == 200


@every_dialect
async def test_an_empty_body_is_an_empty_object(world: World, speaker: Speaker) -> None:
    caller = await world.caller(speaker)
    call, _ = world.send(speaker)
    for body in (b"", b" \n", b"{}", UNSENT):
        assert "required" in (await caller.call(call, body)).text
        refused(await caller.call(call, body), speaker, 400)


@every_dialect
async def test_head_answers_as_get_does_without_the_body(world: World, speaker: Speaker) -> None:
    caller = await world.caller(speaker)
    shown, asked = await caller.call(f"GET {speaker.listing}"), await caller.call(f"HEAD {speaker.listing}")
    assert (asked.status_code, asked.content) == (200, b"")
    assert asked.headers["content-length"] == shown.headers["content-length"]


@every_dialect
async def test_headers_that_nobody_knows_are_normal(world: World, speaker: Speaker) -> None:
    caller = await world.caller(speaker)
    headers = {"user-agent": "x/1", "traceparent": "00-1-1-01", "accept": "text/html", "x-any": "!", "cookie": "a=b"}
    assert (await caller.call(*world.send(speaker), headers)).status_code == speaker.sent


@every_dialect
async def test_another_method_is_told_the_right_ones(world: World, speaker: Speaker) -> None:
    caller = await world.caller(speaker)
    call, body = world.send(speaker)
    path = call.partition(" ")[2]
    for method in ("GET", "PUT", "DELETE", "OPTIONS"):
        response = await caller.call(f"{method} {path}", body)
        assert refused(response, speaker, 405) == f"{method} is not allowed at {path}; allowed: POST"
        assert response.headers["allow"] == "POST"


@pytest.mark.parametrize(
    "body",
    [b"{", b"[" * 100_000, b'{"a":' * 100_000, b"\xff\xfe", b'{"a": NaN}', b"{} {}", b'"\\ud800"'],
    ids=lambda body: repr(body[:8]),
)
@every_dialect
async def test_what_is_no_json_is_refused(world: World, speaker: Speaker, body: bytes) -> None:
    caller = await world.caller(speaker)
    call, _ = world.send(speaker)
    assert refused(await caller.call(call, body), speaker, 400) == "The body is not valid JSON"


@every_dialect
async def test_a_payload_is_nested_no_deeper_than_is_safe(world: World, speaker: Speaker) -> None:
    caller = await world.caller(speaker)
    call, body = world.send(speaker, "DEEP")
    deep = httpx.Request("POST", "http://x", json=body).content.replace(b'"DEEP"', b"[" * 200 + b"]" * 200)
    assert "32 levels" in (await caller.call(call, deep)).text
    assert await world.client.log() == []


@every_dialect
async def test_a_body_says_that_it_is_json_or_nothing(world: World, speaker: Speaker) -> None:
    caller = await world.caller(speaker)
    call, body = world.send(speaker)
    content = httpx.Request("POST", "http://x", json=body).content
    for kind in ("application/json; charset=utf-8", "Application/JSON", "application/vnd.api+json"):
        assert (await caller.call(call, content, {"content-type": kind})).status_code == speaker.sent
    for kind in ("text/plain", "application/x-www-form-urlencoded", "json"):
        message = refused(await caller.call(call, content, {"content-type": kind}), speaker, 415)
        assert kind in message


# Bodies that are too large, or break off


async def raw(service: Service, request: bytes, *, close: bool = False) -> bytes:
    """Send bytes over a connection of their own, and read until the server closes, or leave at once."""
    host, _, port = service.http_address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(request)
        await writer.drain()
        return b"" if close else await asyncio.wait_for(reader.read(), 10)
    finally:
        writer.close()
        await writer.wait_closed()


def head(caller: Caller, call: str, *more: str) -> bytes:
    lines = (f"{call} HTTP/1.1", "host: x", "connection: close", f"authorization: Bearer {caller.secret}", *more)
    return "\r\n".join((*lines, "", "")).encode()


@every_dialect
async def test_a_body_has_a_limit(database_url: str, speaker: Speaker) -> None:
    async with serving(database_url, http_body_bytes=1_000) as service, world_of(service) as world:
        caller = await world.caller(speaker)
        call, body = world.send(speaker)
        content = httpx.Request("POST", "http://x", json=body).content
        for size, status in ((1_000, speaker.sent), (1_001, 413)):
            padded = content + b" " * (size - len(content))
            assert (await caller.call(call, padded)).status_code == status
            chunked = [b"%x\r\n%b\r\n" % (len(part), part) for part in (padded[:600], padded[600:])] + [b"0\r\n\r\n"]
            told = await raw(service, head(caller, call, "transfer-encoding: chunked") + b"".join(chunked))
            assert told.startswith(b"HTTP/1.1 %d " % status)
        message = refused(await caller.call(call, content + b" " * 1_000), speaker, 413)
        assert message == "The body is larger than 1,000 bytes"
        announced = await raw(service, head(caller, call, "content-length: 1000000000"))
        assert announced.startswith(b"HTTP/1.1 413 ")
        assert len(await world.client.log()) == 2


@every_dialect
async def test_of_a_body_that_breaks_off_nothing_is_stored(world: World, speaker: Speaker) -> None:
    caller = await world.caller(speaker)
    call, body = world.send(speaker)
    content = httpx.Request("POST", "http://x", json=body).content
    await raw(world.service, head(caller, call, f"content-length: {len(content) + 1}") + content, close=True)
    chunk = b"%x\r\n%b\r\n" % (len(content), content)
    await raw(world.service, head(caller, call, "transfer-encoding: chunked") + chunk, close=True)
    await raw(world.service, head(caller, call, "transfer-encoding: chunked"), close=True)
    assert (await caller.call(call, body)).status_code == speaker.sent
    assert len(await world.client.log()) == 1


# Idempotency, overload and outage


@every_dialect
async def test_an_event_sent_again_under_its_key_is_recorded_once(world: World, speaker: Speaker) -> None:
    await automate(world.client, EVENT)
    caller, key = await world.caller(speaker), {"idempotency-key": "order-1"}
    first, again = [await caller.call(*world.send(speaker), key) for _ in range(2)]
    assert (first.status_code, again.status_code) == (speaker.sent, speaker.sent)
    assert first.json() == again.json()
    message = refused(await caller.call(*world.send(speaker, 2), key), speaker, 409)
    assert message == 'The idempotency key "order-1" was used before with other content'
    assert len(await world.client.log()) == 1


@every_dialect
async def test_an_idempotency_key_is_short_and_printable(world: World, speaker: Speaker) -> None:
    caller = await world.caller(speaker)
    for key in ("x" * 256, "a\tb"):
        response = await caller.call(*world.send(speaker), {"idempotency-key": key})
        assert response.status_code in {400, 422}
        speaker.fault(response.json(), response.status_code)
    assert await world.client.log() == []


async def test_a_full_queue_says_when_to_try_again(database_url: str, store: Store) -> None:
    async with serving(database_url, queue_events=1) as service, world_of(service) as world:
        callers = {speaker: await world.caller(speaker) for speaker in SPEAKERS}
        for speaker, caller in callers.items():
            assert (await caller.call(*world.send(speaker))).status_code == speaker.sent
        async with store.held():
            pending = []
            for _ in range(2):
                pending.append(asyncio.create_task(world.client.send(event(name=EVENT))))
                await asyncio.sleep(0.1)
            for speaker, caller in callers.items():
                response = await caller.call(*world.send(speaker))
                message = "Too many events are waiting to be stored; nothing was stored, try again shortly"
                assert refused(response, speaker, 503) == message
                assert response.headers["retry-after"] == "1"
        await asyncio.gather(*pending)
        assert len(await world.client.log()) == len(SPEAKERS) + 2


async def test_of_a_defect_the_caller_learns_nothing(database_url: str, store: Store) -> None:
    async with serving(database_url) as service, world_of(service) as world:
        await store.refuse_events_named(EVENT)
        for speaker in SPEAKERS:
            caller = await world.caller(speaker)
            assert refused(await caller.call(*world.send(speaker)), speaker, 500) == "Internal server error"


# Rate limits


@every_dialect
async def test_limits_are_told_and_not_kept_by_default(world: World, speaker: Speaker) -> None:
    caller = await world.caller(speaker)
    for _ in range(5):
        response = await caller.call(f"GET {speaker.listing}")
        assert response.status_code == 200
        told = [response.headers.get(name) for name in speaker.standing]
        assert told == [str(speaker.requests), str(speaker.requests), NUMBER][: len(told)]


@on_sqlite
@every_dialect
async def test_limits_are_kept_where_they_are_wanted(database_url: str, speaker: Speaker) -> None:
    async with serving(database_url, rate_limits=True) as service, world_of(service) as world:
        caller, other = await world.caller(speaker), await world.caller(speaker)
        answers: list[httpx.Response] = []
        while len(answers) <= speaker.requests:
            answers += await asyncio.gather(*(caller.call("GET /v1/nowhere") for _ in range(20)))
        taken = [each for each in answers if each.status_code == 404]
        assert len(taken) >= speaker.requests
        over = next(each for each in answers if each.status_code == 429)
        seconds = over.headers["retry-after"]
        assert int(seconds) >= 1
        told = [over.headers.get(name) for name in speaker.standing]
        assert told == [str(speaker.requests), "0", NUMBER][: len(told)]
        assert refused(over, speaker, 429) == speaker.over_limit.format(seconds=seconds)
        assert (await other.call(f"GET {speaker.listing}")).status_code == 200


def taken(limiter: RateLimiter, key: str = "k") -> bool:
    try:
        limiter.take(key, None)
    except RateLimited:
        return False
    return True


def counted(limiter: RateLimiter, times: Iterable[float], clock: list[float]) -> list[bool]:
    outcomes = []
    for clock[0] in times:
        outcomes.append(taken(limiter))
    return outcomes


def test_a_window_slides_or_is_fixed() -> None:
    times, clock = (0.0, 0.9, 0.95, 1.0, 1.1, 1.95), [0.0]
    sliding = RateLimiter(RateLimit(2, 1.0), enforced=True, clock=lambda: clock[0])
    assert counted(sliding, times, clock) == [True, True, False, True, False, True]
    fixed = RateLimiter(RateLimit(2, 1.0, fixed=True), enforced=True, clock=lambda: clock[0])
    assert counted(fixed, times, clock) == [True, True, False, True, True, False]


def test_keys_are_counted_apart() -> None:
    limiter = RateLimiter(RateLimit(1, 1.0), enforced=True, clock=lambda: 0.0)
    assert [taken(limiter, key) for key in "aabb"] == [True, False, True, False]


# Across dialects


@every_dialect
async def test_an_event_reaches_those_who_watch_exactly_once(world: World, speaker: Speaker) -> None:
    await automate(world.client, EVENT)
    caller = await world.caller(speaker)
    start = match_stream_pb2.StartPoint(log_end=match_stream_pb2.LOG_END_EARLIEST)
    watch = world.client.matches.WatchMatches(match_stream_pb2.WatchMatchesRequest(start=start))
    for seats in (1, 2):
        assert (await caller.call(*world.send(speaker, seats))).status_code == speaker.sent
    seen: list[Any] = []
    async with asyncio.timeout(10):
        async for answer in watch:
            seen += answer.matches
            if len(seen) >= 2:
                break
    watch.cancel()
    log = await world.client.log()
    assert [each.event.id for each in seen] == [each.id for each in log]
    assert [(each.name, dict(each.properties), each.email) for each in log] == [
        (EVENT, {"seats": float(seats)}, ADA) for seats in (1, 2)
    ]


async def test_the_same_event_through_every_door_is_the_same_event(world: World) -> None:
    await automate(world.client, EVENT)
    for seats, speaker in enumerate(SPEAKERS):
        assert (await (await world.caller(speaker)).call(*world.send(speaker, seats))).status_code == speaker.sent
    log = await world.client.log()
    assert [dict(each.properties) for each in log] == [{"seats": float(seats)} for seats in range(len(SPEAKERS))]
    assert {(each.name, each.contact_id, each.email) for each in log} == {(EVENT, world.contact_id, ADA)}


async def test_a_definition_is_seen_through_every_door(world: World) -> None:
    autosend, arsel = await world.caller(AUTOSEND), await world.caller(ARSEL)
    declared = {"eventName": "paid", "properties": [{"propertyName": "total", "type": "number"}]}
    made = (await autosend.call("POST /v1/events", declared)).json()["data"]
    shown = (await arsel.call(f"GET /v1/events/{made['id']}")).json()
    assert (shown["name"], shown["schema"]) == (
        "paid",
        {"fields": [{"name": "total", "type": "number", "required": False}]},
    )
    fields = {"fields": [{"name": "total", "type": "number", "required": True}]}
    assert (await arsel.call(f"PATCH /v1/events/{made['id']}", {"schema": fields})).status_code == 200
    back = (await autosend.call("GET /v1/events/eventName/paid")).json()["data"]
    assert [each["propertyName"] for each in back["properties"]] == ["total"]
    fire = f"POST /api/v1/contacts/{world.contact_id}/events"
    refused(await (await world.caller(EMAILSENDX)).call(fire, {"name": "PAID", "data": {}}), EMAILSENDX, 400)
    dotted = (await arsel.call("POST /v1/events", {"name": "order.completed"})).json()
    listed = (await autosend.call("GET /v1/events")).json()["data"]["events"]
    assert {each["eventName"] for each in listed} == {EVENT, "paid", dotted["name"]}


async def test_a_contact_is_seen_through_every_door(world: World) -> None:
    autosend, emailsendx, arsel = [await world.caller(speaker) for speaker in (AUTOSEND, EMAILSENDX, ARSEL)]
    body = {"email": "grace@example.com", "firstName": "Grace", "metadata": {"plan": "pro"}}
    made = (await emailsendx.call("POST /api/v1/contacts", body)).json()["data"]
    one = (await autosend.call(f"GET /v1/contacts/{made['id']}")).json()["data"]
    assert (one["email"], one["firstName"], one["customFields"]) == ("grace@example.com", "Grace", {"plan": "pro"})
    other = (await arsel.call(f"GET /v1/contacts/{made['id']}")).json()
    assert (other["email"], other["first_name"], other["properties"]) == (one["email"], "Grace", {"plan": "pro"})


# The pages of the server itself


async def test_the_server_speaks_for_itself_without_a_key(world: World) -> None:
    caller = await world.caller(AUTOSEND)
    nobody = {"authorization": ""}
    assert (await caller.call("GET /healthz", headers=nobody)).json() == {"status": "ok"}
    ready = await caller.call("GET /readyz", headers=nobody)
    assert (ready.status_code, ready.json()) == (200, {"status": "ready"})
    first = (await caller.call("GET /", headers=nobody)).json()
    assert first["pages"] == ["/", "/healthz", "/metrics", "/openapi.json", "/readyz"]
    assert first["dialects"] == {door.dialect.value: f"/{door.dialect.value}" for door in DIALECTS}


async def test_metrics_count_requests_by_dialect_and_status(world: World) -> None:
    for speaker in SPEAKERS:
        await (await world.caller(speaker)).call(*world.send(speaker))
    async with httpx.AsyncClient() as http:
        response = await http.get(f"http://{world.service.http_address}/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    for speaker in SPEAKERS:
        counter = f'signalbox_http_requests_total{{dialect="{speaker.dialect}",status="{speaker.sent}"}} '
        (line,) = [each for each in response.text.splitlines() if each.startswith(counter)]
        assert float(line.removeprefix(counter)) >= 1


async def test_the_openapi_document_has_every_endpoint(world: World) -> None:
    document = (await (await world.caller(AUTOSEND)).call("GET /openapi.json")).json()
    assert document["openapi"] == "3.1.0"
    routes = [(door, route) for door in DIALECTS for route in door.routes]
    operations = [
        document["paths"][f"/{door.dialect.value}{route.path}"][route.method.lower()] for door, route in routes
    ]
    assert len({each["operationId"] for each in operations}) == len(routes)
    for (_, route), operation in zip(routes, operations, strict=True):
        assert operation["summary"] == TEXT
        assert set(operation["responses"]) == {*map(str, route.answers), "default"}
        named = {each["name"] for each in operation["parameters"] if each["in"] == "path"}
        assert named == {each[1:-1] for each in route.segments if each.startswith("{")}
    assert references(document) <= {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}


def references(value: Any) -> set[str]:
    if isinstance(value, dict):
        own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return own.union(*map(references, value.values()))
    return set().union(*map(references, value)) if isinstance(value, list) else set()


class NoDatabase:
    """A database that cannot be reached."""

    async def read(self, *_: Any, **__: Any) -> Any:
        raise StorageUnavailable


async def test_a_server_without_its_database_or_about_to_stop_is_not_ready() -> None:
    stopping = asyncio.Event()
    system = System(NoDatabase(), Metrics(), stopping, DIALECTS)  # type: ignore[arg-type]
    page = await system.page("/readyz")
    assert (page.status, page.content) == (503, b'{"status":"database unavailable"}')
    stopping.set()
    page = await system.page("/readyz")
    assert (page.status, page.content) == (503, b'{"status":"stopping"}')
    assert (await system.page("/healthz")).status == 200
