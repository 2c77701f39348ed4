"""Refused events are found by their idempotency keys."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0021_refused_keys"
down_revision = "0020_project_deletion"


def upgrade() -> None:
    """Index the events that have a key."""
    keyed = sa.text("idempotency_key <> ''")
    columns = ["project_key", "idempotency_key", "id"]
    name = "refused_event_by_idempotency_key"
    op.create_index(name, "refused_event", columns, sqlite_where=keyed, postgresql_where=keyed)
