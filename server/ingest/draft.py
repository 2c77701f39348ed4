"""An event on its way into the log, and the unit it travels in."""

from __future__ import annotations

from dataclasses import replace
from enum import Enum
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import msgspec

from registry.errors import Violation
from server.errors import BatchRejected, InvalidArgument

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from automation.automations import Automation
    from automation.runs import Match
    from registry.coercion import Change
    from server.ingest.catalog import LiveDefinition, ProjectState
    from server.model import Event, Rules

MAX_IDEMPOTENCY_KEY = 255

MAX_REPORTED = 100
"""A refused batch names this many of its violations."""


class BatchMode(Enum):
    """What becomes of a unit when one of its events is refused."""

    ALL_OR_NOTHING = 1
    INDEPENDENT = 2


# A msgspec struct: one is made for every event, in a quarter of the time of a slotted class.
class Draft(msgspec.Struct):
    """What a sender said, then what was decided: `event` or `error` is set when the unit is done.

    `email` is lower-cased; either it or `contact_id` is filled. Times in microseconds. `invalid` says that the front
    door could not read the sender's words; such a draft is refused without being judged. `rules` are those of the
    sender's dialect, in place of the project's. `encoded` are the texts of the properties and coercions, once they were
    needed.
    """

    name: str
    contact_id: str
    email: str
    given: dict[str, Any]
    occurred_at: int | None = None
    idempotency_key: str = ""
    rules: Rules | None = None
    invalid: Exception | None = None
    error: Exception | None = None
    definition: LiveDefinition | None = None
    properties: dict[str, Any] = {}
    changes: tuple[Change, ...] = ()
    event: Event | None = None
    matches: tuple[tuple[Match, Automation], ...] = ()
    duplicate: bool = False
    encoded: tuple[str, str] | None = None

    def fingerprint(self) -> str:
        """Digest of what the sender said, to tell a repeated send from a reused key."""
        content = (self.name, self.contact_id, self.email, self.given, self.occurred_at)
        return sha256(msgspec.json.encode(content, order="deterministic")).hexdigest()[:32]


class Unit:
    """Drafts of one project that are decided in one transaction."""

    __slots__ = ("done", "drafts", "mode", "state")

    def __init__(
        self, state: ProjectState, drafts: Sequence[Draft], mode: BatchMode, done: asyncio.Future[None]
    ) -> None:
        self.state = state
        self.drafts = drafts
        self.mode = mode
        self.done = done

    def refused(self) -> bool:
        """Say whether the unit is refused as a whole."""
        return self.mode is BatchMode.ALL_OR_NOTHING and any(draft.error is not None for draft in self.drafts)

    def worth_storing(self) -> bool:
        """Say whether the database could still accept something: a refused draft may repeat an accepted one."""
        every = self.mode is BatchMode.ALL_OR_NOTHING
        for draft in self.drafts:
            if (draft.error is None or draft.idempotency_key != "") is not every:
                return not every
        return every

    def check(self) -> None:
        """Raise BatchRejected if the unit was refused as a whole."""
        if self.refused():
            raise batch_rejected(self.drafts)


def batch_rejected(drafts: Sequence[Draft]) -> BatchRejected:
    """Sum up the errors of an all-or-nothing batch, each violation under the path of its event."""
    failed = [(index, draft.error) for index, draft in enumerate(drafts) if draft.error]
    violations = [violation for index, error in failed for violation in _violations(index, error)]
    first = f"events[{failed[0][0]}]: {failed[0][1]}"
    return BatchRejected(
        f"{len(failed)} of {len(drafts)} events are refused, so none was stored; {first}",
        violations=violations[:MAX_REPORTED],
    )


def _violations(index: int, error: Exception) -> list[Violation]:
    place = f"events[{index}]"
    inner: Sequence[Violation] = getattr(error, "violations", ())
    if not inner:
        return [Violation(place, getattr(error, "reason", "INTERNAL"), str(error))]
    return [replace(one, path=f"{place}.{one.path}") for one in inner]


def check_idempotency_key(key: str) -> str:
    """Give the key back. Raises InvalidArgument for one that is too long or not printable."""
    if len(key) > MAX_IDEMPOTENCY_KEY or not (key.isascii() and key.isprintable()):
        message = f"idempotency_key must be at most {MAX_IDEMPOTENCY_KEY} printable ASCII characters"
        raise InvalidArgument(message, violations=[Violation("idempotency_key", "INVALID_ARGUMENT", message)])
    return key
