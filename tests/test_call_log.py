"""The line of a call: which calls have one, what it says, and what no output of a server ever says."""

from __future__ import annotations

import asyncio
import traceback
from contextlib import suppress
from ipaddress import ip_network
from typing import TYPE_CHECKING, Any

import grpc
import pytest
import pytest_asyncio
import structlog
from google.protobuf.message_factory import GetMessageClass

from server.current_call import call_log
from server.current_call.call_log import LINES_A_SECOND, OUTAGE_REASONS, OUTAGE_SECONDS, CallLog
from server.logs.masking import mask
from server.rpc.contract import SERVICES
from server.rpc.method import Method
from signalbox.v1 import contacts_pb2, match_stream_pb2, projects_pb2
from signalbox.v1.event_ingest_pb2 import SendEventRequest
from signalbox.v1.event_ingest_pb2_grpc import EventIngestStub
from tests.support.automations import automate
from tests.support.bridge import http_client
from tests.support.messages import ADA, ORDER, event, struct
from tests.support.service import ADMIN_KEY, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.support.service import Client, Service

ADDRESS, PAYLOAD, SECRET = "needle@secret.example", "needle-in-a-payload", "sb_needle_0123456789_of_a_secret"
NEEDLES = ("needle",)
LOOPBACK = (ip_network("127.0.0.0/8"),)

STEERING_RUNS = {"AwaitEvent", "CancelRun", "CompleteRun"}
CHANGING = {"Automations", "Contacts", "EventDefinitions", "Projects"}


