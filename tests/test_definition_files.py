"""Definitions as files: reading them, and planning and applying them against a real server process."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from google.protobuf.duration_pb2 import Duration
from hypothesis import given
from hypothesis import strategies as st

from registry.definitions.schema import (
    CoercionMode,
    Compatibility,
    Property,
    PropertyType,
    Schema,
    UnknownProperties,
    same_schema,
)
from server.cli.arguments.options import Connection
from server.cli.client.session import Session
from server.cli.definitions.documents import DefinitionDocument, read_definitions
from server.cli.definitions.files import make_changes
from server.cli.definitions.plan import Action, Verdict, differences, make_plan, message_of
from server.cli.errors import Failure
from server.cli.main import run
from signalbox.v1 import event_definitions_pb2 as pb
from tests.support.command_line import Result, command
from tests.support.process import server_process

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support.service import Client, Service

ORDERS = """\
definitions:
  order_completed:
    description: An order was paid.
    compatibility: backward
    unknown_properties: drop
    coercion: strict
    event_retention: 90d
    properties:
      order_total: number!
      currency: {type: string, required: true, description: ISO 4217, suggested_values: [EUR, NO]}
      tags: array<string>
      extra: any!
      lines:
        type: array<object>
        properties:
          sku: string!
          quantity: number
"""
SHORT = "definitions:\n  {}:\n    properties: {{total: {}}}\n"


def read(folder: Path, text: str | bytes, name: str = "x.yaml") -> list[DefinitionDocument]:
    file = folder / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_definitions([file])


def faults(folder: Path, text: str | bytes) -> list[str]:
    """Read a text that is refused, and return each fault without the folder."""
    with pytest.raises(Failure) as raised:
        read(folder, text)
    lines = raised.value.details or (raised.value.message,)
    return [line.replace(f"{folder}/", "") for line in lines]


MANY_FAULTS = """\
definitions:
  a:
    compatibility: sometimes
    unknown_properties: maybe
    coercion: soft
    event_retention: 5 weeks
    properties:
      x: String
      y: {type: nothing, description: 5}
      z: {required: true}
      w: {type: string, required: yes}
      v: {type: object, properties: {inner: text}}
  b: {propertys: {}, compat: none}
"""


def test_every_error_of_a_file_is_reported_at_once(tmp_path: Path) -> None:
    lines = [line.split(": ")[0] for line in faults(tmp_path, MANY_FAULTS)]
    assert lines == [
        "x.yaml:3:20", "x.yaml:4:25", "x.yaml:5:15", "x.yaml:6:22", "x.yaml:8:10", "x.yaml:9:17", "x.yaml:10:7",
        "x.yaml:11:35", "x.yaml:12:45", "x.yaml:13:7", "x.yaml:13:22",
    ]  # fmt: skip


def test_a_file_says_all_that_a_definition_has(tmp_path: Path) -> None:
    string, number = PropertyType.STRING, PropertyType.NUMBER
    lines = Property(
        "lines",
        PropertyType.ARRAY,
        item_type=PropertyType.OBJECT,
        properties=(Property("sku", string, required=True), Property("quantity", number)),
    )
    schema = Schema(
        properties=(
            Property("order_total", number, required=True),
            Property("currency", string, required=True, description="ISO 4217", suggested_values=("EUR", "NO")),
            Property("tags", PropertyType.ARRAY, item_type=string),
            Property("extra", PropertyType.ANY, required=True),
            lines,
        ),
        unknown_properties=UnknownProperties.DROP,
        coercion=CoercionMode.STRICT,
    )
    place = f"{tmp_path}/x.yaml:2:3"
    retention = pb.EventRetention(max_age=Duration(seconds=90 * 86_400))
    assert read(tmp_path, ORDERS) == [
        DefinitionDocument("order_completed", "An order was paid.", schema, Compatibility.BACKWARD, retention, place)
    ]


def test_what_a_file_leaves_out_is_as_in_a_new_definition(tmp_path: Path) -> None:
    (document,) = read(tmp_path, "definitions: {page_viewed: {}}")
    assert (document.description, document.schema, document.compatibility) == ("", Schema(), Compatibility.NONE)


def test_names_and_words_are_the_text_that_is_written(tmp_path: Path) -> None:
    text = """\
