"""Entries of a server's log: bounded, whatever they are about."""

from __future__ import annotations

import io
import json
import logging
import sys
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from server.logs import BoundedRenderer, configure_logs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LIMIT = 2_048


@pytest.fixture
def logged(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[], str]]:
    """Configure the log of a server; the call returns what it has written to stderr."""
    handlers, before = logging.root.handlers[:], structlog.get_config()
    logging.root.handlers[:] = []
    configure_logs("info")
    yield lambda: capsys.readouterr().err
    logging.captureWarnings(capture=False)
    logging.root.handlers[:] = handlers
    structlog.configure(**before)


def deep(levels: int) -> None:
    if levels:
        deep(levels - 1)
    raise ValueError("the cause " + "x" * 100_000)


def test_an_entry_with_a_deep_traceback_keeps_its_beginning_and_its_cause(logged: Callable[[], str]) -> None:
    try:
        deep(500)
    except ValueError as error:
        structlog.get_logger().error("call_failed", exc_info=error)
    (line,) = logged().splitlines()
    assert len(line) < LIMIT
    entry = json.loads(line)
    assert entry["event"] == "call_failed"
    assert entry["exception"].startswith("Traceback")
    assert "[…]" in entry["exception"]


@pytest.mark.parametrize("text", ["x" * 10_000, "é" * 10_000, "\x01" * 10_000, "\U0001f600" * 5_000])
def test_an_entry_with_long_texts_is_bounded_and_still_json(logged: Callable[[], str], text: str) -> None:
    structlog.get_logger().error(text, other=text, more=[text], number=5)
    logging.getLogger("third_party").warning("%s", text)
    lines = logged().splitlines()
    assert len(lines) == 2
    for line in lines:
        assert len(line.encode(errors="replace")) < LIMIT
        assert json.loads(line)["level"] in ("error", "warning")
    assert json.loads(lines[0])["number"] == 5


def test_a_short_entry_is_written_as_it_is(logged: Callable[[], str]) -> None:
    structlog.get_logger().info("started", grpc="127.0.0.1:1")
    entry = json.loads(logged())
    assert (entry["event"], entry["grpc"]) == ("started", "127.0.0.1:1")


def test_an_entry_of_many_texts_that_cannot_be_shortened_is_written_all_the_same() -> None:
    entry: dict[str, Any] = {f"name_{number}": "x" * 30 for number in range(100)}
    render = BoundedRenderer(structlog.processors.JSONRenderer())
    assert json.loads(render(None, "info", dict(entry))) == entry


def test_entries_go_to_the_stderr_of_the_time(logged: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> None:
    redirected = io.StringIO()
    with monkeypatch.context() as context:
        context.setattr(sys, "stderr", redirected)
        structlog.get_logger().info("redirected")
    redirected.close()
    structlog.get_logger().info("back")
    assert json.loads(logged())["event"] == "back"
