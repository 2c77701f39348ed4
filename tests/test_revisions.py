from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.struct_pb2 import ListValue, Struct, Value
from grpc import StatusCode

from server.storage.events import history as event_history
from signalbox.v1 import event_definitions_pb2 as pb
from signalbox.v1 import event_ingest_pb2, projects_pb2
from tests.support.automations import automate
from tests.support.messages import BOB, COERCED, ORDER, ORDER_SCHEMA, event, orders, schema, struct
from tests.support.refusals import refusal, verdict

if TYPE_CHECKING:
    from tests.support.refusals import Refusal
    from tests.support.service import Client, Service
    from tests.support.stores import Store

pytestmark = pytest.mark.lasting
# Schemas are compared, and payloads validated, without the database.
on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)

INVALID = StatusCode.INVALID_ARGUMENT
DEFINITION_NOT_FOUND = (StatusCode.NOT_FOUND, "DEFINITION_NOT_FOUND")
INCOMPATIBLE = (StatusCode.FAILED_PRECONDITION, "INCOMPATIBLE_SCHEMA")

RULES = {name.removeprefix("COMPATIBILITY_"): number for name, number in pb.Compatibility.items() if number}

NUMBER = schema(total="number")
NUMBER_AND_NOTE = schema(total="number", note="string")
STRING = schema(total="string")


def total(*, required: bool = False, description: str = "") -> pb.Schema:
    """Make a schema with a number `total`."""
    return pb.Schema(
        properties=[pb.Property(name="total", type=pb.PROPERTY_TYPE_NUMBER, required=required, description=description)]
    )


async def get(client: Client, name_or_id: str = ORDER) -> pb.EventDefinition:
    request = pb.GetEventDefinitionRequest(event_definition=name_or_id)
    return (await client.definitions.GetEventDefinition(request)).event_definition


async def get_schema(client: Client, number: int) -> pb.Schema:
    request = pb.GetRevisionRequest(event_definition=ORDER, number=number)
    return (await client.definitions.GetRevision(request)).revision.schema


async def update(client: Client, **fields: Any) -> pb.EventDefinition:
    request = pb.UpdateEventDefinitionRequest(event_definition=ORDER, **fields)
    return (await client.definitions.UpdateEventDefinition(request)).event_definition


async def rollback(client: Client, number: int, name_or_id: str = ORDER, **fields: Any) -> pb.EventDefinition:
    request = pb.RollbackRevisionRequest(event_definition=name_or_id, number=number, **fields)
    return (await client.definitions.RollbackRevision(request)).event_definition


async def check(
    client: Client, candidate: pb.Schema | None, name_or_id: str = ORDER, **fields: Any
) -> pb.CheckCompatibilityResponse:
    request = pb.CheckCompatibilityRequest(event_definition=name_or_id, schema=candidate, **fields)
    return await client.definitions.CheckCompatibility(request)


async def validate(client: Client, properties: Struct | None = None, **fields: Any) -> pb.ValidateEventResponse:
    if not fields.keys() & {"event_definition", "schema"}:
        fields["event_definition"] = ORDER
    return await client.definitions.ValidateEvent(pb.ValidateEventRequest(properties=properties, **fields))


async def dependents(client: Client, name_or_id: str = ORDER, **fields: Any) -> pb.ListDependentsResponse:
    return await client.definitions.ListDependents(pb.ListDependentsRequest(event_definition=name_or_id, **fields))


async def seen(client: Client, name_or_id: str = ORDER) -> dict[int, int]:
    """Count the recent events by revision."""
    found = (await dependents(client, name_or_id)).dependents
    return {each.traffic.revision: each.traffic.event_count for each in found}


async def with_history(service: Service, *history: pb.Schema) -> Client:
    """Make a project whose order_completed had these schemas."""
    client = await service.project()
    await client.define(schema=history[0])
    for each in history[1:]:
        await client.redefine(each)
    return client


# Rolling back


async def test_a_rollback_makes_a_new_revision_that_equals_the_old_one(shop: Client) -> None:
    first = await get(shop)
    second = await shop.redefine(NUMBER)
    rolled = await rollback(shop, 1)
    assert (rolled.revision, rolled.schema) == (3, first.schema)
    assert rolled.etag != second.etag
    assert [await get_schema(shop, number) for number in (1, 2, 3)] == [first.schema, second.schema, first.schema]
    assert (await shop.send(event({"currency": "USD"}))).event.revision == 3


