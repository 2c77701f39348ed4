"""API keys have names, expire, and can be rotated; their last use is known."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0018_key_lives"
down_revision = "0017_traceparent"


def upgrade() -> None:
    """Add the columns. Existing keys do not expire."""
    op.add_column("api_key", sa.Column("name", sa.Text, nullable=False, server_default=""))
    op.add_column("api_key", sa.Column("expires_at", sa.BigInteger))
    op.add_column("api_key", sa.Column("last_used_at", sa.BigInteger))
    op.add_column("api_key", sa.Column("previous_digest", sa.LargeBinary))
    op.add_column("api_key", sa.Column("previous_expires_at", sa.BigInteger))
    op.create_index("api_key_by_previous_digest", "api_key", ["previous_digest"], unique=True)
