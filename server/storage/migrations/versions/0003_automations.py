"""Automations, the match log, runs and subscriptions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003_automations"
down_revision = "0002_layouts"
CONTRACTS = True

_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_WAITING = sa.text("status = 'waiting'")
_TIMED = sa.text("status = 'waiting' AND timeout_at > 0")
_WITH_CONTACT = sa.text("contact_key != 0")


def upgrade() -> None:
    """Create the tables."""
    op.add_column("project_head", sa.Column("match_position", sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("project_head", sa.Column("automations_version", sa.BigInteger, nullable=False, server_default="0"))
    _automations()
    _matches()
    _runs()
    _subscriptions()
    _deliveries()


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
    op.create_index("match_by_event", "automation_match", ["event_position"])


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
        sa.Column("finished_position", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("run_by_contact", "run", ["contact_key", "automation_key"])
    op.create_index("run_by_automation", "run", ["automation_key", "number"])
    op.create_index("run_waiting", "run", ["contact_key"], sqlite_where=_WAITING, postgresql_where=_WAITING)
    op.create_index("run_timeout", "run", ["timeout_at"], sqlite_where=_TIMED, postgresql_where=_TIMED)


def _subscriptions() -> None:
    op.create_table(
        "subscription",
        sa.Column("key", _KEY, primary_key=True, autoincrement=True),
        sa.Column("project_key", _KEY, nullable=False),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("filter", sa.Text, nullable=False),
        sa.Column("order", sa.Text, nullable=False),
        sa.Column("ack_deadline", sa.BigInteger, nullable=False),
        sa.Column("max_attempts", sa.Integer, nullable=False),
        sa.Column("initial_delay", sa.BigInteger, nullable=False),
        sa.Column("max_delay", sa.BigInteger, nullable=False),
        sa.Column("multiplier", sa.Float(53), nullable=False),
        sa.Column("read_position", sa.BigInteger, nullable=False),
        sa.Column("floor_position", sa.BigInteger, nullable=False),
        sa.Column("last_serial", sa.BigInteger, nullable=False),
        sa.Column("seek_serial", sa.BigInteger, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
    )
    op.create_index("subscription_by_id", "subscription", ["project_key", "id"], unique=True)
    op.create_index("subscription_by_name", "subscription", ["project_key", "name"], unique=True)


def _deliveries() -> None:
    op.create_table(
        "subscription_delivery",
        sa.Column("subscription_key", _KEY, primary_key=True, autoincrement=False),
        sa.Column("match_position", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("serial", sa.BigInteger, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("consumer_id", sa.Text, nullable=False),
        sa.Column("due_at", sa.BigInteger, nullable=False),
        sa.Column("contact_key", _KEY, nullable=False),
        sa.Column("replayed", sa.Boolean, nullable=False),
        sa.Column("last_failure", sa.Text, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("delivery_by_due", "subscription_delivery", ["subscription_key", "state", "due_at"])
    op.create_index("delivery_by_consumer", "subscription_delivery", ["subscription_key", "consumer_id", "state"])
    op.create_index(
        "delivery_by_contact",
        "subscription_delivery",
        ["subscription_key", "contact_key", "match_position"],
        sqlite_where=_WITH_CONTACT,
        postgresql_where=_WITH_CONTACT,
    )
    op.create_table(
        "subscription_parked",
        sa.Column("subscription_key", _KEY, primary_key=True, autoincrement=False),
        sa.Column("match_position", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("automation_key", _KEY, nullable=False),
        sa.Column("contact_key", _KEY, nullable=False),
        sa.Column("cause", sa.Text, nullable=False),
        sa.Column("attempt_count", sa.Integer, nullable=False),
        sa.Column("last_failure", sa.Text, nullable=False),
        sa.Column("consumer_id", sa.Text, nullable=False),
        sa.Column("parked_at", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("parked_by_time", "subscription_parked", ["subscription_key", "parked_at", "match_position"])
