"""Repeated sends: the same idempotency key, and so the same event.

A key is looked for in three places, the nearest first: earlier drafts of the same batch, events that this commit has
stored, and the log. An equal fingerprint makes a draft a duplicate, which gets the event and matches of the first send;
another fingerprint under the same key is refused. The keys of a rejected batch stay free. Those of erased events are
found by their sealed forms.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from automation.automation_store import automations_by_key
from automation.match_log import matches_of_events
from server.errors import IdempotencyKeyReused
from server.storage.erasures.sealing import seal_fingerprint, seal_key
from server.storage.events.reading import events_by_idempotency_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sqlalchemy import Connection

    from automation.automations import Automation
    from automation.matches import Match
    from server.ingest.draft import Draft
    from server.model import Event


class EarlierSends:
    """The earlier sends to one project with the idempotency keys of a commit."""

    def __init__(
        self,
        connection: Connection,
        project_pk: int,
        drafts: Iterable[Draft],
        sealed_of: str = "",
        previewed: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """`sealed_of` is the id of a project that may have sealed keys (`server.storage.erasures.sealing`), else empty.

        `previewed` are fingerprints of events that would have been recorded before, by key.
        """
        self._previewed = previewed
        self.stored: dict[str, Draft] = {}
        """The drafts that this commit has stored, by key."""
        self._events: dict[str, tuple[str, Event]] = {}
        self._matches: dict[int, tuple[tuple[Match, Automation], ...]] = {}
        keys = {draft.idempotency_key for draft in drafts}
        keys.discard("")
        if keys:
            self._events = events_by_idempotency_key(connection, project_pk, list(keys))
        self._sealed: set[str] = set()
        if sealed_of and (unknown := keys.difference(self._events)):
            self._find_sealed(connection, project_pk, sealed_of, unknown)
        if matched := [event.position for _, event in self._events.values() if event.match_count]:
            self._matches = _recorded_matches(connection, project_pk, matched)

    def decide(self, draft: Draft, in_batch: dict[str, Draft]) -> bool:
        """Return whether the draft's key was used before, and if so make the draft a duplicate or refuse it.

        `in_batch` are the earlier drafts of its batch. The first send of a duplicate among them has no event yet:
        the duplicate gets it once the batch is stored.
        """
        key = draft.idempotency_key
        fingerprint, event = self._events.get(key, ("", None))
        matches = self._matches.get(event.position, ()) if event is not None else ()
        if original := self.stored.get(key) or in_batch.get(key):
            fingerprint, event, matches = original.fingerprint(), original.event, original.matches
        fingerprint = fingerprint or self._previewed.get(key, "")
        if not fingerprint:
            return False
        given = draft.fingerprint()
        if fingerprint == (seal_fingerprint(key, given) if key in self._sealed else given):
            draft.error, draft.duplicate, draft.event, draft.matches = None, True, event, matches
        else:
            draft.error = IdempotencyKeyReused(key)
        return True

    def _find_sealed(self, connection: Connection, project_pk: int, project_id: str, keys: Iterable[str]) -> None:
        """Find the erased events that were sent under keys."""
        sealed = {seal_key(project_id, key): key for key in keys}
        for seal, sent in events_by_idempotency_key(connection, project_pk, list(sealed)).items():
            self._events[sealed[seal]] = sent
            self._sealed.add(sealed[seal])


def _recorded_matches(
    connection: Connection, project_pk: int, positions: Sequence[int]
) -> dict[int, tuple[tuple[Match, Automation], ...]]:
    """Read the matches of recorded events, by the positions of the events."""
    found = matches_of_events(connection, project_pk, positions)
    automations = automations_by_key(connection, {match.automation_key for each in found.values() for match in each})
    return {
        position: tuple((match, automations[match.automation_key]) for match in matches)
        for position, matches in found.items()
    }
