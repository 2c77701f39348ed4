"""The tables of the registry. Times are microseconds UTC."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, ForeignKey, Index, Integer, MetaData, Table, Text

metadata = MetaData()

event_definition = Table(
    "event_definition",
    metadata,
    Column("id", Text, primary_key=True),
    Column("project_id", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("compatibility", Text, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("version", Integer, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("deleted_at", BigInteger),
    # In microseconds; 0 is for ever, NULL as long as the project says.
    Column("event_retention", BigInteger),
)

_live = event_definition.c.deleted_at.is_(None)

Index(
    "event_definition_live_name",
    event_definition.c.project_id,
    event_definition.c.name,
    unique=True,
    sqlite_where=_live,
    postgresql_where=_live,
)
Index(
    "event_definition_newest",
    event_definition.c.project_id,
    event_definition.c.created_at,
    event_definition.c.id,
)

RETAINED = _live & event_definition.c.event_retention.is_not(None)
Index(
    "event_definition_retained",
    event_definition.c.project_id,
    sqlite_where=RETAINED,
    postgresql_where=RETAINED,
)

event_definition_revision = Table(
    "event_definition_revision",
    metadata,
    Column("definition_id", Text, ForeignKey("event_definition.id"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("schema", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("layout", Text, nullable=False),
)
