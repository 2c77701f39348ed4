"""Personal properties: who lacks the scope gets their values masked, and engines get them whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from grpc import StatusCode
from hypothesis import given
from hypothesis import strategies as st

from registry.coercion.report import Coercion, CoercionKind
from registry.coercion.validation import compile_schema
from registry.definitions.schema import Property, PropertyType, Schema, UnknownProperties
from registry.errors import PayloadRejected
from registry.personal.marks import keep_personal, latest_marks
from registry.personal.masking import MASK, PersonalPaths
from server.bridge.dialects import DIALECTS
from server.model import Scope
from signalbox.v1 import automations_pb2, event_definitions_pb2, event_ingest_pb2
from tests.support.automations import automate, matches_of
from tests.support.bridge import calling
from tests.support.consumers import EARLIEST, pull, subscribe
from tests.support.messages import ORDER, event, schema, struct
from tests.support.refusals import refusal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.support.service import Client, Service

pytestmark = pytest.mark.lasting
on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)

SECRET = "Lovelace"
CONDITION = 'properties.order_total > 1.0 && properties.name != "x"'
SCOPES = ("events:read", "events:write", "definitions:read", "automations:read")


def declared() -> event_definitions_pb2.Schema:
    made = schema(order_total="number", name="string", age="number")
    for personal in made.properties[1:]:
        personal.personal = True
    return made


@pytest_asyncio.fixture
async def clients(service: Service) -> dict[bool, Client]:
    """A shop with personal properties, and its callers: by whether they may see these."""
    shop = await service.project()
    await shop.define(schema=declared())
    await shop.upsert()
    await automate(shop, condition=CONDITION)
    return {
        True: await service.key(shop.project, *SCOPES, "personal:read"),
        False: await service.key(shop.project, *SCOPES),
    }


both = pytest.mark.parametrize("sees", [True, False])


@both
@on_sqlite
async def test_an_explanation_masks_what_the_caller_may_not_see(clients: dict[bool, Client], sees: bool) -> None:
    client = clients[sees]
    sent = event({"order_total": 5, "name": SECRET, "age": "36"})
    recorded = (await client.send(sent)).event
    for request in (
        automations_pb2.ExplainEventRequest(event_id=recorded.id),
        automations_pb2.ExplainEventRequest(event=sent),
    ):
        explained = await client.automations.ExplainEvent(request)
        whole, total, name = explained.explanations[0].trace
        assert (whole.verdict, total.actual.number_value) == (automations_pb2.VERDICT_TRUE, 5)
        assert (name.actual.string_value, name.masked) == ((SECRET, False) if sees else ("", True))
        assert dict(explained.event.properties)["name"] == (SECRET if sees else MASK)
        assert getattr(explained.event.coercions[0], "from").string_value == ("36" if sees else MASK)
        assert (SECRET in str(explained)) is sees


@both
@on_sqlite
async def test_an_explanation_masks_what_was_personal_when_the_event_was_sent(
    service: Service, clients: dict[bool, Client], sees: bool
) -> None:
    client = clients[sees]
    recorded = (await client.send(event({"order_total": 5, "name": SECRET}))).event
    definition = event_definitions_pb2.UpdateEventDefinitionRequest(
        event_definition=ORDER, schema=schema(order_total="number", name="string"), force=True
    )
    operator = await service.key(client.project, "definitions:write")
    await operator.definitions.UpdateEventDefinition(definition)
    explained = await client.automations.ExplainEvent(automations_pb2.ExplainEventRequest(event_id=recorded.id))
    assert (SECRET in str(explained)) is sees


@both
@on_sqlite
async def test_a_tested_condition_masks_what_the_caller_may_not_see(clients: dict[bool, Client], sees: bool) -> None:
    request = automations_pb2.TestConditionRequest(
        condition="properties.order_total > 1.0 && size(properties.name) > 2",
        event=event({"order_total": 5, "name": SECRET}),
    )
    tested = await clients[sees].automations.TestCondition(request)
    assert tested.verdict == automations_pb2.VERDICT_TRUE
    assert tested.trace[2].masked is not sees
    assert (SECRET in str(tested)) is sees


@both
@on_sqlite
async def test_a_backtest_masks_what_the_caller_may_not_see(clients: dict[bool, Client], sees: bool) -> None:
    client = clients[sees]
    await client.send(event({"order_total": 5, "name": SECRET}))
    candidate = declared()
    candidate.properties[1].type = event_definitions_pb2.PROPERTY_TYPE_NUMBER
    request = event_definitions_pb2.BacktestSchemaRequest(event_definition=ORDER, schema=candidate)
    report = [response async for response in client.definitions.BacktestSchema(request)][-1].report
    assert report.newly_rejected_count == 1
    assert dict(report.samples[0].sent) == {"order_total": 5, "name": SECRET if sees else MASK}
    assert (SECRET in report.samples[0].violations[0].message) is sees


@both
@on_sqlite
@pytest.mark.parametrize("revision", [0, 1])
async def test_a_backtest_masks_what_only_the_latest_revision_declares_as_personal(
    service: Service, sees: bool, revision: int
) -> None:
    shop = await service.project()
    await shop.define(schema=schema(order_total="number", name="string", age="number"))
    await shop.definitions.UpdateEventDefinition(
        event_definitions_pb2.UpdateEventDefinitionRequest(event_definition=ORDER, schema=declared())
    )
    await shop.upsert()
    await shop.send(event({"name": SECRET, "age": "36125.5"}))
    client = await service.key(shop.project, *SCOPES, *["personal:read"] * sees)
    request = event_definitions_pb2.BacktestSchemaRequest(
        event_definition=ORDER, schema=schema(name="number", age="string"), revision=revision
    )
    report = [response async for response in client.definitions.BacktestSchema(request)][-1].report
    assert report.newly_rejected_count == 1
    assert (SECRET in str(report)) is sees
    assert ("36125" in str(report)) is sees


@both
@on_sqlite
async def test_violations_mask_what_the_caller_may_not_see(clients: dict[bool, Client], sees: bool) -> None:
    client = clients[sees]
    wrong = event({"age": SECRET})
    assert (SECRET in (await refusal(client.send(wrong))).message) is sees
    assert "12x" in (await refusal(client.send(event({"order_total": "12x"})))).message
    batch = event_ingest_pb2.SendEventsRequest(events=[wrong], mode=event_ingest_pb2.BATCH_MODE_INDEPENDENT)
    (result,) = (await client.ingest.SendEvents(batch)).results
    assert (SECRET in str(result)) is sees
    validated = await client.definitions.ValidateEvent(
        event_definitions_pb2.ValidateEventRequest(event_definition=ORDER, properties=struct({"age": SECRET}))
    )
    assert (SECRET in str(validated)) is sees


@on_sqlite
async def test_engines_get_personal_values_whole(service: Service) -> None:
    shop = await service.project()
    await shop.define(schema=declared())
    await shop.upsert()
    await automate(shop)
    await subscribe(shop, start=EARLIEST)
    await matches_of(shop, event({"name": SECRET}))
    engine = await service.key(shop.project, "matches:read", "events:read")
    (delivery,) = await pull(engine)
    assert dict(delivery.match.event.properties) == {"name": SECRET}
    assert dict((await engine.get(delivery.match.event.id)).properties) == {"name": SECRET}


NESTED = Schema(
    (
        Property("who", PropertyType.OBJECT, personal=True, properties=(Property("age", PropertyType.NUMBER),)),
        Property(
            "lines",
            PropertyType.ARRAY,
            item_type=PropertyType.OBJECT,
            properties=(
                Property("sku", PropertyType.STRING),
                Property("text", PropertyType.NUMBER, personal=True),
            ),
        ),
        Property("ages", PropertyType.ARRAY, item_type=PropertyType.NUMBER, personal=True),
    )
)


def test_nested_personal_values_are_masked_at_every_depth() -> None:
    hidden = PersonalPaths.of(NESTED, None)
    sent = {"who": {"age": 1}, "lines": [{"sku": "a", "text": 5}, "odd"], "more": {"text": 1}}
    masked = {"who": MASK, "lines": [{"sku": "a", "text": MASK}, "odd"], "more": {"text": 1}}
    assert hidden.mask(sent) == masked
    coercions = [Coercion(f"properties.{path}", CoercionKind.CONVERTED, "1", 1) for path in ("lines[0].text", "more")]
    assert [each.before for each in hidden.mask_coercions(coercions)] == [MASK, "1"]


@pytest.mark.parametrize(
    ("path", "touched"),
    [("who", True), ("who.age", True), ("lines", True), ("lines.sku", False), ("lines.text", True), ("more", False)],
)
def test_a_path_touches_what_it_leads_to_into_and_over(path: str, touched: bool) -> None:
    assert PersonalPaths.of(NESTED).touched_by(path.split(".")) is touched


@pytest.mark.parametrize("sent", [{"who": {"age": "x"}}, {"lines": [{"text": "x"}]}, {"ages": ["x"]}, {"who": "x"}])
def test_a_violation_of_a_personal_property_has_a_message_without_the_value(sent: dict[str, Any]) -> None:
    with pytest.raises(PayloadRejected) as refused:
        compile_schema(NESTED)(sent)
    (violation,) = refused.value.violations
    assert '"x"' in violation.message
    assert '"x"' not in violation.masked
    assert "personal" in violation.masked


# Dialects, which cannot say what is personal


NAME, TOTAL = {"name": "name", "type": "string"}, {"name": "order_total", "type": "number"}
CAMEL = [{"propertyName": each["name"], "type": each["type"]} for each in (NAME, TOTAL)]
RESTATED = {"type": "object", "properties": {"name": {"type": "string"}, "address": {"type": "object"}}}
REPLACING: Mapping[str, tuple[str, Sequence[Any]]] = {
    "arsel": ("/v1/events/{id}", [{"schema": {"fields": fields}} for fields in ([TOTAL, NAME], [TOTAL], [])]),
    "autosend": ("/v1/events/eventName/{name}", [{"properties": fields} for fields in (CAMEL, CAMEL[1:], [])]),
    "opensend": ("/events/{id}", [{"schema": RESTATED}, {"schema": {"type": "object"}}, {"schema": None}]),
    "resend": (
        "/events/{id}",
        [{"schema": {"name": "string"}}, {"schema": {"order_total": "number"}}, {"schema": None}],
    ),
}
"""The paths by which dialects replace schemas, and bodies that leave out more and more."""


def test_every_dialect_that_replaces_schemas_is_tested() -> None:
    replacing = {
        dialect.name
        for dialect in DIALECTS
        for route in dialect.routes
        if route.scope is Scope.DEFINITIONS_WRITE and route.method not in ("POST", "DELETE")
    }
    assert replacing == REPLACING.keys()


@on_sqlite
@pytest.mark.parametrize("dialect", REPLACING)
async def test_what_is_personal_stays_so_when_a_dialect_replaces_the_schema(service: Service, dialect: str) -> None:
    path, bodies = REPLACING[dialect]
    shop = await service.project()
    await shop.upsert()
    masked = await service.key(shop.project, *SCOPES)
    sent = event({"order_total": 5, "name": SECRET, "address": {"street": SECRET}})
    for body in bodies:
        made = declared()
        made.unknown_properties = event_definitions_pb2.UNKNOWN_PROPERTIES_KEEP
        street = event_definitions_pb2.Property(
            name="street", type=event_definitions_pb2.PROPERTY_TYPE_STRING, personal=True
        )
        made.properties.add(name="address", type=event_definitions_pb2.PROPERTY_TYPE_OBJECT, properties=[street])
        definition = await shop.define(schema=made)
        place = path.format(id=definition.id, name=definition.name)
        async with calling(service, shop, dialect) as caller:
            assert (await caller.call(f"PATCH {place}", body)).status_code == 200
            shown = await caller.call(f"GET {place}")
        await shop.send(sent)
        explained = await masked.automations.ExplainEvent(automations_pb2.ExplainEventRequest(event=sent))
        assert SECRET not in str(explained), body
        assert '"age"' not in shown.text, "what is declared for its mark alone is not shown"
        await shop.undefine()


Fields = Mapping[str, str]
CREATING: Mapping[str, tuple[str, Callable[[Fields], Any]]] = {
    "arsel": ("/v1/events", lambda fields: {"schema": {"fields": [{"name": n, "type": t} for n, t in fields.items()]}}),
    "autosend": (
        "/v1/events",
        lambda fields: {"properties": [{"propertyName": n, "type": t} for n, t in fields.items()]},
    ),
    "opensend": (
        "/events",
        lambda fields: {"schema": {"type": "object", "properties": {n: {"type": t} for n, t in fields.items()}}},
    ),
    "resend": ("/events", lambda fields: {"schema": dict(fields)}),
}
"""The paths by which dialects create definitions, and the part of a body that has the schema."""


@on_sqlite
@pytest.mark.parametrize("unknown", ["REJECT", "KEEP", "DROP"])
@pytest.mark.parametrize("dialect", REPLACING)
async def test_what_a_dialect_declares_again_is_as_personal_as_it_was(
    service: Service, dialect: str, unknown: str
) -> None:
    shop = await service.project()
    made = declared()
    made.unknown_properties = event_definitions_pb2.UnknownProperties.Value(f"UNKNOWN_PROPERTIES_{unknown}")
    definition = await shop.define(schema=made)
    place = REPLACING[dialect][0].format(id=definition.id, name=definition.name)
    path, body = CREATING[dialect]
    fewer, all_of_it = body({"order_total": "number"}), body({"order_total": "number", "name": "string"})
    name = {"eventName" if dialect == "autosend" else "name": ORDER}
    async with calling(service, shop, dialect) as caller:
        for sent in (fewer, all_of_it, fewer):
            assert (await caller.call(f"PATCH {place}", sent)).status_code == 200
        assert await personal_names(shop) >= ({"name"} if unknown == "KEEP" else set())
        assert (await caller.call(f"PATCH {place}", all_of_it)).status_code == 200
        assert "name" in await personal_names(shop)
        for sent in (fewer, all_of_it):
            await shop.undefine()
            assert (await caller.call(f"POST {path}", name | sent)).status_code == 201
        assert "name" in await personal_names(shop)


async def personal_names(shop: Client) -> set[str]:
    request = event_definitions_pb2.GetEventDefinitionRequest(event_definition=ORDER)
    found = (await shop.definitions.GetEventDefinition(request)).event_definition
    return {each.name for each in found.schema.properties if each.personal}


async def test_what_was_personal_is_recalled_from_earlier_revisions_and_deleted_definitions(service: Service) -> None:
    shop = await service.project()
    await shop.define(schema=declared())
    path, body = CREATING["autosend"]
    place = REPLACING["autosend"][0].format(name=ORDER)
    async with calling(service, shop, "autosend") as caller:
        await caller.call(f"PATCH {place}", body({}))
        await shop.undefine()
        await caller.call(f"POST {path}", {"eventName": ORDER} | body({"age": "number"}))
        assert await personal_names(shop) == {"age"}
        await caller.call(f"PATCH {place}", body({"name": "string"}))
        assert await personal_names(shop) == {"name"}
        await shop.redefine(schema(name="string"))
        await caller.call(f"PATCH {place}", body({}))
        await caller.call(f"PATCH {place}", body({"name": "string", "age": "number"}))
        assert await personal_names(shop) == {"age"}, "an RPC takes a mark away"


async def rolled_back(shop: Client, number: int) -> event_definitions_pb2.EventDefinition:
    request = event_definitions_pb2.RollbackRevisionRequest(event_definition=ORDER, number=number)
    return (await shop.definitions.RollbackRevision(request)).event_definition


async def test_a_rollback_takes_no_mark_away(service: Service) -> None:
    shop = await service.project()
    await shop.define(schema=schema(order_total="number", name="string", age="number"))
    marked = await shop.redefine(declared())
    assert await rolled_back(shop, 1) == marked, "only marks differ"
    await shop.redefine(schema(order_total="string"))
    again = await rolled_back(shop, 1)
    assert (again.revision, await personal_names(shop)) == (4, {"name", "age"})
    await shop.redefine(schema(order_total="number", name="string", age="number"))
    assert await personal_names(shop) == set(), "an RPC takes a mark away"
    await shop.redefine(schema(order_total="string"))
    await rolled_back(shop, 1)
    assert await personal_names(shop) == set(), "the latest revision that declared it has no mark"
    await rolled_back(shop, 2)
    assert await personal_names(shop) == {"name", "age"}, "a restored mark counts"


async def test_a_rollback_to_a_schema_that_keeps_undeclared_properties_masks_what_was_personal(
    service: Service,
) -> None:
    shop = await service.project()
    open_schema = event_definitions_pb2.Schema(unknown_properties=event_definitions_pb2.UNKNOWN_PROPERTIES_KEEP)
    await shop.define(schema=open_schema)
    await shop.redefine(declared())
    await shop.redefine(schema(order_total="number"))
    assert {each.name: each.type for each in (await rolled_back(shop, 1)).schema.properties} == {
        "name": event_definitions_pb2.PROPERTY_TYPE_ANY,
        "age": event_definitions_pb2.PROPERTY_TYPE_ANY,
    }
    assert await personal_names(shop) == {"name", "age"}


@on_sqlite
async def test_a_rollback_without_room_for_personal_properties_is_refused(service: Service) -> None:
    shop = await service.project()
    full = schema(**{f"p{number}": "string" for number in range(49)})
    full.unknown_properties = event_definitions_pb2.UNKNOWN_PROPERTIES_KEEP
    await shop.define(schema=full)
    await shop.redefine(declared())
    refused = await refusal(rolled_back(shop, 1))
    assert (refused.code, refused.reason) == (StatusCode.INVALID_ARGUMENT, "INVALID_SCHEMA")
    assert refused.violations == (("number", "TOO_MANY_PROPERTIES"),)
    assert "Revision 1 cannot be restored" in refused.message
    assert "51 properties; at most 50" in refused.message


@on_sqlite
@pytest.mark.parametrize("dialect", ["opensend", "resend"])
async def test_a_dialect_that_resets_a_schema_to_keep_everything_masks_what_was_personal(
    service: Service, dialect: str
) -> None:
    shop = await service.project()
    definition = await shop.define(schema=declared())
    place = REPLACING[dialect][0].format(id=definition.id, name=definition.name)
    async with calling(service, shop, dialect) as caller:
        for sent in (CREATING[dialect][1]({"order_total": "number"}), {"schema": None}):
            assert (await caller.call(f"PATCH {place}", sent)).status_code == 200
        assert await personal_names(shop) == {"name", "age"}
        shown = await caller.call(f"GET {place}")
    assert shown.json()["schema"] is None


@on_sqlite
@pytest.mark.parametrize("dialect", REPLACING)
async def test_a_dialect_that_leaves_no_room_for_personal_properties_is_told_of_them(
    service: Service, dialect: str
) -> None:
    shop = await service.project()
    made = declared()
    made.unknown_properties = event_definitions_pb2.UNKNOWN_PROPERTIES_KEEP
    definition = await shop.define(schema=made)
    place = REPLACING[dialect][0].format(id=definition.id, name=definition.name)
    many = {f"p{number}": "string" for number in range(50)}
    async with calling(service, shop, dialect) as caller:
        refused = await caller.call(f"PATCH {place}", CREATING[dialect][1](many))
        assert refused.status_code in {400, 422}
        assert "the personal ones that are not shown here (2): at most 48 others" in refused.text


def properties_of(inner: st.SearchStrategy[tuple[Property, ...]]) -> st.SearchStrategy[tuple[Property, ...]]:
    """Return properties of objects and texts, named `a` to `c`, of which some are personal."""
    plain = st.builds(Property, st.sampled_from("abc"), st.just(PropertyType.STRING), personal=st.booleans())
    kind = st.just(PropertyType.OBJECT)
    nesting = st.builds(Property, st.sampled_from("abc"), kind, personal=st.booleans(), properties=inner)
    return st.lists(plain | nesting, max_size=3, unique_by=lambda declared: declared.name).map(tuple)


SCHEMAS = st.builds(Schema, properties_of(properties_of(st.just(()))), st.just(UnknownProperties.KEEP))


@given(SCHEMAS, SCHEMAS)
def test_a_schema_that_takes_over_what_is_personal_masks_all_of_it(new: Schema, known: Schema) -> None:
    kept = keep_personal(new, known)
    assert {each.name for each in kept.properties} >= {each.name for each in new.properties}
    masked = PersonalPaths.of(kept).names
    for path in PersonalPaths.of(known, new).names:
        assert any(path[: len(names)] == names for names in masked)
    assert keep_personal(kept, known) == kept
    assert keep_personal(new, new) == new


@given(SCHEMAS, SCHEMAS, SCHEMAS, st.sampled_from(UnknownProperties))
def test_what_is_declared_again_is_masked_as_by_the_latest_schema_that_declared_it(
    new: Schema, known: Schema, earlier: Schema, unknown: UnknownProperties
) -> None:
    new, known = replace(new, unknown_properties=unknown), replace(known, unknown_properties=UnknownProperties.REJECT)
    marks = latest_marks([known, earlier])
    kept = keep_personal(new, known, marks)
    masked = PersonalPaths.of(kept)
    for path in latest_marks([new]).keys() | (marks.keys() if unknown is UnknownProperties.KEEP else set()):
        if marks.get(path):
            assert masked.touched_by(path)
    assert keep_personal(kept, kept, marks) == kept
    assert keep_personal(known, known, marks) == known
