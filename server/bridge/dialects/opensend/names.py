"""The names of events: those that OpenSend keeps for itself, and those that cannot be kept."""

from __future__ import annotations

from typing import Final

from registry import names
from server.bridge.dialects.opensend.bodies import rule_broken

RESERVED_PREFIX: Final = "resend:"


def is_reserved(name: str) -> bool:
    """Return whether a name cannot be defined, although events may have it: `/events/send` is a path of its own."""
    return name.strip().lower() == "send"


def check_event_name(name: str, field: str, what: str = "event_name") -> None:
    """Raise Refused or InvalidName for a name that no event can have; `field` is where the body has it."""
    if not name.strip():
        raise rule_broken("event_name_required", f"{what} is required")
    if name.lower().startswith(RESERVED_PREFIX):
        raise rule_broken("event_name_reserved", f'{what} "{name}" uses reserved prefix "{RESERVED_PREFIX}"')
    names.check_event_name(name, field)
