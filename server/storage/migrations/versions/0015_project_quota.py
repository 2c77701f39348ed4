"""How many events a project may send: any number, unless it is limited."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015_project_quota"
down_revision = "0014_event_retention"


def upgrade() -> None:
    """Add the columns."""
    for name in ("events_per_second", "event_burst", "events_per_day"):
        op.add_column("project", sa.Column(name, sa.BigInteger, nullable=False, server_default="0"))
