"""Deliveries and their settlement, and the messages of a consumer's stream."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from uuid_utils import uuid7

from automation.subscriptions.values import Ack, Extend, Nack, SettleOutcome
from registry.sql.unreadable_rows import UNREADABLE, describe_error
from server.delivery.consumer import DEFAULT_OUTSTANDING, MAX_OUTSTANDING
from server.delivery.consumer_session import (
    DeliveryBatch,
    Drain,
    Heartbeat,
    Opened,
    Opening,
    SettleRequest,
    SettleResults,
    StopRequest,
)
from server.errors import InvalidArgument, InvalidConsumer
from server.rpc.messages.encoding import VARINTS, sized_text, sized_time, tags, to_bytes
from server.rpc.messages.enums import DELIVERY_OUTCOME, NACK_ACTION
from server.rpc.messages.matches import encoded_loaded
from server.rpc.messages.subscriptions import write_subscription
from server.rpc.messages.times import duration, read_duration, write_timestamp
from server.rpc.messages.watches import read_heartbeat_seconds
from server.storage.clock import database_now
from signalbox.v1 import match_stream_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Sequence

    from automation.subscriptions.values import Settlement, SettleResult
    from server.delivery.consumer_session import ConsumerRequest, ConsumerResponse

MAX_SETTLED: Final = 1_000
MAX_NACKS: Final = 100
MAX_ACKNOWLEDGED: Final = 10_000
"""The deliveries of one request, whose response names each."""
MAX_DELIVERY_ID: Final = 255
MAX_REASON: Final = 1_000
MAX_CONSUMER_ID: Final = 255

_SECOND: Final = 1_000_000
_HOUR: Final = 3_600 * _SECOND


def read_opening(request: pb.ConsumeMatchesRequest | None) -> Opening:
    """Read the first message of a stream, None if there is none. Raise InvalidArgument and InvalidConsumer."""
    if request is None or request.WhichOneof("message") != "open":
        raise InvalidArgument.at("message", "INVALID_MESSAGE", "The first message of the stream must be `open`")
    message = request.open
    window = message.max_outstanding if message.HasField("max_outstanding") else DEFAULT_OUTSTANDING
    if not 1 <= window <= MAX_OUTSTANDING:
        raise _invalid_consumer(
            "max_outstanding", f"max_outstanding is {window:,}; it must be 1 to {MAX_OUTSTANDING:,}"
        )
    held = len(message.held_delivery_ids)
    if held > MAX_OUTSTANDING:
        fault = f"held_delivery_ids has {held:,} IDs; at most {MAX_OUTSTANDING:,} are allowed"
        raise _invalid_consumer("held_delivery_ids", fault)
    try:
        heartbeat_seconds = read_heartbeat_seconds(message)
    except InvalidArgument as error:
        raise InvalidConsumer(error.message, violations=error.violations) from None
    return Opening(
        message.subscription,
        read_consumer_id(message.consumer_id) or str(uuid7()),
        window,
        list(message.held_delivery_ids),
        heartbeat_seconds,
    )


async def read_consumer_requests(
    requests: AsyncIterator[pb.ConsumeMatchesRequest],
) -> AsyncGenerator[ConsumerRequest, None]:
    """Read the messages of a stream after the first one. Raise InvalidArgument."""
    async for request in requests:
        if request.WhichOneof("message") == "stop":
            yield StopRequest()
        else:
            yield SettleRequest(request.sequence, read_settlement(request))


def read_settlement(request: pb.ConsumeMatchesRequest) -> Settlement:
    """Read the settlements that a consumer sends. Raise InvalidArgument."""
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
            raise InvalidArgument.at("message", "INVALID_MESSAGE", message)


def read_settlements(request: pb.AcknowledgeMatchesRequest) -> list[Settlement]:
    """Read the settlements of one request. Raise InvalidArgument."""
    settlements: list[Settlement] = []
    if len(request.nacks) > MAX_NACKS:
        raise InvalidArgument.at(
            "nacks", "TOO_LARGE", f"nacks has {len(request.nacks):,} entries; at most {MAX_NACKS} are allowed"
        )
    if request.HasField("ack"):
        settlements.append(_read_ack(request.ack, "ack"))
    settlements += (_read_nack(nack, f"nacks[{index}]") for index, nack in enumerate(request.nacks))
    if request.HasField("extend"):
        settlements.append(_read_extend(request.extend, "extend"))
    if not settlements:
        raise InvalidArgument.at("ack", "REQUIRED", "The request names no delivery; set ack, nacks or extend")
    count = sum(len(settlement.delivery_ids) for settlement in settlements)
    if count > MAX_ACKNOWLEDGED:
        fault = f"The request names {count:,} deliveries; at most {MAX_ACKNOWLEDGED:,} are allowed"
        raise InvalidArgument.at("delivery_ids", "OUT_OF_RANGE", fault)
    seen: set[str] = set()
    for delivery_id in (delivery_id for settlement in settlements for delivery_id in settlement.delivery_ids):
        if delivery_id in seen:
            message = f'The delivery "{delivery_id[:MAX_CONSUMER_ID]}" is named twice'
            raise InvalidArgument.at("delivery_ids", "DUPLICATE_DELIVERY", message)
        seen.add(delivery_id)
    return settlements


def read_consumer_id(text: str) -> str:
    """Read the id of a consumer, which may be empty. Raise InvalidConsumer."""
    if len(text) > MAX_CONSUMER_ID or not (text.isascii() and text.isprintable()):
        message = f"consumer_id must be 1 to {MAX_CONSUMER_ID} printable ASCII characters"
        raise InvalidConsumer.at("consumer_id", "INVALID_CONSUMER_ID", message)
    return text


def write_consumer_response(response: ConsumerResponse) -> pb.ConsumeMatchesResponse | bytes | None:
    """Write a message of a consumer's stream, a batch encoded; None for one of which no delivery can be written."""
    match response:
        case Opened(opening, status, held):
            opened = pb.ConsumerOpened(
                subscription=write_subscription(status),
                consumer_id=opening.consumer_id,
                max_outstanding=opening.max_outstanding,
                held_delivery_ids=held,
                heartbeat_interval=duration(round(opening.heartbeat_seconds * _SECOND)),
            )
            return pb.ConsumeMatchesResponse(opened=opened)
        case DeliveryBatch():
            batch = _encoded_deliveries(response, _OF_BATCH)
            return to_bytes(f"{_OF_RESPONSE}{VARINTS[len(batch)]}{batch}") if batch else None
        case SettleResults(sequence, results):
            message = pb.ConsumeMatchesResponse()
            message.results.sequence = sequence
            for result in results:
                write_result(result, message.results.results.add())
            return message
        case Heartbeat(floor_position, head_position, outstanding_count):
            heartbeat = pb.ConsumerHeartbeat(
                floor_position=floor_position, head_position=head_position, outstanding_count=outstanding_count
            )
            return pb.ConsumeMatchesResponse(heartbeat=heartbeat)
        case Drain(grace_seconds):
            grace_period = duration(round(grace_seconds * _SECOND))
            return pb.ConsumeMatchesResponse(drain=pb.ConsumerDrain(grace_period=grace_period))


