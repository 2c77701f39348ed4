"""On SQLite, an index of events by contact that is divided into segments of the log, in place of the undivided one."""

from __future__ import annotations

from alembic import op

revision = "0011_contacts_of_segments"
down_revision = "0010_server_secret"


def upgrade() -> None:
    """Replace the index. Older releases work without it, but read the whole log to find the events of a contact."""
    if op.get_bind().dialect.name != "sqlite":
        return
    op.drop_index("event_by_contact", "event")
    op.execute("CREATE INDEX event_by_segment_and_contact ON event (position >> 13, contact_key, name, position)")
