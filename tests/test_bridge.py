"""The behavior that all dialects of the REST bridge share."""

from __future__ import annotations

import asyncio
import re
import sys
from contextlib import AsyncExitStack
from itertools import product
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from server.bridge import rate_limits
from server.bridge.dialects import DIALECTS
from server.bridge.rate_limits import RateLimit, RateLimiter
from server.bridge.system_pages import SystemPages
from server.http.errors import RateLimited
from server.metrics import Metrics
from server.model import Dialect
from server.storage.opening import open_database
from signalbox.v1 import projects_pb2 as pb
from tests.support.bridge import ID, TEXT, UNSENT, Caller, calling, http_client
from tests.support.messages import ADA, ORDER
from tests.support.service import ADMIN_KEY, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    import httpx

    from server.storage.database import Database
    from tests.support.service import Client, Service

TOO_DEEP = 1_100 if sys.version_info < (3, 12) else 20_000
"""Levels of nesting that the interpreter does not read. C code may nest deeper since Python 3.12."""

NAMES = [dialect.name.value for dialect in DIALECTS]
KEYS = {"autosend": "AS_x", "opensend": "os_x", "emailsendx": "esx_test_x", "arsel": "be_x", "resend": "re_x"}

# How a request is read and how a response is worded does not depend on the database.
on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)


class Shop:
    """A project with the definition of an order, Ada, and a key of every dialect."""

    def __init__(self, client: Client, contact: str, callers: Mapping[str, Caller]) -> None:
        self.client = client
        self.contact = contact
        self.callers = callers

    async def send(self, dialect: str, total: Any = 5, **headers: str) -> httpx.Response:
        call, body = self.sent(dialect, total)
        return await self.callers[dialect].call(call, body, headers)

    def sent(self, dialect: str, total: Any) -> tuple[str, dict[str, Any]]:
        """Return the call and body by which a dialect sends an order of Ada."""
        properties = {"order_total": total}
        return {
            "autosend": (
                "POST /v1/events/send",
                {"eventName": ORDER, "email": ADA, "eventProperties": properties},
            ),
            "opensend": ("POST /events/send", {"event": ORDER, "email": ADA, "payload": properties}),
            "emailsendx": (f"POST /api/v1/contacts/{self.contact}/events", {"name": ORDER, "data": properties}),
            "arsel": ("POST /v1/events/send", {"event": ORDER, "email": ADA, "data": properties}),
            "resend": ("POST /events/send", {"event": ORDER, "email": ADA, "payload": properties}),
        }[dialect]


@pytest_asyncio.fixture
async def shop(lasting_service: Service) -> AsyncIterator[Shop]:
    async with AsyncExitStack() as stack:
        client = await lasting_service.shop()
        contact = (await client.upsert()).id
        callers = {name: await stack.enter_async_context(calling(lasting_service, client, name)) for name in NAMES}
        yield Shop(client, contact, callers)


