"""The example engine, against a real server that is killed."""

from __future__ import annotations

import signal
import sys
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING

import pytest

from server.services.demo import EMAIL, EVENT, PROPERTIES, SECRET
from tests.support.command_line import ENVIRONMENT, read_line, serving
from tests.support.forked_modules import Popen

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.command_line import Server
    from tests.support.forking import ForkedProcess

pytestmark = pytest.mark.checkout

EXAMPLE = Path(__file__).parents[1] / "examples" / "engine.py"
WOULD_MAIL = f"would mail {EMAIL}\n"


@contextmanager
def engine(server: Server) -> Iterator[ForkedProcess]:
    variables = ENVIRONMENT | {"SIGNALBOX_SERVER": server.address, "SIGNALBOX_KEY": SECRET}
    command = [sys.executable, "-m", "examples.engine"]
    with (
        (server.folder / "engine.log").open("w") as log,
        Popen(command, stderr=log, cwd=EXAMPLE.parents[1], env=variables) as process,
    ):
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def wait_for(server: Server, name: str, value: int) -> None:
    """Wait until the statistics of the engine's subscription say so."""
    until = monotonic() + 30
    while True:
        shown = server("subscription", "show", "mailer", "--json")
        if shown.code == 0 and shown.json["subscription"]["stats"][name] == value:
            return
        assert monotonic() < until
        sleep(0.05)


def send(server: Server) -> None:
    assert server("event", "send", EVENT, "--email", EMAIL, "--properties", PROPERTIES).code == 0


def run_statuses(server: Server) -> list[str]:
    return [run["status"] for run in server("run", "list", "--json").json]


def test_the_example_has_less_than_seventy_lines() -> None:
    assert len(EXAMPLE.read_text().splitlines()) < 70


def test_the_example_engine_completes_its_runs_and_goes_on_when_one_was_cancelled(tmp_path: Path) -> None:
    with serving(tmp_path) as server, engine(server) as mailer:
        wait_for(server, "consumer_count", 1)
        mailer.send_signal(signal.SIGSTOP)
        send(server)
        [run] = server("run", "list", "--json").json
        assert server("run", "cancel", run["id"]).code == 0
        send(server)
        mailer.send_signal(signal.SIGCONT)
        assert [read_line(mailer.stdout) for _ in range(2)] == [WOULD_MAIL, WOULD_MAIL]
        wait_for(server, "floor_position", 2)
        assert run_statuses(server) == ["RUN_STATUS_COMPLETED", "RUN_STATUS_CANCELLED"]


def test_the_example_engine_acts_on_each_match_over_a_crash_and_drains(tmp_path: Path) -> None:
    with serving(tmp_path) as server, engine(server) as mailer:
        wait_for(server, "consumer_count", 1)
        send(server)
        assert read_line(mailer.stdout) == WOULD_MAIL
        mailer.send_signal(signal.SIGSTOP)
        send(server)
        server.process.kill()
        server.process.wait()
        mailer.send_signal(signal.SIGCONT)
        with serving(tmp_path, server.address) as revived:
            wait_for(revived, "floor_position", 2)
            mailer.send_signal(signal.SIGINT)
            assert mailer.wait(timeout=20) == 0
            assert mailer.stdout is not None
            # Twice if the acknowledgement of the first did not arrive.
            assert mailer.stdout.read().count(WOULD_MAIL) in (1, 2)
            wait_for(revived, "outstanding_count", 0)
            assert run_statuses(revived) == ["RUN_STATUS_COMPLETED"] * 2
