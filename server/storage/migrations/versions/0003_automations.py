"""Automations, the match log and runs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003_automations"
down_revision = "0001_foundation"

_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_WAITING = sa.text("status = 'waiting'")
_TIMED = sa.text("status = 'waiting' AND timeout_at > 0")


def upgrade() -> None:
    """Make the tables."""
    op.add_column("project_head", sa.Column("match_position", sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("project_head", sa.Column("automations_version", sa.BigInteger, nullable=False, server_default="0"))
    _automations()
    _matches()
    _runs()


def _automations() -> None:
    op.create_table(
        "automation",
        sa.Column("key", _KEY, primary_key=True, autoincrement=True),
        sa.Column("project_key", _KEY, nullable=False),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("event_name", sa.Text, nullable=False),
        sa.Column("condition", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("entry_rule", sa.Text, nullable=False),
        sa.Column("labels", sa.Text, nullable=False),
        sa.Column("attributes", sa.Text, nullable=False),
        sa.Column("activated_position", sa.BigInteger),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.Column("deleted_at", sa.BigInteger),
    )
    op.create_index("automation_by_id", "automation", ["project_key", "id"], unique=True)
    op.create_index("automation_by_event", "automation", ["project_key", "event_name"])
    op.create_table(
        "automation_version",
        sa.Column("automation_key", _KEY, primary_key=True, autoincrement=False),
        sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("since_position", sa.BigInteger, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("event_name", sa.Text, nullable=False),
        sa.Column("condition", sa.Text, nullable=False),
        sa.Column("entry_rule", sa.Text, nullable=False),
    )


def _matches() -> None:
    op.create_table(
        "automation_match",
        sa.Column("project_key", _KEY, primary_key=True, autoincrement=False),
        sa.Column("position", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("automation_key", _KEY, nullable=False),
        sa.Column("run_number", sa.BigInteger, nullable=False),
        sa.Column("run_id", sa.Text, nullable=False),
        sa.Column("event_position", sa.BigInteger, nullable=False),
        sa.Column("event_name", sa.Text, nullable=False),
        sa.Column("contact_key", _KEY, nullable=False),
        sa.Column("matched_at", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("match_by_event", "automation_match", ["project_key", "event_position"])


def _runs() -> None:
    op.create_table(
        "run",
        sa.Column("project_key", _KEY, primary_key=True, autoincrement=False),
        sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("automation_key", _KEY, nullable=False),
        sa.Column("contact_key", _KEY, nullable=False),
        sa.Column("event_position", sa.BigInteger, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("match_position", sa.BigInteger, nullable=False),
        sa.Column("wait_event", sa.Text, nullable=False),
        sa.Column("wait_condition", sa.Text, nullable=False),
        sa.Column("wait_from", sa.BigInteger, nullable=False),
        sa.Column("timeout_at", sa.BigInteger, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("attributes", sa.Text, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.Column("finished_at", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("run_by_contact", "run", ["project_key", "contact_key", "automation_key"])
    op.create_index("run_by_automation", "run", ["project_key", "automation_key", "number"])
    op.create_index(
        "run_waiting", "run", ["project_key", "contact_key"], sqlite_where=_WAITING, postgresql_where=_WAITING
    )
    op.create_index("run_timeout", "run", ["timeout_at"], sqlite_where=_TIMED, postgresql_where=_TIMED)
