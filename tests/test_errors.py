from __future__ import annotations

import inspect
import math
import re
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.struct_pb2 import ListValue, Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp
from grpc import StatusCode
from structlog.testing import capture_logs

import automation.errors
import registry.errors
import server.errors
import server.http.errors
from registry.errors import SignalboxError
from server.api.server import GrpcServer
from server.auth.access import Access
from server.bridge.errors import headers_of
from server.errors import InternalError, InvalidArgument, ProjectNotFound, QueueFull, StorageError
from server.http.errors import HttpError
from server.model import Rules
from server.rpc.calls import Calls
from server.rpc.messages import enums
from server.rpc.messages.deliveries import read_settlement
from server.rpc.messages.enums import DIRECTION
from server.rpc.open_calls import OpenCalls
from server.rpc.rich_status import DOMAIN, rich_status
from server.status import CODES
from server.storage.projects.projects import insert_project
from signalbox.v1 import (
    automations_pb2,
    contacts_pb2,
    event_definitions_pb2,
    event_ingest_pb2,
    match_stream_pb2,
    projects_pb2,
)
from tests.support.messages import ADA, ALL_OR_NOTHING, ANYTHING, BOB, COERCED, INDEPENDENT, event, struct
from tests.support.proto_comments import PROTOS
from tests.support.refusals import refusal, verdict
from tests.support.service import ADMIN_KEY, connected
from tests.support.wire import call_raw, nested_struct, send_event

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Iterator

    from server.storage.database import Database
    from tests.support.service import Client, Service

pytestmark = pytest.mark.lasting
# Requests are refused before the database has a part in it.
on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)

INVALID = StatusCode.INVALID_ARGUMENT


def leaves(kind: type[SignalboxError]) -> Iterator[type[SignalboxError]]:
    below = kind.__subclasses__()
    if not below:
        yield kind
    for each in below:
        yield from leaves(each)


ERRORS = [*leaves(SignalboxError)]


# The table


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_every_error_has_a_reason_with_a_code(error: type[SignalboxError]) -> None:
    assert CODES[error.reason] is not StatusCode.OK


def test_every_reason_is_of_some_error() -> None:
    assert {error.reason for error in ERRORS} == set(CODES)


def test_every_reason_of_grpc_is_named_in_the_contract() -> None:
    over_http = {error.reason for error in leaves(HttpError)} | {"CONTACT_ALREADY_EXISTS", "DEFINITION_IN_USE"}
    contract = "\n".join(path.read_text(encoding="utf-8") for path in PROTOS.glob("*.proto"))
    named = set(re.findall(r"\b[A-Z][A-Z_]+\b", contract))
    assert CODES.keys() - over_http - named == set()


def test_a_missing_event_is_the_only_reason_about_events() -> None:
    assert [reason for reason in CODES if "EVENT" in reason] == ["EVENT_NOT_FOUND"]


def test_the_default_message_of_an_error_is_its_docstring() -> None:
    """The docstring of a leaf is complete once its metadata is filled in."""
    assert QueueFull().message == "Too many events are waiting to be stored. Nothing was stored; try again shortly"
    error = ProjectNotFound("a {b}")
    assert (error.message, error.metadata) == ('There is no project "a {b}"', {"project": "a {b}"})
    assert str(error) == error.message


MODULES = [automation.errors, registry.errors, server.http.errors, server.errors]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_the_drawn_tree_names_every_error(module: Any) -> None:
    classes = [name for name, value in inspect.getmembers(module, inspect.isclass) if issubclass(value, Exception)]
    assert [name for name in classes if name not in (module.__doc__ or "")] == []


RETRYABLE = (StatusCode.UNAVAILABLE, StatusCode.RESOURCE_EXHAUSTED)
TOO_LARGE_FOR_EVER = {"BODY_TOO_LARGE"}
"""Exhausted, but by the request itself."""

ARGUMENTS = {"str": "x", "int": 3, "float": 3.0}


