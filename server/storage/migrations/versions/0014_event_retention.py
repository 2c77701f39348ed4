"""How long events are kept."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014_event_retention"
down_revision = "0013_erasure"


def upgrade() -> None:
    """Add the columns: so far, events are kept for ever."""
    op.add_column("project", sa.Column("event_retention", sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("event_definition", sa.Column("event_retention", sa.BigInteger))
    retained = sa.text("deleted_at IS NULL AND event_retention IS NOT NULL")
    op.create_index(
        "event_definition_retained",
        "event_definition",
        ["project_id"],
        sqlite_where=retained,
        postgresql_where=retained,
    )
