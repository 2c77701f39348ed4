"""The rules for event names: reserved ones, and those that Signalbox cannot store."""

from __future__ import annotations

from typing import Final

from registry import names
from server.bridge.dialects.opensend.validation import rule_broken

RESERVED_PREFIX: Final = "resend:"


def is_reserved(name: str) -> bool:
    """Return whether a name cannot be defined, because `/events/send` is another endpoint; events may still have it."""
    return name.strip().lower() == "send"


def check_event_name(name: str, field: str, label: str = "event_name") -> None:
    """Raise RuleBroken or InvalidName for a name that no event can have; `field` is the body's field that holds it."""
    if not name.strip():
        raise rule_broken("event_name_required", f"{label} is required")
    if name.lower().startswith(RESERVED_PREFIX):
        raise rule_broken("event_name_reserved", f'{label} "{name}" uses reserved prefix "{RESERVED_PREFIX}"')
    names.check_event_name(name, field)