async def test_a_rollback_to_the_current_schema_changes_nothing(shop: Client) -> None:
    before = await get(shop)
    assert await rollback(shop, 1) == before
    await shop.redefine(NUMBER)
    latest = await rollback(shop, 1)
    assert await rollback(shop, 1) == latest
    assert await rollback(shop, 3) == latest


@pytest.mark.parametrize("number", [0, -1, 2, 2**31 - 1])
async def test_a_rollback_to_no_revision_is_refused_at_its_field(shop: Client, number: int) -> None:
    refused = await refusal(rollback(shop, number))
    assert (refused.code, refused.reason) == (StatusCode.NOT_FOUND, "REVISION_NOT_FOUND")
    assert refused.violations == (("number", "REVISION_NOT_FOUND"),)


async def test_the_second_of_two_editors_gets_the_current_etag(shop: Client) -> None:
    await shop.redefine(NUMBER)
    read = (await get(shop)).etag
    first = await rollback(shop, 1, etag=read)
    for late in (rollback(shop, 2, etag=read), update(shop, schema=STRING, etag=read)):
        refused = await refusal(late)
        assert (refused.code, refused.reason) == (StatusCode.ABORTED, "ETAG_MISMATCH")
        assert refused.metadata == {"etag": first.etag}
        assert f'"{first.etag}"' in refused.message
        assert refused.violations == (("etag", "ETAG_MISMATCH"),)
    assert await get(shop) == first
    assert (await rollback(shop, 2, etag=first.etag)).revision == 4


async def test_every_change_changes_the_etag(shop: Client) -> None:
    calls = (
        get(shop),
        update(shop, description="Paid"),
        update(shop, compatibility=pb.COMPATIBILITY_FORWARD),
        update(shop, compatibility=pb.COMPATIBILITY_NONE, schema=NUMBER),
        rollback(shop, 1),
        shop.undefine(),
    )
    assert len({(await call).etag for call in calls}) == 6


async def test_a_deleted_definition_is_not_rolled_back_until_it_is_undeleted(shop: Client) -> None:
    schemas = [(await get(shop)).schema, (await shop.redefine(NUMBER)).schema]
    deleted = await shop.undefine()
    assert await verdict(rollback(shop, 1)) == DEFINITION_NOT_FOUND
    refused = await refusal(rollback(shop, 1, deleted.id))
    assert (refused.code, refused.reason) == (StatusCode.FAILED_PRECONDITION, "DEFINITION_DELETED")
    assert refused.violations == (("event_definition", "DEFINITION_DELETED"),)
    await shop.definitions.UndeleteEventDefinition(pb.UndeleteEventDefinitionRequest(id=deleted.id))
    assert [await get_schema(shop, number) for number in (1, 2)] == schemas
    assert (await rollback(shop, 1)).revision == 3


async def test_checking_and_validating_write_nothing(shop: Client, store: Store) -> None:
    await shop.redefine(NUMBER)
    tables = ("event_definition", "event_definition_revision", "project_head", "event")
    before = [await store.rows(table) for table in tables]
    assert (await rollback(shop, 1, validate_only=True)).revision == 3
    assert (await update(shop, schema=STRING, validate_only=True)).revision == 3
    assert await verdict(rollback(shop, 9, validate_only=True)) == (StatusCode.NOT_FOUND, "REVISION_NOT_FOUND")
    assert (await check(shop, STRING)).compatible
    assert (await validate(shop, struct({"total": "5"}))).valid
    assert [await store.rows(table) for table in tables] == before


# The rule for changes

LOOSENED = (total(required=True), total())
TIGHTENED = (total(), total(required=True))


