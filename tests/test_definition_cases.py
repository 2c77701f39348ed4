"""Example payloads in files, validated offline as by a server."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.coercion.table import TABLE
from registry.coercion.validation import compile_schema
from registry.definitions.schema import Property, PropertyType, Schema, UnknownProperties
from server.cli.arguments.message_parsers import to_struct
from server.cli.definitions.cases import Case, Expectation, read_cases, run_case
from server.cli.errors import Failure
from server.cli.main import run
from server.rpc.messages.structs import read_struct
from tests.support.command_line import command
from tests.support.messages import event
from tests.support.refusals import refusal

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.service import Client

DEFINITIONS = """\
definitions:
  order_completed:
    properties:
      order_total: number!
      at: date
      lines: {type: array<object>, properties: {quantity: number}}
  free: {unknown_properties: keep}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "definitions.yaml").write_text(DEFINITIONS)
    return tmp_path


def cases(folder: Path, text: str, name: str = "cases.yaml") -> Path:
    file = folder / name
    file.write_text(f"definitions: definitions.yaml\ncases:\n{text}")
    return file


def outcome(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = run(["definition", "test", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


PASSING = """\
  - name: text becomes a number
    event: order_completed
    properties: {order_total: "129.99"}
    expect:
      properties: {order_total: 129.99}
      coercions: [properties.order_total]
  - event: order_completed
    properties: {order_total: 5.0, at: 2026-06-01, lines: [{quantity: "2"}]}
    expect:
      valid: true
      properties: {order_total: 5, at: "2026-06-01T00:00:00.000Z", lines: [{quantity: 2}]}
      coercions: ["properties.lines[0].quantity", properties.at]
  - event: order_completed
    expect: {valid: false, reasons: {properties.order_total: REQUIRED_PROPERTY_MISSING}}
  - event: order_completed
    properties: {order_total: yes}
    expect: {valid: false}
"""


def test_cases_and_definitions_are_read_from_stdin(folder: Path) -> None:
    wrong = "  - {event: nope}\n"
    read = command("definition", "test", "-f", "-", stdin=cases(folder, PASSING).read_text(), folder=folder)
    assert (read.code, read.err, read.out.splitlines()[-1]) == (0, "", "4 cases: 4 ok, 0 failed")
    read = command("definition", "test", "-f", "-", stdin=cases(folder, wrong).read_text(), folder=folder)
    assert (read.code, read.err.startswith("error: <stdin>:3:13: ")) == (1, True)
    for name in ("one.yaml", "two.yaml"):
        cases(folder, PASSING, name)
    files = ("-f", f"{folder}/one.yaml", "-f", f"{folder}/two.yaml")
    read = command("definition", "test", *files, "-d", "-", stdin=DEFINITIONS)
    assert (read.code, read.err, read.out.splitlines()[-1]) == (0, "", "8 cases: 8 ok, 0 failed")
    read = command("definition", "test", *files, "-d", "-", stdin="")
    assert (read.code, read.err) == (1, "error: <stdin>: the file is empty\n")


def test_cases_that_come_true_leave_with_0(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert outcome(capsys, "-f", cases(folder, PASSING)) == (
        0,
        """\
ok      order_completed: text becomes a number
ok      order_completed: case 2
ok      order_completed: case 3
ok      order_completed: case 4
4 cases: 4 ok, 0 failed
""",
        "",
    )


@pytest.mark.parametrize(
    ("case", "told"),
    [
        ("properties: {order_total: x}", ["valid: expected true, got false"]),
        ("properties: {order_total: 1}, expect: {valid: false}", ["valid: expected false, got true"]),
        (
            "properties: {order_total: 1}, expect: {properties: {order_total: true}}",
            ['properties: expected {"order_total": true}, got {"order_total": 1}'],
        ),
        (
            'properties: {order_total: "1"}, expect: {coercions: []}',
            ['coercions: expected [], got ["properties.order_total"]'],
        ),
        (
            "properties: {order_total: 1}, expect: {coercions: [properties.order_total], properties: {}}",
            [
                'properties: expected {}, got {"order_total": 1}',
                'coercions: expected ["properties.order_total"], got []',
            ],
        ),
        (
            "properties: {}, expect: {valid: false, reasons: {}}",
            [
                'reasons: expected {}, got {"properties.order_total": "REQUIRED_PROPERTY_MISSING"}',
                'properties.order_total: REQUIRED_PROPERTY_MISSING: Property "order_total" is required',
            ],
        ),
    ],
)
def test_a_case_that_fails_tells_what_was_expected_and_what_came(
    folder: Path, capsys: pytest.CaptureFixture[str], case: str, told: list[str]
) -> None:
    code, out, err = outcome(capsys, "-f", cases(folder, f"  - {{name: it, event: order_completed, {case}}}\n"))
    lines = out.splitlines()
    assert (code, err) == (1, "")
    assert lines[0] == f"FAILED  order_completed: it  ({folder}/cases.yaml:3:5)"
    assert [line.strip() for line in lines[1 : 1 + len(told)]] == told
    assert lines[-1] == "1 case: 0 ok, 1 failed"


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("2026-01-01", "2026-01-01"),
        ("2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z"),
        ("no", "no"),
        ("On", "On"),
        ("1_000", "1_000"),
        ("12:30", "12:30"),
        ("0b1", "0b1"),
        ("<<", "<<"),
        ("=", "="),
        ("1.2.3", "1.2.3"),
        ("'5'", "5"),
        ('"null"', "null"),
        ("|\n        a\n", "a\n"),
        ("", None),
        ("~", None),
        ("null", None),
        ("true", True),
        ("FALSE", False),
        ("010", 10),
        ("0x1F", 31),
        ("0o17", 15),
        ("-0.0", 0),
        ("5.0", 5),
        (".5", 0.5),
        ("1e3", 1000),
        ("9007199254740993", 2**53),
        ("12345678901234567890", 12345678901234567890.0),
        ("[1, {a: 2}]", [1, {"a": 2}]),
    ],
)
def test_a_payload_is_read_by_the_core_schema_and_carried_as_a_struct(folder: Path, written: str, value: Any) -> None:
    ((case,),) = (
        file.cases
        for file in read_cases([cases(folder, f"  - event: free\n    properties:\n      v: {written}\n")], [])
    )
    properties = run_case(case).properties
    assert properties is not None
    assert json.dumps(properties["v"]) == json.dumps(value)


def validated(schema: Schema, payload: dict[str, Any]) -> Any:
    case = Case("", "", "", compile_schema(schema), to_struct(payload), Expectation())
    result = run_case(case)
    return (result.properties, result.coercions, result.violations)


examples = [
    (kind, example.given, example.lenient)
    for kind, target in TABLE.items()
    for example in target.examples
    if type(example.given) is not int or abs(example.given) <= 2**53  # a Struct carries larger ones as doubles
]


@pytest.mark.parametrize(("kind", "given", "becomes"), examples)
def test_values_become_what_the_coercion_table_says(folder: Path, kind: str, given: Any, becomes: Any) -> None:
    (folder / "definitions.yaml").write_text(f"definitions: {{a: {{properties: {{v: {kind}}}}}}}")
    file = cases(folder, f"  - event: a\n    properties: {{v: {json.dumps(given)}}}\n")
    result = run_case(read_cases([file], [])[0].cases[0])
    assert json.dumps(result.properties) == json.dumps(None if becomes is None else {"v": becomes})


async def test_the_verdict_is_the_servers(shop: Client) -> None:
    schema = Schema(
        properties=(
            Property("order_total", PropertyType.NUMBER),
            Property("currency", PropertyType.STRING),
            Property("is_first_purchase", PropertyType.BOOLEAN),
        )
    )
    payloads: list[dict[str, Any]] = [{"order_total": "1.50"}, {"currency": 2**60}, {"is_first_purchase": None}]
    for payload in payloads:
        event_id = (await shop.send(event(payload))).event.id
        recorded = await shop.get(event_id)
        properties, changes, _ = validated(schema, payload)
        assert read_struct(recorded.properties) == properties
        assert [each.path for each in recorded.coercions] == [each.path for each in changes]
    wrong = {"order_total": "x", "nope": 1}
    refused = await refusal(shop.send(event(wrong)))
    _, _, violations = validated(schema, wrong)
    assert refused.violations == tuple((each.path, each.reason) for each in violations)


@given(
    st.dictionaries(st.text(max_size=3), st.floats(allow_nan=False, allow_infinity=False) | st.integers(), max_size=3)
)
def test_numbers_are_validated_as_the_doubles_that_a_message_carries(payload: dict[str, float]) -> None:
    try:
        struct = to_struct(payload)
    except ValueError:
        return
    properties, _, _ = validated(Schema(unknown_properties=UnknownProperties.KEEP), payload)
    assert properties == {name: float(value) for name, value in payload.items()}
    assert properties == read_struct(struct)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("cases: [{event: free}]", "cases.yaml:1:1: definitions are missing: add definitions: PATH, or give them with"),
        ("definitions: d.yaml\ncases: [{event: free}]", "cases.yaml:1:14: there is no "),
        ("definitions: definitions.yaml", "cases.yaml:1:1: cases are missing"),
        ("definitions: definitions.yaml\ncases: []", "cases.yaml:2:8: cases is empty: list at least one"),
        ("definitions: definitions.yaml\ncases: {a: 1}", "cases.yaml:2:8: cases must be a list; got a mapping"),
        ("definitions: definitions.yaml\ncases: [a]", "cases.yaml:2:9: a case must be a mapping"),
        ("definition: x", 'has no "definition"; did you mean "definitions"?'),
        ("[.nan]", "cases.yaml:1:1: a file of cases must be a mapping"),
        ("", "cases.yaml: the file is empty"),
        (b"\xff\xfe\x00", "cases.yaml: not UTF-8 text"),
    ],
)
def test_a_file_that_lists_no_cases_is_refused(folder: Path, text: str | bytes, told: str) -> None:
    file = folder / "cases.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(Failure) as raised:
        read_cases([file], [])
    assert told in raised.value.message


