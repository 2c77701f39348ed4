from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry.codegen.field_numbers import NO_LAYOUT, WireType, layout_from_json, layout_to_json, next_layout
from registry.codegen.proto_names import file_name, message_name
from registry.codegen.proto_text import proto_text
from registry.definitions.schema import Property, PropertyType, Schema
from server.rpc.messages.descriptors import file_descriptor, message_class
from tests.support.laws import examples
from tests.support.revisions import HOSTILE, every_field, layouts, many_chains, payloads, schemas, typed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from registry.codegen.field_numbers import Field, MessageLayout

ORDER = "order_completed"
TEXT = PropertyType.STRING

chains = st.lists(schemas(), min_size=2, max_size=4)
few_runs = settings(max_examples=examples(3), suppress_health_check=list(HealthCheck))


def schema(**types: PropertyType) -> Schema:
    return Schema(tuple(Property(name, kind) for name, kind in types.items()))


@given(chains)
def test_a_number_and_a_name_keep_their_meaning_for_ever(chain: list[Schema]) -> None:
    by_number: dict[tuple[str, int], Field] = {}
    by_name: dict[tuple[str, str], Field] = {}
    for layout in layouts(chain):
        for path, field in every_field(layout):
            assert by_number.setdefault((path, field.number), field) == field
            assert by_name.setdefault((path, field.name), field) == field


@given(chains)
def test_a_field_is_there_as_long_as_its_property_is_of_its_type(chain: list[Schema]) -> None:
    for schema, layout in zip(chain, layouts(chain), strict=True):
        assert {field.property for field in layout.fields} == {each.name for each in schema.properties}
    assert next_layout(layout, ORDER, chain[-1]) == layout


@given(chains)
def test_a_number_that_no_field_has_is_reserved(chain: list[Schema]) -> None:
    last = layouts(chain)[-1]
    reserved = {number for low, high in last.reserved_numbers() for number in range(low, high + 1)}
    used = {field.number for field in last.fields}
    assert reserved.isdisjoint(used)
    assert reserved | used == set(range(1, last.next_number))


@given(chains)
def test_a_layout_survives_its_text(chain: list[Schema]) -> None:
    for layout in layouts(chain):
        assert layout_from_json(layout_to_json(layout)) == layout


def test_a_property_that_comes_back_gets_a_new_number_and_name() -> None:
    full, less = schema(total=TEXT, currency=TEXT), schema(currency=TEXT)
    *_, last = layouts([full, less, full])
    assert [(each.number, each.name, each.property) for each in last.fields] == [
        (2, "currency", "currency"),
        (3, "total_2", "total"),
    ]
    assert (list(last.reserved_numbers()), last.retired) == ([(1, 1)], ("total",))


def test_a_property_of_another_type_gets_a_new_number() -> None:
    first, second, third = layouts(
        [schema(total=TEXT), schema(total=PropertyType.NUMBER), schema(total=PropertyType.NUMBER)]
    )
    assert [[(each.number, each.name) for each in layout.fields] for layout in (first, second, third)] == [
        [(1, "total")],
        [(2, "total_2")],
        [(2, "total_2")],
    ]


def test_the_numbers_of_an_object_survive_its_absence() -> None:
    lines = Schema((Property("customer", PropertyType.OBJECT, properties=(Property("name", TEXT),)),))
    *_, last = layouts([lines, Schema(), lines])
    (customer,) = last.fields
    (name,) = last.message(customer).layout.fields
    assert (customer.number, name.number, name.name) == (2, 2, "name_2")


def test_the_numbers_of_protocol_buffers_are_left_out() -> None:
    almost = type(NO_LAYOUT)(next_number=18_998)
    layout = next_layout(almost, ORDER, schema(a=TEXT, b=TEXT, c=TEXT))
    assert [each.number for each in layout.fields] == [18_998, 18_999, 20_000]
    assert list(layout.reserved_numbers()) == [(1, 18_997)]


@pytest.mark.parametrize(
    ("name", "message", "file"),
    [
        (ORDER, "OrderCompleted", "order_completed"),
        ("v2_signup", "V2Signup", "v2_signup"),
        ("Order Completed", "OrderCompleted_25946acaf98e", "order_completed_025946acaf98e"),
    ],
)
def test_a_message_and_its_file_are_named_after_the_event(name: str, message: str, file: str) -> None:
    assert (message_name(name), file_name(name)) == (message, f"signalbox/events/v1/{file}.proto")