@on_sqlite
@pytest.mark.parametrize(
    ("history", "candidate", "allowing"),
    [
        (LOOSENED, total(description="paid"), {"BACKWARD", "BACKWARD_TRANSITIVE", "FORWARD", "FULL"}),
        (TIGHTENED, total(required=True, description="paid"), {"BACKWARD", "FORWARD", "FORWARD_TRANSITIVE", "FULL"}),
        (LOOSENED, total(required=True, description="paid"), {"FORWARD", "FORWARD_TRANSITIVE"}),
        (LOOSENED, NUMBER_AND_NOTE, {"BACKWARD", "BACKWARD_TRANSITIVE"}),
        (LOOSENED, STRING, set()),
    ],
    ids=["described", "described_tightened", "required", "added", "retyped"],
)
async def test_each_compatibility_rule_allows_its_changes(
    service: Service, history: tuple[pb.Schema, ...], candidate: pb.Schema, allowing: set[str]
) -> None:
    client = await with_history(service, *history)
    for rule, number in RULES.items():
        answer = await check(client, candidate, compatibility=number)
        assert (answer.compatible, answer.compatibility, answer.changed) == (rule in {*allowing, "NONE"}, number, True)
        assert bool(answer.incompatibilities) is not answer.compatible
        change = update(client, schema=candidate, compatibility=number, validate_only=True)
        if answer.compatible:
            assert (await change).revision == 3
        else:
            refused = await refusal(change)
            assert (refused.code, refused.reason) == INCOMPATIBLE
            assert refused.violations == tuple((each.path, each.kind) for each in answer.incompatibilities)


@on_sqlite
async def test_an_incompatible_schema_is_refused_with_each_incompatibility(service: Service) -> None:
    client = await with_history(service, NUMBER)
    await update(client, compatibility=pb.COMPATIBILITY_FULL)
    refused = await told(client, STRING)
    assert refused.metadata == {"event": ORDER, "compatibility": "FULL", "revision": "1"}
    assert refused.violations == (("properties.total", "TYPE_CHANGED"),) * 2
    answer = await check(client, STRING)
    assert [(each.path, each.kind, each.old, each.new, each.revision) for each in answer.incompatibilities] == [
        ("properties.total", "TYPE_CHANGED", "number", "string", 1)
    ] * 2
    assert [each.direction for each in answer.incompatibilities] == [
        pb.Incompatibility.DIRECTION_BACKWARD,
        pb.Incompatibility.DIRECTION_FORWARD,
    ]
    for word in ("FULL", f'"{ORDER}"', "2 places", "properties.total", "revision 1", '"number"', '"string"'):
        assert word in refused.message
    assert (await get(client)).revision == 1


async def told(client: Client, candidate: pb.Schema) -> Refusal:
    refused = await refusal(update(client, schema=candidate))
    assert (refused.code, refused.reason) == INCOMPATIBLE
    return refused


async def test_a_transitive_rule_looks_beyond_the_latest_revision(service: Service) -> None:
    client = await with_history(service, NUMBER, pb.Schema())
    await update(client, compatibility=pb.COMPATIBILITY_BACKWARD_TRANSITIVE)
    assert [each.revision for each in (await check(client, STRING)).incompatibilities] == [1]
    refused = await told(client, STRING)
    assert "revision 1" in refused.message
    assert refused.metadata is not None
    assert refused.metadata["revision"] == "2"
    await update(client, compatibility=pb.COMPATIBILITY_BACKWARD)
    assert (await update(client, schema=STRING)).revision == 3


async def test_a_rule_holds_from_the_creation_on(service: Service) -> None:
    client = await service.project()
    definition = pb.EventDefinition(name=ORDER, schema=NUMBER, compatibility=pb.COMPATIBILITY_FORWARD)
    request = pb.CreateEventDefinitionRequest(event_definition=definition)
    made = (await client.definitions.CreateEventDefinition(request)).event_definition
    assert made.compatibility == pb.COMPATIBILITY_FORWARD
    await told(client, NUMBER_AND_NOTE)


@on_sqlite
async def test_a_schema_must_satisfy_the_rule_of_the_same_update(service: Service) -> None:
    client = await with_history(service, NUMBER)
    await update(client, compatibility=pb.COMPATIBILITY_FULL)
    changed = await update(client, schema=STRING, compatibility=pb.COMPATIBILITY_NONE)
    assert (changed.revision, changed.compatibility) == (2, pb.COMPATIBILITY_NONE)
    call = update(client, schema=NUMBER, compatibility=pb.COMPATIBILITY_BACKWARD)
    assert await verdict(call) == INCOMPATIBLE
    assert await get(client) == changed


