"""Validates drafts by a catalog snapshot. Touches no database."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from registry.coercion.report import MAX_VIOLATIONS
from registry.coercion.validation import coerce_undefined
from registry.errors import DefinitionNotFound, InvalidName, PayloadRejected
from registry.names import check_event_name
from server.current_call.personal_access import shown_rejection
from server.ingest.draft import MAX_REPORTED
from server.model import UndefinedEvents

if TYPE_CHECKING:
    from registry.coercion.report import CoercedPayload
    from server.ingest.catalog import CatalogSnapshot
    from server.ingest.draft import Batch, Draft
    from server.model import Rules
    from server.sharing.loop_time import Slices

_encode = msgspec.json.Encoder().encode


def validate_draft(snapshot: CatalogSnapshot, draft: Draft, violations: int = MAX_VIOLATIONS) -> None:
    """Coerce the payload by its definition, or set the draft's error, which has at most this many violations.

    Results of an earlier validation are dropped.
    """
    draft.event, draft.matches, draft.duplicate = None, (), False
    draft.error = draft.invalid
    if draft.invalid is not None:
        return
    rules = draft.rules or snapshot.rules
    draft.definition = definition = snapshot.definition(draft.name, rules)
    if definition is None:
        _validate_undefined(snapshot, rules, draft, violations)
        return
    try:
        coerced = definition.coerce(draft.given, violations)
    except PayloadRejected as error:
        error.metadata["event"] = definition.name
        draft.error = shown_rejection(error).detached()
    else:
        _keep(coerced, draft)


def validate_batch(batch: Batch) -> None:
    """Validate every draft of a batch by the batch's snapshot."""
    validate = _Validation(batch.snapshot)
    for draft in batch.drafts:
        validate(draft)


async def validate_in_slices(batch: Batch, slices: Slices) -> None:
    """Do the same, and let others have the event loop meanwhile."""
    validate = _Validation(batch.snapshot)
    for draft in batch.drafts:
        validate(draft)
        if slices.used_up():
            await slices.pause()


class _Validation:
    """Validates the drafts of one batch. Every violation is found only in the first MAX_REPORTED refused drafts.

    Of the others only the first violation is reported: finding the rest could take seconds, and a gigabyte.
    """

    def __init__(self, snapshot: CatalogSnapshot) -> None:
        self._snapshot = snapshot
        self._refused = 0

    def __call__(self, draft: Draft) -> None:
        validate_draft(self._snapshot, draft, MAX_VIOLATIONS if self._refused < MAX_REPORTED else 1)
        if draft.error is not None:
            self._refused += 1


def _validate_undefined(snapshot: CatalogSnapshot, rules: Rules, draft: Draft, violations: int) -> None:
    try:
        check_event_name(draft.name)
    except InvalidName as error:
        draft.error = error.detached()
        return
    if rules.undefined_events is UndefinedEvents.REJECT:
        draft.error = DefinitionNotFound(draft.name, snapshot.closest_name(draft.name))
    _keep(coerce_undefined(draft.given, violations), draft)


def _keep(coerced: CoercedPayload, draft: Draft) -> None:
    """Set the coerced payload, and its JSON texts: in the commit, all other senders would wait for them."""
    draft.properties = coerced.properties
    draft.coercions, draft.omitted_coercions = coerced.coercions, coerced.omitted
    coercions = ""
    if coerced.coercions:
        omitted = (coerced.omitted,) if coerced.omitted else ()
        coercions = _encode(coerced.coercions + omitted).decode()
    draft.encoded = _encode(coerced.properties).decode(), coercions
