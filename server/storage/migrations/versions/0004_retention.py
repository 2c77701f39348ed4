"""Where the match log of each project begins."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004_retention"
down_revision = "0003_automations"
CONTRACTS = True

_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Create the table; no log has been pruned yet."""
    op.create_table(
        "match_log_start",
        sa.Column("project_key", _KEY, primary_key=True, autoincrement=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("gone_before", sa.BigInteger, nullable=False),
    )