@on_sqlite
async def test_switching_the_rule_and_an_equal_schema_are_always_allowed(service: Service) -> None:
    client = await with_history(service, STRING, NUMBER_AND_NOTE)
    switched = await update(client, compatibility=pb.COMPATIBILITY_FULL_TRANSITIVE)
    assert switched.revision == 2
    same = pb.Schema(properties=reversed(NUMBER_AND_NOTE.properties))
    assert await update(client, schema=same) == switched
    assert await rollback(client, 2) == switched


async def test_a_rollback_keeps_the_rule(service: Service) -> None:
    client = await with_history(service, NUMBER, NUMBER_AND_NOTE)
    await update(client, compatibility=pb.COMPATIBILITY_BACKWARD)
    refused = await refusal(rollback(client, 1))
    assert (refused.code, refused.reason) == INCOMPATIBLE
    assert refused.violations == (("properties.note", "PROPERTY_REMOVED"),)
    await update(client, compatibility=pb.COMPATIBILITY_FORWARD)
    assert (await rollback(client, 1)).revision == 3


async def test_of_two_that_suit_the_past_but_not_each_other_one_is_made(service: Service) -> None:
    for _ in range(3):
        client = await with_history(service, NUMBER)
        await update(client, compatibility=pb.COMPATIBILITY_BACKWARD)
        candidates = [schema(total="number", extra=kind) for kind in ("string", "boolean", "date", "object")]
        assert all([(await check(client, each)).compatible for each in candidates])
        calls = (update(client, schema=each) for each in candidates)
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        made = [each for each in outcomes if isinstance(each, pb.EventDefinition)]
        refused = [each for each in outcomes if isinstance(each, grpc.aio.AioRpcError)]
        assert (len(made), len(refused)) == (1, 3)
        assert {each.code() for each in refused} == {StatusCode.FAILED_PRECONDITION}
        assert await get(client) == made[0]
        assert made[0].revision == 2


# Checking a candidate


@on_sqlite
async def test_an_equal_candidate_is_no_change(shop: Client) -> None:
    same = pb.Schema(properties=reversed(ORDER_SCHEMA.properties))
    answer = await check(shop, same, compatibility=pb.COMPATIBILITY_FULL)
    assert (answer.compatible, answer.changed) == (True, False)


@on_sqlite
async def test_a_candidate_is_checked_by_the_definitions_own_rule_and_for_a_deleted_one_too(service: Service) -> None:
    client = await with_history(service, NUMBER)
    assert (await check(client, STRING)).compatibility == pb.COMPATIBILITY_NONE
    await update(client, compatibility=pb.COMPATIBILITY_BACKWARD)
    deleted = await client.undefine()
    assert await verdict(check(client, STRING)) == DEFINITION_NOT_FOUND
    answer = await check(client, STRING, deleted.id)
    assert (answer.compatible, answer.compatibility) == (False, pb.COMPATIBILITY_BACKWARD)


@on_sqlite
async def test_a_missing_candidate_is_refused_at_its_field(shop: Client) -> None:
    refused = await refusal(check(shop, None))
    assert (refused.code, refused.violations) == (INVALID, (("schema", "INVALID_ARGUMENT"),))


def nested(levels: int) -> pb.Schema:
    """Return a schema with this many levels."""
    inner = pb.Property(name="a", type=pb.PROPERTY_TYPE_STRING)
    for _ in range(levels - 1):
        inner = pb.Property(name="a", type=pb.PROPERTY_TYPE_OBJECT, properties=[inner])
    return pb.Schema(properties=[inner])


def named(*names: str) -> pb.Schema:
    """Make a schema of strings; unlike keyword arguments, names may be anything."""
    return pb.Schema(properties=[pb.Property(name=name, type=pb.PROPERTY_TYPE_STRING) for name in names])


UNKNOWN: Any = 99


