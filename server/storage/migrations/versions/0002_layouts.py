"""The layouts of generated types: every revision gets its own, in the order in which they were made."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa
from alembic import op

from registry.codegen.field_numbers import NO_LAYOUT, layout_to_json, next_layout
from registry.definitions.schema import schema_from_json

if TYPE_CHECKING:
    from sqlalchemy import Connection

revision = "0002_layouts"
down_revision = "0001_foundation"
CONTRACTS = True

_NEXT_DEFINITION = sa.text("SELECT id, name FROM event_definition WHERE id > :after ORDER BY id LIMIT 1")
_REVISIONS = sa.text(
    "SELECT number, schema FROM event_definition_revision WHERE definition_id = :definition ORDER BY number"
)
_SET_LAYOUT = sa.text(
    "UPDATE event_definition_revision SET layout = :layout WHERE definition_id = :definition AND number = :number"
)


def upgrade() -> None:
    """Add the column."""
    op.add_column("event_definition_revision", sa.Column("layout", sa.Text, nullable=False, server_default=""))


def move(connection: Connection, cursor: str, limit: int) -> str | None:
    """Lay out the revisions of the next definitions, of `limit` revisions at least; the cursor is a definition's id."""
    while limit > 0:
        definition = connection.execute(_NEXT_DEFINITION, {"after": cursor}).one_or_none()
        if definition is None:
            return None
        cursor, layout = definition.id, NO_LAYOUT
        for row in connection.execute(_REVISIONS, {"definition": cursor}).all():
            layout = next_layout(layout, definition.name, schema_from_json(row.schema))
            values = {"layout": layout_to_json(layout), "definition": cursor, "number": row.number}
            connection.execute(_SET_LAYOUT, values)
            limit -= 1
        limit -= 1
    return cursor
