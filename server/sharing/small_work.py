"""Large work gives way to the small work of other projects: single sends, and transactions other than long reads.

A transaction needs the interpreter dozens of times, for a moment each. While the event loop or another thread computes,
it waits each time until the interpreter is handed over. With both computing, a commit of 1.5 ms took 25 ms, a step of
deliveries 60 ms instead of 6, and single sends queued up. So large work begins no slice while small work of another
project is in progress.

Large work waits no longer than it has worked, so a project that sends without a pause can take half of the time of
another project's large work, and no more. While more calls arrive than the event loop can serve, large work does not
give way (`loop_time`): then every call waits for it anyway.
"""

from __future__ import annotations

import asyncio
from math import inf
from time import perf_counter, sleep
from typing import TYPE_CHECKING, Final

from server.sharing.current_project import SERVER
from server.sharing.interpreter_lock import database_thread

if TYPE_CHECKING:
    from collections.abc import Hashable

CREDIT_SECONDS: Final = 0.05
"""The longest wait of large work at a time: more than small work takes, and too short to be noticed."""

LOOK_SECONDS: Final = 0.001
"""The interval at which waiting large work checks whether it may continue."""

RECENT_SECONDS: Final = 1.0
"""For this time after small work of a project, more of it is expected."""

# By project, for the whole process, because there is one interpreter. Only the event loop changes it.
_in_progress: dict[Hashable, int] = {}


class _Latest:
    """The project whose small work began last, and when; and when that of another project did before."""

    __slots__ = ("at", "key", "others_at")

    def __init__(self) -> None:
        self.key: Hashable = SERVER
        self.at = self.others_at = -inf

    def note(self, key: Hashable) -> None:
        if key != self.key:
            self.key, self.others_at = key, self.at
        self.at = perf_counter()


_latest: Final = _Latest()


class SmallWork:
    """Small work of a project, in progress while the context is open. The server's own work is not counted."""

    __slots__ = ("_key",)

    def __init__(self, key: Hashable) -> None:
        self._key = key

    def __enter__(self) -> None:
        if self._key is not SERVER:
            _latest.note(self._key)
            _in_progress[self._key] = _in_progress.get(self._key, 0) + 1

    def __exit__(self, *_: object) -> None:
        if self._key is SERVER:
            return
        if _in_progress[self._key] == 1:
            del _in_progress[self._key]
        else:
            _in_progress[self._key] -= 1


def others_in_progress(key: Hashable) -> bool:
    """Return whether small work of a project other than this one is in progress."""
    return len(_in_progress) > (key in _in_progress)


def others_expected(key: Hashable) -> bool:
    """Return whether a project other than this one has begun small work in the last RECENT_SECONDS."""
    latest = _latest.at if key != _latest.key else _latest.others_at
    return perf_counter() - latest < RECENT_SECONDS


class WaitCredit:
    """The time for which large work may be made to wait: as long as its slices have taken, up to CREDIT_SECONDS."""

    def __init__(self) -> None:
        self._credit = 0.0

    def add(self, seconds: float) -> None:
        """Add the time that a slice took to the credit for waiting."""
        self._credit = min(self._credit + seconds, CREDIT_SECONDS)

    def must_wait(self, key: Hashable) -> bool:
        """Return whether a slice of a project must wait.

        It must if others' small work is in progress or the database thread computes, and there is credit.
        """
        return self.available and (database_thread.computes or others_in_progress(key))

    @property
    def available(self) -> bool:
        """Whether large work may be made to wait."""
        return self._credit > 0

    async def wait(self) -> None:
        """Wait until the database thread lets go, or else for LOOK_SECONDS, and take the time off the credit."""
        began = perf_counter()
        if database_thread.computes:
            await database_thread.wait()
        else:
            await asyncio.sleep(LOOK_SECONDS)
        self._credit -= perf_counter() - began

    def wait_in_thread(self) -> None:
        """Wait as `wait` does, in a thread that computes."""
        began = perf_counter()
        sleep(LOOK_SECONDS)
        self._credit -= perf_counter() - began
