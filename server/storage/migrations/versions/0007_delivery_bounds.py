"""Indexes by which a step finds deliveries above the ack floor, and replayed ones, without visiting settled ones."""

from __future__ import annotations

from server.storage.maintenance import NewIndex

revision = "0007_delivery_bounds"
down_revision = "0006_event_without_contact"

INDEXES = (
    NewIndex(
        "delivery_of_consumer",
        "subscription_delivery",
        ("subscription_key", "consumer_id", "match_position"),
    ),
    NewIndex("delivery_replayed", "subscription_delivery", ("subscription_key", "match_position"), where="replayed"),
)
