"""Validates drafts by a catalog snapshot. Touches no database."""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry.coercion import coerce_undefined
from registry.errors import DefinitionNotFound, InvalidName, PayloadRejected
from registry.names import check_event_name
from server.model import UndefinedEvents

if TYPE_CHECKING:
    from server.ingest.catalog import CatalogSnapshot
    from server.ingest.draft import Batch, Draft
    from server.model import Rules


def validate_draft(snapshot: CatalogSnapshot, draft: Draft) -> None:
    """Coerce the payload by its definition, or set the draft's error. Results of an earlier validation are dropped."""
    draft.event, draft.matches, draft.duplicate = None, (), False
    draft.encoded = None
    draft.error = draft.invalid
    if draft.invalid is not None:
        return
    rules = draft.rules or snapshot.rules
    draft.definition = definition = snapshot.definition(draft.name, rules)
    if definition is None:
        _validate_undefined(rules, draft)
        return
    try:
        coerced = definition.coerce(draft.given)
    except PayloadRejected as error:
        error.metadata["event"] = definition.name
        draft.error = error
    else:
        draft.properties = coerced.properties
        draft.coercions = coerced.coercions


def validate_batch(batch: Batch) -> None:
    """Validate every draft of a batch by the batch's snapshot."""
    for draft in batch.drafts:
        validate_draft(batch.snapshot, draft)


def _validate_undefined(rules: Rules, draft: Draft) -> None:
    try:
        check_event_name(draft.name)
    except InvalidName as error:
        draft.error = error
        return
    if rules.undefined_events is UndefinedEvents.REJECT:
        draft.error = DefinitionNotFound(draft.name)
    coerced = coerce_undefined(draft.given)
    draft.properties, draft.coercions = coerced.properties, coerced.coercions
