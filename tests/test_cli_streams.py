"""The command line with bytes that are no text, and standard streams that are closed, full or of another encoding."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from server.cli.arguments.message_parsers import read_schema
from server.cli.client.event_lines import batches, read_event
from server.cli.definitions.cases import read_cases, run_case
from server.cli.main import MAX_MESSAGE, run
from server.cli.output.streams import prepare_streams
from tests.support.command_line import ENVIRONMENT, PROGRAM, empty_database, serving
from tests.support.messages import ADA, ORDER
from tests.support.postgres import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.command_line import Server

KEY = ("--key", "sb_nobody", "--server", "127.0.0.1:1")
NO_TEXT = os.fsdecode(b"\xff")


@pytest.fixture(scope="module")
def signalbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("cli")) as server:
        yield server


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("SIGNALBOX_")]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    "arguments",
    [
        ("event", "show", NO_TEXT),
        ("event", "send", NO_TEXT, "--email", "a@b.c"),
        ("event", "send", "x", "--email", NO_TEXT),
        ("contact", "upsert", NO_TEXT),
        ("automation", "create", NO_TEXT, "--event", "x"),
        ("project", "create", NO_TEXT),
        ("definition", "create", NO_TEXT),
        ("run", "cancel", "x", "--reason", NO_TEXT),
    ],
)
def test_an_argument_that_is_no_text_is_named(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]) -> None:
    assert run((*arguments, "--project", "p", *KEY)) == 1
    place = arguments.index(NO_TEXT) + 1
    assert capsys.readouterr().err == f"error: argument {place} is not text in UTF-8\n"


def test_a_variable_that_is_no_text_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIGNALBOX_PROJECT", NO_TEXT)
    assert run(("event", "list", *KEY)) == 1
    assert capsys.readouterr().err == "error: SIGNALBOX_PROJECT is not text in UTF-8\n"


def test_a_path_may_be_no_text(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / NO_TEXT).write_text("{")
    assert run(("definition", "create", "x", "--schema", str(tmp_path / NO_TEXT), *KEY)) != 70


@pytest.mark.parametrize("option", ["--limit", "--since", "--server", "--tls-ca"])
def test_a_long_value_is_not_quoted_whole(capsys: pytest.CaptureFixture[str], option: str) -> None:
    assert run(("event", "list", option, "x" * 100_000)) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: Invalid value for '{option}'")
    assert err.endswith("event list --help)\n")
    assert len(err) < MAX_MESSAGE + 100


def test_a_file_without_a_certificate_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(("event", "list", "--tls-ca", __file__, *KEY)) == 1
    assert capsys.readouterr().err == f"error: {__file__} contains no certificate in PEM format (--tls-ca)\n"


def shell(command: str, **variables: str) -> tuple[int, str, str]:
    """Run a command of the shell, in which $signalbox starts the program."""
    done = subprocess.run(
        ["sh", "-c", command],
        check=False,
        capture_output=True,
        text=True,
        env=ENVIRONMENT | {"signalbox": " ".join(PROGRAM)} | variables,
        timeout=60,
    )
    return done.returncode, done.stdout, done.stderr


def test_a_closed_standard_input_is_reported() -> None:
    told = shell(f"$signalbox definition create x --schema - --project p {' '.join(KEY)} <&-")
    assert told == (1, "", "error: standard input is closed\n")


async def test_json_lines_from_a_closed_standard_input_are_refused_in_the_same_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    prepare_streams()
    with pytest.raises(OSError, match="standard input is closed"):
        await anext(batches(sys.stdin.buffer, 10))


@pytest.mark.parametrize(
    "arguments",
    ["--help", "--version", "event list", "event export", "definition test -f cases.yaml --junit -"],
)
def test_a_closed_standard_output_is_reported(signalbox: Server, arguments: str) -> None:
    (signalbox.folder / "definitions.yaml").write_text("definitions: {a: {}}")
    (signalbox.folder / "cases.yaml").write_text("{definitions: definitions.yaml, cases: [{event: a}]}")
    signalbox("event", "send", ORDER, "--email", ADA, "--properties", '{"order_total": 1}')
    command = f"cd {signalbox.folder}; $signalbox {arguments}"
    paths = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    assert shell(command, **signalbox.variables, **paths)[0] == 0
    for closed in (">&-", "<&- >&-"):
        code, out, err = shell(f"{command} {closed}", **signalbox.variables, **paths)
        assert (code, out, err.splitlines()[-1]) == (1, "", "error: standard output is closed")


def test_a_closed_standard_error_loses_only_its_lines(signalbox: Server) -> None:
    assert shell("$signalbox event list --nonsense 2>&-") == (2, "", "")
    assert shell("$signalbox event list --event none --json 2>&-", **signalbox.variables) == (0, "[]\n", "")


@pytest.mark.parametrize("streams", [">&-", "2>&-", "<&- >&- 2>&-", "> /dev/full 2> /dev/full"])
def test_a_server_serves_without_streams_and_no_file_takes_their_numbers(tmp_path: Path, streams: str) -> None:
    if "full" in streams and not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    shutil.copy(empty_database(), tmp_path)
    address, database = f"127.0.0.1:{free_port()}", f"sqlite:///{tmp_path}/signalbox.db"
    serve = f"$signalbox serve --dev --grpc {address} --http 127.0.0.1:0 --database {database} {streams}"
    check = f"for _ in $(seq 50); do $signalbox check --server {address} 2> /dev/null && break; done"
    numbers = "for number in 0 1 2; do readlink /proc/$server/fd/$number; done"
    code, out, _ = shell(f"{serve} & server=$!; {check}; {numbers}; kill $server; wait $server")
    assert code == 0
    assert address in out
    assert str(tmp_path) not in out


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")  # noqa: PTH110 - no path of ours
def test_a_full_disk_is_reported() -> None:
    assert shell("$signalbox --help > /dev/full") == (1, "", "error: No space left on device\n")


def test_characters_that_a_terminal_cannot_show_are_escaped(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/\U0001f4a5.db"
    code, out, _ = shell(f"$signalbox migrate --database {url}", PYTHONIOENCODING="latin-1")
    assert code == 0
    assert out.startswith(f"sqlite:///{tmp_path}/\\U0001f4a5.db is now at")


# A byte order mark, which editors of Windows put before a text


async def test_a_byte_order_mark_before_json_lines_is_skipped_and_one_in_a_later_line_is_refused(
    tmp_path: Path,
) -> None:
    line = '{"name":"order_completed","email":"ada@example.com"}'
    file = tmp_path / "events.jsonl"
    file.write_text(f"\ufeff{line}\n\ufeff{line}\n")
    with file.open("rb") as opened:
        ((first, second),) = [batch async for batch in batches(opened, 10)]
    assert read_event(first[1], "").name == "order_completed"
    with pytest.raises(ValueError, match="JSON"):
        read_event(second[1], "")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"email":5}', "email must be a string or null; got a number"),
        ("[]", "The line must be an object; got an array"),
        ('{"email":"a@b.de","email":"c@d.de"}', 'the name "email" is given twice in one object'),
        ('{"email":"a@b.de","properties":{"o":{"a":1,"a":1}}}', 'the name "a" is given twice in one object'),
        ('{"emial":"a@b.de"}', "emial is not a field of the line; did you mean email?"),
        (
            '{"foo":1}',
            "foo is not a field of the line; it has name, email, contact_id, properties, occurred_at, idempotency_key",
        ),
        ('{"email":"a@b.de"', "the line is not valid JSON: it ends too early"),
        ('{"email":"a@b.de","properties":{"n":NaN}}', "the line is not valid JSON: invalid character (byte 36)"),
        (
            '{"email":"a@b.de","occurred_at":"2016-12-31T23:59:60Z"}',
            'occurred_at is not a day and time of the calendar, without leap seconds; got "2016-12-31T23:59:60Z"',
        ),
        (
            '{"email":"a@b.de","occurred_at":"0000-01-01T00:00:00Z"}',
            'occurred_at is outside the years 0001 to 9999; got "0000-01-01T00:00:00Z"',
        ),
    ],
)
def test_an_invalid_line_is_refused_with_what_would_be_right(line: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole message is compared
        read_event(line.encode(), "order_completed")
    assert str(caught.value) == message


def test_a_field_of_a_line_that_is_null_is_not_set() -> None:
    plain = '{"email":"ada@example.com"}'
    line = plain[:-1] + ',"name":null,"contact_id":null,"properties":null,"occurred_at":null,"idempotency_key":null}'
    assert read_event(line.encode(), "order_completed") == read_event(plain.encode(), "order_completed")


def test_a_byte_order_mark_before_a_schema_in_json_is_skipped(tmp_path: Path) -> None:
    file = tmp_path / "schema.json"
    written = '{"properties":[{"name":"n","type":"PROPERTY_TYPE_NUMBER"}]}'
    file.write_text(f"\ufeff{written}")
    with file.open() as marked:
        found = read_schema(marked)
    file.write_text(written)
    with file.open() as plain:
        assert found == read_schema(plain)


def test_a_byte_order_mark_before_yaml_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "definitions.yaml").write_text("\ufeffdefinitions:\n  free: {unknown_properties: keep}\n")
    cases = tmp_path / "cases.yaml"
    cases.write_text("\ufeffdefinitions: definitions.yaml\ncases:\n  - event: free\n    properties: {v: 1}\n")
    ((case,),) = (file.cases for file in read_cases([cases], []))
    assert run_case(case).properties == {"v": 1}
