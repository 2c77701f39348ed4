"""Counts requests per key; each dialect's `__init__.py` sets its limit."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from functools import cache
from time import monotonic, time
from typing import TYPE_CHECKING, TypeAlias

from server.http.errors import RateLimited

if TYPE_CHECKING:
    from collections.abc import Callable

    from server.bridge.routes import Route

Headers: TypeAlias = tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True, slots=True)
class RateLimitState:
    """The quota of a key: `limit` requests per window, `remaining` of them unused, full again in `reset_seconds`."""

    limit: int
    remaining: int
    reset_seconds: int

    @property
    def reset_at(self) -> int:
        """The end of the window, in seconds since the epoch."""
        return math.ceil(time()) + self.reset_seconds


@dataclass(frozen=True, slots=True)
class RateLimit:
    """At most `requests` requests of one key in `seconds` seconds.

    The window slides, or starts with its first request if it is `fixed`. With `reads`, GET requests have that limit
    instead, and each endpoint has a quota of its own. `headers` writes the headers of every response.
    """

    requests: int
    seconds: float
    headers: Callable[[RateLimitState], Headers] = lambda _: ()
    fixed: bool = False
    reads: int | None = None


def ratelimit_headers(state: RateLimitState) -> Headers:
    """Return `ratelimit-limit`, `ratelimit-remaining` and `ratelimit-reset` (seconds), as the IETF draft has them."""
    return (
        (b"ratelimit-limit", b"%d" % state.limit),
        (b"ratelimit-remaining", b"%d" % state.remaining),
        (b"ratelimit-reset", b"%d" % state.reset_seconds),
    )


@cache
def _unused(limit: int, seconds: float) -> RateLimitState:
    """Return the quota of a key that has made no requests in its window."""
    return RateLimitState(limit, limit, math.ceil(seconds))


class RateLimiter:
    """Counts the requests of each key; unless `enforced`, no request is counted and headers show a full state."""

    def __init__(self, limit: RateLimit, *, enforced: bool) -> None:
        self._limit = limit
        self._taken: dict[tuple[str, ...], deque[float]] = {}
        self._enforced = enforced

    def take(self, key_id: str, route: Route | None) -> Headers:
        """Count a request, and return the headers of its response. Raise RateLimited, which carries them."""
        limit = self._limit
        reading = limit.reads is not None and route is not None and route.method == "GET"
        allowed = limit.reads if reading and limit.reads is not None else limit.requests
        if not self._enforced:
            return limit.headers(_unused(allowed, limit.seconds))
        counter = (key_id,) if limit.reads is None or route is None else (key_id, route.method, route.path)
        now = monotonic()
        taken = self._taken.setdefault(counter, deque(maxlen=max(allowed, 1)))
        self._expire(taken, now)
        if len(taken) < allowed:
            taken.append(now)
            return limit.headers(RateLimitState(allowed, allowed - len(taken), self._reset(taken, now)))
        wait = self._reset(taken, now)
        raise RateLimited(wait, limit.headers(RateLimitState(allowed, 0, wait)))

    def _expire(self, taken: deque[float], now: float) -> None:
        """Remove requests that have left the window; a fixed window ends as a whole."""
        window = self._limit.seconds
        if self._limit.fixed and taken and taken[0] + window <= now:
            taken.clear()
        while taken and taken[0] + window <= now:
            taken.popleft()

    def _reset(self, taken: deque[float], now: float) -> int:
        return max(1, math.ceil(taken[0] + self._limit.seconds - now)) if taken else 0
