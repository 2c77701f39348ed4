"""Sends one request: builds it, signs it, and returns its outcome. Used for matches and for pings (TestPush)."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from automation.subscriptions.push import PushAttempt
from registry.times.timestamps import now_micros
from server.delivery.push.outcomes import PushOutcome, outcome_of
from server.delivery.push.responses import PushFailed, PushWithdrawn
from server.delivery.push.signing import Signer
from server.tracing.context import TRACEPARENT
from server.tracing.tracer import traceparent_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from automation.subscriptions.push import Push
    from server.delivery.push.client import PushClient
    from server.metrics import Metrics
    from server.tracing.tracer import Tracer

_SECOND: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class SentRequest:
    """The outcome of a request, and its entry for the log of attempts.

    The request may not have been sent: then the outcome is `unsent`.
    """

    outcome: PushOutcome
    attempt: PushAttempt


class PushSender:
    """Sends requests by the settings of one subscription."""

    def __init__(self, client: PushClient, metrics: Metrics, push: Push, tracer: Tracer | None = None) -> None:
        self._tracer = tracer
        self._client = client
        self._metrics = metrics
        self._url = push.url
        self._headers = {"content-type": "application/json", **push.headers}
        self._timeout_seconds = push.timeout / _SECOND
        self._signer = Signer(push.secrets)

    async def send(
        self,
        webhook_id: str,
        body: bytes,
        attempt: int = 0,
        traceparent: str = "",
        confirm: Callable[[], Awaitable[bool]] | None = None,
    ) -> SentRequest:
        """Send a request, as a part of a trace if there is one, and wait for its outcome.

        `webhook_id` is the header by which receivers recognize a repeated request: the id of the match, or of the ping.
        Raise PushWithdrawn if `confirm`, once there is a connection, returns that it must not be sent any more.
        """
        sent_at, began = now_micros(), time.monotonic()
        # Receivers compare it with the time of day, not with the steady clock of the log.
        headers = self._signed(webhook_id, round(time.time()), body, attempt)
        span = self._tracer.begin_push(traceparent, webhook_id, attempt) if self._tracer and traceparent else None
        if traceparent:
            headers = {**headers, TRACEPARENT: traceparent_of(span) if span is not None else traceparent}
        try:
            outcome = await self._outcome(headers, body, confirm)
        except PushWithdrawn:
            if self._tracer is not None and span is not None:
                self._tracer.end_push(span, 0, "it was not sent, because its match must not be delivered any more")
            raise
        seconds = time.monotonic() - began
        self._metrics.count_push(outcome.result, seconds)
        if self._tracer is not None and span is not None:
            self._tracer.end_push(span, outcome.status, outcome.failure)
        return SentRequest(
            outcome,
            PushAttempt(webhook_id, attempt, sent_at, round(seconds * _SECOND), outcome.status, outcome.failure),
        )

    def _signed(self, webhook_id: str, timestamp: int, body: bytes, attempt: int) -> Mapping[str, str]:
        headers = self._headers | self._signer.headers(webhook_id, timestamp, body)
        return headers | {"signalbox-attempt": str(attempt)} if attempt else headers

    async def _outcome(
        self, headers: Mapping[str, str], body: bytes, confirm: Callable[[], Awaitable[bool]] | None
    ) -> PushOutcome:
        try:
            response = await self._client.post(self._url, headers, body, self._timeout_seconds, confirm)
        except PushFailed as error:
            return PushOutcome(failure=str(error), unsent=error.unsent)
        return outcome_of(response, time.time())
