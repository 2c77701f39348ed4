"""Events that were refused, and the rule of projects that keeps them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0019_quarantine"
down_revision = "0018_key_lives"


def upgrade() -> None:
    """Create the tables, and let existing projects drop refused events, as they did."""
    op.add_column("project", sa.Column("refused_events", sa.Text, nullable=False, server_default="drop"))
    key = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "refused_event",
        sa.Column("project_key", key, primary_key=True, autoincrement=False),
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("received_at", sa.BigInteger, nullable=False),
        sa.Column("byte_count", sa.BigInteger, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("faults", sa.Text, nullable=False),
        sa.Column("door", sa.Text, nullable=False),
        sa.Column("key_id", sa.Text, nullable=False),
        sa.Column("request_id", sa.Text, nullable=False),
        sa.Column("idempotency_key", sa.Text, nullable=False),
        sa.Column("contact_id", sa.Text, nullable=False),
        sa.Column("email", sa.Text, nullable=False),
        sa.Column("error", sa.Text, nullable=False),
        sa.Column("content", sa.Text, nullable=False),
        sa.Column("request", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "quarantine",
        sa.Column("project_key", key, primary_key=True, autoincrement=False),
        sa.Column("event_count", sa.BigInteger, nullable=False),
        sa.Column("byte_count", sa.BigInteger, nullable=False),
    )