def made(error: type[SignalboxError]) -> SignalboxError:
    """Make an error, with some value for whatever its constructor requires."""
    required = [
        each
        for each in inspect.signature(error).parameters.values()
        if each.default is each.empty and each.kind is each.POSITIONAL_OR_KEYWORD
    ]
    arguments: list[Any] = [ARGUMENTS.get(each.annotation, ()) for each in required]
    return error(*arguments)


@pytest.mark.parametrize(
    "error",
    [each for each in ERRORS if CODES[each.reason] in RETRYABLE and each.reason not in TOO_LARGE_FOR_EVER],
    ids=lambda error: error.__name__,
)
def test_every_error_after_which_a_retry_helps_has_a_time_to_retry(error: type[SignalboxError]) -> None:
    details = [packed.TypeName() for packed in rich_status(made(error)).details]
    assert "google.rpc.RetryInfo" in details
    assert dict(headers_of(made(error)))[b"retry-after"].isdigit()


@pytest.mark.parametrize("error", [*leaves(StorageError)], ids=lambda error: error.__name__)
def test_a_storage_error_says_whether_anything_was_stored(error: type[SignalboxError]) -> None:
    assert error is InternalError or "stored" in made(error).message


# What the caller is told


@on_sqlite
async def test_a_refusal_carries_reason_domain_metadata_and_paths(shop: Client) -> None:
    refused = await refusal(shop.send(event(name="nothing")))
    assert (refused.code, refused.reason, refused.domain) == (StatusCode.NOT_FOUND, "DEFINITION_NOT_FOUND", DOMAIN)
    assert refused.metadata == {"event": "nothing"}
    assert "nothing" in refused.message
    refused = await refusal(shop.send(event({"order_total": "abc"})))
    assert (refused.code, refused.reason, refused.domain) == (INVALID, "PAYLOAD_REJECTED", DOMAIN)
    assert refused.violations == (("properties.order_total", "INVALID_PROPERTY_VALUE"),)


@on_sqlite
async def test_a_message_in_any_script_arrives(shop: Client) -> None:
    assert "été ☕" in (await refusal(shop.send(event(name="été ☕")))).message


@on_sqlite
@pytest.mark.parametrize("length", [10, 200])
async def test_a_payload_with_a_hundred_violations_is_refused_with_its_reason(shop: Client, length: int) -> None:
    refused = await refusal(shop.send(event({"x" * length + str(number): number for number in range(150)})))
    assert (refused.code, refused.reason) == (INVALID, "PAYLOAD_REJECTED")
    assert refused.violations[0][1] == "UNKNOWN_PROPERTY"


@on_sqlite
async def test_a_batch_with_a_hundred_violations_is_refused_with_its_reason(shop: Client) -> None:
    refused = await refusal(shop.send_all([event({"x" * 200: number}) for number in range(150)]))
    assert (refused.code, refused.reason) == (INVALID, "BATCH_REJECTED")
    assert refused.violations[0][1] == "UNKNOWN_PROPERTY"


async def test_a_long_name_is_refused_like_a_short_one(shop: Client) -> None:
    long = "x" * 100_000
    get_definition = event_definitions_pb2.GetEventDefinitionRequest(event_definition=long)
    assert await verdict(shop.definitions.GetEventDefinition(get_definition)) == (
        StatusCode.NOT_FOUND,
        "DEFINITION_NOT_FOUND",
    )
    get_event = event_ingest_pb2.GetEventRequest(id=long)
    assert await verdict(shop.ingest.GetEvent(get_event)) == (StatusCode.NOT_FOUND, "EVENT_NOT_FOUND")
    get_contact = contacts_pb2.GetContactRequest(id=long)
    assert await verdict(shop.contacts.GetContact(get_contact)) == (StatusCode.NOT_FOUND, "CONTACT_NOT_FOUND")
    assert await verdict(shop.send(event(contact_id=long))) == (StatusCode.NOT_FOUND, "CONTACT_NOT_FOUND")


class Broken:
    """A servicer with a defect in each of its methods."""

    async def ListContacts(self, _request: Any, _caller: Any) -> Any:  # noqa: N802 - the contract's name
        raise RuntimeError("the password is hunter2")

    async def StreamEvents(self, requests: AsyncIterator[Any], _caller: Any) -> AsyncIterator[Any]:  # noqa: N802
        async for _ in requests:
            yield event_ingest_pb2.StreamEventsResponse(sequence=1)
            raise RuntimeError("the password is hunter2")