@pytest_asyncio.fixture(scope="module")
async def talkative(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    """A server that logs every call."""
    folder = tmp_path_factory.mktemp("talkative")
    async with serving(f"sqlite:///{folder}/signalbox.db", log_calls=1, push_networks=LOOPBACK) as service:
        yield service


@pytest.fixture
def entries() -> Iterator[list[Any]]:
    with structlog.testing.capture_logs() as entries:
        yield entries


async def calls_written(entries: list[Any], count: int) -> list[dict[str, Any]]:
    """Wait for the lines of calls: each is written after the answer."""
    async with asyncio.timeout(10):
        while len(calls(entries)) < count:  # noqa: ASYNC110 - a log does not tell
            await asyncio.sleep(0.01)
    return calls(entries)


def calls(entries: list[Any]) -> list[dict[str, Any]]:
    return [entry for entry in entries if entry["event"] == "call"]


async def test_the_line_of_a_call_says_who_made_it_and_how_it_ended(talkative: Service, entries: list[Any]) -> None:
    shop = await talkative.shop()
    keys = await talkative.admin.projects.ListApiKeys(projects_pb2.ListApiKeysRequest(project=shop.project))
    entries.clear()
    identified = [*shop.metadata, ("x-request-id", "a-1")]
    await EventIngestStub(shop.channel).SendEvent(SendEventRequest(event=event()), metadata=identified)
    with pytest.raises(grpc.aio.AioRpcError):
        await shop.send(event(name="unheard_of"))
    sent, refused = await calls_written(entries, 2)
    assert {name: sent[name] for name in ("call", "code", "door", "project", "key", "log_level")} == {
        "call": "EventIngest/SendEvent",
        "code": "OK",
        "door": "grpc",
        "project": shop.project,
        "key": keys.api_keys[0].id,
        "log_level": "info",
    }
    assert sent["request_id"] == "a-1"
    assert 0 < sent["ms"] < 60_000
    assert sent["bytes_in"] > 10
    assert sent["bytes_out"] > 10
    assert "reason" not in sent
    outcome = {name: refused[name] for name in ("code", "reason", "log_level", "bytes_out")}
    assert outcome == {"code": "NOT_FOUND", "reason": "DEFINITION_NOT_FOUND", "log_level": "warning", "bytes_out": 0}


async def test_the_line_of_a_request_has_the_template_of_its_path(talkative: Service, entries: list[Any]) -> None:
    shop = await talkative.shop()
    secret = await talkative.secret(shop.project, projects_pb2.DIALECT_AUTOSEND)
    headers = {"authorization": f"Bearer {secret}", "x-request-id": "mine"}
    async with http_client(talkative) as http:
        entries.clear()
        await http.get(f"/v1/contacts/{ADDRESS}", headers=headers)
        await http.get(f"/nowhere/{ADDRESS}", headers=headers)
        await http.post("/signalbox.v1.Contacts/GetContact", json={"email": ADA}, headers={"authorization": "Bearer x"})
    route, nowhere, rpc = await calls_written(entries, 3)
    assert (route["call"], route["status"], route["door"]) == ("GET /v1/contacts/{id}", 404, "autosend")
    assert (nowhere["call"], nowhere["status"], nowhere["request_id"]) == ("unknown", 404, "mine")
    assert (rpc["call"], rpc["code"], rpc["door"]) == ("Contacts/GetContact", "UNAUTHENTICATED", "connect")


@pytest.mark.lasting
@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
async def test_by_default_only_failures_and_changes_are_logged(shop: Client, entries: list[Any]) -> None:
    await shop.send()
    await shop.log()
    assert calls(entries) == []
    await shop.upsert()
    with pytest.raises(grpc.aio.AioRpcError):
        await shop.get("nowhere")
    assert [entry["call"] for entry in await calls_written(entries, 2)] == [
        "Contacts/UpsertContact",
        "EventIngest/GetEvent",
    ]


def test_every_rpc_that_writes_anything_but_logs_and_runs_is_a_change() -> None:
    writing = {
        descriptor.name: Method(descriptor, "", print).changes
        for service in SERVICES
        if service.name in CHANGING
        for descriptor in service.methods
        if not descriptor.name.startswith(
            ("Get", "List", "Check", "Validate", "Test", "Explain", "Backtest", "Export", "Who", "Infer")
        )
    }
    assert writing == {name: name not in STEERING_RUNS for name in writing}
    assert {"CreateApiKey", "RevokeApiKey", "UpdateEventDefinition", "DeleteContact"} <= writing.keys()


def test_of_many_failures_some_are_logged_and_the_others_counted(
    entries: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(call_log, "monotonic", lambda: now)
    log = CallLog()
    for _ in range(1_000):
        log.write("A/B", "KEY_INVALID", 0.001)
    log.write("A/Create", "", 0.001, change=True)
    now += 1
    log.write("A/B", "KEY_INVALID", 0.001)
    assert [entry["event"] for entry in entries] == ["call"] * (LINES_A_SECOND + 1) + ["calls_not_logged", "call"]
    assert entries[-2]["calls"] == 1_000 - LINES_A_SECOND


def test_an_outage_of_the_database_is_not_logged_by_each_call_that_fails(
    entries: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 600.0
    monkeypatch.setattr(call_log, "monotonic", lambda: now)
    log = CallLog()
    for reason in sorted(OUTAGE_REASONS) * 10:
        log.write("A/B", reason, 0.001)
        log.write("A/Create", reason, 0.001, change=True)
    log.write("A/B", "INTERNAL", 0.001)
    now += OUTAGE_SECONDS
    log.write("A/Create", "", 0.001, change=True)
    assert [entry["event"] for entry in entries] == ["call", "call", "calls_not_logged", "call"]
    assert [entry.get("reason", "") for entry in entries] == [min(OUTAGE_REASONS), "INTERNAL", "", ""]
    assert entries[2]["calls"] == 20 * len(OUTAGE_REASONS) - 1


@pytest.mark.parametrize(("every", "logged"), [(0, 0), (1, 12), (5, 2)])
def test_one_of_n_calls_is_logged(every: int, logged: int) -> None:
    log = CallLog(every)
    assert sum(log.samples() for _ in range(12)) == logged


# What is never written


def needles(descriptor: Any, depth: int = 0) -> Any:
    """Return a message whose texts, payloads and bytes can be recognized."""
    message = GetMessageClass(descriptor)()
    for field in descriptor.fields:
        value: Any = None
        if field.type == field.TYPE_STRING:
            value = {"email": ADDRESS, "secret": SECRET}.get(field.name, PAYLOAD)
        elif field.type == field.TYPE_BYTES:
            value = PAYLOAD.encode()
        elif field.type == field.TYPE_MESSAGE and field.message_type.full_name == "google.protobuf.Struct":
            value = struct({"given": PAYLOAD, "email": ADDRESS})
        elif field.type == field.TYPE_MESSAGE and depth < 3 and not field.message_type.GetOptions().map_entry:
            value = needles(field.message_type, depth + 1)
        if value is None or (field.containing_oneof is not None and message.WhichOneof(field.containing_oneof.name)):
            continue
        if field.is_repeated:
            getattr(message, field.name).append(value)
        elif field.type == field.TYPE_MESSAGE:
            getattr(message, field.name).CopyFrom(value)
        else:
            setattr(message, field.name, value)
    return message


async def call_everything(service: Service, client: Client) -> None:
    """Call each RPC with texts that can be recognized, over gRPC with good keys and over HTTP with a wrong one."""
    metadata = [("signalbox-project", client.project)]
    headers = {"authorization": f"Bearer {SECRET}", "content-type": "application/proto"}

    async def call(path: str, body: bytes, secret: str) -> None:
        authorized = [*metadata, ("authorization", f"Bearer {secret}")]
        method: Any = client.channel.stream_stream(path)
        answers = method(iter([body]), metadata=authorized, timeout=2)
        with suppress(grpc.aio.AioRpcError):
            async for _ in answers:
                pass

    async with http_client(service) as http:
        for contract in SERVICES:
            for method in contract.methods:
                path = f"/{contract.full_name}/{method.name}"
                body = needles(method.input_type).SerializeToString()
                await asyncio.gather(
                    *(call(path, body, secret) for secret in (client.secret, ADMIN_KEY)),
                    http.post(path, content=body, headers=headers),
                )


async def test_no_output_has_a_secret_a_payload_or_an_address(
    talkative: Service, entries: list[Any], caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    shop = await talkative.shop()
    await automate(shop)
    await shop.upsert(ADDRESS, {"given": PAYLOAD})
    with pytest.raises(grpc.aio.AioRpcError):
        await shop.send(event(email=ADDRESS, properties={"order_total": PAYLOAD}))
    await shop.send(event(email=ADDRESS, properties={"order_total": 5}))
    await shop.contacts.DeleteContact(contacts_pb2.DeleteContactRequest(email=ADDRESS))
    imported = projects_pb2.CreateApiKeyRequest(
        project=shop.project, dialect=projects_pb2.DIALECT_NATIVE, secret=SECRET + "_2"
    )
    await talkative.admin.projects.CreateApiKey(imported)
    subscription = match_stream_pb2.Subscription(
        name="engine", push=match_stream_pb2.Push(url="http://127.0.0.1:1/hook", headers={"x-key": PAYLOAD})
    )
    await shop.matches.CreateSubscription(match_stream_pb2.CreateSubscriptionRequest(subscription=subscription))
    await call_everything(talkative, shop)
    async with http_client(talkative) as http:
        for dialect in ("AUTOSEND", "ARSEL", "OPENSEND", "EMAILSENDX", "RESEND"):
            secret = await talkative.secret(shop.project, projects_pb2.Dialect.Value(f"DIALECT_{dialect}"))
            headers = {"authorization": f"Bearer {secret}", "x-api-key": SECRET}
            body = {"event": ORDER, "email": ADDRESS, "data": {"order_total": PAYLOAD}, "properties": {"x": PAYLOAD}}
            for path in (
                "/v1/events/send",
                "/events/send",
                f"/contacts/{ADDRESS}",
                f"/v1/contacts/{ADDRESS}?q={PAYLOAD}",
            ):
                await http.post(path, json=body, headers=headers)
                await http.get(path, headers=headers)
                await http.post(path, content=PAYLOAD, headers=headers)
        pages = [
            (await http.get("/metrics", headers={"authorization": f"Bearer {key}"} if key else {})).text
            for key in ("", ADMIN_KEY)
        ]
    assert len(calls(entries)) > 150
    logged = [repr(entry) + trace(entry) for entry in entries]
    output = [*logged, *(record.getMessage() for record in caplog.records), *capfd.readouterr(), *pages]
    assert [text for text in output if any(needle in text for needle in NEEDLES) or ADMIN_KEY in text] == []


def trace(entry: Any) -> str:
    error = entry.get("exc_info")
    return "".join(traceback.format_exception(error)) if isinstance(error, BaseException) else ""


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("Key (email)=(ada@example.com) already exists", "Key (email)=([address]) already exists"),
        ("postgresql://user:hunter2@db/name", "postgresql://[secret]@db/name"),
        ("authorization: Bearer abc.def-ghi", "authorization: Bearer [secret]"),
        ("the key sb_0123456789abcdefXYZ failed", "the key [secret] failed"),
        ("esx_live_0123456789abcdefXYZ", "[secret]"),
        ("signalbox_rpc_seconds be_good", "signalbox_rpc_seconds be_good"),
    ],
)
def test_addresses_and_secrets_in_the_words_of_others_are_masked(text: str, masked: str) -> None:
    assert mask(text) == masked
