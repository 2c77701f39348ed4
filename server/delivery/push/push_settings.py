"""What the settings of a push need from the server: a host that may be connected to, pings, and the last requests."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec
from uuid_utils import uuid7

from automation.errors import InvalidSubscription
from automation.subscriptions.push import checked
from registry.errors import Violation
from registry.times.timestamps import format_millis, now_micros
from server.delivery.push.responses import PushFailed
from server.delivery.push.sender import PushSender

if TYPE_CHECKING:
    from collections.abc import Callable

    from automation.subscriptions.push import Push, PushAttempt
    from automation.subscriptions.values import Subscription
    from server.delivery.push.session import PushTools


class PushSettings:
    """Checks and tries the settings of pushes. `apply` is `Pushers.apply`, called for each change of them."""

    def __init__(self, tools: PushTools, apply: Callable[[int, Push | None], None]) -> None:
        self.apply = apply
        self._tools = tools

    async def check(self, push: Push) -> Push:
        """Return a new push, or one with a new URL, in normal form. Raise InvalidSubscription."""
        push = checked(push)
        try:
            await self._tools.client.check_host(push.url)
        except PushFailed as error:
            message = f"push.url cannot be pushed to: {error}"
            raise InvalidSubscription([Violation("subscription.push.url", "UNREACHABLE_HOST", message)]) from None
        return push

    async def ping(self, subscription: Subscription, push: Push) -> PushAttempt:
        """Send a test request, and return its outcome."""
        sent_at = format_millis(now_micros())
        ping = {"subscription": subscription.name, "subscriptionId": subscription.id, "sentAt": sent_at}
        body = msgspec.json.encode({"ping": ping})
        await self._tools.budget.acquire(subscription, len(body))
        try:
            sent = await PushSender(self._tools.client, self._tools.metrics, push).send(f"ping_{uuid7()}", body)
        finally:
            self._tools.budget.give(subscription, len(body))
        return sent.attempt

    def with_attempts(self, key: int, push: Push) -> Push:
        """Return a push with the last requests of this server, if it is the one that sends them."""
        attempts = self._tools.attempts.of(key)
        return push if attempts is None else replace(push, attempts=attempts)
