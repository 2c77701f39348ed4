"""A subscription as it is created, which tests change as far as they need."""

from __future__ import annotations

from typing import Final

from automation.matches import MatchFilter
from automation.subscriptions.values import Backoff, DeliveryOrder, Subscription

SUBSCRIPTION: Final = Subscription(
    key=0,
    project_pk=7,
    id="01980000-0000-7000-8000-00000000abcd",
    name="engine",
    filter=MatchFilter(),
    order=DeliveryOrder.POSITION,
    ack_deadline=30_000_000,
    max_attempts=3,
    backoff=Backoff(),
    read_position=0,
    floor_position=0,
    last_serial=0,
    seek_serial=0,
    version=0,
    created_at=1,
    updated_at=1,
)
