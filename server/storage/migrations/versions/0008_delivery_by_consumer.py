"""An index that a longer one with the same beginning has replaced, also for older releases."""

from __future__ import annotations

from alembic import op

revision = "0008_delivery_by_consumer"
down_revision = "0007_delivery_bounds"


def upgrade() -> None:
    """Drop it."""
    op.drop_index("delivery_by_consumer", "subscription_delivery")
