"""The outcomes of conditions that were evaluated before the commit of their event, and whether they still hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from automation.matcher import Known

if TYPE_CHECKING:
    from collections.abc import Sequence

    from automation.conditions.subject import Subject
    from server.model import Event


class Judged(msgspec.Struct):
    """The outcomes of conditions on an event with one possible contact, as its draft was validated."""

    subject: Subject
    definition_id: str
    known: Known

    def same_event(self, event: Event) -> bool:
        """Return whether the event is the one that was judged, validated in the same way."""
        judged = self.subject
        return (self.definition_id, judged.revision, judged.name, judged.occurred_at) == (
            event.definition_id,
            event.revision,
            event.name,
            event.occurred_at,
        )

    def same_contact(self, subject: Subject) -> bool:
        """Return whether conditions that are not late read the same of the contact."""
        judged = self.subject
        return judged.email == subject.email and judged.contact_properties == subject.contact_properties


def known_outcomes(judged: Sequence[Judged], event: Event, subject: Subject) -> Known | None:
    """Return the outcomes that hold for an event, None if there are none."""
    valid = [one for one in judged if one.same_event(event)]
    for one in valid:
        if one.same_contact(subject):
            return one.known
    return Known(valid[0].known.outcomes, with_contact=False) if valid else None
