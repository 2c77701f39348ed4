"""An index of the leases of a consumer by position, so that those above the ack floor are found."""

from __future__ import annotations

from server.storage.schema_changes import NewIndex

revision = "0008_delivery_of_consumer"
down_revision = "0007_delivery_replayed"

INDEXES = (
    NewIndex(
        "delivery_of_consumer",
        "subscription_delivery",
        ("subscription_key", "consumer_id", "state", "match_position"),
    ),
)
