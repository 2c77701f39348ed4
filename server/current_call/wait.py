"""The wait of the current call, which ends early once the server cannot tell whether the client still waits.

A client that closes its side of a connection after its request may still read the response: a half-close is legal TCP.
To the server, a client that has gone looks the same. So the call is answered at once, with the matches that there are:
matches leased later, for a client that has gone, would each count an attempt.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(slots=True)
class CallWait:
    """Whether the wait of a call is over; `wake` is called when it ends."""

    over: bool = False
    wake: Callable[[], None] | None = None

    def end(self) -> None:
        """End the wait."""
        self.over = True
        if self.wake is not None:
            self.wake()


_wait: ContextVar[CallWait | None] = ContextVar("call_wait", default=None)


def begin_wait() -> CallWait:
    """Return the wait of the current task's call, for its transport to end."""
    wait = CallWait()
    _wait.set(wait)
    return wait


def current_wait() -> CallWait:
    """Return the wait of the current call; one that never ends if its transport has not begun any."""
    return _wait.get() or CallWait()
