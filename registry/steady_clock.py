"""A clock that follows the system clock, but not when it is stepped.

    the system clock advances as the time since boot does     it is returned as it is
    it differs by more than STEP_MICROS from one call on      the time since boot goes on to be counted, and approaches
                                                              the system clock by a hundredth of the time that passes
    it agrees again                                           it is followed again

So a clock that is stepped by an hour and back changes nothing, and no period is measured wrongly by more than a
hundredth. A step that is right, because the clock was wrong before, is followed at once after a restart.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

STEP_MICROS: Final = 1_000_000
"""A smaller difference is a correction, such as that of NTP, and followed at once."""
SLEW_DIVISOR: Final = 100
"""While the clocks differ, the time approaches the system clock by this part of the time that passes."""

_SAMPLE_NANOS: Final = 1_000_000
_SAMPLES: Final = 10


def nanos_since_boot() -> int:
    """Return the time since boot, with that of a suspension where the system counts it."""
    return time.clock_gettime_ns(_CLOCK)


_CLOCK: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class SteadyClock:
    """A clock for all threads of a process; `system` is the system clock, in microseconds."""

    def __init__(self, system: Callable[[], int], since_boot: Callable[[], int] = nanos_since_boot) -> None:
        self._system = system
        self._since_boot = since_boot
        self._lock = threading.Lock()
        self._offset: int | None = None
        self._slewed_at = 0
        self.behind_micros = 0
        """The system clock minus this clock, after a step that this clock does not follow; else 0."""

    def now(self) -> int:
        """Return the present instant in microseconds."""
        system, running = self._sample()
        with self._lock:
            if self._offset is None:
                self._offset = system - running
            behind = system - running - self._offset
            followed = behind if abs(behind) <= STEP_MICROS else self._slew(behind, running)
            if followed == behind:
                self._slewed_at = running
            self._offset += followed
            self.behind_micros = behind - followed
            return running + self._offset

    def _slew(self, behind: int, running: int) -> int:
        most = max(0, running - self._slewed_at) // SLEW_DIVISOR
        if most:
            self._slewed_at = running
        return min(behind, most) if behind > 0 else max(behind, -most)

    def _sample(self) -> tuple[int, int]:
        """Read both clocks together: a process that is stopped between two reads would look like a step."""
        for _ in range(_SAMPLES):
            before = self._since_boot()
            system = self._system()
            after = self._since_boot()
            if after - before <= _SAMPLE_NANOS:
                break
        return system, after // 1_000
