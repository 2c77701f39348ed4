"""The layouts of generated types: every revision gets its own, in the order in which they were made."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from registry.fields import NO_LAYOUT, layout_to_json, next_layout
from registry.schema import schema_from_json

revision = "0002_layouts"
down_revision = "0001_foundation"


def upgrade() -> None:
    """Add the layouts."""
    op.add_column("event_definition_revision", sa.Column("layout", sa.Text, nullable=False, server_default=""))
    connection = op.get_bind()
    rows = connection.execute(
        sa.text(
            "SELECT definition_id, number, name, schema FROM event_definition_revision"
            " JOIN event_definition ON id = definition_id ORDER BY definition_id, number"
        )
    ).all()
    layout, definition_id = NO_LAYOUT, ""
    for row in rows:
        layout = next_layout(
            layout if row.definition_id == definition_id else NO_LAYOUT, row.name, schema_from_json(row.schema)
        )
        definition_id = row.definition_id
        connection.execute(
            sa.text(
                "UPDATE event_definition_revision SET layout = :layout"
                " WHERE definition_id = :definition_id AND number = :number"
            ),
            {"layout": layout_to_json(layout), "definition_id": definition_id, "number": row.number},
        )