async def test_a_defect_is_logged_and_not_disclosed(database: Database) -> None:
    servicers = {"Contacts": Broken(), "EventIngest": Broken()}
    broken = GrpcServer(Calls(Access(database, ADMIN_KEY, b"page secret"), OpenCalls()), servicers)
    address = await broken.start("127.0.0.1:0", None)
    async with connected(address) as service:
        project = await database.write(lambda connection: insert_project(connection, "id", "shop", Rules(), 1))
        client = service.client(ADMIN_KEY, project.id)
        with capture_logs() as logs:
            told = [
                await refusal(client.contacts.ListContacts(contacts_pb2.ListContactsRequest())),
                await refusal(drained(client)),
            ]
        await broken.stop(0)
    for refused in told:
        assert (refused.code, refused.reason) == (StatusCode.INTERNAL, "INTERNAL")
        assert (refused.message, refused.metadata) == ("Internal error", {})
    failures = [entry for entry in logs if entry["log_level"] == "error"]
    # Not the lines of the server that the other tests share.
    of_calls = [entry["event"] for entry in logs if entry["event"].startswith("call")]
    assert of_calls == ["call_failed", "call"] * 2
    assert [str(entry["exc_info"]) for entry in failures] == ["the password is hunter2"] * 2


async def drained(client: Client) -> None:
    async for _ in client.ingest.StreamEvents(iter([event_ingest_pb2.StreamEventsRequest()])):
        pass


# Bad input, over the wire


@on_sqlite
@pytest.mark.parametrize(
    ("sent", "code", "reason"),
    [
        (event(name="nothing"), StatusCode.NOT_FOUND, "DEFINITION_NOT_FOUND"),
        (event(name=""), INVALID, "INVALID_NAME"),
        (event(name=" \t"), INVALID, "INVALID_NAME"),
        (event(name="a\x00b"), INVALID, "INVALID_NAME"),
        (event(name="x" * 256), INVALID, "INVALID_NAME"),
        (event({"colour": "red"}), INVALID, "PAYLOAD_REJECTED"),
        (event({"order_total": "abc"}), INVALID, "PAYLOAD_REJECTED"),
        (event({"order_total": [1]}), INVALID, "PAYLOAD_REJECTED"),
        (event(email=""), INVALID, "INVALID_ARGUMENT"),
        (event(email="   "), INVALID, "INVALID_ARGUMENT"),
        (event(email="ada"), INVALID, "INVALID_ARGUMENT"),
        (event(email="ada@example.com\x00"), INVALID, "INVALID_ARGUMENT"),
        (event(email=BOB), StatusCode.NOT_FOUND, "CONTACT_NOT_FOUND"),
        (event(contact_id=""), INVALID, "CONTACT_REQUIRED"),
        (event(contact_id="01900000-0000-7000-8000-000000000000"), StatusCode.NOT_FOUND, "CONTACT_NOT_FOUND"),
        (event(contact_id="a\x00b"), StatusCode.NOT_FOUND, "CONTACT_NOT_FOUND"),
        (event_ingest_pb2.EventInput(name="order_completed"), INVALID, "CONTACT_REQUIRED"),
        (event(key="x" * 256), INVALID, "INVALID_ARGUMENT"),
        (event(key="schlüssel"), INVALID, "INVALID_ARGUMENT"),
        (event(key="a\nb"), INVALID, "INVALID_ARGUMENT"),
        (event(occurred_at=253_402_300_800), INVALID, "INVALID_ARGUMENT"),
        (event(occurred_at=-62_135_596_801), INVALID, "INVALID_ARGUMENT"),
    ],
)
async def test_a_bad_event_is_refused_with_its_reason(
    shop: Client, sent: event_ingest_pb2.EventInput, code: StatusCode, reason: str
) -> None:
    assert await verdict(shop.send(sent)) == (code, reason)
    (result,) = await shop.send_all([sent], INDEPENDENT)
    assert (result.error.code, result.error.reason) == (code.value[0], reason)
    assert await verdict(shop.send_all([event(), sent], ALL_OR_NOTHING)) == (INVALID, "BATCH_REJECTED")
    assert await shop.log() == []