event_names = st.sampled_from([*HOSTILE, "order_2", "order2", "order", "Order", "x" * 61, "x" * 62]) | st.text(
    "aA_1 ", min_size=1, max_size=6
)


@given(event_names, event_names)
def test_no_two_events_share_a_message_or_a_file(one: str, other: str) -> None:
    assert (message_name(one) == message_name(other)) is (one == other)
    assert (file_name(one).casefold() == file_name(other).casefold()) is (one == other)


def test_a_field_may_have_the_name_of_a_property_that_comes_later() -> None:
    first, both = Schema((Property("a-b", TEXT),)), Schema((Property("a-b", TEXT), Property("a_b", TEXT)))
    *_, last = layouts([first, both])
    assert [(each.name, each.json_name) for each in last.fields] == [("a_b", "a-b"), ("a_b_2", "a_b\t")]
    (at_once,) = layouts([both])
    assert [(each.name, each.json_name) for each in at_once.fields] == [("a_b", "a_b"), ("a_b_2", "a-b")]
    assert message_class(ORDER, last)
    assert message_class(ORDER, at_once)


COLLIDING = ["_id", "id", "_id_2", "id_2", "__id", "_Id", "_type", "type", "id_", "_", "_1", "_class", "_id­"]
names = st.sampled_from(COLLIDING) | st.text("_aA1- ", min_size=1, max_size=5).filter(str.strip)
types = st.sampled_from(PropertyType)


@given(st.lists(st.dictionaries(names, types, min_size=1, max_size=6), min_size=1, max_size=3))
def test_the_messages_of_any_names_can_be_loaded(chain: list[dict[str, PropertyType]]) -> None:
    inside = [Schema((Property("_id", PropertyType.OBJECT, properties=schema(**each).properties),)) for each in chain]
    for revisions in ([schema(**each) for each in chain], inside):
        for each, layout in zip(revisions, layouts(revisions), strict=True):
            assert message_class(ORDER, layout)
            assert {field.property for field in layout.fields} == {declared.name for declared in each.properties}
            assert all(field.json_name.removesuffix("\t") == field.property for field in layout.fields)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["_id"], {"id": "_id\t"}),
        (["_id", "id"], {"id": "id", "id_2": "_id\t"}),
        (["_id", "_id_2"], {"id": "_id\t", "id_2": "_id_2\t"}),
        (["_id", "ID"], {"id": "_id\t", "id_2": "ID"}),
    ],
)
def test_a_json_name_is_not_that_of_a_oneof(names: list[str], expected: dict[str, str]) -> None:
    (layout,) = layouts([schema(**dict.fromkeys(names, TEXT))])
    assert {field.name: field.json_name for field in layout.fields} == expected


def test_a_property_without_a_oneof_keeps_its_json_name() -> None:
    (layout,) = layouts([schema(_at=PropertyType.DATE, _tags=PropertyType.ARRAY)])
    assert {field.name: field.json_name for field in layout.fields} == {"at": "_at", "tags": "_tags"}


def test_a_stored_layout_that_could_not_be_loaded_keeps_its_numbers_and_names() -> None:
    inner = (
        '{"fields":[{"number":1,"name":"id","property":"id","json_name":"id","type":"string","repeated":false},'
        '{"number":2,"name":"id_2","property":"_id","json_name":"_id","type":"string","repeated":false}],'
        '"next_number":3,"retired":[],"nested":{}}'
    )
    nested = f'"nested":{{"o":{{"name":"O","layout":{inner}}}}}'
    stored = inner.replace('"nested":{}', nested)
    layout = layout_from_json(stored)
    assert message_class(ORDER, layout)
    for each in (layout, layout.nested["o"].layout):
        assert [(field.number, field.name, field.json_name) for field in each.fields] == [
            (1, "id", "id"),
            (2, "id_2", "_id\t"),
        ]


# Against the tools


def texts(revisions: Mapping[str, tuple[Schema, MessageLayout]]) -> dict[str, str]:
    return {file_name(name): proto_text(name, "What it\nmeans.", *each) for name, each in revisions.items()}