@pytest.mark.parametrize(
    ("case", "told"),
    [
        ("{}", ":3:5: the case has no event: add one, such as event: order_completed"),
        ("{event: order_complete}", 'no event "order_complete"; did you mean "order_completed"?'),
        ("{event: [free]}", ":3:13: event must be a text; got a list"),
        ("{event: free, Properties: {}}", 'a case has no "Properties"; did you mean "properties"?'),
        ("{event: free, properties: [1]}", ":3:31: properties must be a mapping"),
        ("{event: free, properties: }", ":3:30: properties must be a mapping, KEY: VALUE on each line; got nothing"),
        ("{event: free, properties: {a: .nan}}", ":3:35: .nan is not a JSON value: numbers are finite"),
        ("{event: free, properties: {a: [-.Inf]}}", ":3:36: -.Inf is not a JSON value"),
        (
            "{event: free, properties: {a: 1e999}}",
            ":3:35: the number is beyond the range of a double; a number must be finite",
        ),
        (
            "{event: free, properties: {a: " + "9" * 5000 + "}}",
            ":3:35: the number is beyond the range of a double; a number must be finite",
        ),
        ("{event: free, properties: {a: 1, a: 2}}", ':3:38: "a" is repeated; it is first given at'),
        ("{event: free, properties: {a: {1: 2, 1: 3}}}", ':3:42: "1" is repeated; it is first given at'),
        (
            "{event: free, properties: {a: " + "[" * 40 + "]" * 40 + "}}",
            "nested too deep; at most 32 levels are allowed",
        ),
        ("{event: free, properties: {a: &x [1], b: [*x, *x]}}", ":3:35: anchors and aliases are not supported"),
        ("{event: free, expect: true}", ":3:27: expect must be a mapping"),
        ("{event: free, expect: {valid: ja}}", ':3:35: valid must be true or false; got "ja"'),
        ("{event: free, expect: {valid: 1}}", ':3:35: valid must be true or false; got "1"'),
        ("{event: free, expect: {reasons: {}}}", "a valid payload has no reasons: write valid: false"),
        ("{event: free, expect: {valid: false, coercions: []}}", "coercions cannot be expected where valid is false"),
        ("{event: free, expect: {coercions: properties.a}}", "coercions must be a list"),
        ("{event: free, expect: {coercions: [[a]]}}", "the path of a property must be a text; got a list"),
        ("{event: free, expect: {valid: false, reasons: {a: }}}", "a reason must be a text; got nothing"),
    ],
)
def test_a_faulty_case_is_told_with_its_place(folder: Path, case: str, told: str) -> None:
    with pytest.raises(Failure) as raised:
        read_cases([cases(folder, f"  - {case}\n")], [])
    assert told in raised.value.message