@on_sqlite
@pytest.mark.parametrize("nanos", [-1, 1_000_000_000])
async def test_a_timestamp_has_less_than_a_second_of_nanoseconds(shop: Client, nanos: int) -> None:
    sent = event()
    sent.occurred_at.CopyFrom(Timestamp(seconds=1, nanos=nanos))
    refused = await refusal(shop.send(sent))
    assert refused.violations == (("occurred_at", "INVALID_TIMESTAMP"),)


@on_sqlite
@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("make", "path"),
    [
        (lambda value: {"order_total": value}, "properties.order_total"),
        (lambda value: {"a b": value}, 'properties["a b"]'),
        (lambda value: {"currency": {"deep": [1, value]}}, "properties.currency.deep[1]"),
    ],
)
async def test_a_number_that_is_not_finite_is_refused_wherever_it_stands(
    shop: Client, number: float, make: Any, path: str
) -> None:
    refused = await refusal(shop.send(event(unchecked(make(number)))))
    assert (refused.code, refused.violations) == (INVALID, ((path, "INVALID_PROPERTY_VALUE"),))
    contact = contacts_pb2.UpsertContactRequest(email=ADA, properties=unchecked(make(number)))
    refused = await refusal(shop.contacts.UpsertContact(contact))
    assert (refused.code, refused.violations) == (INVALID, ((path, "INVALID_PROPERTY_VALUE"),))


def unchecked(value: Any) -> Any:
    """Make a Struct of anything; the library's own way looks at numbers."""
    made = Struct()
    for name, inner in value.items():
        made.fields[name].CopyFrom(unchecked_value(inner))
    return made


def unchecked_value(value: Any) -> Value:
    if isinstance(value, dict):
        return Value(struct_value=unchecked(value))
    if isinstance(value, list):
        return Value(list_value=ListValue(values=map(unchecked_value, value)))
    return Value(number_value=value)


def nested(levels: int) -> Struct:
    """Return a Struct with a number of levels; properties themselves are the first."""
    made = Struct.FromString(nested_struct(levels - 2, b"inner"))
    return Struct(fields={"a": Value(struct_value=made)}) if levels > 1 else Struct()


async def test_properties_nest_32_levels_deep_and_come_back(shop: Client) -> None:
    await shop.define("deep", ANYTHING)
    deep = event(nested(32), name="deep")
    sent = await shop.send(deep)
    assert sent.event.properties == nested(32)
    (result,) = await shop.send_all([deep], view=COERCED)
    assert result.receipt.event.properties == nested(32)
    assert [each.properties for each in await shop.log()] == [nested(32)] * 2
    stream = shop.ingest.StreamEvents(iter([event_ingest_pb2.StreamEventsRequest(events=[deep], view=COERCED)]))
    async for answer in stream:
        assert answer.results[0].receipt.event.properties == nested(32)
    await shop.upsert(BOB)
    contact = contacts_pb2.UpsertContactRequest(email=BOB, properties=nested(32))
    assert (await shop.contacts.UpsertContact(contact)).contact.properties == nested(32)


async def test_a_dropped_property_32_levels_deep_is_reported(shop: Client) -> None:
    dropping = event_definitions_pb2.Schema(unknown_properties=event_definitions_pb2.UNKNOWN_PROPERTIES_DROP)
    await shop.define("deep", dropping)
    (result,) = await shop.send_all([event(nested(32), name="deep")], view=COERCED)
    (change,) = result.receipt.event.coercions
    assert getattr(change, "from").struct_value == nested(32).fields["a"].struct_value


@on_sqlite
async def test_properties_nest_no_deeper(shop: Client) -> None:
    await shop.define("deep", ANYTHING)
    refused = await refusal(shop.send(event(nested(33), name="deep")))
    assert (refused.code, [reason for _, reason in refused.violations]) == (INVALID, ["TOO_DEEP"])


