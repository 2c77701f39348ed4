"""Subscriptions, deliveries and their settlements, between their messages and the values of the service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import UNSET

from automation.subscriptions.store import SubscriptionChanges
from automation.subscriptions.values import (
    DEFAULT_ACK_DEADLINE,
    DEFAULT_INITIAL_DELAY,
    DEFAULT_MAX_ATTEMPTS,
    DEFAULT_MAX_DELAY,
    DEFAULT_MULTIPLIER,
    Backoff,
    ParkedSelection,
    Subscription,
)
from registry.sql.unreadable_rows import UNREADABLE
from server.delivery.recent_matches import LoadedMatch
from server.errors import InvalidArgument
from server.rpc.messages.enums import DELIVERY_ORDER, PARKING_CAUSE
from server.rpc.messages.matches import write_loaded, write_log_entry
from server.rpc.messages.pushes import write_push
from server.rpc.messages.times import duration, read_duration, read_timestamp, timestamp, write_timestamp
from server.rpc.messages.watches import read_filter
from server.storage.clock import database_now
from signalbox.v1 import match_stream_pb2 as pb

if TYPE_CHECKING:
    from automation.subscriptions.values import ParkedMatch
    from server.delivery.match_reader import UnreadableMatch
    from server.delivery.subscription_status import ConsumerStatus, SubscriptionStatus

MAX_MATCH_IDS: Final = 1_000

_SECOND: Final = 1_000_000
_HOUR: Final = 3_600 * _SECOND


def read_new_subscription(message: pb.Subscription) -> Subscription:
    """Read a subscription that is to be created. Raise InvalidArgument."""
    deadline = read_duration(message, "ack_deadline")
    return Subscription(
        key=0,
        project_pk=0,
        id="",
        name=message.name,
        filter=read_filter(message.filter, "subscription.filter"),
        order=DELIVERY_ORDER.read(message.order, "subscription.order"),
        ack_deadline=DEFAULT_ACK_DEADLINE if deadline is None else deadline,
        max_attempts=message.max_attempts or DEFAULT_MAX_ATTEMPTS,
        backoff=_read_backoff(message.backoff),
        read_position=0,
        floor_position=0,
        last_serial=0,
        seek_serial=0,
        version=1,
        created_at=0,
        updated_at=0,
    )


def read_changes(request: pb.UpdateSubscriptionRequest) -> SubscriptionChanges:
    """Read an update of a subscription. Raise InvalidArgument."""
    deadline = read_duration(request, "ack_deadline")
    return SubscriptionChanges(
        name=request.name if request.HasField("name") else UNSET,
        ack_deadline=UNSET if deadline is None else deadline,
        max_attempts=request.max_attempts if request.HasField("max_attempts") else UNSET,
        backoff=_read_backoff(request.backoff) if request.HasField("backoff") else UNSET,
    )


def write_subscription(described: SubscriptionStatus) -> pb.Subscription:
    """Write a subscription with its stats."""
    each, stats = described.subscription, described.stats
    message = pb.Subscription(
        id=each.id,
        name=each.name,
        filter=pb.MatchFilter(
            automation_ids=each.filter.automation_ids, labels=each.filter.labels, event_names=each.filter.event_names
        ),
        order=DELIVERY_ORDER.write(each.order),
        ack_deadline=duration(each.ack_deadline),
        max_attempts=each.max_attempts,
        backoff=pb.Backoff(
            initial_delay=duration(each.backoff.initial_delay),
            max_delay=duration(each.backoff.max_delay),
            multiplier=each.backoff.multiplier,
        ),
        stats=pb.SubscriptionStats(
            floor_position=each.floor_position,
            read_position=each.read_position,
            head_position=stats.head_position,
            outstanding_count=stats.outstanding_count,
            retrying_count=stats.retrying_count,
            parked_count=stats.parked_count,
            consumer_count=described.consumer_count,
        ),
        created_at=timestamp(each.created_at),
        updated_at=timestamp(each.updated_at),
        etag=each.etag,
        unreadable_reason=each.unreadable,
    )
    if described.push is not None:
        write_push(described, message.push)
    if stats.oldest_matched_at:
        message.stats.oldest_unacked_age.FromMicroseconds(max(0, database_now() - stats.oldest_matched_at))
    return message


def write_consumer(state: ConsumerStatus) -> pb.SubscriptionConsumer:
    """Write a consumer."""
    return pb.SubscriptionConsumer(
        consumer_id=state.id,
        connected=state.connected_at > 0,
        outstanding_count=state.outstanding_count,
        max_outstanding=state.max_outstanding,
        connected_at=timestamp(state.connected_at) if state.connected_at else None,
    )


def read_selection(message: pb.ParkedSelection) -> ParkedSelection:
    """Read which parked matches are meant: by filters, or all of them. Raise InvalidArgument."""
    if len(message.match_ids) > MAX_MATCH_IDS:
        fault = f"selection.match_ids has {len(message.match_ids):,} IDs; at most {MAX_MATCH_IDS:,} are allowed"
        raise InvalidArgument.at("selection.match_ids", "TOO_LARGE", fault)
    selection = ParkedSelection(
        tuple(message.match_ids),
        message.automation_id,
        read_timestamp(message, "parked_until", "selection.parked_until"),
        message.all,
    )
    filtered = bool(selection.match_ids or selection.automation_id or selection.parked_until is not None)
    if filtered is selection.all:
        fault = "both filters and all" if filtered else "neither a filter nor all"
        raise InvalidArgument.at("selection", "INVALID_SELECTION", f"selection sets {fault}; set either filters or all")
    return selection


def write_parked(found: tuple[ParkedMatch, LoadedMatch | UnreadableMatch]) -> pb.ParkedMatch:
    """Write a parked match; an unreadable one from the match log alone."""
    parked, loaded = found
    into = pb.ParkedMatch()
    try:
        if isinstance(loaded, LoadedMatch):
            write_loaded(loaded, into.match)
        else:
            write_log_entry(loaded.match, into.match)
    except UNREADABLE:
        into.match.Clear()
        write_log_entry(loaded.match, into.match)
    into.cause = PARKING_CAUSE.write(parked.cause)
    into.attempt_count = parked.attempt_count
    into.last_failure = parked.last_failure
    into.consumer_id = parked.consumer_id
    write_timestamp(parked.parked_at, into.parked_at)
    return into


def _read_backoff(message: pb.Backoff) -> Backoff:
    initial = read_duration(message, "initial_delay")
    longest = read_duration(message, "max_delay")
    initial = DEFAULT_INITIAL_DELAY if initial is None else initial
    return Backoff(
        initial,
        max(initial, DEFAULT_MAX_DELAY) if longest is None else longest,
        message.multiplier if message.HasField("multiplier") else DEFAULT_MULTIPLIER,
    )
