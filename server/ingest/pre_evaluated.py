"""The outcomes of conditions that were evaluated before the commit of their event, and whether they still hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from automation.matcher import KnownOutcomes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from automation.conditions.subject import Subject
    from server.model import Event


class PreEvaluated(msgspec.Struct):
    """The outcomes of conditions on an event with one possible contact, as its draft was validated."""

    subject: Subject
    definition_id: str
    known: KnownOutcomes

    def same_event(self, event: Event) -> bool:
        """Return whether the event is the one that was pre-evaluated, validated in the same way."""
        evaluated = self.subject
        return (self.definition_id, evaluated.revision, evaluated.name, evaluated.occurred_at) == (
            event.definition_id,
            event.revision,
            event.name,
            event.occurred_at,
        )

    def same_contact(self, subject: Subject) -> bool:
        """Return whether conditions that are not late read the same of the contact."""
        evaluated = self.subject
        return evaluated.email == subject.email and evaluated.contact_properties == subject.contact_properties


def known_outcomes(pre_evaluated: Sequence[PreEvaluated], event: Event, subject: Subject) -> KnownOutcomes | None:
    """Return the outcomes that hold for an event, None if there are none."""
    valid = [outcomes for outcomes in pre_evaluated if outcomes.same_event(event)]
    for outcomes in valid:
        if outcomes.same_contact(subject):
            return outcomes.known
    return KnownOutcomes(valid[0].known.outcomes, with_contact=False) if valid else None
