"""The size of the request that the running code works on, in bytes as it was received.

It is known where a request is received, and needed where events are queued, because the queue is bounded in bytes too.
Finding the size of a parsed message would take as long as parsing it again.
"""

from __future__ import annotations

from contextvars import ContextVar

_size: ContextVar[int] = ContextVar("request_size", default=0)


def note_request_size(size: int) -> None:
    """Note the size of the request that the current task works on from now on."""
    _size.set(size)


def request_size() -> int:
    """Return the size of the current request, 0 if it is not known."""
    return _size.get()
