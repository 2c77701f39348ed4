"""SQL of the log: appending.

Every commit runs these statements. On SQLite they go straight to the driver: SQLAlchemy would add 40 to 60 us to the
3 us that each of them takes.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import chain
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy.dialects import postgresql

from automation.tables import automation_match, run
from server.errors import KeyInvalid
from server.sharing.interpreter_lock import database_thread
from server.storage.clock import DATABASE_MICROS
from server.storage.head_turns import await_turn
from server.storage.sqlite_writer import sqlite_driver
from server.storage.tables import event

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sqlalchemy import Connection, Table

LogRow = tuple[Any, ...]
"""The values of the columns of a table, in their order."""

_HEADS = (
    "SELECT project_key, position, received_at, catalog_version, match_position FROM project_head WHERE project_key"
)
_HEAD_SQLITE = f"{_HEADS} = ?"
_HEADS_POSTGRESQL = f"""
SELECT project_key, head.position, received_at, catalog_version, match_position,
       (SELECT id FROM event WHERE event.project_key = head.project_key AND event.position = wanted.witness),
       {DATABASE_MICROS}
FROM project_head AS head JOIN unnest($1::bigint[], $2::bigint[]) AS wanted (project_key, witness) USING (project_key)
ORDER BY project_key FOR UPDATE OF head
"""  # noqa: S608 - our own expression

_MOVE_SQLITE = "UPDATE project_head SET position = ?, received_at = ?, match_position = ? WHERE project_key = ?"
_MOVE_POSTGRESQL = "UPDATE project_head SET position = $1, received_at = $2, match_position = $3 WHERE project_key = $4"

# Rows are inserted in chunks of one statement each. SQLite runs a statement without the GIL; `executemany` would take
# the GIL back after every row, and wait each time until the event loop lets go of it.
_CHUNK = 512

_POSTGRESQL = postgresql.dialect()  # type: ignore[no-untyped-call]


class Head(NamedTuple):
    """The end of a project's log, and its catalog version.

    `witness_id` is the id of the event at the witness position of `lock_heads`; None if no event is recorded there.
    `now` is the time of the database when the head was read, 0 on SQLite.
    """

    position: int
    received_at: int
    catalog_version: int
    match_position: int
    witness_id: str | None = None
    now: int = 0


def lock_heads(
    connection: Connection, project_pks: Iterable[int], witnesses: Mapping[int, int] = MappingProxyType({})
) -> dict[int, Head]:
    """Read the heads of projects and lock them until the transaction ends.

    `witnesses` are positions by `project_pk`. The ids of the events there show whether data that was read together with
    them is still valid: a failover may have lost it. They are read on PostgreSQL only, because an SQLite file loses
    nothing while it is open.
    """
    keys = sorted(project_pks)
    if connection.dialect.name == "postgresql":
        await_turn(connection, keys)
        named = [witnesses.get(key, 0) for key in keys]
        rows = [tuple(row) for row in connection.exec_driver_sql(_HEADS_POSTGRESQL, (keys, named))]
    else:
        # No lock is needed: no other transaction writes.
        execute = sqlite_driver(connection).execute
        rows = [execute(_HEAD_SQLITE, (key,)).fetchone() for key in keys]
    if len(rows) < len(keys) or None in rows:
        # The project was deleted since the caller was authenticated.
        raise KeyInvalid
    return {key: Head(*head) for key, *head in rows}


def move_heads(connection: Connection, heads: Mapping[int, Head]) -> None:
    """Write the positions and times of locked heads."""
    moves = [(head.position, head.received_at, head.match_position, key) for key, head in heads.items()]
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(_MOVE_POSTGRESQL, moves)
    else:
        sqlite_driver(connection).executemany(_MOVE_SQLITE, moves)


class Appender:
    """Appends rows to one table, without the columns named in `later`, which have their defaults then."""

    def __init__(self, table: Table, later: Sequence[str] = ()) -> None:
        columns = [column for column in table.columns if column.name not in later]
        names = [column.name for column in columns]
        self._width = len(names)
        types = [column.type.compile(_POSTGRESQL) for column in columns]
        arrays = ", ".join(f"${number}::{kind}[]" for number, kind in enumerate(types, 1))
        self._insert = f"INSERT INTO {table.name} ({', '.join(names)})"
        self._place = f"({', '.join('?' * len(names))})"
        self._insert_postgresql = f"{self._insert} SELECT * FROM unnest({arrays})"  # noqa: S608 - our own names
        self._insert_sqlite = lru_cache(self._insert_of)

    def append(self, connection: Connection, rows: Iterable[LogRow]) -> None:
        """Insert rows, in a few statements."""
        self.append_values(connection, list(chain.from_iterable(rows)))

    def append_values(self, connection: Connection, values: Sequence[Any]) -> None:
        """Insert rows of which the values are given one after the other: no tuple is kept for each event."""
        width = self._width
        if connection.dialect.name == "postgresql":
            columns = tuple([values[column::width] for column in range(width)])
            connection.exec_driver_sql(self._insert_postgresql, columns)
            return
        execute = sqlite_driver(connection).execute
        for start in range(0, len(values), _CHUNK * width):
            chunk = tuple(values[start : start + _CHUNK * width])
            text = self._insert_sqlite(len(chunk) // width)
            database_thread.let_go()
            execute(text, chunk)
            database_thread.take()

    def _insert_of(self, rows: int) -> str:
        return f"{self._insert} VALUES {', '.join([self._place] * rows)}"


events = Appender(event, later=["erased_at", "traceparent"])
traced_events = Appender(event, later=["erased_at"])
"""For commits of events of which some have a trace: few systems trace all calls, and the others do not pay for it."""
matches = Appender(automation_match)
runs = Appender(run)
