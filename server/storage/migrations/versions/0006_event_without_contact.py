"""An index of the events that were recorded without a contact, by their address."""

from __future__ import annotations

from server.storage.schema_changes import NewIndex

revision = "0006_event_without_contact"
down_revision = "0005_bridge"

INDEXES = (NewIndex("event_without_contact", "event", ("project_key", "email", "position"), where="email <> ''"),)
