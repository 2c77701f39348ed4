"""An index of the replayed deliveries: they alone are at or below a subscription's ack floor."""

from __future__ import annotations

from server.storage.schema_changes import NewIndex

revision = "0007_delivery_replayed"
down_revision = "0006_event_without_contact"

INDEXES = (
    NewIndex("delivery_replayed", "subscription_delivery", ("subscription_key", "match_position"), where="replayed"),
)
