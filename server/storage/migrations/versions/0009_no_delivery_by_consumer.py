"""Drop an index whose columns another one begins with, which serves older releases as well."""

from __future__ import annotations

from alembic import op

revision = "0009_no_delivery_by_consumer"
down_revision = "0008_delivery_of_consumer"


def upgrade() -> None:
    """Drop the index."""
    op.drop_index("delivery_by_consumer", "subscription_delivery")
