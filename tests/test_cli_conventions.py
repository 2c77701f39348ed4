"""What all commands have in common: errors as JSON, variables, confirmation, windows of time, a file of settings."""

from __future__ import annotations

import json
import math
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import pytest
from click.shell_completion import BashComplete

from server.__main__ import main
from server.cli.arguments.value_parsers import STDIN, STDOUT
from server.cli.commands.serve import serve
from server.cli.errors import INTERRUPTED
from server.cli.main import cli, run
from tests.support.command_line import serving
from tests.support.messages import ADA, ORDER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.command_line import Server


class Interrupted:
    """A finder of modules during whose search the user presses Ctrl-C."""

    def find_spec(self, name: str, *_: object) -> None:
        if name == "server.cli.main":
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def signalbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("cli")) as server:
        yield server


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("SIGNALBOX_"):
            monkeypatch.delenv(name)


def commands(group: click.Group, *path: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yield every command with its words."""
    with click.Context(group) as context:
        for name in group.list_commands(context):
            found = group.get_command(context, name)
            assert found is not None
            if isinstance(found, click.Group):
                yield from commands(found, *path, name)
            else:
                yield (*path, name), found


COMMANDS = dict(commands(cli))


# Errors


def error_of(text: str) -> dict[str, Any]:
    (line,) = text.splitlines()
    error: dict[str, Any] = json.loads(line)["error"]
    return error


def test_an_error_of_the_server_is_json_with_its_reason_and_violations(signalbox: Server) -> None:
    properties = '{"order_total": "much", "nonsense": 1}'
    refused = signalbox("event", "send", ORDER, "--email", ADA, "--properties", properties, "--json")
    assert (refused.code, refused.out) == (1, "")
    error = error_of(refused.err)
    assert (error["reason"], error["exit_code"]) == ("PAYLOAD_REJECTED", 1)
    found = [(each["path"], each["reason"]) for each in error["violations"]]
    assert found == [
        ("properties.nonsense", "UNKNOWN_PROPERTY"),
        ("properties.order_total", "INVALID_PROPERTY_VALUE"),
    ]
    assert all(each["message"] for each in error["violations"])


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_an_empty_path_does_not_stand_for_the_folder_that_a_command_runs_in(words: tuple[str, ...]) -> None:
    context = click.Context(COMMANDS[words])
    for parameter in COMMANDS[words].params:
        if isinstance(parameter.type, click.Path):
            with pytest.raises(click.BadParameter, match=r"empty|does not exist"):
                parameter.type.convert("", parameter, context)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_minus_is_a_standard_stream_or_refused_and_never_a_new_file(words: tuple[str, ...]) -> None:
    command = COMMANDS[words]
    for parameter in command.params:
        kind = parameter.type
        if isinstance(kind, click.Path) and not kind.exists:
            with click.Context(command) as context:
                try:
                    path = kind.convert("-", parameter, context)
                except click.BadParameter as error:
                    assert "./- is a file of that name" in error.message  # noqa: PT017 - either is right
                else:
                    assert path is STDIN or path is STDOUT
                    assert "for std" in getattr(parameter, "help", "") or "on stdout" in getattr(parameter, "help", "")
                assert kind.convert("./-", parameter, context) == Path("-")


@pytest.mark.parametrize(
    "arguments",
    [
        ("backup", "-"),
        ("restore", "-"),
        ("definition", "export", "-o", "-"),
        ("definition", "export", "--format", "jsonschema", "-o", "-"),
        ("definition", "export", "--format", "yaml", "-o", "-", "--json"),
        ("definition", "test", "-f", "-", "-d", "-"),
        ("definition", "test", "-f", "-", "--json", "--junit", "-"),
    ],
    ids=" ".join,
)
def test_a_minus_that_cannot_be_meant_is_a_wrong_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run((*arguments, "--database", "sqlite:///x.db") if len(arguments) == 2 else arguments) == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (("event", "list", "--json", "--nonsense"), 2, "USAGE"),
        (("event", "send", "--json"), 2, "USAGE"),
        (("event", "list", "--server", "127.0.0.1:1", "--key", "sb_any", "--json"), 1, "FAILED"),
    ],
)
def test_an_error_of_the_command_line_is_json_too(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], code: int, reason: str
) -> None:
    assert run(arguments) == code
    error = error_of(capsys.readouterr().err)
    assert (error["reason"], error["exit_code"], error["violations"]) == (reason, code, [])
    assert error["message"]


def test_a_number_that_no_message_can_hold_is_a_wrong_command_line() -> None:
    for words, command in COMMANDS.items():
        for parameter in command.params:
            # `--limit` is counted by the command itself.
            if isinstance(parameter.type, click.IntRange) and parameter.name != "limit":
                assert (parameter.type.max or math.inf) < 2**63, (words, parameter.opts)


@pytest.mark.parametrize("option", ["--queue-events", "--quarantine-events", "--http-connections"])
def test_a_number_that_switches_a_limit_off_is_a_wrong_command_line(
    capsys: pytest.CaptureFixture[str], option: str
) -> None:
    assert run(("serve", option, "99999999999")) == 2
    assert "99999999999 is out of range: it must be from 1 to 1" in capsys.readouterr().err


NUMBERS = sorted(
    (parameter.opts[0], parameter.envvar)
    for parameter in serve.params
    if isinstance(parameter.type, click.IntRange | click.FloatRange)
)


@pytest.mark.parametrize("way", ["flag", "variable", "file"])
@pytest.mark.parametrize(("flag", "variable"), NUMBERS)
@pytest.mark.parametrize(("value", "wrong"), [("1e3x", '"1e3x" is not a '), ("-7", "-7 "), ("9" * 40, "9")])
def test_a_wrong_number_is_reported_with_what_would_be_right(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, flag: str, variable: str,
    way: str, value: str, wrong: str,
) -> None:  # fmt: skip
    arguments = {"flag": (flag, value), "variable": (), "file": ("--config", str(tmp_path / "settings.toml"))}[way]
    (tmp_path / "settings.toml").write_text(f'{flag.removeprefix("--")} = "{value}"')
    if way == "variable":
        monkeypatch.setenv(variable, value)
    assert run(("serve", *arguments)) != 0
    error = capsys.readouterr().err
    assert wrong in error
    assert re.search(
        "digits, from [0-9]+ to|must be from [0-9]+ to|it must be (more than 0|0 or more) and at most", error
    )
    assert flag.removeprefix("--") in error or variable in error


@pytest.mark.parametrize("words", [("whoami", "--timeout"), ("serve", "--drain"), ("serve", "--grace")], ids=" ".join)
@pytest.mark.parametrize("value", ["nan", "inf", "-1", "1e308"])
def test_a_time_that_never_ends_is_a_wrong_command_line(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], value: str
) -> None:
    assert run((*words, value)) == 2
    assert words[-1] in capsys.readouterr().err


# Names


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_variable_is_named_after_its_flag(words: tuple[str, ...]) -> None:
    prefix = "_".join(("SIGNALBOX", *words)).upper().replace("-", "_")
    context = click.Context(COMMANDS[words], auto_envvar_prefix=prefix)
    for parameter in COMMANDS[words].params:
        if not isinstance(parameter, click.Option) or parameter.name == "help":
            continue
        [variable] = parameter.get_help_extra(context)["envvars"]
        flags = {flag.lstrip("-").replace("-", "_").upper() for flag in parameter.opts}
        assert variable.removeprefix("SIGNALBOX_") in flags or variable.removeprefix(f"{prefix}_") in flags


def test_a_variable_named_after_the_parameter_still_works(monkeypatch: pytest.MonkeyPatch) -> None:
    command = COMMANDS["event", "list"]
    option = next(each for each in command.params if each.opts == ["--event"])
    context = click.Context(command, auto_envvar_prefix="SIGNALBOX_EVENT_LIST")
    monkeypatch.setenv("SIGNALBOX_EVENT_LIST_NAME", "old")
    assert option.value_from_envvar(context) == "old"
    monkeypatch.setenv("SIGNALBOX_EVENT_LIST_EVENT", "new")
    assert option.value_from_envvar(context) == "new"


def test_a_window_of_time_has_one_name() -> None:
    flags = {flag for command in COMMANDS.values() for parameter in command.params for flag in parameter.opts}
    words = ("from", "since", "until", "before", "after")
    # `--from` is where to start, or the file to read.
    expected = {"--from", "--from-position", "--since", "--until", "--occurred-since", "--occurred-until"}
    assert {flag for flag in flags if set(flag.strip("-").split("-")) & set(words)} == expected


# Deletes


DELETES = {
    words: command for words, command in COMMANDS.items() if words[-1] in {"delete", "revoke", "discard", "erase"}
}


@pytest.mark.parametrize("words", DELETES, ids=" ".join)
def test_a_command_that_deletes_needs_a_confirmation(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    assert run((*words, "thing")) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: this ")
    assert error.endswith("confirm with --yes, because standard input is no terminal to ask on\n")


# Names of events


def test_a_misspelled_event_is_refused_with_the_name_that_was_meant(signalbox: Server) -> None:
    refused = signalbox("event", "send", "order_complete", "--email", ADA)
    expected = 'Event "order_complete" is not defined in this project; did you mean "order_completed"?'
    assert refused.err == f"error: {expected}\n"
    assert signalbox("definition", "show", "orderCompleted").err.endswith('did you mean "order_completed"?\n')


def test_an_automation_on_an_undefined_event_is_made_with_a_warning(signalbox: Server) -> None:
    made = signalbox("automation", "create", "Late", "--event", "order_complete")
    assert made.code == 0
    assert made.err.startswith('warning: Event "order_complete" is not defined in this project; did you mean ')
    assert signalbox("automation", "create", "Fine", "--event", ORDER).err == ""


# Completion


def test_commands_and_options_are_completed() -> None:
    shell = BashComplete(cli, {}, "signalbox", "_SIGNALBOX_COMPLETE")
    assert [item.value for item in shell.get_completions([], "even")] == ["event"]
    assert [item.value for item in shell.get_completions(["event", "list"], "--occurred-s")] == ["--occurred-since"]
    assert [item.value for item in shell.get_completions(["contact", "delete", ADA], "--y")] == ["--yes"]


# The file of settings


def taken(*arguments: str) -> dict[str, Any]:
    """Return the settings that a command line leads to."""
    context = serve.make_context("serve", [*arguments], obj={})
    return {**context.params, **context.obj}


def test_flags_come_before_variables_before_the_file_before_defaults(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "signalbox.toml"
    file.write_text(
        'grpc = "127.0.0.1:1"\nhttp = "127.0.0.1:1"\ndrain = 7\nmigrate = false\nmatch-retention = "30d"\n'
        'cors-origins = ["https://a.example", "https://b.example"]\ndatabase = "sqlite:///of-the-file.db"\n'
    )
    monkeypatch.setenv("SIGNALBOX_HTTP", "127.0.0.1:2")
    settings = taken("--config", str(file), "--grpc", "127.0.0.1:3")
    assert (settings["grpc"], settings["http"]) == ("127.0.0.1:3", "127.0.0.1:2")
    assert (settings["drain_seconds"], settings["migrate"], settings["grace_seconds"]) == (7, False, 10)
    assert settings["match_retention_seconds"] == 30 * 86_400
    assert settings["cors_origins"] == ("https://a.example", "https://b.example")
    assert settings["database"] == "sqlite:///of-the-file.db"
    monkeypatch.setenv("SIGNALBOX_DATABASE", "sqlite:///of-the-variable.db")
    monkeypatch.setenv("SIGNALBOX_CONFIG", str(file))
    assert taken()["database"] == "sqlite:///of-the-variable.db"
    assert taken("--database", "sqlite:///of-the-flag.db")["database"] == "sqlite:///of-the-flag.db"


def test_a_byte_order_mark_before_the_settings_is_skipped(tmp_path: Path) -> None:
    file = tmp_path / "signalbox.toml"
    file.write_bytes('\ufeffgrpc = "127.0.0.1:1"\r\ndrain = 7\r\n'.encode())
    settings = taken("--config", str(file))
    assert (settings["grpc"], settings["drain_seconds"]) == ("127.0.0.1:1", 7)


def test_every_setting_can_be_given_in_the_file(tmp_path: Path) -> None:
    file = tmp_path / "signalbox.toml"
    for parameter in serve.params:
        if isinstance(parameter, click.Option) and parameter.name not in {"config", "help"}:
            key = parameter.opts[0].removeprefix("--")
            file.write_text(f"{key} = {{}}\n")
            assert run(("serve", "--config", str(file))) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('grcp = "127.0.0.1:1"', '"grcp" is no setting; did you mean grpc?'),
        ('match_retention = "30d"', '"match_retention" is no setting; did you mean match-retention?'),
        ("[server]", '"server" is no setting'),
        ('config = "x"', '"config" is no setting'),
        ('dev = "yes"', "dev must be true or false"),
        ("grpc = true", "grpc must be a text or a number"),
        ("drain = -1", "drain: -1"),
        ('grpc = "http://x"', 'grpc: "http://x" is not HOST:PORT'),
        ('rate-limits = "maybe"', "rate-limits: 'maybe' is not one of"),
        ("grpc = ", "is not TOML"),
    ],
)
def test_a_wrong_setting_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "signalbox.toml"
    file.write_text(text)
    assert run(("serve", "--config", str(file))) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {file}")
    assert message in error


def test_ctrl_c_while_the_program_is_loaded_ends_it_without_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "server.cli.main")
    monkeypatch.setattr(sys, "meta_path", [Interrupted(), *sys.meta_path])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == INTERRUPTED
