"""The tables of automations, matches and runs. Times are microseconds UTC.

Tables that an event may write have no NULL, which the SQLite driver is slow to bind: values that do not apply are 0 or
empty. They refer to projects, contacts and automations by their integer keys.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import BigInteger, Column, Index, Integer, MetaData, Table, Text, literal_column

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement

metadata = MetaData()

# SQLite assigns keys by itself only if the column type is exactly INTEGER.
_Key = BigInteger().with_variant(Integer(), "sqlite")

# On SQLite, the largest key that a deleted row of each table had: see `automation.unused_keys`.
used_key = Table(
    "used_key",
    metadata,
    Column("table_name", Text, primary_key=True),
    Column("key", _Key, nullable=False),
)

automation = Table(
    "automation",
    metadata,
    Column("key", _Key, primary_key=True, autoincrement=True),
    Column("project_key", _Key, nullable=False),
    Column("id", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("event_name", Text, nullable=False),
    Column("condition", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("entry_rule", Text, nullable=False),
    Column("labels", Text, nullable=False),
    Column("attributes", Text, nullable=False),
    Column("activated_position", BigInteger),
    Column("version", Integer, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("deleted_at", BigInteger),
)
Index("automation_by_id", automation.c.project_key, automation.c.id, unique=True)
Index("automation_by_event", automation.c.project_key, automation.c.event_name)

# The rules of an automation after each position at which they changed: an explanation of an old event is computed with
# the rules of that time.
automation_version = Table(
    "automation_version",
    metadata,
    Column("automation_key", _Key, primary_key=True, autoincrement=False),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("since_position", BigInteger, nullable=False),
    Column("state", Text, nullable=False),
    Column("event_name", Text, nullable=False),
    Column("condition", Text, nullable=False),
    Column("entry_rule", Text, nullable=False),
)

# The match log. An id contains its position and so needs no index; a run is identified by the position of the match
# that started it.
automation_match = Table(
    "automation_match",
    metadata,
    Column("project_key", _Key, primary_key=True, autoincrement=False),
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("id", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("automation_key", _Key, nullable=False),
    Column("run_number", BigInteger, nullable=False),
    Column("run_id", Text, nullable=False),
    Column("event_position", BigInteger, nullable=False),
    Column("event_name", Text, nullable=False),
    Column("contact_key", _Key, nullable=False),
    Column("matched_at", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
Index("match_by_event", automation_match.c.event_position)

# The start of the log of a project, and a time after all deleted matches; no row if none was deleted.
match_log_start = Table(
    "match_log_start",
    metadata,
    Column("project_key", _Key, primary_key=True, autoincrement=False),
    Column("position", BigInteger, nullable=False),
    Column("gone_before", BigInteger, nullable=False),
)

run = Table(
    "run",
    metadata,
    Column("project_key", _Key, primary_key=True, autoincrement=False),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("id", Text, nullable=False),
    Column("automation_key", _Key, nullable=False),
    Column("contact_key", _Key, nullable=False),
    Column("event_position", BigInteger, nullable=False),
    Column("status", Text, nullable=False),
    Column("match_position", BigInteger, nullable=False),
    Column("wait_event", Text, nullable=False),
    Column("wait_condition", Text, nullable=False),
    Column("wait_from", BigInteger, nullable=False),
    Column("timeout_at", BigInteger, nullable=False),
    Column("reason", Text, nullable=False),
    Column("attributes", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("finished_at", BigInteger, nullable=False),
    # The position of the newest event when the run ended. Times cannot order events and ends: each server has a clock.
    Column("finished_position", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
# Literals, not parameters: only then can a database see that a partial index covers a query.
WAITING = run.c.status == literal_column("'waiting'")
TIMED = WAITING & (run.c.timeout_at > literal_column("0"))
# Without the project: a contact or an automation belongs to one project.
Index("run_by_contact", run.c.contact_key, run.c.automation_key)
Index("run_by_automation", run.c.automation_key, run.c.number)
Index("run_waiting", run.c.contact_key, sqlite_where=WAITING, postgresql_where=WAITING)
Index("run_timeout", run.c.timeout_at, sqlite_where=TIMED, postgresql_where=TIMED)


def hidden_from_planner(project_pk: ColumnElement[int]) -> ColumnElement[int]:
    """Hide the project from the planner, so that it uses another index.

    SQLite assumes that a project has ten rows and would prefer to read all of its log.
    """
    return project_pk + literal_column("0")