def write(folder: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")
    return folder


def protoc(folder: Path, names: list[str]) -> FileDescriptorSet:
    out = folder / "set.binpb"
    command = [sys.executable, "-m", "grpc_tools.protoc", "--fatal_warnings", f"--proto_path={folder}"]
    outputs = [f"--descriptor_set_out={out}", f"--python_out={folder}"]
    done = subprocess.run([*command, *outputs, *names], check=False, capture_output=True, text=True, cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    return FileDescriptorSet.FromString(out.read_bytes())


def assert_importable(folder: Path, names: list[str]) -> None:
    """Load the generated modules in a process of their own, each over the fastest implementation there is."""
    modules = [name.removesuffix(".proto").replace("/", ".") + "_pb2" for name in names]
    program = f"import importlib\nfor each in {modules!r}: importlib.import_module(each)"
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True, cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")


def broken(before: Path, after: Path) -> str:
    """Return the breaking changes that buf reports."""
    config = '{"version":"v2","breaking":{"use":["WIRE_JSON"]}}'
    buf = str(Path(sys.executable).with_name("buf"))
    command = [buf, "breaking", str(after), "--against", str(before), "--config", config]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode in (0, 100), done.stderr
    return done.stdout


@few_runs
@given(many_chains())
def test_protoc_makes_of_the_text_what_the_descriptors_say(
    tmp_path_factory: pytest.TempPathFactory, many: list[list[Schema]]
) -> None:
    revisions = {
        f"chain_{number}": (chain[-1], layouts(chain, f"chain_{number}")[-1]) for number, chain in enumerate(many)
    }
    everything = Schema(tuple(Property(name, TEXT, description="*/ \x00\r\n\x0b // \u2028 x") for name in HOSTILE))
    revisions["Every Name!"] = (everything, next_layout(NO_LAYOUT, "Every Name!", everything))
    made = texts(revisions)
    folder = write(tmp_path_factory.mktemp("protoc"), made)
    compiled = protoc(folder, list(made))
    expected = {file_name(name): file_descriptor(name, layout) for name, (_, layout) in revisions.items()}
    assert all(message_class(name, layout) for name, (_, layout) in revisions.items())
    assert {file.name: file for file in compiled.file} == expected
    assert_importable(folder, list(made))


@few_runs
@given(many_chains())
def test_buf_finds_no_change_that_breaks(tmp_path_factory: pytest.TempPathFactory, many: list[list[Schema]]) -> None:
    before: dict[str, tuple[Schema, MessageLayout]] = {}
    after: dict[str, tuple[Schema, MessageLayout]] = {}
    for number, chain in enumerate(many):
        revisions = list(zip(chain, layouts(chain), strict=True))
        for step, (old, new) in enumerate(pairwise(revisions)):
            before[f"chain_{number}_step{step}"], after[f"chain_{number}_step{step}"] = old, new
    folders = tmp_path_factory.mktemp("before"), tmp_path_factory.mktemp("after")
    assert broken(write(folders[0], texts(before)), write(folders[1], texts(after))) == ""


def test_buf_would_find_one(tmp_path: Path) -> None:
    old, new = schema(total=TEXT), schema(total=PropertyType.DATE)
    folders = [
        write(tmp_path / name, texts({ORDER: (each, next_layout(NO_LAYOUT, ORDER, each))}))
        for name, each in (("before", old), ("after", new))
    ]
    assert "total" in broken(*folders)


@st.composite
def pairs_and_payloads(draw: st.DrawFn) -> tuple[Schema, Schema, dict[str, Any]]:
    old = draw(schemas())
    return old, draw(schemas()), draw(payloads(old.properties))


@given(pairs_and_payloads())
def test_new_code_reads_of_old_bytes_what_both_know(drawn: tuple[Schema, Schema, dict[str, Any]]) -> None:
    old, new, payload = drawn
    before, after = layouts([old, new])
    sent = typed(ORDER, before, payload)
    read = message_class(ORDER, after).FromString(sent.SerializeToString())
    shared = {field.property for field in before.fields if field in after.fields}
    known = typed(ORDER, before, {name: value for name, value in payload.items() if name in shared})
    read.DiscardUnknownFields()
    for field in before.fields:
        if field.property in shared and field.type is not WireType.MESSAGE:
            assert repr(getattr(read, field.name)) == repr(getattr(known, field.name))
    assert {field.name for field, _ in read.ListFields()} == {field.name for field, _ in known.ListFields()}
