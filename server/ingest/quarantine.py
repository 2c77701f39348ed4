"""The refused events of a commit that are kept: they are stored in its transaction, as accepted events are.

So a refusal is returned once the refused event is durable, refused events take their turn in the fair queue of commits
as all others do, and many of them share one durable write. The events of a project are kept as long as they fit into
its limits; beyond them the oldest stay, so that nobody's flood removes what was kept, and the newest are only counted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec

from registry.errors import DefinitionNotFound, InvalidName, PayloadRejected
from registry.paths import without_indexes
from server.errors import ContactNotFound, IdempotencyKeyReused, RefusedEventNotFound
from server.status import MAX_MESSAGE, cut
from server.storage.quarantine.refused_events import (
    RefusalCause,
    RefusedContent,
    add_refused,
    delete_refused,
    existing,
    faults_of,
    locked_use_of,
    new_ids,
    next_number,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import Connection

    from registry.errors import Violation
    from server.ingest.draft import Batch, Draft, OnRelease
    from server.storage.events.appending import LogRow

MAX_KEPT_BYTES: Final = 512 * 1024
"""Larger events are not kept."""

MAX_NAME: Final = 255
"""Characters of names, ids and keys that are kept in columns of their own."""

_CONTROLS: Final = re.compile(r"[\x00-\x1f\x7f]")

_CONTENT_ERRORS: Final = (InvalidName, DefinitionNotFound, PayloadRejected, ContactNotFound, IdempotencyKeyReused)
"""The errors of a draft that could be read; its others are about the server."""

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class QuarantineLimits:
    """How many events a project may have in quarantine, and how many bytes."""

    events: int = 100_000
    bytes: int = 256 * 1024 * 1024


class Quarantined:
    """The events of one project that a commit refuses, and those that leave the quarantine because it records them."""

    def __init__(self, connection: Connection, project_pk: int, received_at: int, limits: QuarantineLimits) -> None:
        self._connection = connection
        self._project_pk = project_pk
        self._received_at = received_at
        self._limits = limits
        self._ids = new_ids(received_at)
        self._rows: list[tuple[LogRow, int]] = []
        self._recorded: list[str] = []
        self._released: list[tuple[OnRelease, list[str]]] = []
        self.unkept = 0
        """The number of refused events that did not fit."""

    def __bool__(self) -> bool:
        return bool(self._rows or self._recorded)

    def add(self, batch: Batch) -> None:
        """Gather the refused events of a batch that is decided."""
        for draft in content_errors(batch.drafts):
            row = self._row(batch, draft)
            if row is None:
                self.unkept += 1
            else:
                self._rows.append(row)

    def check(self, batch: Batch) -> None:
        """Refuse the drafts of a batch that are in quarantine no more: they were sent again or deleted meanwhile."""
        ids = {draft.refused_id for draft in batch.drafts}
        # Those that another batch of this transaction records are deleted at its end.
        left = existing(self._connection, self._project_pk, ids).difference(self._recorded)
        for draft in batch.drafts:
            if draft.refused_id not in left:
                draft.error = RefusedEventNotFound(draft.refused_id)

    def release(self, batch: Batch) -> None:
        """Gather the events of a batch that were in quarantine, and are recorded by now."""
        released = [draft.refused_id for draft in batch.drafts if draft.refused_id and draft.event is not None]
        self._recorded += released
        if released and batch.on_release is not None:
            self._released.append((batch.on_release, released))

    def store(self) -> None:
        """Write and delete the gathered rows. Those that do not fit are left out."""
        delete_refused(self._connection, self._project_pk, self._recorded)
        for on_release, released in self._released:
            on_release(self._connection, released)
        if not self._rows:
            return
        use = locked_use_of(self._connection, self._project_pk)
        events, size = use.events, use.bytes
        fitting: list[Any] = []
        for row, row_size in self._rows:
            if events + 1 > self._limits.events or size + row_size > self._limits.bytes:
                self.unkept += 1
                continue
            events += 1
            size += row_size
            fitting.append(row)
        if fitting:
            add_refused(self._connection, self._project_pk, fitting, size - use.bytes)

    def _row(self, batch: Batch, draft: Draft) -> tuple[LogRow, int] | None:
        """Return the row of a refused event and its size; None if it is too large."""
        error, unread = draft.error, draft.unread
        request = b""
        if unread is None:
            key, name, contact_id, email = draft.idempotency_key, draft.name, draft.contact_id, draft.email
            content = RefusedContent(name, contact_id, email, draft.occurred_at, draft.given)
        else:
            if unread.size > MAX_KEPT_BYTES:
                return None
            key, name, contact_id, email = unread.idempotency_key, unread.name, unread.contact_id, unread.email
            content = RefusedContent(name, contact_id, email, params=dict(unread.params))
            request = unread.request()
        violations: tuple[Violation, ...] = getattr(error, "violations", ())
        reason = getattr(error, "reason", "INTERNAL")
        kept = RefusalCause(reason, cut(getattr(error, "message", str(error)), MAX_MESSAGE), violations)
        places = {(one.reason, clean(without_indexes(one.path))): None for one in violations}
        error_text, content_text = _encode(kept).decode(), _encode(content).decode()
        size = len(error_text) + len(content_text) + len(request) + len(name) + len(email)
        if size > MAX_KEPT_BYTES:
            return None
        row = (
            self._project_pk,
            self._ids.make(next_number()),
            self._received_at,
            size,
            clean(name),
            faults_of(reason, places),
            batch.caller.api,
            batch.caller.key_id,
            batch.caller.stored_id,
            clean(key),
            clean(contact_id),
            clean(email),
            error_text,
            content_text,
            request,
        )
        return row, size


def is_content_error(draft: Draft) -> bool:
    """Return whether a draft is refused for its content or by the rules of its project."""
    return draft.invalid is not None or isinstance(draft.error, _CONTENT_ERRORS)


def clean(text: str) -> str:
    """Return a text for a column: cut to its limit, without characters that PostgreSQL or a line cannot hold."""
    if len(text) <= MAX_NAME and text.isprintable():
        return text
    return _CONTROLS.sub("\ufffd", text[:MAX_NAME])


def content_errors(drafts: Iterable[Draft]) -> list[Draft]:
    """Return the drafts that are refused because of their content, and were not refused before."""
    return [draft for draft in drafts if draft.error is not None and not draft.refused_id and is_content_error(draft)]
