"""Projects, keys, contacts, definitions with their revisions, and the log of events."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001_foundation"
down_revision = None
CONTRACTS = True

_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Create the first tables."""
    _projects()
    _definitions()
    _events()


def _projects() -> None:
    op.create_table(
        "project",
        sa.Column("key", _KEY, primary_key=True, autoincrement=True),
        sa.Column("id", sa.Text, nullable=False, unique=True),
        sa.Column("name", sa.Text, nullable=False, unique=True),
        sa.Column("undefined_events", sa.Text, nullable=False),
        sa.Column("unknown_contacts", sa.Text, nullable=False),
        sa.Column("name_case", sa.Text, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "project_head",
        sa.Column("project_key", _KEY, primary_key=True, autoincrement=False),
        sa.Column("catalog_version", sa.BigInteger, nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("received_at", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "api_key",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("project_key", _KEY, nullable=False),
        sa.Column("digest", sa.LargeBinary, nullable=False, unique=True),
        sa.Column("dialect", sa.Text, nullable=False),
        sa.Column("scopes", sa.Text, nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("hint", sa.Text, nullable=False),
        sa.Column("demo", sa.Boolean, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("revoked_at", sa.BigInteger),
    )
    op.create_index("api_key_by_project", "api_key", ["project_key", "id"])
    op.create_table(
        "contact",
        sa.Column("key", _KEY, primary_key=True, autoincrement=True),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("project_key", _KEY, nullable=False),
        sa.Column("email", sa.Text),
        sa.Column("properties", sa.Text, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.Column("deleted_at", sa.BigInteger),
    )
    op.create_index("contact_by_email", "contact", ["project_key", "email"], unique=True)
    op.create_index("contact_by_id", "contact", ["project_key", "id"], unique=True)


def _definitions() -> None:
    op.create_table(
        "event_definition",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("project_id", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("compatibility", sa.Text, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.Column("deleted_at", sa.BigInteger),
    )
    live = sa.text("deleted_at IS NULL")
    op.create_index(
        "event_definition_live_name",
        "event_definition",
        ["project_id", "name"],
        unique=True,
        sqlite_where=live,
        postgresql_where=live,
    )
    op.create_index("event_definition_newest", "event_definition", ["project_id", "created_at", "id"])
    op.create_table(
        "event_definition_revision",
        sa.Column("definition_id", sa.Text, sa.ForeignKey("event_definition.id"), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("schema", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
    )


def _events() -> None:
    op.create_table(
        "event",
        sa.Column("project_key", _KEY, primary_key=True, autoincrement=False),
        sa.Column("position", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("definition_id", sa.Text, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("contact_key", _KEY, nullable=False),
        sa.Column("email", sa.Text, nullable=False),
        sa.Column("properties", sa.Text, nullable=False),
        sa.Column("coercions", sa.Text, nullable=False),
        sa.Column("occurred_at", sa.BigInteger, nullable=False),
        sa.Column("received_at", sa.BigInteger, nullable=False),
        sa.Column("match_count", sa.Integer, nullable=False),
        sa.Column("idempotency_key", sa.Text, nullable=False),
        sa.Column("fingerprint", sa.Text, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("event_by_name", "event", ["project_key", "name", "position"])
    op.create_index("event_by_contact", "event", ["project_key", "contact_key", "position"])
    keyed = sa.text("idempotency_key != ''")
    op.create_index(
        "event_by_idempotency_key",
        "event",
        ["project_key", "idempotency_key"],
        unique=True,
        sqlite_where=keyed,
        postgresql_where=keyed,
    )