@on_sqlite
@pytest.mark.parametrize(
    ("wrong", "path", "reason"),
    [
        (named("a", "b", "a"), "schema.properties[2].name", "DUPLICATE_PROPERTY"),
        (named("a", ""), "schema.properties[1].name", "INVALID_PROPERTY_NAME"),
        (named("a\nb"), "schema.properties[0].name", "INVALID_PROPERTY_NAME"),
        (named("x" * 256), "schema.properties[0].name", "INVALID_PROPERTY_NAME"),
        (named(*map(str, range(51))), "schema.properties[50]", "TOO_MANY_PROPERTIES"),
        (nested(11), "schema" + ".properties[0]" * 10 + ".properties", "SCHEMA_TOO_DEEP"),
        (pb.Schema(properties=[pb.Property(name="a")]), "schema.properties[0].type", "INVALID_ENUM_VALUE"),
        (
            pb.Schema(properties=[pb.Property(name="a", type=UNKNOWN)]),
            "schema.properties[0].type",
            "INVALID_ENUM_VALUE",
        ),
    ],
    ids=["duplicate", "blank", "control", "long", "51", "deep", "untyped", "unknown_type"],
)
async def test_an_invalid_schema_is_rejected_with_its_path_by_every_method(
    shop: Client, wrong: pb.Schema, path: str, reason: str
) -> None:
    for call in (
        shop.define("other", wrong),
        update(shop, schema=wrong),
        check(shop, wrong),
        validate(shop, schema=wrong),
    ):
        refused = await refusal(call)
        assert (refused.code, refused.reason) == (INVALID, "INVALID_SCHEMA")
        assert refused.violations == ((path, reason),)


async def test_a_schema_of_50_properties_and_10_levels_is_accepted(shop: Client) -> None:
    assert (await shop.redefine(named(*map(str, range(50))))).revision == 2
    assert (await shop.redefine(nested(10))).revision == 3


# Validating a payload


def unchecked(number: float) -> Struct:
    """Make a payload with a number that the library would not take from Python."""
    return Struct(fields={"currency": Value(list_value=ListValue(values=[Value(number_value=number)]))})


def deep(levels: int) -> Struct:
    made = Struct()
    for _ in range(levels - 1):
        made = Struct(fields={"a": Value(struct_value=made)})
    return made


PAYLOADS = {
    "whole": struct({"order_total": 5, "currency": "USD", "is_first_purchase": True}),
    "coerced": struct({"order_total": " 129.99", "is_first_purchase": "TRUE", "currency": None}),
    "empty": struct({}),
    "unset": None,
    "rejected": struct({"order_total": "abc", "colour": "red"}),
    "not_finite": unchecked(math.nan),
    "too_deep": deep(33),
    "too_large": struct({"currency": "x" * 257 * 1024}),
}


@on_sqlite
@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)
async def test_validation_has_the_result_of_sending(shop: Client, payload: Struct | None) -> None:
    answer = await validate(shop, payload)
    (sent,) = await shop.send_all([event(payload)], event_ingest_pb2.BATCH_MODE_INDEPENDENT, COERCED)
    assert answer.valid is sent.HasField("receipt")
    assert answer.HasField("properties") is answer.valid
    assert answer.properties == sent.receipt.event.properties
    assert list(answer.coercions) == list(sent.receipt.event.coercions)
    assert list(answer.violations) == list(sent.error.violations)
    assert bool(answer.violations) is not answer.valid
    assert await validate(shop, payload, schema=ORDER_SCHEMA) == answer


@on_sqlite
async def test_a_payload_can_be_validated_by_any_revision_and_by_a_deleted_definition(shop: Client) -> None:
    await shop.redefine(STRING)
    payload = struct({"total": 5})
    assert (await validate(shop, payload)).properties == struct({"total": "5"})
    assert not (await validate(shop, payload, revision=1)).valid
    deleted = await shop.undefine()
    assert (await validate(shop, payload, event_definition=deleted.id, revision=2)).valid


@on_sqlite
@pytest.mark.parametrize(
    ("request_", "path", "reason"),
    [
        (pb.ValidateEventRequest(), "event_definition", "INVALID_ARGUMENT"),
        (pb.ValidateEventRequest(revision=1), "event_definition", "INVALID_ARGUMENT"),
        (pb.ValidateEventRequest(schema=NUMBER, revision=1), "revision", "INVALID_ARGUMENT"),
        (pb.ValidateEventRequest(event_definition=ORDER, revision=-1), "revision", "OUT_OF_RANGE"),
        (pb.ValidateEventRequest(event_definition=ORDER, revision=2), "revision", "REVISION_NOT_FOUND"),
    ],
    ids=["nothing", "revision_alone", "revision_of_schema", "negative", "missing"],
)
async def test_a_validation_without_a_schema_is_refused_with_the_field(
    shop: Client, request_: pb.ValidateEventRequest, path: str, reason: str
) -> None:
    assert (await refusal(shop.definitions.ValidateEvent(request_))).violations == ((path, reason),)


