"""SQL of the log: appending.

Every commit runs these statements. On SQLite they go straight to the driver: SQLAlchemy would add 40 to 60 us to the
3 us that each of them takes.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING, Any

from sqlalchemy.dialects import postgresql

from automation.tables import automation_match, run
from server.sharing.interpreter_lock import database_thread
from server.storage.sqlite.writer import sqlite_driver
from server.storage.tables import event

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy import Connection, Table

LogRow = tuple[Any, ...]
"""The values of the columns of a table, in their order."""


# Rows are inserted in chunks of one statement each. SQLite runs a statement without the GIL; `executemany` would take
# the GIL back after every row, and wait each time until the event loop lets go of it.
_CHUNK = 512

# On PostgreSQL the event loop encodes the values, and serves others between two chunks. The events of a group of small
# batches are one.
_POSTGRESQL_CHUNK = 1_000

_POSTGRESQL = postgresql.dialect()  # type: ignore[no-untyped-call]


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
            for start in range(0, len(values), _POSTGRESQL_CHUNK * width):
                end = start + _POSTGRESQL_CHUNK * width
                columns = tuple([values[start + column : end : width] for column in range(width)])
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
