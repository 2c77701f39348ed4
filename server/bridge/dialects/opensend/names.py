"""The names of events that OpenSend keeps for itself."""

from __future__ import annotations

from typing import Final

from server.bridge.dialects.opensend.bodies import rule_broken

RESERVED_PREFIX: Final = "resend:"


def check_event_name(name: str, what: str = "event_name") -> None:
    """Raise Refused for a name that cannot be defined."""
    if not name.strip():
        raise rule_broken("event_name_required", f"{what} is required")
    if name.strip().lower() == "send":
        raise rule_broken("event_name_reserved", f'{what} "{name}" is reserved')
    check_prefix(name, what)


def check_prefix(name: str, what: str = "event_name") -> None:
    """Raise Refused for a name with the reserved beginning, in any case."""
    if name.lower().startswith(RESERVED_PREFIX):
        raise rule_broken("event_name_reserved", f'{what} "{name}" uses reserved prefix "{RESERVED_PREFIX}"')
