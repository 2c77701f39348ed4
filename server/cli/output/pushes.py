"""Views of how subscriptions push."""

from __future__ import annotations

from typing import TYPE_CHECKING

from server.cli.output.tables import moment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from signalbox.v1 import match_stream_pb2 as pb

ATTEMPTS_HEADER = ("SENT", "TOOK", "STATUS", "ATTEMPT", "WEBHOOK ID", "FAILURE")


def push_fields(subscription: pb.Subscription) -> Sequence[tuple[str, str]]:
    """Return the fields of a push, none if the subscription does not push."""
    if not subscription.HasField("push"):
        return ()
    push = subscription.push
    return (
        ("pushes to", push.url),
        ("secret", " ".join(push.secrets)),
        ("secrets", str(push.secret_count)),
        ("headers", " ".join(push.header_names)),
        ("timeout", push.timeout.ToJsonString()),
        ("in flight", f"at most {push.max_in_flight}"),
        ("paused", moment(push.paused_at) if push.paused else ""),
        ("because", push.pause_reason),
    )


def attempt_row(attempt: pb.PushAttempt) -> tuple[str, ...]:
    """Return the row of a request."""
    return (
        moment(attempt.sent_at),
        _took(attempt),
        str(attempt.status or "none"),
        str(attempt.attempt),
        attempt.webhook_id,
        attempt.failure,
    )


def attempt_fields(attempt: pb.PushAttempt) -> tuple[tuple[str, str], ...]:
    """Return the fields of a ping."""
    return (
        ("webhook id", attempt.webhook_id),
        ("sent", moment(attempt.sent_at)),
        ("took", _took(attempt)),
        ("status", str(attempt.status or "none")),
        ("failure", attempt.failure),
    )


def _took(attempt: pb.PushAttempt) -> str:
    return f"{attempt.duration.ToMicroseconds() / 1_000:.0f} ms"
