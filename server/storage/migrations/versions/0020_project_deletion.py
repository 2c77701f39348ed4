"""Projects can be deleted."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0020_project_deletion"
down_revision = "0019_quarantine"


def upgrade() -> None:
    """Add what a deletion needs: no project is deleted yet."""
    op.add_column("project", sa.Column("deleted_at", sa.BigInteger))
    key = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table("used_project_key", sa.Column("key", key, primary_key=True, autoincrement=False))
