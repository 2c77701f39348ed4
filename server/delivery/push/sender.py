"""Sends one request: builds it, signs it, and reports its outcome. Shared by deliveries and pings."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from automation.subscriptions.push import PushAttempt
from registry.timestamps import now_micros
from server.delivery.push.client import PushFailed
from server.delivery.push.outcomes import PushOutcome, outcome_of
from server.delivery.push.signing import Signer
from server.sharing.fair_budget import FairBudget

if TYPE_CHECKING:
    from collections.abc import Mapping

    from automation.subscriptions.push import Push
    from server.delivery.push.client import PushClient
    from server.metrics import Metrics

ALL_IN_FLIGHT: Final = 512
"""The most requests in progress, of all subscriptions; projects share them."""
PART_BYTES: Final = 64 * 1024
"""A body that is larger counts as several requests."""

_SECOND: Final = 1_000_000


class PushBudget:
    """The requests in progress of a server, and the bytes of their bodies."""

    def __init__(self) -> None:
        self._parts = FairBudget(ALL_IN_FLIGHT)

    def take(self, project_pk: int, size: int) -> bool:
        """Begin a request with a body of this size if the project may now; return whether it may."""
        return self._parts.take(project_pk, self._cost(size))

    async def acquire(self, project_pk: int, size: int) -> None:
        """Wait until a project may send a body of this size."""
        await self._parts.acquire(project_pk, self._cost(size))

    def give(self, project_pk: int, size: int) -> None:
        """End a request."""
        self._parts.give(project_pk, self._cost(size))

    def _cost(self, size: int) -> int:
        return min(max(1, -(-size // PART_BYTES)), ALL_IN_FLIGHT)

    @property
    def used(self) -> int:
        """The number of requests in progress, large ones counted several times."""
        return self._parts.used


@dataclass(frozen=True, slots=True)
class Sent:
    """A request that was sent, and what came of it."""

    outcome: PushOutcome
    attempt: PushAttempt


class PushSender:
    """Sends requests by the settings of one subscription."""

    def __init__(self, client: PushClient, metrics: Metrics, push: Push) -> None:
        self._client = client
        self._metrics = metrics
        self._url = push.url
        self._headers = {"content-type": "application/json", **push.headers}
        self._timeout_seconds = push.timeout / _SECOND
        self._signer = Signer(push.secrets)

    async def send(self, webhook_id: str, body: bytes, attempt: int = 0) -> Sent:
        """Send a request and wait for its outcome."""
        sent_at, began = now_micros(), time.monotonic()
        outcome = await self._outcome(self._signed(webhook_id, sent_at // _SECOND, body, attempt), body)
        seconds = time.monotonic() - began
        self._metrics.count_push(outcome.result, seconds)
        return Sent(
            outcome,
            PushAttempt(webhook_id, attempt, sent_at, round(seconds * _SECOND), outcome.status, outcome.failure),
        )

    def _signed(self, webhook_id: str, timestamp: int, body: bytes, attempt: int) -> Mapping[str, str]:
        headers = self._headers | self._signer.headers(webhook_id, timestamp, body)
        return headers | {"signalbox-attempt": str(attempt)} if attempt else headers

    async def _outcome(self, headers: Mapping[str, str], body: bytes) -> PushOutcome:
        try:
            response = await self._client.post(self._url, headers, body, self._timeout_seconds)
        except PushFailed as error:
            return PushOutcome(failure=str(error))
        return outcome_of(response, time.time())
