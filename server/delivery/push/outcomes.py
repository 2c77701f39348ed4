"""What a response means for the match that was pushed.

    response                  the match is                                 and the subscription
    2xx                       acknowledged
    410                       nacked, due after the backoff                is paused
    429, 503, Retry-After     nacked, due not before that time             sends nothing until then
    everything else           nacked, due after the backoff
    none                      nacked, due after the backoff
    no connection             nacked, due after the backoff; returned      is probed by one request at a time
                              without counting the attempt if another
                              request has found the outage meanwhile
    withdrawn before sending  settled or returned by whoever withdrew it

Redirects are not followed: where a match goes is decided by the URL of the subscription alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from server.delivery.push.responses import Response

MAX_RETRY_AFTER: Final = 3_600
"""The longest Retry-After that is honoured, in seconds."""

_MAX_DIGITS = 9
_TOO_MUCH: Final = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)


@dataclass(frozen=True, slots=True)
class PushOutcome:
    """The outcome of a request: without a `failure`, the match is acknowledged.

    `retry_after_seconds` is the Retry-After of a 429 or 503; an `unsent` request had no connection to be sent on.
    """

    status: int = 0
    failure: str = ""
    retry_after_seconds: float = 0.0
    unsent: bool = False

    @property
    def gone(self) -> bool:
        """True if the receiver wants no further requests."""
        return self.status == HTTPStatus.GONE

    @property
    def calls_for_fewer(self) -> bool:
        """True if the receiver should get fewer requests at a time: it did not answer, or answered 429 or 503."""
        return self.status in (0, *_TOO_MUCH)

    @property
    def result(self) -> str:
        """Return the outcome as a label of metrics."""
        if not self.failure:
            return "acknowledged"
        return "refused" if self.status else "unanswered"


def outcome_of(response: Response, now_seconds: float) -> PushOutcome:
    """Return the outcome of a response that arrived at this time."""
    status = response.status
    if 200 <= status < 300:
        return PushOutcome(status)
    if status < HTTPStatus.CONTINUE:
        return PushOutcome(failure=f"the response is not valid HTTP: it has the status {status:03}")
    failure = f"the receiver answered {_described(status)}"
    if 300 <= status < 400:
        return PushOutcome(status, f"{failure}; redirects are not followed")
    if status in _TOO_MUCH:
        return PushOutcome(status, failure, retry_after_seconds(response.retry_after, now_seconds))
    return PushOutcome(status, failure)


def retry_after_seconds(text: str, now_seconds: float) -> float:
    """Return how long a Retry-After asks to wait, at most MAX_RETRY_AFTER; 0 if it is none."""
    text = text.strip()
    if text.isascii() and text.isdigit():
        return float(min(int(text[:_MAX_DIGITS]), MAX_RETRY_AFTER))
    try:
        date = parsedate_to_datetime(text)
        # Dates of HTTP are UTC; those that do not say so ("-0000", or the form of asctime) are not of this machine.
        seconds = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now_seconds
    except (ValueError, OverflowError, TypeError):
        return 0.0
    return min(max(seconds, 0.0), float(MAX_RETRY_AFTER))


def _described(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)
