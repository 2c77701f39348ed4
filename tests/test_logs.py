"""Entries of a server's log: bounded, whatever they are about."""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import sys
import warnings
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from server.logs import defects
from server.logs.output import LEVELS, BoundedRenderer, configure_logs

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


def failed(error: Exception) -> Exception:
    """Return an error that was raised and caught."""
    try:
        raise error
    except type(error) as caught:
        return caught


def test_a_defect_that_recurs_is_written_once_a_minute_with_its_repetitions(
    logged: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(1_000))
    monkeypatch.setattr(defects, "monotonic", lambda: next(clock) // 2)
    log = structlog.get_logger()
    for number in range(130):
        for work in ("sweeping", "pruning"):
            log.error("work_failed", work=work, exc_info=failed(ValueError(f"{number} is no length")))
    written = [json.loads(line) for line in logged().splitlines()]
    assert [(each["work"], each.get("repeated")) for each in written] == [
        (work, repeated) for repeated in (None, 59, 59) for work in ("sweeping", "pruning")
    ]
    assert defects.REPEATED_SECONDS == 60


def test_different_defects_are_all_written(logged: Callable[[], str]) -> None:
    log = structlog.get_logger()
    for error in (ValueError("x"), TypeError("x")):
        caught = failed(error)
        log.error("call_failed", exc_info=caught)
        log.error("request_failed", exc_info=caught)
    for _ in range(3):
        try:
            raise ValueError("x")
        except ValueError:
            log.exception("call_failed")
    log.error("call_failed", exc_info=None)
    log.error("call_failed", exc_info=None)
    assert [json.loads(line)["event"] for line in logged().splitlines()] == [
        *["call_failed", "request_failed"] * 2,
        *["call_failed"] * 3,
    ]


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


def render(entry: dict[str, Any]) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(BoundedRenderer(structlog.processors.JSONRenderer())(None, "info", entry))
    return read


def test_what_cannot_be_written_fails_nobody(logged: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a full disk."""

    class Full(io.StringIO):
        def write(self, _text: str) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def flush(self) -> None:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))

    with monkeypatch.context() as full:
        full.setattr(sys, "stderr", Full())
        structlog.get_logger().warning("lost")
        logging.getLogger("library").warning("lost")
    structlog.get_logger().warning("written")
    assert "lost" not in (written := logged())
    assert "written" in written


@pytest.mark.parametrize(("more", "whole"), [(0, True), (1, False)])
def test_an_entry_has_at_most_2000_bytes(more: int, whole: bool) -> None:
    text = "x" * (2_000 - len(json.dumps({"event": ""})) + more)
    assert (render({"event": text}) == {"event": text}) is whole


def test_of_a_text_that_is_too_long_a_quarter_at_each_end_is_kept() -> None:
    text = "a" * 600 + "b" * 1_200 + "c" * 600
    assert render({"event": text, "n": 5}) == {"event": "a" * 600 + " […] " + "c" * 600, "n": 5}


@pytest.mark.parametrize(("length", "shortened"), [(39, False), (40, True)])
def test_a_short_text_is_not_shortened(length: int, shortened: bool) -> None:
    names = [f"name_{number}" for number in range(60)]
    read = render(dict.fromkeys(names, "x" * length))
    assert ("[…]" in read["name_0"]) is shortened


def test_an_entry_has_its_level_and_its_time_in_utc(logged: Callable[[], str]) -> None:
    structlog.get_logger().warning("started")
    entry = json.loads(logged())
    assert (entry["level"], entry["timestamp"][-1]) == ("warning", "Z")


def test_of_libraries_warnings_are_logged_and_nothing_below(logged: Callable[[], str]) -> None:
    log = logging.getLogger("third_party")
    log.info("for developers")
    log.warning("for operators")
    entry = json.loads(logged())
    assert (entry["event"], entry["logger"], entry["level"]) == ("for operators", "third_party", "warning")


def test_warnings_of_python_are_logged(logged: Callable[[], str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=False)
        logging.captureWarnings(capture=True)
        warnings.warn("it is old", DeprecationWarning, stacklevel=1)
    assert "it is old" in json.loads(logged())["event"]


@pytest.mark.parametrize("level", LEVELS)
def test_entries_below_the_level_are_left_out(capsys: pytest.CaptureFixture[str], level: str) -> None:
    handlers, before, root_level = logging.root.handlers[:], structlog.get_config(), logging.root.level
    logging.root.handlers[:] = []
    try:
        configure_logs(level)
        for each in LEVELS:
            getattr(structlog.get_logger(), each)("written")
        logging.getLogger("third_party").warning("written")
        logging.getLogger("third_party").error("written")
    finally:
        logging.captureWarnings(capture=False)
        logging.root.handlers[:] = handlers
        logging.root.setLevel(root_level)
        structlog.configure(**before)
    found = [json.loads(line)["level"] for line in capsys.readouterr().err.splitlines()]
    of_libraries = [each for each in ("warning", "error") if LEVELS.index(each) >= LEVELS.index(level)]
    assert found == [*LEVELS[LEVELS.index(level) :], *of_libraries]