def test_all_faulty_cases_and_files_are_told_at_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases(folder, "  - {event: nope}\n  - {event: free}\n  - 5\n", "a.yaml")
    cases(folder, "  - {}\n", "b.yaml")
    code, out, err = outcome(capsys, "-f", folder / "a.yaml", "-f", folder / "b.yaml")
    assert (code, out) == (1, "")
    assert err.startswith("error: 3 errors were found\n")
    assert [line.split(": ")[0].rpartition("/")[2] for line in err.splitlines()[1:]] == [
        "a.yaml:3:13",
        "a.yaml:5:5",
        "b.yaml:3:5",
    ]


def test_definitions_of_the_command_line_count_more_than_those_of_the_file(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = folder / "other"
    other.mkdir()
    (other / "x.yaml").write_text("definitions: {elsewhere: {}}")
    file = cases(folder, "  - {event: elsewhere}\n")
    assert outcome(capsys, "-f", file, "-d", other)[0] == 0
    code, _, err = outcome(capsys, "-f", file)
    assert code == 1
    assert 'the definitions have no event "elsewhere"' in err
    (folder / "definitions.yaml").write_text("definitions: {a: {coercion: x}}")
    assert "definitions.yaml:1:29: coercion must be one of" in outcome(capsys, "-f", file)[2]


def test_json_has_every_case_with_what_became_of_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = PASSING + "  - {event: order_completed, properties: {x: 1}}\n"
    code, out, _ = outcome(capsys, "-f", cases(folder, text), "--json")
    told = json.loads(out)
    assert (code, told["passed"], told["failed"]) == (1, 4, 1)
    first, *_, last = told["cases"]
    assert first["coercions"] == [
        {"path": "properties.order_total", "kind": "converted", "from": "129.99", "to": 129.99}
    ]
    assert (first["passed"], first["properties"]) == (True, {"order_total": 129.99})
    assert last["mismatches"] == [{"what": "valid", "expected": True, "got": False}]
    assert {each["reason"] for each in last["violations"]} == {"UNKNOWN_PROPERTY", "REQUIRED_PROPERTY_MISSING"}


def test_junit_xml_has_a_suite_for_each_file_and_a_failure_for_each_case_that_fails(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tests = folder / "tests"
    tests.mkdir()
    (tests / "a.yaml").write_text(f"definitions: ../definitions.yaml\ncases:\n{PASSING}")
    failing = '  - {name: "<a> & \\x1b\\0\\u2028 b", event: order_completed, properties: {order_total: "\\b"}}\n'
    (tests / "b.yaml").write_text(f"definitions: ../definitions.yaml\ncases:\n{failing}")
    report = folder / "report.xml"
    assert outcome(capsys, "-f", tests, "--junit", report)[0] == 1
    root = ET.fromstring(report.read_bytes())  # noqa: S314 - it was written right here
    assert root.tag == "testsuites"
    assert [(each.get("tests"), each.get("failures"), each.get("errors")) for each in (root, *root)] == [
        ("5", "1", "0"),
        ("4", "0", "0"),
        ("1", "1", "0"),
    ]
    assert [each.get("name") for each in root] == [f"{tests}/a.yaml", f"{tests}/b.yaml"]
    for element in root.iter():
        assert element.tag in {"testsuites", "testsuite", "testcase", "failure"}
        if element.tag != "failure":
            assert float(element.attrib["time"]) >= 0
    (failed,) = root.findall("testsuite/testcase[failure]")
    assert (failed.get("classname"), failed.get("name")) == ("order_completed", "<a> & \ufffd\ufffd\ufffd b")
    failure = failed[0]
    assert (failure.get("type"), failure.get("message")) == ("Mismatch", "valid: expected true, got false")
    assert failure.text is not None
    assert failure.text.splitlines()[0] == f"{tests}/b.yaml:3:5"
    assert "INVALID_PROPERTY_VALUE" in failure.text


def test_junit_on_stdout_sends_the_lines_to_stderr(folder: Path) -> None:
    arguments = ("definition", "test", "-f", str(cases(folder, PASSING)), "--junit", "-")
    done = command(*arguments)
    assert done.code == 0
    assert ET.fromstring(done.out).get("tests") == "4"  # noqa: S314 - it was written right here
    assert done.err.endswith("4 cases: 4 ok, 0 failed\n")
    assert "\x1b" not in done.err


def test_junit_and_json_do_not_share_stdout(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = outcome(capsys, "-f", cases(folder, PASSING), "--json", "--junit", "-")
    assert (code, out) == (2, "")
    assert "give --junit a file" in err
