"""Events say whether case counts in their names: that depends on who sent them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa
from alembic import op

if TYPE_CHECKING:
    from sqlalchemy import Connection

revision = "0005_bridge"
down_revision = "0004_retention"
CONTRACTS = True

_NEXT_PROJECT = sa.text(
    "SELECT key, position FROM project JOIN project_head ON project_key = key"
    " WHERE name_case = 'insensitive' AND key >= :project AND position > 0 ORDER BY key LIMIT 2"
)
_MARK = sa.text(
    "UPDATE event SET ignore_case = 1 WHERE project_key = :project AND position > :low AND position <= :high"
)


def upgrade() -> None:
    """Add the column."""
    op.add_column("event", sa.Column("ignore_case", sa.SmallInteger, nullable=False, server_default="0"))


def move(connection: Connection, cursor: str, limit: int) -> str | None:
    """Mark the events that were compared by their project's rule; the cursor is PROJECT/POSITION."""
    project, _, position = cursor.partition("/")
    rows = connection.execute(_NEXT_PROJECT, {"project": int(project or 0)}).all()
    if not rows:
        return None
    low = int(position) if position and rows[0].key == int(project) else 0
    high = min(low + limit, rows[0].position)
    connection.execute(_MARK, {"project": rows[0].key, "low": low, "high": high})
    if high < rows[0].position:
        return f"{rows[0].key}/{high}"
    return f"{rows[1].key}/0" if len(rows) > 1 else None
