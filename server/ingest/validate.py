"""Judges a draft by its project's catalogue. Touches no database."""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry.coercion import coerce_undefined
from registry.errors import DefinitionNotFound, InvalidName, PayloadRejected
from registry.names import check_event_name
from server.model import UndefinedEvents

if TYPE_CHECKING:
    from server.ingest.catalog import ProjectState
    from server.ingest.draft import Draft, Unit
    from server.model import Rules


def judge(state: ProjectState, draft: Draft) -> None:
    """Coerce the draft by its definition, or set its error. What was decided before is forgotten."""
    draft.event, draft.matches, draft.duplicate = None, (), False
    draft.encoded = None
    draft.error = draft.invalid
    if draft.invalid is not None:
        return
    rules = draft.rules or state.rules
    draft.definition = definition = state.definition(draft.name, rules)
    if definition is None:
        _judge_undefined(rules, draft)
        return
    try:
        coerced = definition.coerce(draft.given)
    except PayloadRejected as error:
        error.metadata["event"] = definition.name
        draft.error = error
    else:
        draft.properties = coerced.properties
        draft.changes = coerced.changes


def judge_all(unit: Unit) -> None:
    """Judge every draft of a unit by the unit's state."""
    for draft in unit.drafts:
        judge(unit.state, draft)


def _judge_undefined(rules: Rules, draft: Draft) -> None:
    try:
        check_event_name(draft.name)
    except InvalidName as error:
        draft.error = error
        return
    if rules.undefined_events is UndefinedEvents.REJECT:
        draft.error = DefinitionNotFound(draft.name)
    coerced = coerce_undefined(draft.given)
    draft.properties, draft.changes = coerced.properties, coerced.changes
