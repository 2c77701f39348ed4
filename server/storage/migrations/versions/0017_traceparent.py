"""The trace that an event belongs to."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017_traceparent"
down_revision = "0016_audit"


def upgrade() -> None:
    """Add the column, whose default is that of events without a trace."""
    op.add_column("event", sa.Column("traceparent", sa.Text, nullable=False, server_default=""))
