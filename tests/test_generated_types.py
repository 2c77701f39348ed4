from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import MessageToDict
from grpc import StatusCode
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Connection, text

from registry.codegen.field_numbers import NO_LAYOUT, layout_from_json, next_layout
from registry.codegen.json_schema import json_schema
from registry.definitions.schema import Property, PropertyType, Schema, UnknownProperties, schema_to_json
from server.cli.definitions.export import write_files
from server.cli.errors import Failure
from server.rpc.messages.definitions import write_schema
from server.rpc.messages.structs import read_struct
from server.rpc.messages.typed_properties import TypedReader
from server.storage import migrations
from server.storage.migrations import migrate
from server.storage.opening import open_database
from signalbox.v1 import event_definitions_pb2, event_ingest_pb2
from tests.support.command_line import command as signalbox
from tests.support.messages import INDEPENDENT, ORDER, event, struct
from tests.support.refusals import refusal, verdict
from tests.support.revisions import layouts, payloads, schemas, typed
from tests.support.stores import migrate_until
from tests.support.wire import field

if TYPE_CHECKING:
    from pathlib import Path

    from registry.codegen.field_numbers import MessageLayout
    from tests.support.service import Client, Service
    from tests.support.stores import Backend

pytestmark = pytest.mark.lasting
# Messages are read, and types written, without the database.
on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)

P, T = Property, PropertyType

RICH = Schema(
    (
        P("order total", T.NUMBER, required=True),
        P("currency", T.STRING),
        P("first", T.BOOLEAN),
        P("at", T.DATE),
        P("customer", T.OBJECT, properties=(P("name", T.STRING), P("since", T.DATE))),
        P("lines", T.ARRAY, required=True, item_type=T.OBJECT, properties=(P("sku", T.STRING), P("n", T.NUMBER))),
        P("tags", T.ARRAY, item_type=T.STRING),
        P("seen", T.ARRAY, item_type=T.DATE),
        P("grid", T.ARRAY, item_type=T.ARRAY),
        P("more", T.OBJECT),
        P("list", T.ARRAY),
        P("free", T.ANY),
    )
)
PAYLOAD: dict[str, Any] = {
    "order total": 129.5,
    "currency": "EUR",
    "first": False,
    "at": "2026-06-01T12:00:00.123456Z",
    "customer": {"name": "", "since": "2026-06-01T12:00:00Z"},
    "lines": [{"sku": "a", "n": 2}, {}],
    "tags": ["x", ""],
    "seen": ["2026-06-01T12:00:00Z"],
    "grid": [[1, None], []],
    "more": {"b": {"c": [True]}, "a": 1},
    "list": [1, "a", None],
    "free": {"b": [1, {"c": None}]},
}


def typed_event(data: bytes, revision: int = 1, *, name: str = "rich", key: str = "") -> event_ingest_pb2.EventInput:
    made = event(name=name, key=key)
    made.typed_properties.revision = revision
    made.typed_properties.message = data
    return made


def layout_of(*revisions: Schema) -> MessageLayout:
    return layouts(revisions, "rich")[-1]


def rich(payload: dict[str, Any]) -> bytes:
    return typed("rich", layout_of(RICH), payload).SerializeToString()


@pytest.fixture
async def maker(shop: Client) -> Client:
    await shop.define("rich", write_schema(RICH))
    return shop


async def test_a_typed_send_is_stored_like_an_untyped_one(maker: Client) -> None:
    one = await maker.send(typed_event(rich(PAYLOAD)))
    other = await maker.send(event(PAYLOAD, name="rich"))
    assert one.event.properties == other.event.properties
    assert one.event.coercions == other.event.coercions
    assert one.coercion_count == other.coercion_count > 0