_ID, _ATTEMPT, _MAX_ATTEMPTS, _MATCH, _DURATION, _EXPIRES_AT, _REPLAYED, _LAST_FAILURE = tags(
    pb.Delivery,
    *("delivery_id", "attempt", "max_attempts", "match"),
    *("lease_duration", "lease_expires_at", "replayed", "last_failure"),
)
_OF_RESPONSE, _OF_BATCH, _OF_PULL = (
    *tags(pb.ConsumeMatchesResponse, "deliveries"),
    *tags(pb.DeliveryBatch, "deliveries"),
    *tags(pb.PullMatchesResponse, "deliveries"),
)


def encode_pulled(batch: DeliveryBatch) -> bytes:
    """Return the response of a pull, encoded; deliveries as `_encoded_deliveries` has them."""
    return to_bytes(_encoded_deliveries(batch, _OF_PULL))


def _encoded_deliveries(batch: DeliveryBatch, tag: str) -> str:
    """Return deliveries just before they are sent, as fields with a tag; empty if none can be written.

    Those that cannot be written are added to `batch.unwritable`.
    """
    now = database_now()
    max_attempts = f"{_MAX_ATTEMPTS}{VARINTS[batch.max_attempts]}"
    fields = []
    for delivery, loaded in batch.deliveries:
        try:
            match = encoded_loaded(loaded)
        except UNREADABLE as error:
            batch.unwritable.append((delivery, f"It cannot be written: {describe_error(error)}"))
            continue
        expires_at = delivery.lease_expires_at
        content = (
            f"{_ID}{sized_text(delivery.id)}{_ATTEMPT}{VARINTS[delivery.attempt]}{max_attempts}"
            f"{_DURATION}{sized_time(max(0, expires_at - now))}{_EXPIRES_AT}{sized_time(expires_at)}"
            f"{_MATCH}{VARINTS[len(match)]}{match}"
        )
        if delivery.replayed:
            content += f"{_REPLAYED}\x01"
        if delivery.last_failure:
            content += f"{_LAST_FAILURE}{sized_text(delivery.last_failure)}"
        fields.append(f"{tag}{VARINTS[len(content)]}{content}")
    return "".join(fields)


