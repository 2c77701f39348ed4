"""A server that joins can ask others for subscriptions to push."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0022_push_shares"
down_revision = "0021_refused_keys"


def upgrade() -> None:
    """Add the server that asks for a subscription; none does yet."""
    op.add_column("subscription_push", sa.Column("wanted_by", sa.Text, nullable=False, server_default=""))