@on_sqlite
async def test_names_of_one_underscore_before_another_are_sent(maker: Client) -> None:
    inner = (P("type", T.STRING), P("_type", T.STRING))
    schema = Schema((P("_id", T.NUMBER), P("id", T.STRING), P("o", T.OBJECT, properties=inner)))
    await maker.define("mongo", write_schema(schema))
    payload = {"_id": 1, "id": "a", "o": {"_type": "x", "type": "y"}}
    message = typed("mongo", layouts([schema], "mongo")[-1], payload)
    receipt = await maker.send(typed_event(message.SerializeToString(), name="mongo"))
    assert MessageToDict(receipt.event.properties) == payload


async def test_a_typed_send_repeats_an_untyped_one(maker: Client) -> None:
    first = await maker.send(event(PAYLOAD, name="rich", key="k"))
    again = await maker.send(typed_event(rich(PAYLOAD), key="k"))
    assert (again.duplicate, again.event.id) == (True, first.event.id)


@on_sqlite
async def test_batches_and_streams_take_typed_properties(maker: Client) -> None:
    events = [typed_event(rich(PAYLOAD)), event(PAYLOAD, name="rich"), typed_event(b"", 7), typed_event(b"", name="no")]
    results = await maker.send_all(events, INDEPENDENT)
    assert [each.error.reason for each in results] == ["", "", "REVISION_NOT_FOUND", "DEFINITION_NOT_FOUND"]

    async def requests() -> Any:
        yield event_ingest_pb2.StreamEventsRequest(sequence=1, events=events, mode=INDEPENDENT)

    (answer,) = [each async for each in maker.ingest.StreamEvents(requests())]
    assert [each.error.reason for each in answer.results] == [each.error.reason for each in results]
    logged = await maker.log(name="rich")
    assert len(logged) == 4
    assert all(each.properties == logged[0].properties for each in logged)


async def test_the_message_of_an_old_revision_is_validated_by_the_latest(maker: Client) -> None:
    old = rich({"order total": 5, "lines": [], "currency": "EUR"})
    await maker.redefine(
        write_schema(Schema((P("order total", T.STRING), P("lines", T.ARRAY), P("currency", T.STRING)))), "rich"
    )
    receipt = await maker.send(typed_event(old))
    assert receipt.event.revision == 2
    assert MessageToDict(receipt.event.properties) == {"order total": "5", "lines": [], "currency": "EUR"}


@on_sqlite
@pytest.mark.parametrize(
    ("data", "path", "reason"),
    [
        (b"\xff", "typed_properties.message", "INVALID_ARGUMENT"),
        (field(1, b"\xff"), "typed_properties.message", "INVALID_ARGUMENT"),
        (field(99, b"x"), "typed_properties.message", "UNKNOWN_FIELD"),
        (field(5, field(99, b"x")), "typed_properties.message", "UNKNOWN_FIELD"),
        (field(2, b"of another type"), "typed_properties.message", "UNKNOWN_FIELD"),
        (field(1, b"x" * 256 * 1024), "typed_properties.message", "TOO_LARGE"),
    ],
)
async def test_a_message_that_cannot_be_read_is_refused(maker: Client, data: bytes, path: str, reason: str) -> None:
    refused = await refusal(maker.send(typed_event(data)))
    assert (refused.code, refused.violations) == (StatusCode.INVALID_ARGUMENT, ((path, reason),))


@on_sqlite
async def test_a_value_that_no_payload_has_is_refused_at_its_path(maker: Client) -> None:
    message: Any = typed("rich", layout_of(RICH), {"lines": [{}, {"n": float("nan")}]})
    refused = await refusal(maker.send(typed_event(message.SerializeToString())))
    assert refused.violations == (("properties.lines[1].n", "INVALID_PROPERTY_VALUE"),)
    message = typed("rich", layout_of(RICH), {"lines": [], "free": [[1.0, float("inf")]]})
    refused = await refusal(maker.send(typed_event(message.SerializeToString())))
    assert refused.violations == (("properties.free[0][1]", "INVALID_PROPERTY_VALUE"),)
    message = typed("rich", layout_of(RICH), {})
    message.customer.since.nanos = -1
    refused = await refusal(maker.send(typed_event(message.SerializeToString())))
    assert refused.violations == (("properties.customer.since", "INVALID_TIMESTAMP"),)


