"""Whether the running code may show personal values to its caller.

It is decided when the caller is authenticated, and inherited by the tasks that the call starts. What no call started,
such as a commit that validates a batch again, shows none.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import replace
from typing import TYPE_CHECKING

from registry.errors import PayloadRejected

if TYPE_CHECKING:
    from collections.abc import Iterable

    from registry.errors import Violation

_shown: ContextVar[bool] = ContextVar("personal_shown", default=False)


def show_personal(*, shown: bool) -> None:
    """Show or hide personal values in the rest of the current task, and in the tasks that it starts."""
    _shown.set(shown)


def personal_shown() -> bool:
    """Return whether the current task may show personal values."""
    return _shown.get()


def shown_violations(violations: Iterable[Violation]) -> tuple[Violation, ...]:
    """Return violations as the caller may see them."""
    if personal_shown():
        return tuple(violations)
    return tuple(replace(one, message=one.masked) if one.masked else one for one in violations)


def shown_rejection(error: PayloadRejected) -> PayloadRejected:
    """Return the rejection of a payload as the caller may see it."""
    if personal_shown() or not any(one.masked for one in error.violations):
        return error
    masked = PayloadRejected(shown_violations(error.violations))
    masked.metadata.update(error.metadata)
    return masked
