"""SQL of the heads of projects: the ends of their logs, and the versions of their catalogs."""

from __future__ import annotations

from random import getrandbits
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

import sqlalchemy as sa

from automation.bulk import DIALECTS, among, packed
from automation.prepared_statements import Prepared
from server.errors import KeyInvalid
from server.storage.clock import DATABASE_MICROS
from server.storage.postgresql.head_turns import await_turn
from server.storage.sqlite.writer import sqlite_driver
from server.storage.tables import project_head

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sqlalchemy import Connection

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

# An idle server reads these several times a second where others share its database.
_ALL_POSITIONS = sa.select(project_head.c.project_key, project_head.c.match_position)
_ALL_MATCH_POSITIONS = Prepared(_ALL_POSITIONS)
_MATCH_POSITIONS = Prepared(
    *(_ALL_POSITIONS.where(among(project_head.c.project_key, "projects", dialect)) for dialect in DIALECTS)
)
_CATALOG_VERSIONS = Prepared(sa.select(project_head.c.project_key, project_head.c.catalog_version))

_VERSION_RANDOM_BITS = 32
_VERSION_STEP = 1 << _VERSION_RANDOM_BITS


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


def insert_head(connection: Connection, project_pk: int) -> None:
    """Create the head of a new project, whose log is empty."""
    first = _VERSION_STEP + getrandbits(_VERSION_RANDOM_BITS)
    values = {"project_key": project_pk, "catalog_version": first, "position": 0, "received_at": 0}
    connection.execute(project_head.insert().values(values))


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


def advance_catalog(connection: Connection, project_pk: int) -> None:
    """Advance the catalog version of a project.

    Every write to definitions, automations, rules or keys, and every deletion of a contact, calls this first: on
    PostgreSQL it locks the project's head, so that changes and commits of one project come one after the other.
    """
    await_turn(connection, [project_pk])
    advanced = connection.execute(
        project_head.update()
        .where(project_head.c.project_key == project_pk)
        .values(catalog_version=_next_version(project_head.c.catalog_version))
    )
    if not advanced.rowcount:
        # The project was deleted since the caller was authenticated.
        raise KeyInvalid


def advance_automations(connection: Connection, project_pk: int) -> int:
    """Advance the version of the automations, within a change of the catalog.

    Return the position of the newest event; the change applies after it.
    """
    own = project_head.c.project_key == project_pk
    changed = (
        project_head.update().where(own).values(automations_version=_next_version(project_head.c.automations_version))
    )
    return int(connection.scalar(changed.returning(project_head.c.position)) or 0)


def _next_version(version: sa.Column[int]) -> sa.ColumnElement[int]:
    """Return the next version: the count after this one, with 32 new random bits below it.

    After a failover or a restore that lost the newest changes, the same counts are given out again. The random bits
    distinguish a state that was read before from another one with the same count.
    """
    return (version // _VERSION_STEP + 1) * _VERSION_STEP + getrandbits(_VERSION_RANDOM_BITS)


def automations_version(connection: Connection, project_pk: int) -> int:
    """Return the version of the automations of one project."""
    query = sa.select(project_head.c.automations_version).where(project_head.c.project_key == project_pk)
    return int(connection.scalar(query) or 0)


def match_positions(connection: Connection, project_pks: Sequence[int] | None = None) -> dict[int, int]:
    """Return the position of the newest match of each project, or of all projects if none are named."""
    if project_pks is None:
        rows = _ALL_MATCH_POSITIONS.rows(connection)
    else:
        rows = _MATCH_POSITIONS.rows(connection, projects=packed(connection, project_pks))
    return {row[0]: row[1] for row in rows}


def catalog_versions(connection: Connection) -> dict[int, int]:
    """Return the catalog version of every project, by `project_pk`."""
    return {row[0]: row[1] for row in _CATALOG_VERSIONS.rows(connection)}


def catalog_version(connection: Connection, project_pk: int) -> int:
    """Return the catalog version of one project."""
    query = sa.select(project_head.c.catalog_version).where(project_head.c.project_key == project_pk)
    return int(connection.scalar(query) or 0)
