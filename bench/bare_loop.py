"""Stores batches without a server: `python -m bench.bare_loop FILE REQUESTS SECONDS [EVENTS_PER_REQUEST]`.

A loop parses requests of SendEvents, reads the properties of each event, encodes them to JSON, and inserts the rows
with one `executemany` and one commit a batch. The table is indexed by contact, as Signalbox's is, and by ID. Prints
`{"events": ..., "seconds": ..., "p50": ...}`; `p50` is the time of one round of the loop, in milliseconds.
"""

from __future__ import annotations

import json
import sqlite3
import sys
from itertools import cycle
from pathlib import Path
from statistics import median
from time import perf_counter, time_ns
from typing import TYPE_CHECKING, Any

import msgspec
from uuid_utils import uuid7

from bench.data import BATCH, read_requests
from server.storage.sqlite.writer import CHECKPOINT_PAGES, PAGE_BYTES
from signalbox.v1 import event_ingest_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from google.protobuf.struct_pb2 import Struct

INSERT = "INSERT INTO event (id, name, contact, properties, received_at) VALUES (?, ?, ?, ?, ?)"

_encode = msgspec.json.Encoder().encode


def connect(database: str) -> sqlite3.Connection:
    """Open a database as durable as Signalbox's, with pages and checkpoints of the same size."""
    connection = sqlite3.connect(database, isolation_level=None)
    connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
    connection.execute(
        "CREATE TABLE IF NOT EXISTS event (position INTEGER PRIMARY KEY, id TEXT NOT NULL, name TEXT NOT NULL,"
        " contact INTEGER NOT NULL, properties TEXT NOT NULL, received_at INTEGER NOT NULL)"
    )
    connection.execute("CREATE UNIQUE INDEX IF NOT EXISTS event_by_id ON event (id)")
    connection.execute("CREATE INDEX IF NOT EXISTS event_by_contact ON event (contact, position)")
    return connection


def read(properties: Struct) -> dict[str, Any]:
    """Read flat properties into a dict."""
    return {name: getattr(value, value.WhichOneof("kind") or "null_value") for name, value in properties.fields.items()}


def events(request: bytes, size: int) -> Iterable[pb.EventInput]:
    """Parse a request of `size` events: of SendEvent if it is one."""
    if size == 1:
        return (pb.SendEventRequest.FromString(request).event,)
    return pb.SendEventsRequest.FromString(request).events


def rows(inputs: Iterable[pb.EventInput], received_at: int, contacts: dict[str, int]) -> Iterator[tuple[Any, ...]]:
    """Yield a row for each event; unknown contacts are numbered."""
    for event in inputs:
        contact = contacts.setdefault(event.email, len(contacts))
        yield str(uuid7()), event.name, contact, _encode(read(event.properties)).decode(), received_at


def insert(connection: sqlite3.Connection, batch: Iterable[tuple[Any, ...]]) -> None:
    """Store rows in one transaction."""
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany(INSERT, batch)
    connection.execute("COMMIT")


def main(database: str, requests: str, seconds: float, size: int) -> None:
    connection = connect(database)
    contacts: dict[str, int] = {}
    endless = cycle(read_requests(Path(requests)))
    times = []
    start = now = perf_counter()
    while now - start < seconds:
        insert(connection, list(rows(events(next(endless).body, size), time_ns() // 1_000, contacts)))
        before, now = now, perf_counter()
        times.append(1_000 * (now - before))
    connection.close()
    print(json.dumps({"events": len(times) * size, "seconds": now - start, "p50": median(times)}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4]) if len(sys.argv) > 4 else BATCH)