def write_result(result: SettleResult, into: pb.DeliveryResult) -> None:
    """Write the outcome of a delivery."""
    into.delivery_id = result.delivery_id
    into.outcome = DELIVERY_OUTCOME.write(result.outcome)
    if result.outcome is SettleOutcome.RETRYING:
        write_timestamp(result.due_at, into.retry_at)
    elif result.outcome is SettleOutcome.EXTENDED:
        write_timestamp(result.due_at, into.lease_expires_at)


def _read_ack(message: pb.AckDeliveries, path: str) -> Ack:
    return Ack(_read_ids(message.delivery_ids, path))


def _read_nack(message: pb.NackDeliveries, path: str) -> Nack:
    if len(message.reason) > MAX_REASON:
        fault = f"{path}.reason has {len(message.reason):,} characters; at most {MAX_REASON:,} are allowed"
        raise InvalidArgument.at(f"{path}.reason", "TOO_LARGE", fault)
    delay = read_duration(message, "delay")
    if delay is not None and not 0 <= delay <= 24 * _HOUR:
        raise InvalidArgument.at(
            f"{path}.delay", "OUT_OF_RANGE", f"{path}.delay is {delay / _SECOND:g} s; it must be 0 to 24 hours"
        )
    return Nack(
        _read_ids(message.delivery_ids, path), NACK_ACTION.read(message.action, f"{path}.action"), delay, message.reason
    )


def _read_extend(message: pb.ExtendLeases, path: str) -> Extend:
    wanted = read_duration(message, "lease_duration")
    if wanted is not None and not _SECOND <= wanted <= _HOUR:
        field = f"{path}.lease_duration"
        raise InvalidArgument.at(
            field, "OUT_OF_RANGE", f"{field} is {wanted / _SECOND:g} s; it must be 1 second to 1 hour"
        )
    return Extend(_read_ids(message.delivery_ids, path), wanted)


def _read_ids(ids: Sequence[str], path: str) -> list[str]:
    if not 1 <= len(ids) <= MAX_SETTLED:
        field = f"{path}.delivery_ids"
        raise InvalidArgument.at(
            field, "OUT_OF_RANGE", f"{field} has {len(ids):,} IDs; it must have 1 to {MAX_SETTLED:,}"
        )
    if any(len(delivery_id.encode()) > MAX_DELIVERY_ID for delivery_id in ids):
        field = f"{path}.delivery_ids"
        fault = f"{field} has an ID of more than {MAX_DELIVERY_ID} bytes, which is not the ID of a delivery"
        raise InvalidArgument.at(field, "OUT_OF_RANGE", fault)
    return list(ids)


def _invalid_consumer(field: str, message: str) -> InvalidConsumer:
    return InvalidConsumer.at(field, "OUT_OF_RANGE", message)
