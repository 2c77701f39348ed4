"""The YAML of `definition infer` and `export` says everything about definitions: `plan` and `apply` read the same."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
from google.protobuf.duration_pb2 import Duration
from hypothesis import given
from hypothesis import strategies as st

from registry.definitions.schema import Compatibility, Property, PropertyType, Schema
from registry.errors import InvalidName
from registry.names import check_event_name
from server.cli.arguments.message_parsers import definition_retention
from server.cli.definitions.documents import read_definitions
from server.cli.definitions.export import write_files, yaml_files
from server.cli.definitions.infer import proposal
from server.cli.definitions.plan import message_of
from server.rpc.messages.definitions import write_schema
from server.rpc.messages.enums import COMPATIBILITY
from server.rpc.messages.retention import MAX_RETENTION, MIN_RETENTION, write_definition_retention
from signalbox.v1 import event_definitions_pb2 as pb
from tests.support.command_line import Result, command
from tests.support.payloads import SCHEMAS

if TYPE_CHECKING:
    from tests.support.service import Client, Service

pytestmark = pytest.mark.lasting


def is_event_name(name: str) -> bool:
    try:
        check_event_name(name)
    except InvalidName:
        return False
    return True


CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\x00")
TEXTS = st.text(CHARACTERS, max_size=8) | st.sampled_from(
    ["", "ISO 4217", "yes", "a: b # c", "two\nlines", "null", "word " * 50]
)
NAMES = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1, max_size=8) | st.sampled_from(
    [
        "order_completed",
        "Order_Completed",
        "yes",
        "a: b",
        "größe",
        "-",
        ".",
        "..",
        "../x",
        "/x",
        "a/b",
        "CON",
        "a\\b",
        "~",
    ]
)
RETENTIONS = st.sampled_from(["project", "forever", "90d", "1s", "3601s"]).map(definition_retention) | st.integers(
    MIN_RETENTION, MAX_RETENTION
).map(write_definition_retention)


@st.composite
def described(draw: st.DrawFn, property_: Property) -> Property:
    most = 2 if property_.type is PropertyType.STRING else 0
    return replace(
        property_,
        description=draw(TEXTS),
        personal=draw(st.booleans()),
        suggested_values=tuple(draw(st.lists(TEXTS.filter(bool), max_size=most, unique=True))),
        properties=tuple(draw(described(inner)) for inner in property_.properties),
    )


@st.composite
def schemas(draw: st.DrawFn) -> Schema:
    schema = draw(SCHEMAS)
    return replace(schema, properties=tuple(draw(described(each)) for each in schema.properties))


DEFINITIONS = st.builds(
    pb.EventDefinition,
    name=NAMES.filter(is_event_name),
    description=TEXTS,
    schema=schemas().map(write_schema),
    compatibility=st.sampled_from(Compatibility).map(COMPATIBILITY.write),
    event_retention=RETENTIONS,
)


@given(DEFINITIONS)
def test_a_proposal_says_everything_that_its_definition_has(definition: pb.EventDefinition) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "definitions.yaml"
        file.write_text(proposal(pb.InferEventDefinitionResponse(event_definition=definition)), encoding="utf-8")
        (document,) = read_definitions([file])
    assert message_of(document) == definition


@given(st.lists(DEFINITIONS, min_size=1, max_size=5, unique_by=lambda each: each.name))
def test_exported_files_say_everything_that_their_definitions_have(definitions: list[pb.EventDefinition]) -> None:
    files = yaml_files(definitions)
    assert len({name.lower() for name in files}) == len(definitions)
    with tempfile.TemporaryDirectory() as folder:
        written = write_files(Path(folder), files)
        assert {path.parent for path in written} == {Path(folder)}
        read = {document.name: message_of(document) for document in read_definitions([Path(folder)])}
    assert read == {definition.name: definition for definition in definitions}


# Against a server

HOSTILE = ("../up", "/root", "a/b", "-", "..", "Order_Completed", "order_completed ", "größe: #1", "no", "x" * 255)


async def exported(service: Service, client: Client, *arguments: str, stdin: str = "") -> Result:
    variables = {"SIGNALBOX_SERVER": service.address, "SIGNALBOX_KEY": client.secret}
    return await asyncio.to_thread(command, "definition", *arguments, stdin=stdin, variables=variables)


@pytest_asyncio.fixture
async def project(service: Service) -> Client:
    """Return a project with definitions of hostile names, one with all there is to say, and a deleted one."""
    client = await service.project()
    for name in HOSTILE:
        await client.define(name)
    await client.define("gone")
    await client.definitions.DeleteEventDefinition(pb.DeleteEventDefinitionRequest(event_definition="gone"))
    rich = pb.EventDefinition(
        name="rich",
        description="An order\nwas paid: # yes ",
        compatibility=pb.COMPATIBILITY_FULL_TRANSITIVE,
        event_retention=pb.EventRetention(max_age=Duration(seconds=3_000_000_000, nanos=123_456_000)),
        schema=pb.Schema(
            properties=[
                pb.Property(name="note", type=pb.PROPERTY_TYPE_STRING, personal=True),
                pb.Property(
                    name="items",
                    type=pb.PROPERTY_TYPE_ARRAY,
                    item_type=pb.PROPERTY_TYPE_OBJECT,
                    required=True,
                    properties=[
                        pb.Property(name="null", type=pb.PROPERTY_TYPE_STRING, suggested_values=["1", "true", "~"]),
                    ],
                ),
            ],
            unknown_properties=pb.UNKNOWN_PROPERTIES_KEEP,
            coercion=pb.COERCION_MODE_STRICT,
        ),
    )
    await client.definitions.CreateEventDefinition(pb.CreateEventDefinitionRequest(event_definition=rich))
    return client


def files_in(folder: Path) -> list[str]:
    return sorted(map(str, folder.iterdir()))


def assert_nothing_to_do(planned: Result) -> None:
    assert (planned.code, planned.err) == (0, "")
    assert {step["action"] for step in planned.json["definitions"]} == {"unchanged"}
    assert {step["name"] for step in planned.json["definitions"]} == {"rich", *HOSTILE}
    assert planned.json["not_in_files"] == []


async def test_a_plan_of_what_was_exported_finds_no_change(service: Service, project: Client, tmp_path: Path) -> None:
    folder = tmp_path / "definitions"
    done = await exported(service, project, "export", "--format", "yaml", "-o", str(folder))
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == files_in(folder)
    assert files_in(tmp_path) == [str(folder)]
    assert_nothing_to_do(await exported(service, project, "plan", "-f", str(folder), "--json"))
    again = await exported(service, project, "apply", "-f", str(folder), "--json")
    assert again.json["applied"] == []


async def test_one_document_on_stdout_is_read_from_stdin(service: Service, project: Client) -> None:
    done = await exported(service, project, "export", "--format", "yaml", "-o", "-")
    assert (done.code, done.err) == (0, "")
    assert_nothing_to_do(await exported(service, project, "plan", "-f", "-", "--json", stdin=done.out))
    other = await service.project()
    applied = await exported(service, other, "apply", "-f", "-", "--json", stdin=done.out)
    assert (applied.code, len(applied.json["applied"])) == (0, len(HOSTILE) + 1)
    assert (await exported(service, other, "export", "--format", "yaml", "-o", "-")).out == done.out


async def test_only_named_live_definitions_are_exported(service: Service, project: Client, tmp_path: Path) -> None:
    arguments = ("export", "--format", "yaml", "-o", str(tmp_path), "--json")
    done = await exported(service, project, *arguments, "--", "rich", "-", "rich")
    assert len(done.json["files"]) == 2
    missing = await exported(service, project, *arguments, "gone")
    assert (missing.code, "gone" in missing.err) == (1, True)
    listing = pb.ListEventDefinitionsRequest(search="gone", show_deleted=True)
    (gone,) = (await project.definitions.ListEventDefinitions(listing)).event_definitions
    deleted = await exported(service, project, *arguments, gone.id)
    assert (deleted.code, '\\"gone\\" is deleted' in deleted.err) == (1, True)
    assert len(files_in(tmp_path)) == 2
