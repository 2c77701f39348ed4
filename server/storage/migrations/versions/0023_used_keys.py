"""On SQLite, no key of a deleted row is given away again: see `automation.unused_keys`."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0023_used_keys"
down_revision = "0022_push_shares"

NUMBERED = ("automation", "contact", "contact_erasure", "project", "subscription")
"""The tables whose rows the database numbers."""

_KEEP = """
    CREATE TRIGGER {table}_key_used AFTER DELETE ON {table}
    WHEN OLD.key > (SELECT key FROM used_key WHERE table_name = '{table}')
    BEGIN UPDATE used_key SET key = OLD.key WHERE table_name = '{table}'; END
"""


def upgrade() -> None:
    """Have the database keep the largest key that a deleted row of each table had.

    A deletion that is under way may have deleted automations before their runs. The table of projects' keys stays:
    servers of the release before write to it.
    """
    key = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "used_key", sa.Column("table_name", sa.Text, primary_key=True), sa.Column("key", key, nullable=False)
    )
    if op.get_bind().dialect.name == "sqlite":
        for table in NUMBERED:
            op.execute(f"INSERT INTO used_key VALUES ('{table}', 0)")  # noqa: S608 - ours
            op.execute(_KEEP.format(table=table))
        for table, found in (("project", "key) FROM used_project_key"), ("automation", "automation_key) FROM run")):
            op.execute(f"UPDATE used_key SET key = coalesce((SELECT max({found}), 0) WHERE table_name = '{table}'")  # noqa: S608 - ours