@on_sqlite
async def test_a_missing_definition_neither_checks_nor_validates(service: Service) -> None:
    await service.shop()
    other = await service.project()
    for call in (rollback(other, 1), check(other, NUMBER), validate(other), dependents(other)):
        assert await verdict(call) == DEFINITION_NOT_FOUND


# What reads a definition


async def test_dependents_are_the_revisions_seen_with_counts_and_last_seen(shop: Client) -> None:
    assert (await dependents(shop)).dependents == []
    await shop.send_all(orders(3))
    await shop.redefine(schema(order_total="number"))
    await shop.redefine(ORDER_SCHEMA)
    await shop.define("other", ORDER_SCHEMA)
    last = (await shop.send_all(orders(2)))[-1].receipt.event
    await shop.send(event(name="other"))
    newest, oldest = (await dependents(shop)).dependents
    assert (newest.traffic.revision, newest.traffic.event_count) == (3, 2)
    assert newest.traffic.last_seen_at == last.received_at
    assert (oldest.traffic.revision, oldest.traffic.event_count) == (1, 3)
    assert oldest.traffic.last_seen_at == (await shop.log())[2].received_at


async def test_dependents_are_paged(shop: Client) -> None:
    for candidate in (NUMBER, STRING, ORDER_SCHEMA):
        await shop.send()
        await shop.redefine(candidate)
    pages, token = [], ""
    while True:
        answer = await dependents(shop, page_size=2, page_token=token)
        pages.append([each.traffic.revision for each in answer.dependents])
        token = answer.next_page_token
        if not token:
            break
    assert pages == [[3, 2], [1]]
    refused = await refusal(dependents(shop, page_size=-1))
    assert refused.violations == (("page_size", "OUT_OF_RANGE"),)


@pytest.mark.parametrize("size", [1, 3, 4])
async def test_pages_of_dependents_have_the_automations_first_and_then_the_revisions(shop: Client, size: int) -> None:
    made = [(await automate(shop, name=str(number))).id for number in range(3)]
    await automate(shop, "other")
    for candidate in (NUMBER, ORDER_SCHEMA):
        await shop.send()
        await shop.redefine(candidate)
    found: list[Any] = []
    lengths: list[int] = []
    token = ""
    while not lengths or token:
        answer = await dependents(shop, page_size=size, page_token=token)
        lengths.append(len(answer.dependents))
        found += [each.automation.id or each.traffic.revision for each in answer.dependents]
        token = answer.next_page_token
    assert found == [*made, 2, 1]
    assert lengths == [size] * (5 // size) + [5 % size] * (5 % size > 0)


async def test_a_definitions_traffic_is_not_that_of_another_of_its_name(shop: Client) -> None:
    await shop.send_all(orders(3))
    former = await shop.undefine()
    assert await seen(shop, former.id) == {1: 3}
    await shop.define()
    assert await seen(shop) == {}
    await shop.send()
    assert await seen(shop) == {1: 1}
    assert await seen(shop, former.id) == {1: 3}


async def test_events_without_a_definition_and_of_other_projects_are_no_traffic(service: Service) -> None:
    accept = {"undefined_events": projects_pb2.UNDEFINED_EVENTS_ACCEPT}
    client, other = await service.project(**accept), await service.shop()
    await client.upsert(BOB)
    await client.send(event(email=BOB))
    await other.send()
    await client.define()
    assert await seen(client) == {}


async def test_traffic_is_that_of_the_10000_newest_events(shop: Client) -> None:
    assert event_history.RECENT_EVENTS == 10_000
    await shop.send_all(orders(100))
    await shop.redefine(schema(order_total="number"))
    await shop.send_all(orders(3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(event_history, "RECENT_EVENTS", 100)
        assert await seen(shop) == {2: 3, 1: 97}


async def test_a_definition_has_a_thousand_revisions_at_most(shop: Client, store: Store) -> None:
    await store.execute("UPDATE event_definition SET revision = 1000")
    await store.execute("UPDATE event_definition_revision SET number = 1000")
    refused = await refusal(shop.redefine(pb.Schema()))
    assert (refused.code, refused.reason) == (StatusCode.FAILED_PRECONDITION, "MAX_REVISIONS_REACHED")
    assert refused.violations == (("event_definition", "MAX_REVISIONS_REACHED"),)
