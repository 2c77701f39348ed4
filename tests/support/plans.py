"""Query plans of all statements of this process."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy import event

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection

_STEPS = 100
_WASTED_ROWS = 500
"""A scan that reads and drops more rows has no index that fits."""


@dataclass
class Plans:
    """The statements that ran while the context was open."""

    tables: frozenset[str]
    statements: list[str] = field(default_factory=list)
    scans: list[str] = field(default_factory=list)
    costs: dict[str, int] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    _steps: list[int] = field(default_factory=list)
    _explaining: set[int] = field(default_factory=set)

    @property
    def blocks(self) -> int:
        """The number of pages that reads visited, on PostgreSQL."""
        return sum(self.costs.values())

    @property
    def steps(self) -> int:
        """The number of steps that reads took, on SQLite, to the nearest _STEPS for each statement."""
        return sum(self._steps)

    def explain(self, connection: Connection, statement: str, parameters: Any) -> None:
        """Note the plan of a statement that is about to run."""
        word = statement.split(maxsplit=1)[0].upper()
        # Connections of other tasks run statements while this one waits for its plan.
        if id(connection) in self._explaining or word not in {"SELECT", "UPDATE", "DELETE", "WITH"}:
            return
        self._explaining.add(id(connection))
        try:
            self.statements.append(statement)
            if connection.dialect.name == "sqlite":
                self._explain_sqlite(connection, statement, parameters)
            else:
                self._explain_postgresql(connection, statement, parameters, analyze=word == "SELECT")
        finally:
            self._explaining.remove(id(connection))

    def _explain_sqlite(self, connection: Connection, statement: str, parameters: Any) -> None:
        if statement.startswith(("SELECT", "WITH")):
            path = connection.exec_driver_sql("PRAGMA database_list").fetchall()[0][2]
            self._steps.append(_steps_of(path, statement, parameters))
        for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters):
            words = row[3].split()
            self.used.update(words)
            if words[0] == "SCAN" and words[1] in self.tables:
                self.scans.append(f"{row[3]}: {statement}")

    def _explain_postgresql(self, connection: Connection, statement: str, parameters: Any, *, analyze: bool) -> None:
        options = "ANALYZE, BUFFERS, FORMAT JSON" if analyze else "FORMAT JSON"
        explained = connection.exec_driver_sql(f"EXPLAIN ({options}) {statement}", parameters).scalar_one()
        plan = json.loads(explained)[0]["Plan"]
        self.costs[statement] = plan.get("Shared Hit Blocks", 0) + plan.get("Shared Read Blocks", 0)
        for node in _nodes(plan):
            self.used.add(node.get("Index Name", ""))
            wasted = (node.get("Rows Removed by Filter", 0)) * node.get("Actual Loops", 1)
            read = node.get("Actual Rows", node["Plan Rows"]) + node.get("Rows Removed by Filter", 0)
            whole = node["Node Type"] == "Seq Scan" and node["Relation Name"] in self.tables and read > _WASTED_ROWS
            if whole or wasted > _WASTED_ROWS:
                self.scans.append(f"{node}: {statement}")


def _steps_of(path: str, statement: str, parameters: Any) -> int:
    """Run a query once more, on a connection of its own, and return the number of its steps."""
    calls = 0

    def count() -> None:
        nonlocal calls
        calls += 1

    with closing(sqlite3.connect(path)) as connection:
        connection.set_progress_handler(count, _STEPS)
        connection.execute(statement, parameters).fetchall()
    return calls * _STEPS


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield {name: value for name, value in plan.items() if name != "Plans"}
    for each in plan.get("Plans", ()):
        yield from _nodes(each)


_noting: list[Plans] = []


@contextmanager
def plans(*tables: str) -> Iterator[Plans]:
    """Note the plans of all statements of this process; `scans` are those that read one of the tables as a whole."""
    noted = Plans(frozenset(tables))
    # Never taken away again: another task may be in the middle of calling all that listen.
    if not event.contains(sa.Engine, "before_cursor_execute", _before):
        event.listen(sa.Engine, "before_cursor_execute", _before)
    _noting.append(noted)
    try:
        yield noted
    finally:
        _noting.remove(noted)


def _before(
    connection: Connection, _cursor: Any, statement: str, parameters: Any, _context: Any, executemany: bool
) -> None:
    for noted in _noting if not executemany else ():
        noted.explain(connection, statement, parameters)
