"""What batches cost without a server: `python -m bench.bare_loop FILE REQUESTS SECONDS`.

One loop parses requests of SendEvents, reads the properties of each event, encodes them to JSON and inserts the rows
with one `executemany` and one commit a batch. The table is indexed by contact, as Signalbox's is, and by ID. Prints
`{"events": ..., "seconds": ...}`.
"""

from __future__ import annotations

import json
import sqlite3
import sys
from itertools import cycle
from pathlib import Path
from time import perf_counter, time_ns
from typing import TYPE_CHECKING, Any

import msgspec
from uuid_utils import uuid7

from bench.data import BATCH, read_requests
from signalbox.v1 import event_ingest_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.protobuf.struct_pb2 import Struct

_encode = msgspec.json.Encoder().encode


def connect(database: str) -> sqlite3.Connection:
    """Open a database as durable as Signalbox's, which checkpoints as often."""
    connection = sqlite3.connect(database, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA wal_autocheckpoint = 4096")
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


def rows(request: bytes, received_at: int, contacts: dict[str, int]) -> Iterator[tuple[Any, ...]]:
    """Parse a request and yield a row for each event; unknown contacts are numbered."""
    for event in pb.SendEventsRequest.FromString(request).events:
        contact = contacts.setdefault(event.email, len(contacts))
        yield str(uuid7()), event.name, contact, _encode(read(event.properties)).decode(), received_at


def insert(connection: sqlite3.Connection, request: bytes, contacts: dict[str, int]) -> None:
    """Store one request in one transaction."""
    batch = list(rows(request, time_ns() // 1_000, contacts))
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany(
        "INSERT INTO event (id, name, contact, properties, received_at) VALUES (?, ?, ?, ?, ?)", batch
    )
    connection.execute("COMMIT")


def main(database: str, requests: str, seconds: float) -> None:
    connection = connect(database)
    contacts: dict[str, int] = {}
    endless = cycle(read_requests(Path(requests)))
    events, start = 0, perf_counter()
    while (elapsed := perf_counter() - start) < seconds:
        insert(connection, next(endless).body, contacts)
        events += BATCH
    connection.close()
    print(json.dumps({"events": events, "seconds": elapsed}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
