"""The commands that export and erase a person, and an erasure whose server is killed."""

from __future__ import annotations

import json
import sqlite3
import time
from contextlib import closing
from typing import TYPE_CHECKING

from tests.support.command_line import serving
from tests.support.messages import ADA, ORDER

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.command_line import Server

EVENTS = 3_000


def test_a_person_is_exported_and_erased(tmp_path: Path) -> None:
    with serving(tmp_path) as signalbox:
        assert (
            signalbox(
                "event", "send", ORDER, "--email", ADA, "--properties", '{"order_total":150,"is_first_purchase":true}'
            ).code
            == 0
        )
        exported = signalbox("contact", "export", ADA)
        assert [next(iter(line)) for line in exported.json_lines] == ["contact", "event", "match", "run", "end"]
        told = signalbox("contact", "erase", ADA, "--dry-run", "--json").json
        assert (told["event_count"], told["run_count"], told["cancelled_run_count"]) == (1, 1, 1)
        refused = signalbox("contact", "erase", ADA, stdin="y\n")
        assert refused.code == 1
        assert "erases ada@example.com for good: confirm with --yes" in refused.err
        assert signalbox("contact", "show", ADA).code == 0
        erased = signalbox("contact", "erase", ADA, "--yes")
        assert erased.code == 0, erased.err
        assert dict(line.split(maxsplit=1) for line in erased.out.splitlines()[:2])["events"] == "1"
        assert signalbox("contact", "show", ADA).code != 0
        assert signalbox("contact", "export", ADA).code != 0
        (event,) = signalbox("event", "list", "--json").json
        assert (event["properties"], "erased_at" in event) == ({}, True)
        written = signalbox("event", "export")
        assert written.out == ""
        assert written.err == "exported 0 events; left out 1 event of erased or deleted persons, or unreadable\n"


def test_an_erasure_goes_on_after_its_server_was_killed(tmp_path: Path) -> None:
    lines = "".join(
        json.dumps({"name": ORDER, "email": ADA, "properties": {"order_total": n}}) + "\n" for n in range(EVENTS)
    )
    with serving(tmp_path) as signalbox:
        assert signalbox("event", "send", "--from", "-", stdin=lines).code == 0
        erasing = signalbox.begin("contact", "erase", ADA, "--yes")
        position = next(position for position in _positions(signalbox) if position)
        signalbox.process.kill()
        erasing.communicate(timeout=20)
    assert 0 < position < EVENTS
    with serving(tmp_path) as signalbox:
        assert next(position for position in _positions(signalbox) if position is None) is None
        with closing(_opened(signalbox)) as database:
            left = database.execute("SELECT count(*) FROM event WHERE erased_at = 0 OR properties <> '{}'").fetchone()
            runs = database.execute("SELECT count(*) FROM run WHERE status <> 'cancelled'").fetchone()
        assert (left, runs) == ((0,), (0,))


def _positions(signalbox: Server) -> Iterator[int | None]:
    """Yield where the erasure is, None once it has ended, again and again."""
    with closing(_opened(signalbox)) as database:
        for _ in range(2_000):
            row = database.execute("SELECT position FROM contact_erasure").fetchone()
            yield row[0] if row else None
            time.sleep(0.01)


def _opened(signalbox: Server) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{signalbox.folder}/signalbox.db?mode=ro", uri=True)
