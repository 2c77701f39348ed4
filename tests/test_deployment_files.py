"""The files of ops/ that run a server: their commands, variables and settings are those of this version."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import tomllib
from typing import TYPE_CHECKING, Any

import click
import pytest
import yaml

from server.cli.commands.serve import serve
from server.cli.main import cli
from tests.support.command_line import serving
from tests.support.console import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.checkout

OPS = ROOT / "ops"
VARIABLES = {option.envvar for option in serve.params if isinstance(option, click.Option)}


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in VARIABLES:
        monkeypatch.delenv(str(variable), raising=False)


def instructions() -> Iterator[tuple[str, str]]:
    """Yield the instructions of the Containerfile, each with its arguments on one line."""
    text = re.sub(r"\\\n\s*", "", (OPS / "Containerfile").read_text())
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, _, arguments = line.partition(" ")
            yield name, arguments


def words(form: str) -> list[str]:
    """Return the words of an instruction in its JSON form."""
    found: list[str] = yaml.safe_load(form)
    return found


def parse(*arguments: str) -> None:
    """Parse a command line as `signalbox` does. Raise ClickException."""
    command: click.Command = cli
    context = click.Context(cli, obj={})
    name, *rest = arguments
    command = cli.get_command(context, name) or command
    command.make_context(name, rest, obj={})


def test_the_container_runs_a_command_of_this_version_as_a_user_without_rights() -> None:
    found = dict(instructions())
    assert words(found["ENTRYPOINT"]) == ["signalbox"]
    parse(*words(found["CMD"]))
    program, *check = words(found["HEALTHCHECK"].partition("CMD ")[2])
    assert program == "signalbox"
    parse(*check)
    assert int(found["USER"]) > 0


def test_the_container_copies_everything_that_it_installs() -> None:
    copied = {
        source
        for name, arguments in instructions()
        if name == "COPY" and "--from" not in arguments
        for source in shlex.split(arguments)[:-1]
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {name.partition("/")[0] for name in project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]}
    assert copied == packages | {"pyproject.toml", "README.md", "LICENSE"}
    sent = {line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"}
    assert sent == copied


def test_the_commands_that_build_the_container_are_sound_and_install_an_extra_of_this_project() -> None:
    commands = [arguments for name, arguments in instructions() if name == "RUN"]
    for command in commands:
        done = subprocess.run(["sh", "-n", "-c", command], check=False, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, ""), command
    (extra,) = re.findall(r"'\.\[(\w+)\]'", commands[0])
    assert extra in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (venv,) = re.findall(r"python -m venv (\S+)", commands[0])
    assert ("COPY", f"--from=build {venv} {venv}") in [*instructions()]
    (path,) = re.findall(r"PATH=(\S+)", next(arguments for name, arguments in instructions() if name == "ENV"))
    assert path.startswith(f"{venv}/bin:")


def test_the_variables_of_the_container_are_settings_that_the_server_accepts(monkeypatch: pytest.MonkeyPatch) -> None:
    set_to = [arguments for name, arguments in instructions() if name == "ENV"]
    given = dict(pair.split("=", 1) for arguments in set_to for pair in shlex.split(arguments))
    own = {name: value for name, value in given.items() if name.startswith("SIGNALBOX_")}
    assert own
    check_variables(own, monkeypatch)


def check_variables(given: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert given.keys() <= VARIABLES
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    parse("serve")


def test_the_health_check_of_the_container_follows_the_server(tmp_path: Path) -> None:
    (check,) = (arguments.partition("CMD ")[2] for name, arguments in instructions() if name == "HEALTHCHECK")
    with serving(tmp_path) as server:
        healthy = server(*words(check)[1:])
        assert (healthy.code, healthy.out.split()) == (0, [server.address, "SERVING"])
        server.stop()
        assert server(*words(check)[1:]).code == 1


def test_compose_gives_the_server_settings_that_it_accepts(monkeypatch: pytest.MonkeyPatch) -> None:
    compose: dict[str, Any] = yaml.safe_load((OPS / "compose.yaml").read_text())
    services = compose["services"]
    server = services["signalbox"]
    assert (OPS / server["build"]["context"] / server["build"]["dockerfile"]).resolve() == OPS / "Containerfile"
    assert server["depends_on"]["database"]["condition"] == "service_healthy"
    assert services["database"]["healthcheck"]["test"][1] == "pg_isready"
    secret = re.compile(r"\$\{\w+(:\?[^}]*)?\}")
    given = {name: secret.sub("secret-of-this-test", value) for name, value in server["environment"].items()}
    check_variables(given, monkeypatch)
    assert compose["volumes"].keys() == {"database"}
    published = {port.rpartition(":")[2] for port in server["ports"]}
    served = {given["SIGNALBOX_METRICS"].rpartition(":")[2], *dict(instructions())["EXPOSE"].split()}
    assert published == served


def test_the_unit_starts_the_server_with_the_settings_of_its_file() -> None:
    (start,) = re.findall(r"^ExecStart=(.*)$", (OPS / "signalbox.service").read_text(), re.MULTILINE)
    program, *arguments = shlex.split(start)
    assert program.endswith("/bin/signalbox")
    assert arguments[:2] == ["serve", "--config"]
    settings = OPS / arguments[2].rpartition("/")[2]
    parse("serve", "--config", str(settings))
    # What is commented out is meant to be used, too.
    for line in settings.read_text().splitlines():
        if read := re.match(r"# ([a-z-]+) = ", line):
            assert f"--{read[1]}" in {flag for option in serve.params for flag in option.opts}


def test_systemd_accepts_the_unit_and_finds_it_hardened(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    unit = tmp_path / "signalbox.service"
    text = (OPS / "signalbox.service").read_text()
    unit.write_text(re.sub("^ExecStart=[^ ]*", "ExecStart=/bin/true", text, flags=re.MULTILINE))
    done = subprocess.run([analyze, "verify", str(unit)], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    rated = (analyze, "security", "--offline=true", "--threshold=20", str(unit))
    done = subprocess.run(rated, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-500:]
