"""How many requests a key may make, as each dialect documents it."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from time import monotonic, time
from typing import TYPE_CHECKING, TypeAlias

from server.errors import RateLimited

if TYPE_CHECKING:
    from collections.abc import Callable

    from server.bridge.routes import Route

Headers: TypeAlias = tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a key stands: so many requests in a window, so many left, and the seconds until there are more."""

    limit: int
    remaining: int
    reset_seconds: int

    @property
    def reset_at(self) -> int:
        """When there are more, in seconds since the epoch."""
        return math.ceil(time()) + self.reset_seconds


@dataclass(frozen=True, slots=True)
class RateLimit:
    """So many requests in so many seconds, of one key.

    The window slides, or begins with its first request where it is `fixed`. With `reads` there is another number for
    GET, and each endpoint is counted by itself. `headers` are what every answer says of it.
    """

    requests: int
    seconds: float
    headers: Callable[[Standing], Headers] = lambda _: ()
    fixed: bool = False
    reads: int | None = None


class RateLimiter:
    """Counts the requests of keys; with `enforced` false nothing is ever used up, and the headers say so."""

    def __init__(self, limit: RateLimit, *, enforced: bool, clock: Callable[[], float] = monotonic) -> None:
        self._limit = limit
        self._clock = clock
        self._taken: dict[tuple[str, ...], deque[float]] = {}
        self._enforced = enforced

    def take(self, key_id: str, route: Route | None) -> Headers:
        """Count a request. Returns the headers for its answer. Raises RateLimited, with its headers."""
        limit = self._limit
        reading = limit.reads is not None and route is not None and route.method == "GET"
        allowed = limit.reads if reading and limit.reads is not None else limit.requests
        if not self._enforced:
            return limit.headers(Standing(allowed, allowed, math.ceil(limit.seconds)))
        place = (key_id,) if limit.reads is None or route is None else (key_id, route.method, route.path)
        now = self._clock()
        taken = self._taken.setdefault(place, deque(maxlen=max(allowed, 1)))
        self._expire(taken, now)
        if len(taken) < allowed:
            taken.append(now)
            return limit.headers(Standing(allowed, allowed - len(taken), self._reset(taken, now)))
        wait = self._reset(taken, now)
        raise RateLimited(wait, limit.headers(Standing(allowed, 0, wait)))

    def _expire(self, taken: deque[float], now: float) -> None:
        """Forget what is out of the window; a fixed one ends as a whole."""
        window = self._limit.seconds
        if self._limit.fixed and taken and taken[0] + window <= now:
            taken.clear()
        while taken and taken[0] + window <= now:
            taken.popleft()

    def _reset(self, taken: deque[float], now: float) -> int:
        return max(1, math.ceil(taken[0] + self._limit.seconds - now)) if taken else 0