@pytest.fixture
def fresh_database(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/fresh.db"


def text_of(dialect: str, body: dict[str, Any]) -> Any:
    """Return the message of an error, which must have exactly the shape of the dialect."""
    match dialect:
        case "autosend":
            assert body == {"success": False, "error": {"message": TEXT, "code": TEXT}}
            return body["error"]["message"]
        case "opensend":
            assert body.keys() <= {"error", "code"}
            return body["error"]
        case "emailsendx":
            assert body.keys() == {"error"}
            return body["error"]
        case "resend":
            assert body.keys() == {"statusCode", "name", "message"}
            return body["message"]
        case _:
            assert body.keys() == {"status_code", "name", "message"}
            return body["message"]


INVALID = {"autosend": 400, "arsel": 400, "emailsendx": 400, "opensend": 422, "resend": 422}
"""The status with which each dialect reports a body that breaks a rule."""

INVALID_KEY = dict.fromkeys(NAMES, 401) | {"resend": 403}
SCOPE_MISSING = dict.fromkeys(NAMES, 403) | {"resend": 401}


def test_every_dialect_is_covered() -> None:
    assert list(KEYS) == NAMES


# Which dialect


@on_sqlite
async def test_the_key_decides_the_dialect_of_a_shared_path(shop: Shop) -> None:
    autosend, arsel = await shop.send("autosend"), await shop.send("arsel")
    assert (autosend.status_code, autosend.json()["success"]) == (201, True)
    assert (arsel.status_code, arsel.json()) == (202, {"id": ID, "status": "accepted"})


@on_sqlite
@pytest.mark.parametrize("dialect", NAMES)
async def test_a_dialect_has_a_mount_of_its_own(shop: Shop, dialect: str) -> None:
    call, body = shop.sent(dialect, 5)
    caller = shop.callers[dialect]
    assert (await caller.call(call.replace(" /", f" /{dialect}/", 1), body)).is_success
    for other in set(NAMES) - {dialect}:
        refused = await caller.call(f"GET /{other}/v1/events")
        assert refused.status_code == INVALID_KEY[other]
        assert text_of(other, refused.json())


@on_sqlite
@pytest.mark.parametrize("dialect", NAMES)
async def test_a_path_of_another_dialect_is_404_in_the_shape_of_the_key(shop: Shop, dialect: str) -> None:
    foreign = dict.fromkeys(NAMES, "/v1/events") | {"autosend": "/events", "arsel": "/automations"}
    refused = await shop.callers[dialect].call(f"GET {foreign[dialect]}")
    assert refused.status_code == 404
    assert text_of(dialect, refused.json()) == f"There is no GET {foreign[dialect]} here"


@on_sqlite
@pytest.mark.parametrize("dialect", NAMES)
async def test_an_unknown_key_is_refused_in_the_shape_of_its_prefix(shop: Shop, dialect: str) -> None:
    for path in ("/v1/events", "/events", "/anywhere"):
        sent = {"authorization": f"Bearer {KEYS[dialect]}"}
        refused = await shop.callers[dialect].call(f"GET {path}", UNSENT, sent)
        if path != "/anywhere":
            assert refused.status_code == INVALID_KEY[dialect]
            assert text_of(dialect, refused.json())


@on_sqlite
async def test_without_a_known_key_prefix_the_path_decides_the_shape(shop: Shop) -> None:
    shapes = {
        "/api/v1/contacts": "emailsendx",
        "/api/events": "opensend",
        "/api/contacts/x": "opensend",
        "/automations": "opensend",
        "/opensend/events": "opensend",
        "/arsel/v1/events": "arsel",
        "/autosend/v1/events": "autosend",
    }
    for (path, dialect), said in product(shapes.items(), ("", "Bearer x")):
        refused = await shop.callers[dialect].call(f"GET {path}", UNSENT, {"authorization": said})
        assert refused.status_code == 401, path
        assert text_of(dialect, refused.json()), path


@on_sqlite
async def test_under_v1_a_missing_key_is_refused_in_both_shapes(shop: Shop) -> None:
    refused = await shop.callers["arsel"].call("POST /v1/events/send", {}, {"authorization": ""})
    assert refused.status_code == 401
    assert refused.json() == {
        "success": False,
        "error": {"message": "Unauthorized", "code": "UNAUTHORIZED"},
        "status_code": 401,
        "name": "unauthorized",
        "message": "Invalid or missing API key",
    }


@on_sqlite
@pytest.mark.parametrize(
    ("key", "name", "message"),
    [
        ("", "missing_api_key", "Missing API key in the authorization header"),
        ("Bearer x", "invalid_api_key", "API key is invalid"),
    ],
)
@pytest.mark.parametrize("path", ["/events/send", "/events", "/contacts/x"])
async def test_an_error_without_a_key_has_the_fields_of_all_dialects_of_the_path(
    shop: Shop, path: str, key: str, name: str, message: str
) -> None:
    """The first dialect of the path decides the status, which the body of another one repeats."""
    refused = await shop.callers["opensend"].call(f"POST {path}", {}, {"authorization": key})
    assert refused.status_code == 401
    fields = {"error": "Missing or invalid API key", "statusCode": 401, "name": name, "message": message}
    assert refused.json() == fields


@on_sqlite
async def test_a_path_of_resend_without_routes_is_reported_in_its_shape(shop: Shop) -> None:
    for path in ("/emails", "/audiences/x/contacts", "/segments/x/contacts", "/contacts/x/topics", "/automations"):
        missing = await shop.callers["resend"].call(f"GET {path}")
        assert (missing.status_code, missing.json()["name"]) == (404, "not_found")
        assert text_of("resend", missing.json()) == f"There is no GET {path} here"
    refused = await shop.callers["resend"].call("POST /emails", {}, {"authorization": ""})
    assert (refused.status_code, refused.json()["name"]) == (401, "missing_api_key")


@on_sqlite
async def test_without_a_key_a_path_of_no_dialect_is_404(shop: Shop) -> None:
    caller = shop.callers["arsel"]
    refused = await caller.call("GET /elsewhere", UNSENT, {"authorization": ""})
    assert (refused.status_code, refused.json()) == (404, {"error": "There is no GET /elsewhere here"})
    refused = await caller.call("GET /elsewhere", UNSENT, {"authorization": "Bearer x"})
    assert (refused.status_code, refused.json()) == (401, {"error": "The API key is unknown or revoked"})
    refused = await caller.call("POST /metrics", {}, {"authorization": ""})
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD")


@on_sqlite
async def test_native_and_admin_keys_are_for_grpc(shop: Shop) -> None:
    for secret in (shop.client.secret, ADMIN_KEY):
        refused = await shop.callers["opensend"].call("GET /events", UNSENT, {"authorization": f"Bearer {secret}"})
        assert refused.status_code == 401


async def test_a_revoked_key_is_refused_at_once(lasting_service: Service) -> None:
    client = await lasting_service.project()
    request = pb.CreateApiKeyRequest(project=client.project, dialect=pb.DIALECT_ARSEL)
    made = await lasting_service.admin.projects.CreateApiKey(request)
    async with http_client(lasting_service) as http:
        headers = {"authorization": f"Bearer {made.secret}"}
        assert (await http.get("/v1/events", headers=headers)).status_code == 200
        await lasting_service.admin.projects.RevokeApiKey(pb.RevokeApiKeyRequest(id=made.api_key.id))
        assert (await http.get("/v1/events", headers=headers)).status_code == 401


async def test_an_imported_secret_works(lasting_service: Service) -> None:
    client = await lasting_service.shop()
    secret = "AS_your-project-api-key"
    request = pb.CreateApiKeyRequest(project=client.project, dialect=pb.DIALECT_AUTOSEND, secret=secret)
    made = await lasting_service.admin.projects.CreateApiKey(request)
    async with http_client(lasting_service) as http:
        assert (await http.get("/v1/events", headers={"authorization": f"Bearer {secret}"})).status_code == 200
    await lasting_service.admin.projects.RevokeApiKey(pb.RevokeApiKeyRequest(id=made.api_key.id))


@on_sqlite
@pytest.mark.parametrize("dialect", [name for name in NAMES if name != "opensend"])
async def test_a_key_without_the_scope_is_refused(lasting_service: Service, dialect: str) -> None:
    async with calling(lasting_service, await lasting_service.shop(), dialect, "matches:read") as caller:
        call, body = Shop(caller.client, "x", {}).sent(dialect, 5)
        refused = await caller.call(call, body)
    assert refused.status_code == SCOPE_MISSING[dialect]
    assert text_of(dialect, refused.json())


# Invalid requests


@on_sqlite
@pytest.mark.parametrize("dialect", NAMES)
async def test_invalid_requests_are_refused_in_the_shape_of_the_dialect(shop: Shop, dialect: str) -> None:
    caller, (call, _) = shop.callers[dialect], shop.sent(dialect, 5)
    path = call.removeprefix("POST ")
    large = b'{"a": "' + b"x" * (1024 * 1024) + b'"}'
    for method, body, headers, status in (
        ("POST", b"{", {}, 400),
        ("POST", b"[" * 900, {}, 400),
        ("POST", b'{"a": NaN}', {}, 400),
        ("POST", b"\xff", {}, 400),
        ("POST", b"{}", {"content-type": "text/plain"}, 415),
        ("POST", b"a=b", {"content-type": "application/x-www-form-urlencoded"}, 415),
        ("POST", large, {}, 413),
        ("PUT", b"{}", {}, 405),
        ("OPTIONS", b"", {}, 405),
    ):
        refused = await caller.call(f"{method} {path}", body, headers)
        assert refused.status_code == status, (method, body[:20])
        if status != 400:
            assert text_of(dialect, refused.json())
        assert ("allow" in refused.headers) is (status == 405)
    assert await shop.client.log() == []


@on_sqlite
async def test_the_limit_for_bodies_holds_for_chunked_bodies(lasting_service: Service, shop: Shop) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b" " * 100_000

    caller = shop.callers["autosend"]
    headers = {"authorization": f"Bearer {caller.secret}", "content-type": "application/json"}
    async with http_client(lasting_service) as http:
        refused = await http.post("/v1/events/send", content=chunks(), headers=headers)
    assert refused.status_code == 413
    assert refused.json()["error"]["code"] == "BODY_TOO_LARGE"


async def test_the_limit_for_bodies_holds_for_a_single_chunk(fresh_database: str) -> None:
    async def chunk() -> AsyncIterator[bytes]:
        yield b" " * 1_001

    async with serving(fresh_database, http_body_bytes=1_000) as service:
        client = await service.shop()
        async with calling(service, client, "arsel") as caller, http_client(service) as http:
            headers = {"authorization": f"Bearer {caller.secret}", "content-type": "application/json"}
            refused = await http.post("/v1/events/send", content=chunk(), headers=headers)
    assert (refused.status_code, text_of("arsel", refused.json())) == (413, "The body is larger than 1,000 bytes")


@on_sqlite
@pytest.mark.parametrize("dialect", NAMES)
async def test_a_truncated_body_is_malformed_json(shop: Shop, dialect: str) -> None:
    call, _ = shop.sent(dialect, 5)
    problems = {
        b"[" * 900: "it ends too early",
        b"{} {}": "trailing characters (byte 4)",
        b'{"data": [1}': "expected ',' or ']' (byte 11)",
        b'{"data": "\xff"}': "it must be UTF-8, and byte 10 is not",
    }
    for body, problem in problems.items():
        refused = await shop.callers[dialect].call(call, body)
        assert refused.status_code == 400, body
        wanted = "Invalid JSON body" if dialect == "opensend" else f"The body is not valid JSON: {problem}"
        assert text_of(dialect, refused.json()) == wanted, body


@on_sqlite
@pytest.mark.parametrize("dialect", NAMES)
async def test_a_field_of_the_wrong_type_is_refused_with_the_type_that_would_be_right(shop: Shop, dialect: str) -> None:
    call, _ = shop.sent(dialect, 5)
    field = {"autosend": "eventName", "emailsendx": "name"}.get(dialect, "event")
    refused = await shop.callers[dialect].call(call, f'{{"{field}": 5}}'.encode())
    assert refused.status_code in (400, 422)
    wanted = {"opensend": "Invalid input: expected string, received number"}
    assert wanted.get(dialect, f"{field} must be a string; got a number") in refused.text


@on_sqlite
@pytest.mark.parametrize("dialect", NAMES)
async def test_a_body_nested_too_deeply_is_refused_with_that_reason(shop: Shop, dialect: str) -> None:
    call, _ = shop.sent(dialect, 5)
    forms = ("%s", '{"extra":%s}', '{"eventName":%s}', '{"payload":%s}', '{"data":%s}')
    for form, depth in product(forms, (TOO_DEEP, 100_000)):
        refused = await shop.callers[dialect].call(call, (form % ("[" * depth + "]" * depth)).encode())
        assert refused.status_code in (400, 422), (form, depth)
        assert "The body is nested too deeply to be read" in refused.text, (form, depth)


async def test_nothing_is_stored_if_the_connection_breaks_within_a_body(shop: Shop) -> None:
    caller = shop.callers["autosend"]
    host, _, port = caller.base_url.removeprefix("http://").partition(":")
    body = b'{"eventName":"order_completed","email":"ada@example.com"}'
    head = (
        f"POST /v1/events/send HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {caller.secret}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body) + 10}\r\n\r\n"
    )
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(head.encode() + body)
    await writer.drain()
    await asyncio.sleep(0.1)
    writer.close()
    await writer.wait_closed()
    assert (await shop.send("autosend")).status_code == 201
    assert len(await shop.client.log()) == 1


@on_sqlite
async def test_bodies_of_get_and_delete_and_unknown_headers_are_ignored(shop: Shop) -> None:
    caller = shop.callers["arsel"]
    assert (await caller.call("GET /v1/events", b"{}", {"x-trace": "1", "idempotency-key": "a"})).status_code == 200
    assert (await caller.call("GET /v1/events", b"[", {"content-type": "text/plain"})).status_code == 200
    assert (await caller.call("DELETE /v1/contacts/x", b"{}")).status_code == 404


@on_sqlite
async def test_head_is_get_without_the_body(shop: Shop) -> None:
    caller = shop.callers["arsel"]
    full, head = await caller.call("GET /v1/events"), await caller.call("HEAD /v1/events")
    assert (head.status_code, head.content) == (200, b"")
    assert full.content


@on_sqlite
@pytest.mark.parametrize("name", ["a/b", "a b", "a@b", "ü", "a%b", "a?b", "a..b"])
async def test_an_encoded_segment_is_not_split(shop: Shop, name: str) -> None:
    caller = shop.callers["opensend"]
    await caller.call("POST /events", {"name": name})
    escaped = "".join(f"%{each:02X}" for each in name.encode())
    assert (await caller.call(f"GET /events/{escaped}")).json()["name"] == name


@on_sqlite
async def test_a_path_that_is_not_utf_8_is_404(shop: Shop) -> None:
    assert (await shop.callers["opensend"].call("GET /events/%FF")).status_code == 404
    assert (await shop.callers["opensend"].call("GET /events/")).status_code == 404


@on_sqlite
async def test_text_with_u_0000_is_refused(shop: Shop) -> None:
    sent = {"eventName": ORDER, "email": "a\x00da@example.com"}
    refused = await shop.callers["autosend"].call("POST /v1/events/send", sent)
    assert refused.status_code == 400
    assert await shop.client.log() == []


@on_sqlite
@pytest.mark.parametrize("dialect", NAMES)
async def test_payloads_have_budgets(shop: Shop, dialect: str) -> None:
    deep: Any = 1
    for _ in range(40):
        deep = [deep]
    for payload in ({"deep": deep}, {f"p{n}": [1] for n in range(5_001)}):
        call, body = shop.sent(dialect, 5)
        field = {"autosend": "eventProperties", "opensend": "payload", "resend": "payload"}.get(dialect, "data")
        refused = await shop.callers[dialect].call(call, body | {field: payload})
        assert refused.status_code == INVALID[dialect]
    assert await shop.client.log() == []


# Idempotency


@pytest.mark.parametrize("dialect", NAMES)
async def test_an_idempotency_key_makes_a_repeated_send_harmless(shop: Shop, dialect: str) -> None:
    first = await shop.send(dialect, 5, **{"idempotency-key": "k1"})
    again = await shop.send(dialect, 5, **{"idempotency-key": "k1"})
    assert first.is_success
    assert (again.status_code, again.json()) == (first.status_code, first.json())
    assert len(await shop.client.log()) == 1
    other = await shop.send(dialect, 6, **{"idempotency-key": "k1"})
    assert other.status_code == 409
    assert text_of(dialect, other.json())
    long = await shop.send(dialect, 6, **{"idempotency-key": "k" * 256})
    assert long.status_code == (400 if dialect == "resend" else INVALID[dialect])
    assert len(await shop.client.log()) == 1


# Limits


def test_each_dialect_has_its_documented_limit() -> None:
    limits = {dialect.name: dialect.rate_limit for dialect in DIALECTS}
    found = {name: (limit.requests, limit.seconds, limit.reads) for name, limit in limits.items()}
    assert found == {
        Dialect.AUTOSEND: (600, 60, None),
        Dialect.OPENSEND: (30, 60, 100),
        Dialect.EMAILSENDX: (120, 60, None),
        Dialect.ARSEL: (2, 1, None),
        Dialect.RESEND: (2, 1, None),
    }
    assert {name for name, limit in limits.items() if limit.fixed} == {Dialect.OPENSEND}


def test_a_sliding_window_frees_one_request_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(rate_limits, "monotonic", lambda: now)
    limiter = RateLimiter(RateLimit(2, 1.0), enforced=True)
    limiter.take("one", None)
    now = 0.6
    limiter.take("one", None)
    limiter.take("another", None)
    with pytest.raises(RateLimited) as refused:
        limiter.take("one", None)
    assert refused.value.retry_after == 1
    now = 1.0
    limiter.take("one", None)
    with pytest.raises(RateLimited):
        limiter.take("one", None)


def test_a_fixed_window_frees_all_requests_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(rate_limits, "monotonic", lambda: now)
    limiter = RateLimiter(RateLimit(2, 60.0, fixed=True), enforced=True)
    limiter.take("one", None)
    now = 59.0
    limiter.take("one", None)
    with pytest.raises(RateLimited):
        limiter.take("one", None)
    now = 60.0
    for _ in range(2):
        limiter.take("one", None)


def test_headers_are_written_for_each_response() -> None:
    told = iter((b"1", b"2"))
    limiter = RateLimiter(RateLimit(1, 60.0, lambda _: ((b"at", next(told)),)), enforced=False)
    assert [limiter.take("one", None) for _ in range(2)] == [((b"at", b"1"),), ((b"at", b"2"),)]


@on_sqlite
@pytest.mark.parametrize("dialect", ["emailsendx", "arsel", "resend"])
async def test_every_response_to_a_key_has_the_headers_of_its_limit(
    lasting_service: Service, shop: Shop, dialect: str
) -> None:
    path = shop.sent(dialect, 5)[0].removeprefix("POST ")
    answers = [
        await shop.send(dialect),
        await shop.callers[dialect].call(f"POST {path}", b"{"),
        await shop.callers[dialect].call("GET /nowhere"),
        await shop.callers[dialect].call(f"PUT {path}", {}),
    ]
    async with calling(lasting_service, shop.client, dialect, "matches:read") as caller:
        answers.append(await caller.call(f"POST {path}", {}))
    assert [each.status_code for each in answers[1:]] == [400, 404, 405, SCOPE_MISSING[dialect]]
    prefix = {"emailsendx": "x-ratelimit"}.get(dialect, "ratelimit")
    limit = {"emailsendx": "120"}.get(dialect, "2")
    assert {(each.headers[f"{prefix}-limit"], each.headers[f"{prefix}-remaining"]) for each in answers} == {
        (limit, limit)
    }
    assert all(f"{prefix}-reset" in each.headers for each in answers)


async def test_rate_limits_are_enforced_per_key(fresh_database: str) -> None:
    async with serving(fresh_database, rate_limits=True) as service:
        client = await service.shop()
        async with calling(service, client, "emailsendx") as caller:
            answers = [await caller.call("GET /api/v1/contacts") for _ in range(121)]
            remaining = [int(each.headers["x-ratelimit-remaining"]) for each in answers]
            assert remaining == [*reversed(range(120)), 0]
            seconds = answers[-1].headers["retry-after"]
            assert answers[-1].json() == {"error": f"Rate limit exceeded. Retry after {seconds} seconds."}
        async with calling(service, client, "arsel") as caller:
            answers = [await caller.call("GET /v1/events") for _ in range(3)]
            assert [each.headers["ratelimit-remaining"] for each in answers] == ["1", "0", "0"]
            text = "Too many requests. Please retry after the period indicated in the retry-after header."
            assert answers[-1].json() == {"status_code": 429, "name": "rate_limit_exceeded", "message": text}
            await asyncio.sleep(1.1)
            assert (await caller.call("GET /v1/events")).status_code == 200
        async with calling(service, client, "opensend") as caller:
            changes = [await caller.call("POST /events", {}) for _ in range(31)]
            assert [each.status_code for each in changes] == [422] * 30 + [429]
            assert changes[-1].json() == {"error": "Rate limit exceeded. Try again later."}
            assert int(changes[-1].headers["retry-after"]) <= 60
            assert changes[-1].headers["x-ratelimit-backend"] == "memory"
            assert (await caller.call("GET /events")).status_code == 200
            assert (await caller.call("POST /contacts", {})).status_code == 422


async def test_a_full_queue_is_503_with_retry_after(fresh_database: str) -> None:
    async with serving(fresh_database, queue_events=1) as service:
        for dialect in NAMES:
            client = await service.shop()
            contact = (await client.upsert()).id
            async with calling(service, client, dialect) as caller:
                call, body = Shop(client, contact, {}).sent(dialect, 5)
                answers = await asyncio.gather(*(caller.call(call, body) for _ in range(20)))
                refused = [each for each in answers if not each.is_success]
                assert refused, dialect
                for each in refused:
                    assert (each.status_code, each.headers["retry-after"]) == (503, "1"), dialect
                    assert text_of(dialect, each.json()), dialect
                assert len(await client.log()) == len(answers) - len(refused), dialect


# Across dialects


async def test_a_definition_created_in_one_dialect_is_visible_in_the_others(shop: Shop) -> None:
    made = await shop.callers["arsel"].call(
        "POST /v1/events",
        {"name": "cart_left", "schema": {"fields": [{"name": "total", "type": "number", "required": True}]}},
    )
    autosend = await shop.callers["autosend"].call("GET /v1/events/eventName/cart_left")
    assert autosend.json()["data"]["id"] == made.json()["id"]
    assert [each["propertyName"] for each in autosend.json()["data"]["properties"]] == ["total"]
    opensend = (await shop.callers["opensend"].call("GET /events/cart_left")).json()
    assert opensend["schema"] == {"type": "object", "properties": {"total": {"type": "number"}}, "required": ["total"]}


@on_sqlite
async def test_a_dialect_omits_properties_of_types_that_it_does_not_have(shop: Shop) -> None:
    schema = {"type": "object", "properties": {"team": {"type": "object"}, "plan": {"type": "string"}}}
    made = (await shop.callers["opensend"].call("POST /events", {"name": "joined", "schema": schema})).json()
    autosend = (await shop.callers["autosend"].call("GET /v1/events/eventName/joined")).json()["data"]
    assert [each["propertyName"] for each in autosend["properties"]] == ["plan"]
    arsel = (await shop.callers["arsel"].call(f"GET /v1/events/{made['id']}")).json()
    assert [each["name"] for each in arsel["schema"]["fields"]] == ["plan"]


async def test_an_event_is_recorded_once_whichever_dialect_sent_it(shop: Shop) -> None:
    for number, dialect in enumerate(NAMES):
        assert (await shop.send(dialect, number)).is_success
    recorded = await shop.client.log()
    assert [each.properties["order_total"] for each in recorded] == list(range(len(NAMES)))
    assert {each.contact_id for each in recorded} == {shop.contact}


# The pages beside the dialects


async def test_the_pages_of_the_server(lasting_service: Service, shop: Shop) -> None:
    await shop.send("arsel")
    async with http_client(lasting_service) as http:
        assert (await http.get("/v1/events")).status_code == 401
        assert (await http.get("/healthz")).json() == {"status": "ok"}
        assert (await http.get("/readyz")).json() == {"status": "ready"}
        assert (await http.get("/")).json()["dialects"] == {name: f"/{name}" for name in NAMES}
        document = (await http.get("/openapi.json")).json()
        numbers = (await http.get("/metrics")).text
    assert document["openapi"] == "3.1.0"
    assert "/arsel/v1/events/send" in document["paths"]
    for name in ("events_recorded_total", "matches_total", "commit_seconds_count", "queue_events"):
        assert re.search(rf"^signalbox_{name} [0-9.e+]+$", numbers, re.MULTILINE)
    assert 'signalbox_http_requests_total{dialect="arsel",status="202"}' in numbers
    assert 'signalbox_http_requests_total{dialect="",status="401"}' in numbers
    assert "signalbox_condition_failures_total" in numbers


async def test_a_server_without_its_database_is_alive_and_not_ready(fresh_database: str) -> None:
    database = await open_database(fresh_database)
    system = SystemPages(database, Metrics(), asyncio.Event(), DIALECTS)
    assert (await system.page("/readyz")).status == 200
    await database.close()
    assert (await system.page("/readyz")).status == 503
    assert (await system.page("/healthz")).status == 200


@on_sqlite
async def test_a_request_that_is_not_http_is_refused_with_json(lasting_service: Service) -> None:
    host, _, port = lasting_service.http_address.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"BREW /events HTTP/1.1\r\n\r\n")
    answer = (await reader.read()).decode()
    writer.close()
    assert answer.startswith("HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\n")
    assert answer.endswith('{"error":"The request is not valid HTTP/1.1: Invalid method encountered"}')


@on_sqlite
async def test_a_stopping_server_is_not_ready(database: Database) -> None:
    stopping = asyncio.Event()
    system = SystemPages(database, Metrics(), stopping, DIALECTS)
    stopping.set()
    assert (await system.page("/readyz")).status == 503
