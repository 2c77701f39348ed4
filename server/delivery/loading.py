"""Loads the matches of deliveries for a response. The rest is returned; unreadable matches are parked.

Matches of erased persons are settled instead of being delivered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from automation.subscriptions.values import Ack, Nack, NackAction, ParkingCause
from server.delivery.match_reader import UnreadableMatch, log_unreadable
from server.delivery.recent_matches import LoadedMatch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from automation.matches import Match
    from automation.subscriptions.values import Delivery, Settlement
    from server.delivery.dispatcher import Dispatcher
    from server.delivery.match_reader import MatchReader
    from server.tracing.tracer import Tracer


class LoadedDelivery(NamedTuple):
    """A delivery with its match, and the match's event and automation."""

    delivery: Delivery
    loaded: LoadedMatch


def recent_deliveries(
    reader: MatchReader, dispatcher: Dispatcher, deliveries: Sequence[Delivery]
) -> Sequence[LoadedDelivery]:
    """Load the first deliveries from memory, as many as fit into a response; none unless all of them are there.

    The rest is returned.
    """
    found = reader.load_recent(dispatcher.subscription.project_pk, *_matches_and_texts(deliveries))
    if found:
        dispatcher.return_undelivered(deliveries[len(found) :])
    return [LoadedDelivery(delivery, match) for delivery, match in zip(deliveries, found, strict=False)]


async def load_deliveries(
    reader: MatchReader, dispatcher: Dispatcher, deliveries: Sequence[Delivery]
) -> Sequence[LoadedDelivery]:
    """Load the first deliveries, as many as fit into a response.

    The rest is returned without counting an attempt, also if loading fails or is cancelled. An unreadable match is
    parked at once: it would fail every attempt, and hold up the matches of its contact until the last one. One of an
    erased person counts as acknowledged.
    """
    if not deliveries:
        return []
    loaded: list[LoadedMatch | UnreadableMatch] = []
    try:
        loaded = await reader.load(dispatcher.subscription.project_pk, *_matches_and_texts(deliveries))
    finally:
        dispatcher.return_undelivered(deliveries[len(loaded) :])
    pairs = list(zip(deliveries, loaded, strict=False))
    unreadable = [(delivery, match.reason) for delivery, match in pairs if isinstance(match, UnreadableMatch)]
    readable = [LoadedDelivery(delivery, match) for delivery, match in pairs if isinstance(match, LoadedMatch)]
    erased = [delivery.id for delivery, match in readable if match.event.erased_at]
    if unreadable or erased:
        await dispatcher.submit([*parking(unreadable), *([Ack(erased)] if erased else [])])
    return [each for each in readable if not each.loaded.event.erased_at] if erased else readable


def _matches_and_texts(deliveries: Sequence[Delivery]) -> tuple[list[Match], list[str]]:
    """Return the matches of deliveries, and the texts that a response has with each."""
    return [delivery.match for delivery in deliveries], [delivery.last_failure for delivery in deliveries]


def parking(unreadable: Sequence[tuple[Delivery, str]]) -> list[Settlement]:
    """Return the settlements that park unreadable deliveries, each given with the reason. They are logged."""
    for delivery, reason in unreadable:
        log_unreadable(delivery.match, reason)
    return [
        Nack([delivery.id], NackAction.PARK, reason=reason, cause=ParkingCause.UNREADABLE)
        for delivery, reason in unreadable
    ]


def trace_deliveries(tracer: Tracer, deliveries: Sequence[LoadedDelivery], subscription_id: str) -> None:
    """Add the spans of deliveries that were handed to a consumer, if their events belong to a trace."""
    for delivery, loaded in deliveries:
        if traceparent := loaded.event.traceparent:
            match = delivery.match
            tracer.delivered(traceparent, match.id, match.matched_at, delivery.attempt, subscription_id)
