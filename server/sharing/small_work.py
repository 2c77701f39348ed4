"""Large work gives way to the small work of other projects: single sends, and transactions other than long reads.

A transaction needs the interpreter dozens of times, for a moment each. While the event loop or a thread computes, it
waits each time until the interpreter is handed over: with both computing, a commit of 1.5 ms took 25 ms and a step of
deliveries 60 ms in place of 6, and whoever sent now and then waited in a queue. So work in slices begins none while
another project's small work is in progress.

It is not held up for long: on the whole it waits no longer than it works. So a project that sends without a pause takes
half of the time of another one's large work, and no more. And while more calls arrive than the event loop can serve,
it gives way to nobody (`loop_time`): all calls wait for it by then.
"""

from __future__ import annotations

import asyncio
from time import perf_counter, sleep
from typing import TYPE_CHECKING, Final

from server.sharing.current_project import SERVER

if TYPE_CHECKING:
    from collections.abc import Hashable

CREDIT_SECONDS: Final = 0.05
"""The most that large work waits at once: longer than small work takes, and too short to be noticed."""

LOOK_SECONDS: Final = 0.001
"""How often large work that waits looks again."""

# One for the whole process, as the interpreter is. Only the event loop changes it.
_in_progress: dict[Hashable, int] = {}


class SmallWork:
    """Small work of a project, in progress while the context is open. That of the server itself is not counted."""

    __slots__ = ("_key",)

    def __init__(self, key: Hashable) -> None:
        self._key = key

    def __enter__(self) -> None:
        if self._key is not SERVER:
            _in_progress[self._key] = _in_progress.get(self._key, 0) + 1

    def __exit__(self, *_: object) -> None:
        if self._key is SERVER:
            return
        if _in_progress[self._key] == 1:
            del _in_progress[self._key]
        else:
            _in_progress[self._key] -= 1


def others_work(key: Hashable) -> bool:
    """Return whether small work of others than a project is in progress."""
    return len(_in_progress) > (key in _in_progress)


class GivingWay:
    """Large work, of which one slice runs at a time."""

    def __init__(self) -> None:
        self._credit = 0.0

    def worked(self, seconds: float) -> None:
        """Note how long a slice took: the next ones may wait as long."""
        self._credit = min(self._credit + seconds, CREDIT_SECONDS)

    def due(self, key: Hashable) -> bool:
        """Return whether a slice must wait: small work of others than a project is in progress, and there is credit."""
        return self._credit > 0 and others_work(key)

    async def wait(self) -> None:
        """Wait a moment, before looking again."""
        began = perf_counter()
        await asyncio.sleep(LOOK_SECONDS)
        self._credit -= perf_counter() - began

    def wait_in_thread(self) -> None:
        """Do the same in a thread that computes."""
        began = perf_counter()
        sleep(LOOK_SECONDS)
        self._credit -= perf_counter() - began
