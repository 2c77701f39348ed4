"""Erased persons."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013_erasure"
down_revision = "0012_subscription_push"


def upgrade() -> None:
    """Mark erased contacts and events, and create the table of erasures in progress."""
    op.add_column("project", sa.Column("erasure", sa.Text, nullable=False, server_default="delete_all"))
    op.add_column("project", sa.Column("sealed", sa.Boolean, nullable=False, server_default=sa.false()))
    op.add_column("contact", sa.Column("erased_at", sa.BigInteger))
    op.add_column("event", sa.Column("erased_at", sa.BigInteger, nullable=False, server_default="0"))
    key = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "contact_erasure",
        sa.Column("key", key, primary_key=True, autoincrement=True),
        sa.Column("project_key", key, nullable=False),
        sa.Column("contact_key", key, nullable=False),
        sa.Column("email", sa.Text, nullable=False),
        sa.Column("keeps", sa.Boolean, nullable=False),
        sa.Column("run_number", sa.BigInteger, nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("until_position", sa.BigInteger, nullable=False),
        sa.Column("erased_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
    )
