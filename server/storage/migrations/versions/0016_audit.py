"""The audit log, and the settings of the last start."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016_audit"
down_revision = "0015_project_quota"

_TEXTS = ("project_id", "key_id", "api", "request_id", "action", "resource_type", "resource_id", "before_json")


def upgrade() -> None:
    """Create the tables, empty."""
    op.create_table(
        "audit_entry",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("occurred_at", sa.BigInteger, nullable=False),
        *(sa.Column(name, sa.Text, nullable=False) for name in (*_TEXTS, "after_json", "omitted")),
    )
    op.create_index("audit_entry_by_project", "audit_entry", ["project_id", "id"])
    op.create_table(
        "server_setting",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
    )