@on_sqlite
@pytest.mark.parametrize("depth", [100, 10_000])
async def test_hostile_nesting_is_refused_as_malformed(shop: Client, depth: int) -> None:
    request = send_event(nested_struct(depth))
    refused = await refusal(call_raw(shop.channel, "EventIngest/SendEvent", request, shop.metadata))
    assert (refused.code, refused.reason) == (INVALID, "MALFORMED_REQUEST")
    assert (await shop.send()).event.position == 1


@on_sqlite
@pytest.mark.parametrize("method", ["EventIngest/SendEvent", "Contacts/GetContact", "Automations/GetRun"])
async def test_bytes_that_are_no_message_are_refused(shop: Client, method: str) -> None:
    refused = await refusal(call_raw(shop.channel, method, b"\xff\xff\xff garbage", shop.metadata))
    assert (refused.code, refused.reason) == (INVALID, "MALFORMED_REQUEST")


@on_sqlite
async def test_bytes_that_are_no_message_end_a_stream_after_its_answers(shop: Client) -> None:
    good = event_ingest_pb2.StreamEventsRequest(sequence=1, events=[event()]).SerializeToString()
    parse = event_ingest_pb2.StreamEventsResponse.FromString
    method: grpc.aio.StreamStreamMultiCallable[bytes, event_ingest_pb2.StreamEventsResponse]
    method = shop.channel.stream_stream("/signalbox.v1.EventIngest/StreamEvents", None, parse)
    call = method(iter([good, b"\xff garbage"]), metadata=shop.metadata)
    first = await call.read()
    assert isinstance(first, event_ingest_pb2.StreamEventsResponse)
    assert first.sequence == 1
    assert await verdict(call.read()) == (INVALID, "MALFORMED_REQUEST")


@on_sqlite
async def test_a_caller_without_a_key_does_not_learn_that_its_bytes_are_malformed(shop: Client) -> None:
    code, _ = await verdict(call_raw(shop.channel, "EventIngest/SendEvent", b"\xff", []))
    assert code is StatusCode.UNAUTHENTICATED


@on_sqlite
async def test_a_message_beyond_16_mib_is_refused(shop: Client) -> None:
    code, _ = await verdict(shop.send(event({"currency": "x" * (17 << 20)})))
    assert code is StatusCode.RESOURCE_EXHAUSTED
    assert (await shop.send()).event.position == 1


@on_sqlite
@pytest.mark.parametrize(
    ("properties", "reason"),
    [
        ({f"p{number}": number for number in range(10_001)}, "TOO_MANY_VALUES"),
        ({"list": list(range(10_000))}, "TOO_MANY_VALUES"),
        ({"text": "x" * 257 * 1024}, "TOO_LARGE"),
        ({f"p{number}": "x" * 30_000 for number in range(9)}, "TOO_LARGE"),
    ],
)
async def test_properties_beyond_their_budget_are_refused(
    shop: Client, properties: dict[str, Any], reason: str
) -> None:
    await shop.define("big", ANYTHING)
    refused = await refusal(shop.send(event(properties, name="big")))
    assert (refused.code, refused.violations) == (INVALID, (("properties", reason),))


@pytest.mark.parametrize(
    "properties",
    [
        {f"p{number}": number for number in range(10_000)},
        {"list": list(range(9_999))},
        {"text": "x" * (256 * 1024 - 20)},
    ],
)
async def test_properties_within_their_budget_are_kept(shop: Client, properties: dict[str, Any]) -> None:
    await shop.define("big", ANYTHING)
    recorded = (await shop.send(event(properties, name="big"))).event
    assert recorded.properties == struct(properties)
    assert await shop.get(recorded.id) == recorded


@on_sqlite
@pytest.mark.parametrize("count", [0, 10_001])
async def test_a_batch_holds_1_to_10000_events(shop: Client, count: int) -> None:
    refused = await refusal(shop.send_all([event()] * count))
    assert (refused.code, refused.violations) == (INVALID, (("events", "OUT_OF_RANGE"),))


