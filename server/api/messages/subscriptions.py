"""Subscriptions, deliveries and what is said of them, between their messages and the values of the service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from google.protobuf.duration_pb2 import Duration
from msgspec import UNSET
from msgspec.structs import replace

from automation.subscriptions.store import SubscriptionChanges
from automation.subscriptions.values import (
    DEFAULT_ACK_DEADLINE,
    DEFAULT_INITIAL_DELAY,
    DEFAULT_MAX_ATTEMPTS,
    DEFAULT_MAX_DELAY,
    DEFAULT_MULTIPLIER,
    Ack,
    Backoff,
    Extend,
    Nack,
    Outcome,
    ParkedSelection,
    Subscription,
)
from registry.errors import Violation
from registry.timestamps import now_micros
from registry.unreadable_rows import UNREADABLE, describe_error
from server.api.messages.enums import DELIVERY_ORDER, DELIVERY_OUTCOME, NACK_ACTION, PARKING_CAUSE
from server.api.messages.matches import write_log_entry, write_match
from server.api.messages.structs import depth_of
from server.api.messages.times import read_duration, read_timestamp, timestamp, write_timestamp
from server.api.messages.watches import read_filter
from server.budgets import MAX_DEPTH
from server.delivery.match_reader import LoadedMatch, UnreadableMatch
from server.errors import InvalidArgument, InvalidConsumer
from signalbox.v1 import match_stream_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Sequence

    from automation.subscriptions.values import Delivery, ParkedMatch, Settle, SettleResult
    from server.delivery.subscriptions import ConsumerState, Described
    from signalbox.v1 import match_pb2

MAX_SETTLED: Final = 1_000
MAX_NACKS: Final = 100
MAX_ACKNOWLEDGED: Final = 10_000
"""Deliveries in one request, whose response names each."""
MAX_DELIVERY_ID: Final = 255
MAX_REASON: Final = 1_000
MAX_MATCH_IDS: Final = 1_000
MAX_CONSUMER_ID: Final = 255

_SECOND: Final = 1_000_000
_HOUR: Final = 3_600 * _SECOND


def read_new_subscription(message: pb.Subscription) -> Subscription:
    """Read a subscription that is to be created. Raises InvalidArgument."""
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
    """Read what an update asks for. Raises InvalidArgument."""
    deadline = read_duration(request, "ack_deadline")
    return SubscriptionChanges(
        name=request.name if request.HasField("name") else UNSET,
        ack_deadline=UNSET if deadline is None else deadline,
        max_attempts=request.max_attempts if request.HasField("max_attempts") else UNSET,
        backoff=_read_backoff(request.backoff) if request.HasField("backoff") else UNSET,
    )


def write_subscription(described: Described) -> pb.Subscription:
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
    )
    if stats.oldest_matched_at:
        message.stats.oldest_unacked_age.FromMicroseconds(max(0, now_micros() - stats.oldest_matched_at))
    return message


def write_consumer(state: ConsumerState) -> pb.SubscriptionConsumer:
    """Write a consumer."""
    return pb.SubscriptionConsumer(
        consumer_id=state.id,
        connected=state.connected_at > 0,
        outstanding_count=state.outstanding_count,
        max_outstanding=state.max_outstanding,
        connected_at=timestamp(state.connected_at) if state.connected_at else None,
    )


def read_consumer_id(text: str) -> str:
    """Read the id of a consumer, which may be empty. Raises InvalidConsumer."""
    if len(text) > MAX_CONSUMER_ID or not (text.isascii() and text.isprintable()):
        message = f"consumer_id must be 1 to {MAX_CONSUMER_ID} printable ASCII characters"
        raise InvalidConsumer(message, violations=[Violation("consumer_id", "INVALID_CONSUMER_ID", message)])
    return text


def read_settle(request: pb.ConsumeMatchesRequest) -> Settle:
    """Read the settlements that a consumer sends. Raises InvalidArgument."""
    match request.WhichOneof("message"):
        case "ack":
            return _read_ack(request.ack, "ack")
        case "nack":
            return _read_nack(request.nack, "nack")
        case "extend":
            return _read_extend(request.extend, "extend")
        case other:
            fault = "is missing" if other is None else f'is "{other}", which must be the first message'
            message = f"message {fault}; later messages must be ack, nack, extend or stop"
            raise InvalidArgument(message, violations=[Violation("message", "INVALID_MESSAGE", message)])


def read_settles(request: pb.AcknowledgeMatchesRequest) -> list[Settle]:
    """Read what is to be settled together. Raises InvalidArgument."""
    settles: list[Settle] = []
    if len(request.nacks) > MAX_NACKS:
        raise _refused(
            "nacks", "TOO_LARGE", f"nacks has {len(request.nacks):,} entries; at most {MAX_NACKS} are allowed"
        )
    if request.HasField("ack"):
        settles.append(_read_ack(request.ack, "ack"))
    settles += (_read_nack(each, f"nacks[{index}]") for index, each in enumerate(request.nacks))
    if request.HasField("extend"):
        settles.append(_read_extend(request.extend, "extend"))
    if not settles:
        raise _refused("ack", "REQUIRED", "The request names no delivery; set ack, nacks or extend")
    count = sum(len(each.delivery_ids) for each in settles)
    if count > MAX_ACKNOWLEDGED:
        fault = f"The request names {count:,} deliveries; at most {MAX_ACKNOWLEDGED:,} are allowed"
        raise _refused("delivery_ids", "OUT_OF_RANGE", fault)
    seen: set[str] = set()
    for named in (each for one in settles for each in one.delivery_ids):
        if named in seen:
            message = f'The delivery "{named[:MAX_CONSUMER_ID]}" is named twice'
            raise _refused("delivery_ids", "DUPLICATE_DELIVERY", message)
        seen.add(named)
    return settles


def read_selection(message: pb.ParkedSelection) -> ParkedSelection:
    """Read which parked matches are meant: by filters, or all of them. Raises InvalidArgument."""
    if len(message.match_ids) > MAX_MATCH_IDS:
        fault = f"selection.match_ids has {len(message.match_ids):,} IDs; at most {MAX_MATCH_IDS:,} are allowed"
        raise _refused("selection.match_ids", "TOO_LARGE", fault)
    selection = ParkedSelection(
        tuple(message.match_ids),
        message.automation_id,
        read_timestamp(message, "parked_until", "selection.parked_until"),
        message.all,
    )
    filtered = bool(selection.match_ids or selection.automation_id or selection.parked_until is not None)
    if filtered is selection.all:
        fault = "both filters and all" if filtered else "neither a filter nor all"
        raise _refused("selection", "INVALID_SELECTION", f"selection sets {fault}; set either filters or all")
    return selection


def write_deliveries(
    deliveries: Sequence[tuple[Delivery, LoadedMatch]],
    max_attempts: int,
    into: pb.DeliveryBatch | pb.PullMatchesResponse,
) -> list[tuple[Delivery, str]]:
    """Write deliveries that are about to be handed over. Returns those that cannot be written, each with the reason."""
    now = now_micros()
    unreadable: list[tuple[Delivery, str]] = []
    for delivery, loaded in deliveries:
        message = into.deliveries.add()
        try:
            write_loaded(loaded, message.match)
        except UNREADABLE as error:
            del into.deliveries[-1]
            unreadable.append((delivery, f"It cannot be written: {describe_error(error)}"))
            continue
        message.delivery_id = delivery.id
        message.attempt = delivery.attempt
        message.max_attempts = max_attempts
        message.lease_duration.FromMicroseconds(max(0, delivery.lease_expires_at - now))
        write_timestamp(delivery.lease_expires_at, message.lease_expires_at)
        if delivery.replayed:
            message.replayed = True
        if delivery.last_failure:
            message.last_failure = delivery.last_failure
    return unreadable


def write_loaded(loaded: LoadedMatch, into: match_pb2.Match) -> None:
    """Write a match inside a delivery.

    A message is at most 100 levels deep: properties that reach their limit have no room there, and are left to
    GetEvent.
    """
    match, automation, event = loaded
    if depth_of(event.properties) >= MAX_DEPTH:
        event = replace(event, properties={}, coercions=())
    write_match(match, automation, event, into)


def write_result(result: SettleResult, into: pb.DeliveryResult) -> None:
    """Write what became of a delivery."""
    into.delivery_id = result.delivery_id
    into.outcome = DELIVERY_OUTCOME.write(result.outcome)
    if result.outcome is Outcome.RETRYING:
        write_timestamp(result.due_at, into.retry_at)
    elif result.outcome is Outcome.EXTENDED:
        write_timestamp(result.due_at, into.lease_expires_at)


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


def duration(micros: int) -> Duration:
    """Make the message of a duration."""
    message = Duration()
    message.FromMicroseconds(micros)
    return message


def _read_backoff(message: pb.Backoff) -> Backoff:
    initial = read_duration(message, "initial_delay")
    longest = read_duration(message, "max_delay")
    initial = DEFAULT_INITIAL_DELAY if initial is None else initial
    return Backoff(
        initial,
        max(initial, DEFAULT_MAX_DELAY) if longest is None else longest,
        message.multiplier if message.HasField("multiplier") else DEFAULT_MULTIPLIER,
    )


def _read_ack(message: pb.AckDeliveries, path: str) -> Ack:
    return Ack(_read_ids(message.delivery_ids, path))


def _read_nack(message: pb.NackDeliveries, path: str) -> Nack:
    if len(message.reason) > MAX_REASON:
        fault = f"{path}.reason has {len(message.reason):,} characters; at most {MAX_REASON:,} are allowed"
        raise _refused(f"{path}.reason", "TOO_LARGE", fault)
    delay = read_duration(message, "delay")
    if delay is not None and not 0 <= delay <= 24 * _HOUR:
        raise _refused(
            f"{path}.delay", "OUT_OF_RANGE", f"{path}.delay is {delay / _SECOND:g} s; it must be 0 to 24 hours"
        )
    return Nack(
        _read_ids(message.delivery_ids, path), NACK_ACTION.read(message.action, f"{path}.action"), delay, message.reason
    )


def _read_extend(message: pb.ExtendLeases, path: str) -> Extend:
    wanted = read_duration(message, "lease_duration")
    if wanted is not None and not _SECOND <= wanted <= _HOUR:
        field = f"{path}.lease_duration"
        raise _refused(field, "OUT_OF_RANGE", f"{field} is {wanted / _SECOND:g} s; it must be 1 second to 1 hour")
    return Extend(_read_ids(message.delivery_ids, path), wanted)


def _read_ids(ids: Sequence[str], path: str) -> list[str]:
    if not 1 <= len(ids) <= MAX_SETTLED:
        field = f"{path}.delivery_ids"
        raise _refused(field, "OUT_OF_RANGE", f"{field} has {len(ids):,} IDs; it must have 1 to {MAX_SETTLED:,}")
    if any(len(each.encode()) > MAX_DELIVERY_ID for each in ids):
        field = f"{path}.delivery_ids"
        raise _refused(
            field,
            "OUT_OF_RANGE",
            f"{field} has an ID of more than {MAX_DELIVERY_ID} bytes, which is not the ID of a delivery",
        )
    return list(ids)


def _refused(path: str, reason: str, message: str) -> InvalidArgument:
    return InvalidArgument(message, violations=[Violation(path, reason, message)])
