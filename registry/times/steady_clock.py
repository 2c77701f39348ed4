"""A clock that follows the system clock, but not when it is stepped.

    the system clock                              this clock
    advances like the time since boot             returns the system clock
    jumps by more than STEP_MICROS                continues with the time since boot, and approaches the system clock by
                                                  a hundredth of the time that passes
    agrees with this clock again                  returns the system clock again

So a step by an hour and back changes nothing, and no duration is wrong by more than a hundredth. If the step corrected
a wrong clock, a restart follows it at once.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

STEP_MICROS: Final = 1_000_000
"""A smaller difference is a correction, such as NTP makes, and is followed at once."""
SLEW_DIVISOR: Final = 100
"""While the clocks differ, the time approaches the system clock by this part of the time that passes."""

_SAMPLE_NANOS: Final = 1_000_000
"""Both clocks are read again if reading them took longer than this, because the process was stopped in between."""

_SAMPLES: Final = 10
"""The most attempts to read both clocks together."""


def nanos_since_boot() -> int:
    """Return the time since boot, including the time in suspension where the system counts it."""
    return time.clock_gettime_ns(_CLOCK)


_CLOCK: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class SteadyClock:
    """A clock for all threads of a process; `system` is the system clock, in microseconds."""

    def __init__(self, system: Callable[[], int]) -> None:
        self._system = system
        self._since_boot = nanos_since_boot
        self._lock = threading.Lock()
        self._offset: int | None = None
        self._slewed_at = 0
        self.skew_micros = 0
        """The system clock minus this clock, after a step that this clock does not follow; else 0."""

    def now(self) -> int:
        """Return the present instant in microseconds."""
        system, running = self._sample()
        with self._lock:
            if self._offset is None:
                self._offset = system - running
            skew = system - running - self._offset
            followed = skew if abs(skew) <= STEP_MICROS else self._slew(skew, running)
            if followed == skew:
                self._slewed_at = running
            self._offset += followed
            self.skew_micros = skew - followed
            return running + self._offset

    def _slew(self, skew: int, running: int) -> int:
        """Return how far to follow a step now: SLEW_DIVISOR of the time since the last call, at most the skew."""
        most = max(0, running - self._slewed_at) // SLEW_DIVISOR
        if most:
            self._slewed_at = running
        return min(skew, most) if skew > 0 else max(skew, -most)

    def _sample(self) -> tuple[int, int]:
        """Read both clocks together: a process that is stopped between two reads would look like a step."""
        for _ in range(_SAMPLES):
            before = self._since_boot()
            system = self._system()
            after = self._since_boot()
            if after - before <= _SAMPLE_NANOS:
                break
        return system, after // 1_000
