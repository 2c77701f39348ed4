"""Copies of a project that the server's own functions made, whose statements take longer than most tests.

A copy has rows of its own in every table; what distinguishes one project from another is replaced in them.
"""

from __future__ import annotations

from random import getrandbits
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from uuid_utils import uuid7

from automation.unused_keys import unused_key
from registry.timestamps import now_micros
from server.storage.sqlite.writer import sqlite_driver
from server.storage.tables import contact, project

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import Connection

    from server.model import Project

_DEFINITIONS: Final = "(SELECT id FROM event_definition WHERE project_id = '{id}')"
_OWN: Final = {
    "project": "key = {pk}",
    "project_head": "project_key = {pk}",
    "api_key": "project_key = {pk}",
    "event_definition": "project_id = '{id}'",
    "event_definition_revision": f"definition_id IN {_DEFINITIONS}",
    "contact": "project_key = {pk}",
}
"""The rows of a project, in the order in which they are copied."""

_NEW: Final = {
    ("project", "id"): "project",
    ("project", "name"): "name",
    ("api_key", "id"): "key",
    ("api_key", "digest"): "digest",
    ("api_key", "hint"): "hint",
    ("event_definition", "project_id"): "project",
    ("event_definition", "id"): "definition",
    ("event_definition_revision", "definition_id"): "definition",
    ("contact", "id"): "contact",
}
"""The values that each copy has for itself."""

_NUMBERED: Final = {table.name: table for table in (project, contact)}
"""The tables whose rows the database numbers."""
_RANDOM_BITS: Final = 30
"""Catalog versions have random bits: a server must not take the catalog of one project for that of another one."""


class _Row(NamedTuple):
    table: str
    values: Mapping[str, Any]


class Copies:
    """Copies of a project that has at most one key, definition and contact."""

    def __init__(self, connection: Connection, original: Project) -> None:
        """Read the rows of a project, in the transaction that made it."""
        self._rows: list[_Row] = []
        for table, condition in _OWN.items():
            own = condition.format(pk=original.pk, id=original.id)
            rows = connection.exec_driver_sql(f"SELECT * FROM {table} WHERE {own}").mappings()  # noqa: S608 - ours
            self._rows += [_Row(table, dict(row)) for row in rows]

    def add(self, connection: Connection, name: str, digest: bytes, hint: str) -> str:
        """Insert a copy with a name and a key of its own; return its id."""
        now = now_micros()
        new: dict[str, Any] = {each: str(uuid7()) for each in ("project", "key", "definition", "contact")}
        new |= {"name": name, "digest": digest, "hint": hint}
        pk = 0
        for table, old in self._rows:
            values = {column: new[_NEW[table, column]] if (table, column) in _NEW else old[column] for column in old}
            values |= {column: now for column in ("created_at", "updated_at") if column in old}
            if "project_key" in old:
                values["project_key"] = pk
            if "catalog_version" in old:
                values["catalog_version"] += getrandbits(_RANDOM_BITS)
            if table in _NUMBERED:
                del values["key"]
                values |= unused_key(connection, _NUMBERED[table])
            pk = _insert(connection, table, values) or pk
        return str(new["project"])


def _insert(connection: Connection, table: str, values: Mapping[str, Any]) -> int:
    """Insert a row; return the key of a project, otherwise 0."""
    postgresql = connection.dialect.name == "postgresql"
    places = [f"${number}" if postgresql else "?" for number in range(1, len(values) + 1)]
    returning = "RETURNING key" if table == project.name else ""
    statement = f"INSERT INTO {table} ({', '.join(values)}) VALUES ({', '.join(places)}) {returning}"  # noqa: S608 - ours
    row = _execute(connection, statement, tuple(values.values()), returns=bool(returning))
    return int(row[0]) if row else 0


def _execute(connection: Connection, statement: str, values: Sequence[Any], *, returns: bool) -> Any:
    if connection.dialect.name == "postgresql":
        done = connection.exec_driver_sql(statement, tuple(values))
    else:
        done = sqlite_driver(connection).execute(statement, values)  # type: ignore[assignment]
    return done.fetchone() if returns else None
