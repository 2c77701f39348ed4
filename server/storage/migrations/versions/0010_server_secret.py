"""Secrets that all servers of a database share, such as the one that signs page tokens."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010_server_secret"
down_revision = "0009_no_delivery_by_consumer"


def upgrade() -> None:
    """Create the table. Servers make the secrets when they first need them."""
    op.create_table(
        "server_secret",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("secret", sa.LargeBinary, nullable=False),
    )
