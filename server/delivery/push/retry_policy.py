"""How the requests to one receiver adapt to its outcomes: how many at a time, when, and when a match is due again.

    the receiver            requests                                                     the match
    answers 2xx             one more at a time with each response, up to `max_in_flight` is acknowledged
    does not answer         half as many at a time                                       is due after the backoff
    answers 429 or 503      half as many; from now on the number grows only by           is due after the backoff, and
                            1 / window with each response; none until Retry-After        after Retry-After
    answers 410             none: the push is paused                                     is due after the backoff
    cannot be reached       one at a time, as a probe, after PROBE_SECONDS, which        is due after the backoff
                            doubles with each probe that fails

A receiver that does not answer gets one request at a time after a few, because each holds a part of the budget for its
whole timeout. One that answers 429 or 503 gets more only slowly afterwards: otherwise each pause would end in as many
refusals as before, and matches would be parked because of a limit of the receiver alone.

An outage costs a backlog few attempts. Those of the request that finds it and of each probe count; requests that were
in progress when it was found are returned uncounted. So a receiver that never comes back has its matches parked one
after another, and the others wait for one that does.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from automation.subscriptions.values import Ack, Nack

if TYPE_CHECKING:
    from automation.subscriptions.values import Backoff, Delivery, Settlement
    from server.delivery.push.outcomes import PushOutcome

PROBE_SECONDS: Final = 1.0
"""The time after which a receiver that could not be reached is tried again; it doubles with each further failure."""
MAX_PROBE_SECONDS: Final = 30.0

_SECOND: Final = 1_000_000


class RetryPolicy:
    """The state of one receiver, by the outcomes of its requests. Times are those of the event loop.

    Requests may be sent again at `paused_until`. `gone` is the reason why the receiver wants no further requests, empty
    if it wants them.
    """

    def __init__(self, max_in_flight: int) -> None:
        self.paused_until = 0.0
        self.gone = ""
        self._max_in_flight = max_in_flight
        self._window = float(max_in_flight)
        self._grows_slowly = False
        self._failed_connections = 0

    @property
    def window(self) -> int:
        """The most requests that may be in progress."""
        return 1 if self.unreachable else int(self._window)

    @property
    def unreachable(self) -> bool:
        """True if a connection has failed since the last request that could be sent."""
        return self._failed_connections > 0

    def is_paused(self) -> bool:
        """Return whether no request may be sent now."""
        return self.paused_until > asyncio.get_running_loop().time()

    def settlement(self, delivery: Delivery, outcome: PushOutcome, backoff: Backoff) -> Settlement:
        """Return how a delivery is settled by the outcome of its request, and adapt to it."""
        if outcome.unsent:
            self._pause_until_probe()
            return Nack([delivery.id], reason=outcome.failure)
        self._failed_connections = 0
        self._adapt_window(outcome)
        if not outcome.failure:
            return Ack([delivery.id])
        if outcome.gone:
            self.gone = outcome.failure
        seconds = outcome.retry_after_seconds
        if not seconds:
            return Nack([delivery.id], reason=outcome.failure)
        self._pause(seconds)
        delay = max(backoff.delay(delivery.attempt), round(seconds * _SECOND))
        return Nack([delivery.id], delay=delay, reason=outcome.failure)

    def _pause(self, seconds: float) -> None:
        self.paused_until = max(self.paused_until, asyncio.get_running_loop().time() + seconds)

    def _pause_until_probe(self) -> None:
        seconds = min(PROBE_SECONDS * 2.0 ** min(self._failed_connections, 10), MAX_PROBE_SECONDS)
        self._failed_connections += 1
        self._pause(seconds)

    def _adapt_window(self, outcome: PushOutcome) -> None:
        if outcome.calls_for_fewer:
            self._grows_slowly = self._grows_slowly or bool(outcome.status)
            self._window = max(1.0, self._window / 2)
        else:
            step = 1 / self._window if self._grows_slowly else 1.0
            self._window = min(float(self._max_in_flight), self._window + step)
