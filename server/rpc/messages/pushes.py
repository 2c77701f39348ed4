"""How subscriptions push, between messages and values, and the bodies of the requests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import UNSET, UnsetType

from automation.subscriptions.push import DEFAULT_IN_FLIGHT, DEFAULT_TIMEOUT, Push, PushChanges
from server.errors import InvalidArgument
from server.rpc.json_writing import write_json, write_json_in_slices
from server.rpc.messages.matches import write_loaded
from server.rpc.messages.times import duration, read_duration, timestamp, write_timestamp
from server.sharing.current_project import current_project
from signalbox.v1 import match_pb2
from signalbox.v1 import match_stream_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from automation.subscriptions.push import PushAttempt
    from server.delivery.recent_matches import LoadedMatch
    from server.delivery.subscription_status import SubscriptionStatus
    from server.sharing.loop_time import LoopTime

LARGE_MATCH: Final = 16 * 1024
"""A match of more bytes is written in slices of the loop's time."""


def push_body_writer(loop_time: LoopTime) -> Callable[[LoadedMatch], Awaitable[bytes]]:
    """Return the function that writes matches as JSON. It raises one of UNREADABLE if a match cannot be written."""

    async def write(loaded: LoadedMatch) -> bytes:
        message = match_pb2.Match()
        write_loaded(loaded, message)
        if message.ByteSize() > LARGE_MATCH:
            return await write_json_in_slices(message, loop_time, current_project())
        return write_json(message)

    return write


def read_push(message: pb.Subscription) -> Push | None:
    """Read how a new subscription pushes; None if it does not. Raise InvalidArgument."""
    if not message.HasField("push"):
        return None
    push = message.push
    timeout = read_duration(push, "timeout")
    return Push(
        push.url,
        tuple(push.secrets),
        dict(push.headers),
        DEFAULT_TIMEOUT if timeout is None else timeout,
        push.max_in_flight or DEFAULT_IN_FLIGHT,
        int(push.paused),
    )


def read_push_changes(request: pb.UpdateSubscriptionRequest) -> PushChanges | UnsetType | None:
    """Read an update of a push; None to push no longer. Raise InvalidArgument."""
    if request.clear_push:
        if request.HasField("push"):
            message = "push and clear_push are both set; set push to change how it pushes, clear_push to stop that"
            raise InvalidArgument.at("clear_push", "CONFLICT", message)
        return None
    if not request.HasField("push"):
        return UNSET
    push = request.push
    if push.rotate_secret and push.secrets:
        message = "push.secrets and push.rotate_secret are both set; set one of them"
        raise InvalidArgument.at("push.rotate_secret", "CONFLICT", message)
    timeout = read_duration(push, "timeout")
    return PushChanges(
        url=push.url if push.HasField("url") else UNSET,
        secrets=tuple(push.secrets) if push.secrets else UNSET,
        rotate_secret=push.rotate_secret,
        headers=dict(push.headers.headers) if push.HasField("headers") else UNSET,
        timeout=UNSET if timeout is None else timeout,
        max_in_flight=push.max_in_flight if push.HasField("max_in_flight") else UNSET,
        paused=push.paused if push.HasField("paused") else UNSET,
    )


def write_push(status: SubscriptionStatus, into: pb.Push) -> None:
    """Write how a subscription pushes, with no secret but one that was just made."""
    push = status.push
    if push is None:
        return
    into.url = push.url
    if status.made_secret:
        into.secrets.append(status.made_secret)
    into.timeout.FromMicroseconds(push.timeout)
    into.max_in_flight = push.max_in_flight
    into.header_names.extend(sorted(push.headers))
    into.secret_count = len(push.secrets)
    if push.paused_at:
        into.paused = True
        into.pause_reason = push.pause_reason
        write_timestamp(push.paused_at, into.paused_at)


def write_attempt(attempt: PushAttempt) -> pb.PushAttempt:
    """Write a request and its outcome."""
    return pb.PushAttempt(
        webhook_id=attempt.webhook_id,
        attempt=attempt.attempt,
        sent_at=timestamp(attempt.sent_at),
        duration=duration(attempt.duration),
        status=attempt.status,
        acknowledged=not attempt.failure,
        failure=attempt.failure,
    )
