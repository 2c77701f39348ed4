"""Where the command line sends the admin key of this machine, and where not."""

from __future__ import annotations

import os
import re
import socket
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from server.auth.admin_key import read_or_make
from server.cli.main import run
from tests.support.command_line import command

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Create an admin key beside a database; its URL is the only environment variable."""
    for name in [name for name in os.environ if name.startswith("SIGNALBOX_")]:
        monkeypatch.delenv(name)
    read_or_make(tmp_path / "x.db.admin-key")
    url = f"sqlite:///{tmp_path}/x.db"
    monkeypatch.setenv("SIGNALBOX_DATABASE", url)
    return url


@pytest.mark.parametrize("variable", ["", "sb_admin_of_this_machine"])
@pytest.mark.parametrize(
    "server", ["example.com:1", "0.0.0.0:1", "[::]:1", "192.0.2.1:1", "localhost.example:1", "127.1:1"]
)
def test_it_is_not_sent_to_another_machine_in_clear(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, server: str, variable: str
) -> None:
    monkeypatch.setenv("SIGNALBOX_ADMIN_KEY", variable)
    assert run(("project", "list", "--server", server)) == 1
    refused = capsys.readouterr().err
    assert refused.startswith(f"error: the admin key of this machine is not sent to {server} in clear: give --key for")


@pytest.mark.parametrize("server", ["127.0.0.1:1", "localhost:1", "[::1]:1", "127.8.8.8:1"])
def test_it_is_sent_to_a_loopback_address(capsys: pytest.CaptureFixture[str], server: str) -> None:
    assert run(("project", "list", "--server", server)) == 1
    assert capsys.readouterr().err.startswith(f"error: no Signalbox server answers at {server}")


def test_an_explicit_key_is_sent_to_any_server(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(("project", "list", "--server", "0.0.0.0:1", "--key", "sb_given")) == 1
    assert capsys.readouterr().err.startswith("error: no Signalbox server answers at 0.0.0.0:1")


def first_bytes(listening: socket.socket) -> bytes:
    """Return what the first caller sent; nothing if nobody has called."""
    listening.settimeout(0)
    try:
        connection, _ = listening.accept()
    except BlockingIOError:
        return b""
    with connection:
        connection.settimeout(10)
        return connection.recv(10_000)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_it_passes_no_proxy_on_its_way_to_a_loopback_address(database: str, host: str) -> None:
    with (
        closing(socket.create_server(("127.0.0.1", 0))) as proxy,
        closing(socket.create_server(("127.0.0.1", 0))) as server,
    ):
        variables = {"SIGNALBOX_DATABASE": database, "SIGNALBOX_TIMEOUT": "1"}
        address = f"http://127.0.0.1:{proxy.getsockname()[1]}"
        variables |= dict.fromkeys(("http_proxy", "https_proxy", "grpc_proxy"), address)
        command("project", "list", "--server", f"{host}:{server.getsockname()[1]}", variables=variables)
        assert (first_bytes(proxy), first_bytes(server)[:3]) == (b"", b"PRI")


def test_a_missing_file_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "x.db.admin-key").unlink()
    assert run(("event", "list")) == 1
    assert re.match(rf"error: no key: give --key.*{tmp_path}/x.db.admin-key", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("content", "why"), [(b"", "is empty"), (b"\xff\xfe", "not text"), (b"two words", "printable ASCII")]
)
def test_a_file_that_holds_no_key_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, content: bytes, why: str
) -> None:
    (tmp_path / "x.db.admin-key").write_bytes(content)
    assert run(("event", "list")) == 1
    assert re.match(rf"error: {tmp_path}/x.db.admin-key .*{why}", capsys.readouterr().err)