@on_sqlite
@pytest.mark.parametrize(
    ("payload", "path", "reason"),
    [
        ({"tags": [""] * 10_001}, "properties", "TOO_MANY_VALUES"),
        ({"lines": [{}] * 10_001}, "properties", "TOO_MANY_VALUES"),
        ({"list": [None] * 10_000}, "properties", "TOO_MANY_VALUES"),
        ({"free": [None] * 10_000}, "properties", "TOO_MANY_VALUES"),
    ],
)
async def test_the_budgets_of_payloads_hold(maker: Client, payload: dict[str, Any], path: str, reason: str) -> None:
    refused = await refusal(maker.send(typed_event(rich(payload))))
    assert refused.violations == ((path, reason),)


@on_sqlite
async def test_a_message_that_is_nested_too_deep_is_refused(maker: Client) -> None:
    deep: dict[str, Any] = {}
    for _ in range(30):
        deep = {"x": deep}
    assert await verdict(maker.send(typed_event(rich({"more": deep})))) == (
        StatusCode.INVALID_ARGUMENT,
        "PAYLOAD_REJECTED",
    )
    for name in ("more", "free"):
        refused = await refusal(maker.send(typed_event(rich({name: {"x": deep}}))))
        assert [reason for _, reason in refused.violations] == ["TOO_DEEP"]


@on_sqlite
async def test_properties_come_in_one_way(maker: Client) -> None:
    both = typed_event(rich(PAYLOAD))
    both.properties.SetInParent()
    refused = await refusal(maker.send(both))
    assert refused.violations == (("typed_properties", "INVALID_ARGUMENT"),)


