"""Subjects of conditions, made from events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from automation.conditions.subject import Subject

if TYPE_CHECKING:
    from collections.abc import Mapping

    from server.model import Event


def subject_of(event: Event, contact_properties: Mapping[str, Any]) -> Subject:
    """Return what conditions read of an event; for an event without a contact, every path of the contact is missing."""
    known = event.contact_id != ""
    return Subject(
        event.properties,
        name=event.name,
        id=event.id,
        revision=event.revision,
        occurred_at=event.occurred_at,
        received_at=event.received_at,
        contact_id=event.contact_id if known else None,
        email=event.email if known else None,
        contact_properties=contact_properties if known else None,
    )