async def test_a_batch_of_10000_events_is_stored(shop: Client) -> None:
    results = await shop.send_all([event()] * 10_000)
    assert [result.receipt.event.position for result in results] == list(range(1, 10_001))


@on_sqlite
@pytest.mark.parametrize("token", ["x", "%%%", "é", "bnVsbA==", "W10=", "eyJhIjoxfQ==", "W" * 100_000, "W1tb" * 50_000])
async def test_a_malformed_page_token_is_refused_by_every_list(service: Service, token: str) -> None:
    shop = await service.shop()
    calls: list[Awaitable[Any]] = [
        shop.ingest.ListEvents(event_ingest_pb2.ListEventsRequest(page_token=token)),
        shop.contacts.ListContacts(contacts_pb2.ListContactsRequest(page_token=token)),
        shop.definitions.ListEventDefinitions(
            event_definitions_pb2.ListEventDefinitionsRequest(page_token=token),
        ),
        shop.definitions.ListRevisions(
            event_definitions_pb2.ListRevisionsRequest(event_definition="order_completed", page_token=token)
        ),
        shop.automations.ListAutomations(automations_pb2.ListAutomationsRequest(page_token=token)),
        shop.automations.ListRuns(automations_pb2.ListRunsRequest(page_token=token)),
        shop.definitions.ListDependents(
            event_definitions_pb2.ListDependentsRequest(event_definition="order_completed", page_token=token)
        ),
        service.admin.projects.ListProjects(projects_pb2.ListProjectsRequest(page_token=token)),
        service.admin.projects.ListApiKeys(projects_pb2.ListApiKeysRequest(project=shop.project, page_token=token)),
    ]
    for call in calls:
        assert await verdict(call) == (INVALID, "INVALID_PAGE_TOKEN")


@on_sqlite
async def test_an_unknown_enum_number_is_refused_with_its_path(service: Service) -> None:
    shop = await service.shop()
    unknown: Any = 99
    definition = event_definitions_pb2.EventDefinition(name="x", compatibility=unknown)
    untyped = event_definitions_pb2.EventDefinition(name="x", schema=event_definitions_pb2.Schema(coercion=unknown))
    create = event_definitions_pb2.CreateEventDefinitionRequest
    project = projects_pb2.Project(name="other", name_case=unknown)
    for call, path in (
        (shop.send(event(), unknown), "view"),
        (shop.send_all([event()], unknown), "mode"),
        (shop.send_all([event()], INDEPENDENT, unknown), "view"),
        (shop.definitions.CreateEventDefinition(create(event_definition=definition)), "compatibility"),
        (shop.definitions.CreateEventDefinition(create(event_definition=untyped)), "schema.coercion"),
        (
            shop.definitions.CheckCompatibility(
                event_definitions_pb2.CheckCompatibilityRequest(
                    event_definition="order_completed",
                    schema=event_definitions_pb2.Schema(),
                    compatibility=unknown,
                )
            ),
            "compatibility",
        ),
        (service.admin.projects.CreateProject(projects_pb2.CreateProjectRequest(project=project)), "name_case"),
        (
            service.admin.projects.CreateApiKey(
                projects_pb2.CreateApiKeyRequest(project=shop.project, dialect=unknown)
            ),
            "dialect",
        ),
    ):
        refused = await refusal(call)
        assert (refused.code, refused.violations) == (INVALID, ((path, "INVALID_ENUM_VALUE"),))


