"""How subscriptions push their matches."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012_subscription_push"
down_revision = "0011_contacts_of_segments"


def upgrade() -> None:
    """Create the table, and mark the subscriptions that push: none yet."""
    op.add_column("subscription", sa.Column("pushes", sa.Boolean, nullable=False, server_default=sa.false()))
    key = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "subscription_push",
        sa.Column("subscription_key", key, primary_key=True, autoincrement=False),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("secrets", sa.Text, nullable=False),
        sa.Column("headers", sa.Text, nullable=False),
        sa.Column("timeout", sa.BigInteger, nullable=False),
        sa.Column("max_in_flight", sa.Integer, nullable=False),
        sa.Column("paused_at", sa.BigInteger, nullable=False),
        sa.Column("pause_reason", sa.Text, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("owned_until", sa.BigInteger, nullable=False),
        sa.Column("attempts", sa.Text, nullable=False),
    )
