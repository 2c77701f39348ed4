"""Drop an index whose columns are the first ones of another index, which serves older releases too."""

from __future__ import annotations

from alembic import op

revision = "0009_no_delivery_by_consumer"
down_revision = "0008_delivery_of_consumer"


def upgrade() -> None:
    """Drop the index."""
    op.drop_index("delivery_by_consumer", "subscription_delivery")