@on_sqlite
async def test_more_revisions_are_read_than_readers_are_kept(maker: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.rpc.messages.typed_properties.MAX_READERS", 1)
    less = Schema(RICH.properties[:-1])
    await maker.redefine(write_schema(less), "rich")
    data = rich({"order total": 1, "lines": []})
    for _ in range(2):
        results = await maker.send_all([typed_event(data, 1), typed_event(data, 2)])
        assert [each.WhichOneof("outcome") for each in results] == ["receipt", "receipt"]


@on_sqlite
@pytest.mark.parametrize("revision", [0, -1, 2])
async def test_a_revision_that_does_not_exist_is_not_found(maker: Client, revision: int) -> None:
    refused = await refusal(maker.send(typed_event(b"", revision)))
    assert (refused.code, refused.reason) == (StatusCode.NOT_FOUND, "REVISION_NOT_FOUND")


@st.composite
def revisions_and_payloads(draw: st.DrawFn) -> tuple[Schema, dict[str, Any]]:
    schema = draw(schemas())
    return schema, draw(payloads(schema.properties))


@given(revisions_and_payloads())
def test_a_message_is_read_as_its_struct_is(drawn: tuple[Schema, dict[str, Any]]) -> None:
    schema, payload = drawn
    layout = next_layout(NO_LAYOUT, ORDER, schema)
    read = TypedReader(ORDER, schema, layout).read(typed(ORDER, layout, payload).SerializeToString())
    expected = read_struct(struct(payload))
    assert json.dumps(read) == json.dumps(expected)


# What the service gives


@on_sqlite
async def test_a_descriptor_set_stands_alone_and_goes_with_its_text(maker: Client) -> None:
    answer = await maker.definitions.GetDescriptorSet(event_definitions_pb2.GetDescriptorSetRequest())
    pool = DescriptorPool()
    for file in answer.file_descriptor_set.file:
        pool.AddSerializedFile(file.SerializeToString())
    assert (
        pool.FindMessageTypeByName("signalbox.events.v1.Rich").fields_by_name["order_total"].json_name == "order total"
    )
    assert set(answer.files) == {"signalbox/events/v1/rich.proto", "signalbox/events/v1/order_completed.proto"}
    assert "message Rich {" in answer.files["signalbox/events/v1/rich.proto"]


@on_sqlite
async def test_a_descriptor_set_holds_each_named_definition_once(maker: Client) -> None:
    definition = await maker.define("third")
    request = event_definitions_pb2.GetDescriptorSetRequest(event_definitions=["third", definition.id, "third"])
    answer = await maker.definitions.GetDescriptorSet(request)
    assert [file.name for file in answer.file_descriptor_set.file] == ["signalbox/events/v1/third.proto"]
    request = event_definitions_pb2.GetDescriptorSetRequest(event_definitions=["absent"])
    assert await verdict(maker.definitions.GetDescriptorSet(request)) == (StatusCode.NOT_FOUND, "DEFINITION_NOT_FOUND")


async def test_field_numbers_are_stored_with_the_revisions(maker: Client) -> None:
    less = Schema(RICH.properties[1:])
    for schema in (less, RICH):
        await maker.redefine(write_schema(schema), "rich")
    request = event_definitions_pb2.GetDescriptorSetRequest(event_definitions=["rich"])
    (*_, file) = (await maker.definitions.GetDescriptorSet(request)).file_descriptor_set.file
    numbers = {each.json_name: (each.number, each.name) for each in file.message_type[0].field}
    expected = {each.json_name: (each.number, each.name) for each in layout_of(RICH, less, RICH).fields}
    assert numbers == expected
    assert numbers["order total"] == (13, "order_total_2")


async def test_field_numbers_go_on_under_the_name_of_a_deleted_definition(maker: Client) -> None:
    former = await maker.undefine("rich")
    other = Schema((P("order total", T.STRING), P("currency", T.STRING)))
    await maker.define("rich", write_schema(other))
    assert await numbers(maker) == {"currency": 1, "order total": 13}
    refused = await refusal(maker.send(typed_event(rich(PAYLOAD))))
    assert refused.violations == (("typed_properties.message", "UNKNOWN_FIELD"),)
    await maker.undefine("rich")
    undelete = event_definitions_pb2.UndeleteEventDefinitionRequest(id=former.id)
    await maker.definitions.UndeleteEventDefinition(undelete)
    await maker.redefine(write_schema(Schema((*other.properties, P("coupon", T.STRING)))), "rich")
    assert await numbers(maker) == {"currency": 1, "order total": 13, "coupon": 14}


async def numbers(maker: Client) -> dict[str, int]:
    request = event_definitions_pb2.GetDescriptorSetRequest(event_definitions=["rich"])
    (*_, file) = (await maker.definitions.GetDescriptorSet(request)).file_descriptor_set.file
    return {each.json_name: each.number for each in file.message_type[0].field}


@on_sqlite
async def test_a_json_schema_is_of_the_latest_or_a_named_revision(maker: Client) -> None:
    await maker.redefine(write_schema(Schema()), "rich")

    async def asked(revision: int) -> dict[str, Any]:
        request = event_definitions_pb2.GetJsonSchemaRequest(event_definition="rich", revision=revision)
        return MessageToDict((await maker.definitions.GetJsonSchema(request)).json_schema)

    assert await asked(0) == await asked(2) == json_schema("rich", "", Schema())
    assert await asked(1) == json_schema("rich", "", RICH)
    request = event_definitions_pb2.GetJsonSchemaRequest(event_definition="rich", revision=3)
    assert (await verdict(maker.definitions.GetJsonSchema(request)))[1] == "REVISION_NOT_FOUND"


@pytest.mark.parametrize("unknown", list(UnknownProperties))
def test_a_json_schema_accepts_the_payloads_that_the_registry_accepts(unknown: UnknownProperties) -> None:
    inner = P("n", T.NUMBER, required=True)
    schema = Schema(
        (
            P("s", T.STRING, required=True, description="Text", suggested_values=("a", "b")),
            P("d", T.DATE),
            P("o", T.OBJECT),
            P("l", T.ARRAY),
            P("f", T.ANY),
            P("b", T.ARRAY, item_type=T.BOOLEAN),
            P("in", T.ARRAY, item_type=T.OBJECT, properties=(inner,)),
        ),
        unknown,
    )
    more = {"additionalProperties": unknown is not UnknownProperties.REJECT}
    assert json_schema("e", "An event", schema) == {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "e",
        "description": "An event",
        "type": "object",
        "properties": {
            "s": {"type": "string", "description": "Text", "examples": ["a", "b"]},
            "d": {"type": "string", "format": "date-time"},
            "o": {"type": "object"},
            "l": {"type": "array"},
            "f": {"not": {"type": "null"}},
            "b": {"type": "array", "items": {"type": "boolean"}},
            "in": {
                "type": "array",
                "items": {"type": "object", "properties": {"n": {"type": "number"}}, "required": ["n"], **more},
            },
        },
        "required": ["s"],
        **more,
    }


# Migration


async def test_revisions_from_before_layouts_get_theirs(backend: Backend, tmp_path: Path) -> None:
    chain = [RICH, Schema(RICH.properties[3:]), RICH]

    def first_version(connection: Connection) -> None:
        for name in ("rich", "other"):
            connection.execute(
                text(f"INSERT INTO event_definition VALUES ('{name}', 'p', '{name}', '', 'none', 3, 3, 0, 0, NULL)")  # noqa: S608 - ours
            )
            for number, schema in enumerate(chain, 1):
                connection.execute(
                    text("INSERT INTO event_definition_revision VALUES (:id, :number, :schema, 0)"),
                    {"id": name, "number": number, "schema": schema_to_json(schema)},
                )

    def stored(connection: Connection) -> list[tuple[str, MessageLayout]]:
        rows = connection.execute(
            text("SELECT definition_id, layout FROM event_definition_revision ORDER BY definition_id, number")
        )
        return [(row.definition_id, layout_from_json(row.layout)) for row in rows]

    async with backend.empty(tmp_path) as store:
        database = await open_database(store.url)
        try:
            await migrate_until(database, "0001_foundation")
            await database.write(first_version)
            with patch.object(migrations, "BATCH_ROWS", 1):
                assert await migrate(database) is True
            assert await database.read(stored) == [
                (name, layout) for name in ("other", "rich") for layout in layouts(chain, name)
            ]
        finally:
            await database.close()


# Export


@on_sqlite
async def test_definitions_are_exported_as_files(service: Service, tmp_path: Path) -> None:
    client = await service.shop()
    await client.define("rich", write_schema(RICH))
    variables = {"SIGNALBOX_SERVER": service.address, "SIGNALBOX_KEY": client.secret}

    async def export(*arguments: str) -> Any:
        return await asyncio.to_thread(signalbox, "definition", "export", *arguments, variables=variables)

    done = await export("-o", str(tmp_path / "p"), "--json")
    folder = tmp_path / "p" / "signalbox" / "events" / "v1"
    assert done.json == {"files": [str(folder / "order_completed.proto"), str(folder / "rich.proto")]}
    assert "message Rich {" in (folder / "rich.proto").read_text()
    done = await export("--format", "jsonschema", "-o", str(tmp_path / "j"), "rich")
    assert done.out.splitlines() == [str(tmp_path / "j" / "rich.schema.json")]
    assert json.loads((tmp_path / "j" / "rich.schema.json").read_text()) == json_schema("rich", "", RICH)


@pytest.mark.parametrize("name", ["../x.proto", "a/../../x.proto", "/x.proto", "link/x.proto"])
def test_no_file_is_written_outside_the_folder(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path)
    with pytest.raises(Failure, match="outside"):
        write_files(folder, {"good.proto": "", name: ""})
    assert [each.name for each in folder.iterdir()] == ["link"]
