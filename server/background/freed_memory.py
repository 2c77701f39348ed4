"""Returns the memory that large requests took to the system once it is free.

The C library keeps freed memory: blocks in use lie between the free ones, so the heap does not shrink by itself. After
a minute of the largest requests, a server held 600 MiB, of which it used 30. A busy server needs that memory again at
once, so it is returned when the server has become idle. Returning 500 MiB takes 40 ms, during which other threads wait
for memory.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
from pathlib import Path
from time import monotonic, process_time
from typing import TYPE_CHECKING, Final

from server.process.recurring import Recurring

if TYPE_CHECKING:
    from collections.abc import Callable

CHECK_SECONDS: Final = 1.0
"""The interval at which the memory and the processor time of the process are checked."""

WORTHWHILE_BYTES: Final = 64 * 1024 * 1024
"""Memory is returned if at least this much more is resident than at the start."""

IDLE_SHARE: Final = 0.5
"""A server is idle while it uses less than this share of a processor."""

IN_VAIN_BYTES: Final = 16 * 1024 * 1024
IN_VAIN_SECONDS: Final = 8.0
"""If less than IN_VAIN_BYTES were returned, the rest is probably in use: the next attempt comes after this time."""

BUSY_SECONDS: Final = 60.0
"""A server that is never idle returns memory at this interval."""

_STATM: Final = Path("/proc/self/statm")


class FreedMemory:
    """The task that checks the memory of this process once a second."""

    def __init__(self) -> None:
        self._trim = _trim()
        self._least = _resident()
        self._processor = self._processor_at_trim = process_time()
        self._trimmed_at = monotonic()
        self._wait = CHECK_SECONDS
        self._recurring = Recurring("freed-memory", self.check)

    def start(self) -> None:
        """Start checking, where the C library can return memory."""
        if self._trim is not None and self._least:
            self._recurring.start()

    async def close(self) -> None:
        """Stop checking."""
        await self._recurring.close()

    async def check(self) -> float:
        """Return memory to the system if it may be worthwhile. Return the seconds until the next check."""
        before, self._processor = self._processor, process_time()
        busy = self._processor - before > IDLE_SHARE * CHECK_SECONDS
        due = self._trimmed_at + (BUSY_SECONDS if busy else self._wait)
        if self._processor - self._processor_at_trim > CHECK_SECONDS / 10 and monotonic() > due:
            await self._give_back()
        return CHECK_SECONDS

    async def _give_back(self) -> None:
        resident = _resident()
        if self._trim is None or resident < self._least + WORTHWHILE_BYTES:
            return
        # In a thread, because it does not need the interpreter: the event loop waits only if it needs memory meanwhile.
        await asyncio.to_thread(self._trim, 0)
        left = _resident()
        self._least = min(self._least, left)
        self._wait = IN_VAIN_SECONDS if resident - left < IN_VAIN_BYTES else CHECK_SECONDS
        self._trimmed_at, self._processor_at_trim = monotonic(), process_time()


def _trim() -> Callable[[int], int] | None:
    """Return the function that returns memory to the system, None if the C library is not GNU's."""
    try:
        trim: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):
        return None
    return trim


def _resident() -> int:
    """Return the bytes of memory that are resident, 0 if the system does not report them."""
    try:
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0
