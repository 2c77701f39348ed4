"""Decides which drafts of a batch are recorded: those that repeat no earlier send and whose contact may be recorded.

Both need the database: whether the idempotency key was used, and whether the contact exists. A commit calls this before
it stores events; a dry run calls it, too, and stores nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from server.errors import ContactNotFound
from server.ingest.contacts import NOBODY, CommitContacts, UnknownContactAction, unknown_contact_action
from server.ingest.idempotency import EarlierSends

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import Connection

    from server.ingest.draft import Batch, Draft
    from server.model import Rules
    from server.storage.contacts import ContactKey


class Decided(NamedTuple):
    """The drafts to record, each with its contact (None for one to create), and the first draft of each key."""

    fresh: list[tuple[Draft, ContactKey | None]]
    first: dict[str, Draft]


def decide_drafts(
    drafts: Iterable[Draft], earlier: EarlierSends, contacts: CommitContacts, project_rules: Rules
) -> Decided:
    """Decide which drafts of a batch repeat an earlier send, which are refused, and which are to be recorded."""
    decided = Decided([], {})
    for draft in drafts:
        if draft.idempotency_key and earlier.decide(draft, decided.first):
            continue
        if draft.error is not None:
            continue
        contact = contacts.find(draft) or _unknown_contact(draft, draft.rules or project_rules)
        if draft.error is None:
            decided.fresh.append((draft, contact))
            if draft.idempotency_key:
                decided.first[draft.idempotency_key] = draft
    return decided


def _unknown_contact(draft: Draft, rules: Rules) -> ContactKey | None:
    """Return the contact of an event whose contact is unknown: None if it is to be created, else NOBODY.

    Set the draft's error if the rules refuse such an event.
    """
    action = unknown_contact_action(draft, rules)
    if action is UnknownContactAction.REFUSE:
        draft.error = ContactNotFound(draft.contact_id or draft.email)
    return None if action is UnknownContactAction.CREATE else NOBODY


def preview(connection: Connection, batch: Batch, previewed: dict[str, str]) -> None:
    """Decide a validated batch as a commit would, in a transaction that only reads.

    `previewed` are the fingerprints of events that would have been recorded before, by idempotency key. Those of the
    batch that would be recorded are added.
    """
    snapshot = batch.snapshot
    sealed_of = snapshot.project_id if snapshot.sealed else ""
    earlier = EarlierSends(connection, snapshot.project_pk, batch.drafts, sealed_of, previewed)
    contacts = CommitContacts(connection, snapshot.project_pk, {}, batch.drafts)
    decided = decide_drafts(batch.drafts, earlier, contacts, snapshot.rules)
    previewed |= {key: draft.fingerprint() for key, draft in decided.first.items()}
