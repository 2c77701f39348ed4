"""SQL of the log: appending.

Every commit runs these three statements; on SQLite they go straight to the driver, where SQLAlchemy would add 40 to
60 us to the 3 us that each takes.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy.dialects import postgresql

from server.storage.sqlite import sqlite_driver
from server.storage.tables import event

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sqlalchemy import Connection

EventRow = tuple[Any, ...]
"""The values of the columns of `event`, in their order."""

_HEADS = "SELECT project_key, position, received_at, catalog_version FROM project_head WHERE project_key"
_HEAD_SQLITE = f"{_HEADS} = ?"
_HEADS_POSTGRESQL = f"{_HEADS} = ANY ($1::bigint[]) ORDER BY project_key FOR UPDATE"

_MOVE_SQLITE = "UPDATE project_head SET position = ?, received_at = ? WHERE project_key = ?"
_MOVE_POSTGRESQL = "UPDATE project_head SET position = $1, received_at = $2 WHERE project_key = $3"

_COLUMNS = [column.name for column in event.columns]
_INSERT = f"INSERT INTO event ({', '.join(_COLUMNS)})"

# SQLite takes a chunk of rows in one statement: between binding and result the interpreter is free for the event loop,
# where executemany would win it back for each row, and wait for a busy loop each time.
_CHUNK = 256
_PLACE = f"({', '.join('?' * len(_COLUMNS))})"

_POSTGRESQL = postgresql.dialect()  # type: ignore[no-untyped-call]
_ARRAYS = (f"${number}::{column.type.compile(_POSTGRESQL)}[]" for number, column in enumerate(event.columns, 1))
_INSERT_POSTGRESQL = f"{_INSERT} SELECT * FROM unnest({', '.join(_ARRAYS)})"  # noqa: S608 - our own names


class Head(NamedTuple):
    """Where a project's log ends, and the state of its catalogue."""

    position: int
    received_at: int
    catalog_version: int


def lock_heads(connection: Connection, project_keys: Iterable[int]) -> dict[int, Head]:
    """Read the heads of projects and keep everybody else from moving them until the transaction ends."""
    keys = sorted(project_keys)
    if connection.dialect.name == "postgresql":
        rows = [tuple(row) for row in connection.exec_driver_sql(_HEADS_POSTGRESQL, (keys,))]
    else:
        # The transaction began as the only writer.
        execute = sqlite_driver(connection).execute
        rows = [execute(_HEAD_SQLITE, (key,)).fetchone() for key in keys]
    return {key: Head(*head) for key, *head in rows}


def move_heads(connection: Connection, heads: Mapping[int, Head]) -> None:
    """Write position and time of heads that were locked."""
    moves = [(head.position, head.received_at, key) for key, head in heads.items()]
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(_MOVE_POSTGRESQL, moves)
    else:
        sqlite_driver(connection).executemany(_MOVE_SQLITE, moves)


def insert_events(connection: Connection, rows: Sequence[EventRow]) -> None:
    """Append rows to the log."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(_INSERT_POSTGRESQL, tuple(list(column) for column in zip(*rows, strict=True)))
        return
    execute = sqlite_driver(connection).execute
    for start in range(0, len(rows), _CHUNK):
        chunk = rows[start : start + _CHUNK]
        execute(_insert_sqlite(len(chunk)), tuple(chain.from_iterable(chunk)))


@lru_cache
def _insert_sqlite(rows: int) -> str:
    return f"{_INSERT} VALUES {', '.join([_PLACE] * rows)}"