async def test_no_text_makes_an_internal_error(service: Service) -> None:
    """A NUL is the character that a database may not take."""
    shop = await service.shop()
    text = "a\x00b"
    definition = event_definitions_pb2.EventDefinition(name="fine", description=text)
    calls: dict[str, Awaitable[Any]] = {
        "GetEvent": shop.ingest.GetEvent(event_ingest_pb2.GetEventRequest(id=text)),
        "ListEvents by name": shop.ingest.ListEvents(event_ingest_pb2.ListEventsRequest(name=text)),
        "ListEvents by contact": shop.ingest.ListEvents(event_ingest_pb2.ListEventsRequest(contact_id=text)),
        "GetContact": shop.contacts.GetContact(contacts_pb2.GetContactRequest(id=text)),
        "ListContacts": shop.contacts.ListContacts(contacts_pb2.ListContactsRequest(search=text)),
        "UpsertContact": shop.upsert(BOB, {text: text}),
        "GetEventDefinition": shop.definitions.GetEventDefinition(
            event_definitions_pb2.GetEventDefinitionRequest(event_definition=text)
        ),
        "ListEventDefinitions": shop.definitions.ListEventDefinitions(
            event_definitions_pb2.ListEventDefinitionsRequest(search=text)
        ),
        "CreateEventDefinition": shop.definitions.CreateEventDefinition(
            event_definitions_pb2.CreateEventDefinitionRequest(event_definition=definition)
        ),
        "GetProject": service.admin.projects.GetProject(projects_pb2.GetProjectRequest(project=text)),
        "RevokeApiKey": service.admin.projects.RevokeApiKey(projects_pb2.RevokeApiKeyRequest(id=text)),
        "CreateApiKey": service.admin.projects.CreateApiKey(
            projects_pb2.CreateApiKeyRequest(project=shop.project, description=text)
        ),
    }
    codes = {}
    for name, call in calls.items():
        try:
            await call
        except grpc.aio.AioRpcError as error:
            codes[name] = error.code()
    assert [name for name, code in codes.items() if code is StatusCode.INTERNAL] == []


async def test_a_nul_inside_properties_is_kept(shop: Client) -> None:
    recorded = (await shop.send(event({"currency": "a\x00b"}))).event
    assert recorded.properties == struct({"currency": "a\x00b"})
    assert await shop.get(recorded.id) == recorded


@on_sqlite
async def test_a_request_has_up_to_16_mib(shop: Client) -> None:
    largest = 16 * 1024 * 1024
    # A field that no message has: its key and its length take seven bytes.
    key, length = b"\xfa\xff\x07", largest - 7
    request = key + bytes((length >> shift & 0x7F) | 0x80 for shift in (0, 7, 14)) + bytes([length >> 21])
    call = partial(call_raw, shop.channel, "EventIngest/SendEvent", metadata=shop.metadata)
    refused = await refusal(call(request + bytes(length)))
    assert refused.code == INVALID
    refused = await refusal(call(request + bytes(length + 1)))
    assert refused.code == StatusCode.RESOURCE_EXHAUSTED


def test_a_missing_message_and_a_message_out_of_place_are_told_apart() -> None:
    with pytest.raises(InvalidArgument, match="message is missing; later messages must be ack"):
        read_settlement(match_stream_pb2.ConsumeMatchesRequest())
    opening = match_stream_pb2.ConsumeMatchesRequest(open=match_stream_pb2.OpenConsumer())
    with pytest.raises(InvalidArgument, match='message is "open", which must be the first message'):
        read_settlement(opening)


@pytest.mark.parametrize(("number", "fault"), [(0, "rule is missing"), (99, "rule has the unknown value 99")])
def test_a_missing_enum_value_and_an_unknown_one_are_told_apart(number: int, fault: str) -> None:
    with pytest.raises(InvalidArgument, match=f"^{fault}; it must be one of DIRECTION_BACKWARD, DIRECTION_FORWARD$"):
        DIRECTION.read(number, "rule")


ENUMS = {name: found for name, found in vars(enums).items() if isinstance(found, enums.EnumMap)}


@pytest.mark.parametrize("name", ENUMS)
def test_an_unknown_enum_value_is_refused_with_the_constants_of_the_contract(name: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        ENUMS[name].read(99, "field")
    constants = refused.value.message.partition("one of ")[2].split(", ")
    accepted = {member: ENUMS[name].write(member) for member in ENUMS[name].members()}
    assert [constant.rpartition("_")[2] for constant in constants] == [
        member.name.rpartition("_")[2] for member in accepted
    ]
    contract = "".join(path.read_text(encoding="utf-8") for path in PROTOS.glob("*.proto"))
    assert set(constants) <= set(re.findall(r"^ +([A-Z][A-Z0-9_]+) = [0-9]+", contract, re.MULTILINE))
