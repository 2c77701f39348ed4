"""A database with 5 million stored events, made once: `python -m bench.stored` makes it now.

The server stores the first 32,000 events with their matches and runs; the others are copies of these rows at later
positions and times, with IDs of their own. They are inserted in order with all indexes in place, so that the pages are
as full as a server would have left them. The database is kept in `SIGNALBOX_BENCH_CACHE` (`~/.cache/signalbox-bench`),
under a name that changes with the schema.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import tempfile
from pathlib import Path

from bench.data import CONTACTS, EVENTS, MATCHING_EVERY
from bench.harness import progress
from bench.subjects import signalbox
from registry.log_ids import position_of

STORED = 5_000_000
MATCHES = EVENTS // MATCHING_EVERY
SPAN_MICROSECONDS = 3_200_000
"""The time from one copy to the next: 10,000 events a second."""


def stored_events(folder: Path, count: int = STORED) -> Path:
    """Return a copy of the database, in `folder`; it is made if there is none yet."""
    first = folder / "first.db"
    with signalbox(folder, database=first, prepare=True) as subject:
        subject.run_load("once", 3_600, subject.requests.of("batches"))
    kept = cache() / f"{count}-events-{_schema(first)}.db"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as unfinished:
            grown = Path(unfinished) / "grown.db"
            shutil.copy(first, grown)
            grow(grown, count)
            grown.rename(kept)
    copy = folder / "stored.db"
    shutil.copy(kept, copy)
    os.sync()  # not while something is measured
    return copy


def copied() -> dict[str, tuple[dict[str, int], dict[str, int], str]]:
    """Return the tables whose rows are copied.

    For each: the columns that hold a position or a time, and those that hold an ID, with the distance from one copy to
    the next; and the column by which the rows are ordered.
    """
    return {
        "event": ({"position": EVENTS, **_times("received_at", "occurred_at")}, {"id": EVENTS}, "position"),
        "automation_match": (
            {"position": MATCHES, "run_number": MATCHES, "event_position": EVENTS, **_times("matched_at")},
            {"id": MATCHES, "run_id": MATCHES},
            "position",
        ),
        "run": (
            {"number": MATCHES, "match_position": MATCHES, "event_position": EVENTS}
            | _times("created_at", "updated_at", "finished_at"),
            {"id": MATCHES},
            "number",
        ),
    }


def _times(*columns: str) -> dict[str, int]:
    return dict.fromkeys(columns, SPAN_MICROSECONDS)


def cache() -> Path:
    """Return the folder in which the database is kept."""
    return Path(os.environ.get("SIGNALBOX_BENCH_CACHE") or Path.home() / ".cache" / "signalbox-bench")


def grow(database: Path, count: int) -> None:
    """Copy the rows of the first events until the database has at least `count` events."""
    connection = sqlite3.connect(database, isolation_level=None)
    connection.create_function("later_id", 2, later_id, deterministic=True)
    # A journal would double what is written; a database that was not finished is thrown away.
    connection.execute("PRAGMA journal_mode = DELETE")
    connection.execute("PRAGMA journal_mode = OFF")
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("PRAGMA cache_size = -1000000")
    ranges = {table: _range(connection, table) for table in copied()}
    copies = max(0, -(-count // EVENTS) - 1)
    for table, (columns, _, _) in copied().items():
        # So that the last copy has the times of now.
        earlier = (f"{name} = {name} - {copies * SPAN_MICROSECONDS}" for name in columns if name.endswith("_at"))
        connection.execute(f"UPDATE {table} SET {', '.join(earlier)}")
    for number in range(1, copies + 1):
        progress(f"{number} of {copies} copies of {EVENTS:,} events")
        connection.execute("BEGIN")
        for table, (first, last) in ranges.items():
            _copy(connection, table, number, first, last)
        connection.execute("COMMIT")
    connection.execute(
        "UPDATE project_head SET position = position + ?, match_position = match_position + ?",
        (copies * EVENTS, copies * MATCHES),
    )
    connection.execute("PRAGMA journal_mode = WAL")
    connection.close()


def later_id(entry_id: str, distance: int) -> str:
    """Return the ID of an entry that is a copy of another one at a later position."""
    if not entry_id:
        return entry_id
    position = position_of(entry_id)
    assert position is not None
    position += distance
    head, tail = position >> 14 & 0x3FFF, position & 0x3FFF
    rest = int(entry_id[-12:], 16) & (1 << 34) - 1
    return f"{entry_id[:14]}7{position >> 28 & 0xFFF:03x}-{0x8000 | head:04x}-{tail << 34 | rest:012x}"


def _range(connection: sqlite3.Connection, table: str) -> tuple[int, int]:
    """Return the first and the last of the rows to copy."""
    order = copied()[table][2]
    last: int = connection.execute(f"SELECT max({order}) FROM {table}").fetchone()[0]
    count = EVENTS if table == "event" else MATCHES
    return last - count + 1, last


def _copy(connection: sqlite3.Connection, table: str, number: int, first: int, last: int) -> None:
    moved, ids, order = copied()[table]
    columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
    terms = [
        f"{name} + {moved[name] * number}"
        if name in moved
        else f"later_id({name}, {ids[name] * number})"
        if name in ids
        else name
        for name in columns
    ]
    connection.execute(
        f"INSERT INTO {table} ({', '.join(columns)}) SELECT {', '.join(terms)} FROM {table}"
        f" WHERE {order} BETWEEN ? AND ? ORDER BY {order}",
        (first, last),
    )


def _schema(database: Path) -> str:
    """Return a name for the tables and indexes of a database, and for the data."""
    connection = sqlite3.connect(database)
    statements = [row[0] or "" for row in connection.execute("SELECT sql FROM sqlite_master ORDER BY name")]
    connection.close()
    numbers = [str(number) for number in (CONTACTS, EVENTS, SPAN_MICROSECONDS)]
    return hashlib.sha256("\n".join([*statements, *numbers]).encode()).hexdigest()[:12]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="signalbox-bench-") as name:
        stored_events(Path(name))