definitions:
  no: {description: yes, compatibility: none}
  2026-01-01: {properties: {on: string, 010: number, ~: date, null: boolean, 1_0: {type: string, suggested_values: [off, 1.0]}}}
"""  # noqa: E501 - one definition, one line
    first, second = read(tmp_path, text)
    assert (first.name, first.description, first.compatibility) == ("no", "yes", Compatibility.NONE)
    assert second.name == "2026-01-01"
    assert [each.name for each in second.schema.properties] == ["on", "010", "~", "null", "1_0"]
    assert second.schema.properties[-1].suggested_values == ("off", "1.0")


def test_json_is_yaml_with_characters_beyond_the_first_plane(tmp_path: Path) -> None:
    text = json.dumps({"definitions": {"🛒": {"properties": {"a": "string"}}}})
    assert "\\ud83d" in text
    assert read(tmp_path, text)[0].name == "🛒"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "x.yaml: the file is empty"),
        ("# nothing\n", "x.yaml: the file is empty"),
        ("---\n", "x.yaml:2:1: a file of definitions must be a mapping, KEY: VALUE on each line; got nothing"),
        ("- a", "x.yaml:1:1: a file of definitions must be a mapping, KEY: VALUE on each line; got a list"),
        ("{}", "x.yaml:1:1: definitions are missing: list them under definitions:"),
        ("definition: {}", 'x.yaml:1:1: a file of definitions has no "definition"; did you mean "definitions"?'),
        ("definitions: {}", "x.yaml:1:14: definitions is empty: add at least one"),
        ("definitions:\n  a:", 'x.yaml:2:5: definition "a" must be a mapping, KEY: VALUE on each line; got nothing'),
        ("definitions: {a: {}}\n---\n", "x.yaml:2:1: a second document begins here: put it into a file of its own"),
        ("definitions:\n  a: {}\n  a: {}", 'x.yaml:3:3: "a" is repeated; it is first given at x.yaml:2:3'),
        ("definitions: {[a]: {}}", "x.yaml:1:15: a key of definitions must be text; got a list"),
        ("definitions: {a: {coercions: strict}}", 'definition "a" has no "coercions"; did you mean "coercion"?'),
        (
            "definitions: {a: {event_retention: 90}}",
            'event_retention is "90"; it must be a time such as 90d, or forever',
        ),
        ("definitions: {a: {event_retention: 0d}}", 'event_retention is "0d"; it must be a time such as 90d'),
        ("definitions: {a: {fields: {}}}", "it may have: description, compatibility, unknown_properties, coercion"),
        ("definitions: {a: {coercion: STRICT}}", 'got "STRICT"; did you mean "strict"?'),
        ("definitions: {a: {compatibility: off}}", "x.yaml:1:34: compatibility must be one of none, backward,"),
        ("definitions: {a: {description: }}", "x.yaml:1:31: description must be a text; got nothing"),
        ("definitions: {a: {description: [b]}}", "x.yaml:1:32: description must be a text; got a list"),
        (SHORT.format("a", "numbr"), 'x.yaml:3:25: "numbr" is not a type; did you mean "number"?'),
        (
            SHORT.format("a", "money"),
            "a type is string, number, boolean, date, object, array, any or array<TYPE>, followed by !",
        ),
        (SHORT.format("a", "array<money>"), 'x.yaml:3:25: "array<money>" is not a type: a type is string'),
        (
            SHORT.format("a", "array<any>"),
            "x.yaml:3:18: item_type any is not allowed; leave item_type out to accept any items",
        ),
        (SHORT.format("a", "number<string>"), "only an array has an item type, as in array<string>"),
        (SHORT.format("a", "number!!"), 'x.yaml:3:25: "number!!" is not a type'),
        (SHORT.format("a", "[number]"), 'x.yaml:3:25: property "total" must be a mapping'),
        (SHORT.format("a", "{required: true}"), 'x.yaml:3:18: property "total" has no type, such as type: number'),
        (SHORT.format("a", "{type: number!}"), "required is an entry of its own"),
        (SHORT.format("a", "{type: date, required: yes}"), 'required must be true or false; got "yes"'),
        (SHORT.format("a", "{type: string, suggested_values: EUR}"), "suggested_values must be a list"),
        (SHORT.format("a", "{type: date, suggested_values: [x]}"), "x.yaml:3:56: Only a string property may have"),
        (SHORT.format("a", "{type: date, properties: {x: date}}"), "x.yaml:3:50: Only an object, or an array"),
        (SHORT.format("signalbox:a", "date"), "x.yaml:2:3: The event name must not begin with"),
        (SHORT.format('"  "', "date"), "x.yaml:2:3: The event name must not be blank"),
        (SHORT.format("a", "&x date"), "x.yaml:3:25: anchors and aliases are not supported"),
        (SHORT.format("a", "*x"), "x.yaml:3:25: anchors and aliases are not supported"),
        (SHORT.format("a", "!!python/object:os.system date"), "x.yaml:3:25: tags are not supported"),
        (
            SHORT.format("a", '"\\ud800"'),
            "x.yaml:3:25: the text contains half a surrogate pair, which is not a character",
        ),
        ("definitions:\n\ta: {}", "x.yaml:2:1: not YAML: found character '\\t' that cannot start any token"),
        ("definitions: {a: {}", "x.yaml:1:20: not YAML: expected ',' or '}', but got '<stream end>'"),
        ("a:\n b\x07", "x.yaml:2:3: not YAML: U+0007 is not allowed"),
        ("[" * 10_000, "x.yaml:1:65: nested deeper than 64 levels"),
        ("- " * 10_000, "x.yaml:1:129: nested deeper than 64 levels"),
        ("{a: " * 10_000, "x.yaml:1:254: nested deeper than 64 levels"),
        (b"\x89PNG\r\n\x1a\n", "x.yaml: not UTF-8 text: invalid start byte at byte 0"),
        ("definitions: {a: {}}".encode("utf-16"), "x.yaml: not UTF-8 text"),
        (b"\x00" * 100, "x.yaml:1:1: not YAML: U+0000 is not allowed"),
    ],
)
def test_a_fault_is_reported_with_its_place_and_what_would_be_right(
    tmp_path: Path, text: str | bytes, told: str
) -> None:
    (fault,) = faults(tmp_path, text)
    assert told in fault


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch") / "x.yaml"


yaml_like = st.text("abdefinotrs01.:-{}[],'\"!&*#|>?%@`~\\ \t\n\r\ufeff\u2028\x85\ud7ff")


@given(st.one_of(yaml_like, yaml_like.map("definitions:\n  a: ".__add__), st.text()).map(str.encode) | st.binary())
def test_no_file_breaks_the_reader(scratch: Path, content: bytes) -> None:
    scratch.write_bytes(content)
    told: tuple[str, ...] = ()
    try:
        read_definitions([scratch])
    except Failure as failure:
        told = failure.details or (failure.message,)
    assert all(line.startswith(f"{scratch}:") and line.isprintable() for line in told)


def test_all_faults_are_reported_at_once(tmp_path: Path) -> None:
    inner = ", ".join(f"p{number}: number" for number in range(51))
    text = f"definitions:\n  a: {{colour: red}}\n  b: {{properties: {{{inner}}}}}\n  c: {{coercion: x}}\n"
    places = [fault.split(": ")[0] for fault in faults(tmp_path, text)]
    assert places == ["x.yaml:2:7", f"x.yaml:3:{text.splitlines()[2].index('p50') + 1}", "x.yaml:4:17"]


def test_properties_nested_too_deep_are_refused_where_they_stand(tmp_path: Path) -> None:
    text = "definitions: {a: {properties: {p: " + "{type: object, properties: {p: " * 10 + "date" + "}}" * 10 + "}}}"
    (fault,) = faults(tmp_path, text)
    assert "Properties may be nested at most 10 levels deep" in fault


def test_a_folder_is_read_at_any_depth_in_order(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name, event in (("c.yml", "third"), ("a.yaml", "first"), ("b/z.yaml", "second"), ("d.txt", "none")):
        (tmp_path / name).write_text(SHORT.format(event, "date"))
    assert [each.name for each in read_definitions([tmp_path])] == ["first", "second", "third"]
    twice = read_definitions([tmp_path / "c.yml", tmp_path])
    assert [each.name for each in twice] == ["third", "first", "second"]


def test_a_name_in_two_files_is_refused_with_both_places(tmp_path: Path) -> None:
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text(SHORT.format("same", "date"))
    with pytest.raises(Failure) as raised:
        read_definitions([tmp_path])
    assert raised.value.message == f'{tmp_path}/b.yaml:2:3: "same" is defined already, at {tmp_path}/a.yaml:2:3'


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(Failure, match=r"no .yaml or .yml file is in this folder"):
        read_definitions([tmp_path])
    (tmp_path / "gone.yaml").symlink_to(tmp_path / "nowhere")
    with pytest.raises(Failure, match=r"gone.yaml: cannot be read: No such file or directory"):
        read_definitions([tmp_path])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("plan",), "Missing option '-f' / '--file'"),
        (("apply", "-f", "x", "--nonsense"), "No such option"),
        (("plan", "-f", "x", "--server", "http://x"), "is not HOST:PORT"),
    ],
)
def test_a_wrong_command_line_never_looks_like_an_incompatible_change(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], told: str
) -> None:
    assert run(("definition", *arguments)) == 1
    assert told in capsys.readouterr().err


leaves = st.sampled_from([PropertyType.STRING, PropertyType.NUMBER])


@st.composite
def properties(draw: st.DrawFn, depth: int = 1) -> tuple[Property, ...]:
    made = []
    for name in draw(st.lists(st.sampled_from(["a", "b", "a.b"]), unique=True)):
        kind = draw(st.sampled_from(PropertyType) if depth else leaves)
        each = Property(name, kind, required=draw(st.booleans()), description=draw(st.sampled_from(["", "x"])))
        if kind is PropertyType.ARRAY:
            each = replace(each, item_type=draw(st.sampled_from([None, PropertyType.STRING, PropertyType.OBJECT])))
        if kind is PropertyType.STRING:
            each = replace(each, suggested_values=draw(st.sampled_from([(), ("x",), ("x", "y")])))
        made.append(replace(each, properties=draw(properties(depth - 1))) if each.may_nest and depth else each)
    return tuple(made)


documents = st.builds(
    DefinitionDocument,
    name=st.just("a"),
    description=st.sampled_from(["", "x"]),
    schema=st.builds(Schema, properties=properties(), unknown_properties=st.sampled_from(UnknownProperties)),
    compatibility=st.sampled_from(Compatibility),
    place=st.just("x.yaml:1:1"),
)


@given(documents, documents, st.booleans())
def test_nothing_differs_exactly_where_the_registry_sees_no_change(
    one: DefinitionDocument, other: DefinitionDocument, alike: bool
) -> None:
    if alike:
        turned = replace(one.schema, properties=one.schema.properties[::-1])
        other = replace(one, schema=turned)
    same = same_schema(one.schema, other.schema)
    rest = (one.description, one.compatibility) == (other.description, other.compatibility)
    assert (not list(differences(message_of(one), message_of(other)))) is (same and rest)


class Shop:
    """A project of its own on the server, and a folder for files."""

    def __init__(self, service: Service, client: Client, folder: Path) -> None:
        self.client = client
        self.folder = folder
        self.address = service.address
        self.session = Session(Connection(service.address, client.secret, "", "", 30.0, json=False))

    def write(self, text: str) -> Path:
        file = self.folder / "x.yaml"
        file.write_text(text)
        return file

    async def planned(self, text: str) -> Any:
        return await make_plan(self.session, read_definitions([self.write(text)]))

    async def names(self) -> dict[str, int]:
        """Return the live definitions with their revisions."""
        answer = await self.client.definitions.ListEventDefinitions(pb.ListEventDefinitionsRequest())
        return {each.name: each.revision for each in answer.event_definitions}

    async def __call__(self, name: str, text: str, *arguments: str) -> Result:
        self.write(text)
        variables = {"SIGNALBOX_SERVER": self.address, "SIGNALBOX_KEY": self.client.secret}
        words = ("definition", name, "-f", "x.yaml", *arguments)
        return await asyncio.to_thread(command, *words, variables=variables, folder=self.folder)


@pytest_asyncio.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    folder = tmp_path_factory.mktemp("files")
    async with server_process(f"sqlite:///{folder}/signalbox.db", folder) as process:
        yield process.service


@pytest_asyncio.fixture
async def shop(server: Service, tmp_path: Path) -> AsyncIterator[Shop]:
    shop = Shop(server, await server.project(), tmp_path)
    async with shop.session.channel:
        yield shop


BACKWARD = "definitions:\n  a:\n    compatibility: backward\n    properties: {{x: {}, y: string}}\n"


async def test_a_plan_shows_what_would_change_and_changes_nothing(shop: Shop) -> None:
    await shop.client.define("elsewhere", pb.Schema())
    await shop.client.define("same", pb.Schema(), description="as it is")
    await shop.client.define(
        "order_completed",
        pb.Schema(
            properties=[
                pb.Property(name="order_total", type=pb.PROPERTY_TYPE_STRING),
                pb.Property(name="gone", type=pb.PROPERTY_TYPE_DATE),
            ]
        ),
        description="\x1b[31mold",
    )
    text = ORDERS.replace("backward", "none") + "  same: {description: as it is}\n  new: {properties: {at: date!}}\n"
    before = await shop.names()
    shown = await shop("plan", text)
    assert (shown.code, shown.err) == (0, "")
    assert shown.out.splitlines() == [
        "~ order_completed  (update, revision 1; x.yaml:2:3)",
        '    ~ description: "\\u001b[31mold" -> "An order was paid."',
        "    ~ unknown_properties: reject -> drop",
        "    ~ coercion: lenient -> strict",
        "    + event_retention: 90d",
        "    ~ properties.order_total: string -> number!",
        "    + properties.currency: string!",
        '    + properties.currency description: "ISO 4217"',
        '    + properties.currency suggested_values: ["EUR", "NO"]',
        "    + properties.tags: array<string>",
        "    + properties.extra: any!",
        "    + properties.lines: array<object>",
        "    + properties.lines[].sku: string!",
        "    + properties.lines[].quantity: number",
        "    - properties.gone: date",
        "= same  (unchanged, revision 1; x.yaml:18:3)",
        "+ new  (create; x.yaml:19:3)",
        "    + compatibility: none",
        "    + unknown_properties: reject",
        "    + coercion: lenient",
        "    + properties.at: date!",
        "not in the files: elsewhere",
        "1 to create, 1 to change, 1 unchanged",
    ]
    assert await shop.names() == before


async def test_applying_twice_changes_nothing_the_second_time(shop: Shop) -> None:
    await shop.client.define("elsewhere", pb.Schema())
    first = await shop("apply", ORDERS)
    assert (first.code, first.err) == (0, "")
    assert first.out.endswith("1 to create\ncreated order_completed, revision 1\n")
    wanted = message_of(read_definitions([shop.folder / "x.yaml"])[0])
    request = pb.GetEventDefinitionRequest(event_definition="order_completed")
    made = (await shop.client.definitions.GetEventDefinition(request)).event_definition
    assert (made.schema, made.description, made.compatibility) == (
        wanted.schema,
        wanted.description,
        wanted.compatibility,
    )
    again = await shop("apply", ORDERS, "--json")
    assert again.code == 0
    told = json.loads(again.out)
    assert told["definitions"][0]["action"] == "unchanged"
    assert (told["applied"], told["not_in_files"]) == ([], ["elsewhere"])
    assert await shop.names() == {"order_completed": 1, "elsewhere": 1}


async def test_an_incompatible_change_is_told_with_exit_code_2_and_nothing_is_applied(shop: Shop) -> None:
    assert (await shop.planned(BACKWARD.format("number"))).exit_code == 0
    assert (await shop("apply", BACKWARD.format("number"))).code == 0
    text = BACKWARD.format("boolean") + "  b: {}\n"
    refused = await shop("apply", text)
    assert (refused.code, refused.err) == (2, "nothing was applied\n")
    assert "    ! incompatible: TYPE_CHANGED: properties.x" in refused.out
    assert refused.out.endswith("\n1 to create, 1 incompatible\n")
    assert await shop.names() == {"a": 1}
    shown = await shop("plan", text, "--json")
    assert shown.code == 2
    told = json.loads(shown.out)
    assert told["summary"] == {"create": 1, "update": 0, "incompatible": 1, "invalid": 0, "unchanged": 0}
    change, creation = told["definitions"]
    assert (change["verdict"], change["reason"], change["place"]) == (
        "incompatible",
        "INCOMPATIBLE_SCHEMA",
        "x.yaml:2:3",
    )
    assert [(each["path"], each["reason"]) for each in change["violations"]] == [("properties.x", "TYPE_CHANGED")]
    assert {"path": "properties.x", "field": "type", "before": "number", "after": "boolean"} in change["differences"]
    assert (creation["action"], creation["verdict"], creation["violations"]) == ("create", "ok", [])


async def test_what_the_server_finds_invalid_counts_more_than_an_incompatible_change(shop: Shop) -> None:
    await shop.client.define("kept", pb.Schema())
    await make_changes(shop.session, (await shop.planned(BACKWARD.format("number"))).changes, [])
    long = f"  b: {{description: {'x' * 2001}}}\n"
    planned = await shop.planned(BACKWARD.format("boolean") + long)
    assert [step.verdict for step in planned.steps] == [Verdict.INCOMPATIBLE, Verdict.INVALID]
    assert planned.exit_code == 1
    assert planned.not_in_files == ("kept",)
    assert (await shop.planned(BACKWARD.format("number") + "  c: {}\n")).exit_code == 0


async def test_somebody_elses_change_in_between_is_not_overwritten(shop: Shop) -> None:
    text = "definitions: {a: {}, b: {}, c: {}}"
    await make_changes(shop.session, (await shop.planned(text)).changes, [])
    planned = await shop.planned("definitions: {a: {description: x}, b: {description: x}, c: {description: x}}")
    await shop.client.redefine(pb.Schema(unknown_properties=pb.UNKNOWN_PROPERTIES_KEEP), "b")
    applied: list[pb.EventDefinition] = []
    with pytest.raises(Failure) as raised:
        await make_changes(shop.session, planned.changes, applied)
    assert [each.name for each in applied] == ["a"]
    assert raised.value.message.startswith('stopped at "b": The resource has been changed')
    assert raised.value.reason == "ETAG_MISMATCH"
    assert raised.value.details[-3:] == (
        "applied before it: a",
        "not attempted: 1 more",
        "run apply again to continue",
    )
    assert (await shop.names())["b"] == 2


async def test_a_definition_created_in_between_is_not_overwritten(shop: Shop) -> None:
    planned = await shop.planned("definitions: {a: {}}")
    await shop.client.define("a", pb.Schema(unknown_properties=pb.UNKNOWN_PROPERTIES_KEEP))
    with pytest.raises(Failure, match="already exists") as raised:
        await make_changes(shop.session, planned.changes, [])
    assert raised.value.details[-3:-1] == ("nothing was applied before it", "no change was left")


async def test_a_deleted_definition_of_the_name_is_left_alone(shop: Shop) -> None:
    old = await shop.client.define("a", pb.Schema())
    await shop.client.undefine("a")
    planned = await shop.planned("definitions: {a: {}}")
    assert [step.action for step in planned.steps] == [Action.CREATE]
    applied: list[pb.EventDefinition] = []
    await make_changes(shop.session, planned.changes, applied)
    assert applied[0].id != old.id


async def test_one_definition_too_many_is_refused_before_anything_is_applied(shop: Shop) -> None:
    for number in range(99):
        await shop.client.define(f"d{number}", pb.Schema())
    planned = await shop.planned("definitions: {d0: {}, x: {}, y: {}}")
    assert [step.verdict for step in planned.steps] == [Verdict.OK, Verdict.OK, Verdict.INVALID]
    assert planned.steps[2].refusal.reason == "TOO_MANY_DEFINITIONS"
    assert planned.exit_code == 1


async def test_a_key_that_may_not_write_is_told_once(shop: Shop, server: Service) -> None:
    shop.client = await server.key(shop.client.project, "definitions:read")
    refused = await shop("plan", "definitions: {a: {}, b: {}}")
    assert refused == Result(1, "", 'error: The API key lacks the scope "definitions:write"\n')
