"""Events say whether case counts in their names: that depends on who sent them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005_bridge"
down_revision = "0004_retention"


def upgrade() -> None:
    """Add the column; events of before were compared by their project's rule."""
    op.add_column("event", sa.Column("ignore_case", sa.SmallInteger, nullable=False, server_default="0"))
    insensitive = "SELECT key FROM project WHERE name_case = 'insensitive'"
    op.execute(f"UPDATE event SET ignore_case = 1 WHERE project_key IN ({insensitive})")  # noqa: S608 - our own words
