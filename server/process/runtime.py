"""Settings of the whole process, each with its reason: they affect all threads and every object.

Measured on two cores with CPython 3.11, server and clients on the same machine.
"""

from __future__ import annotations

import gc
import resource
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

LARGE_BATCH_EVENTS: Final = 8
"""Batches of more events on average keep the event loop busy for milliseconds without a pause."""

_SWITCH_SECONDS: Final = 0.005
_SWITCH_SECONDS_OF_BATCHES: Final = 0.000_2

_MANY_FILES: Final = 1_048_576
"""The limit of file descriptors that is assumed where the system has none."""

_computing = 0
_large_batches = False


def favour_database_threads(*, large_batches: bool) -> None:
    """Set how long a thread waits for the interpreter while the event loop is busy.

    The database thread needs the interpreter a dozen times in each commit. Under large batches the loop does not
    release it by itself: with the short interval, batches of 500 events are a seventh faster. Between single sends the
    loop releases it anyway, and the short interval would make them a sixth slower, so they get CPython's default.
    """
    global _large_batches  # noqa: PLW0603 - the interval is one for the whole process
    _large_batches = large_batches
    _set_interval()


@contextmanager
def computing() -> Iterator[None]:
    """Use the short interval while a thread computes, for which the loop and the database thread would have to wait."""
    global _computing  # noqa: PLW0603 - as above
    _computing += 1
    _set_interval()
    try:
        yield
    finally:
        _computing -= 1
        _set_interval()


def _set_interval() -> None:
    sys.setswitchinterval(_SWITCH_SECONDS_OF_BATCHES if _large_batches or _computing else _SWITCH_SECONDS)


def collect_garbage_rarely() -> None:
    """Exclude everything that is loaded by now from garbage collection, and collect the rest less often.

    The many objects of a batch are freed by their reference counts. Searching them, and all loaded modules, for cycles
    took a fifth of the event loop's time in every batch.

    A collection stops the process for half a microsecond for each object. With these thresholds the second generation
    has at most the objects of five collections of the first, which takes 0.1 s; with twenty it took 0.3 s, which every
    caller noticed.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 4, 500)


def raise_file_limit() -> int:
    """Raise the soft limit of file descriptors to the hard limit, and return it. Each connection takes a descriptor.

    On most systems the soft limit is 1,024, for programs that use select(), which this one does not.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        hard = max(soft, _MANY_FILES)
    if soft == resource.RLIM_INFINITY:
        return _MANY_FILES
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    except (OSError, ValueError):
        # Some systems have a lower limit than the one that they report.
        return soft
    return hard
