"""Reports of exceptions that no command expects."""

from __future__ import annotations

import pytest

from server.cli.main import run

URL = "postgresql://me:hunter2@host/name"


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Break what every command of a client, `migrate` and `serve` do first."""

    def fail(*arguments: object, **settings: object) -> None:
        raise KeyError(f"no such thing\nin {URL}")

    monkeypatch.setattr("server.cli.client.session.open_channel", fail)
    monkeypatch.setattr("server.cli.commands.migrate.open_database", fail)
    monkeypatch.setattr("server.app.storage.open_database", fail)
    monkeypatch.setattr("server.cli.commands.serve.configure_logs", lambda level: None)


COMMANDS = [
    ("event", "list"),
    ("check",),
    ("migrate", "--database", URL),
    ("serve", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--admin-key", "sb_admin_of_this_test"),
]


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_an_internal_error_asks_for_a_report(
    broken: None, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    assert run(arguments) == 70
    out, err = capsys.readouterr()
    first, second = err.splitlines()
    assert out == ""
    assert first.startswith("error: internal error: KeyError: ")
    assert first.endswith("(please report this)")
    assert "--debug" in second
    assert "hunter2" not in err


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("before", [True, False])
def test_debug_shows_where_it_happened(
    broken: None, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], *, before: bool
) -> None:
    assert run(("--debug", *arguments) if before else (*arguments, "--debug")) == 70
    err = capsys.readouterr().err
    assert "Traceback (most recent call last)" in err
    assert "in fail" in err
    assert "hunter2" not in err


def test_a_failure_shows_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(("--debug", "event", "list", "--server", "127.0.0.1:1", "--key", "sb_x")) == 1
    assert "Traceback" not in capsys.readouterr().err
