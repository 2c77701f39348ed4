"""An event on its way into the log, and the batch that it is decided with."""

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
    from automation.matches import Match
    from registry.coercion import Coercion
    from server.ingest.catalog import CatalogSnapshot, LiveDefinition
    from server.model import Event, Rules

MAX_IDEMPOTENCY_KEY = 255

MAX_REPORTED = 100
"""How many violations the error of a rejected batch holds at most."""


class BatchMode(Enum):
    """What becomes of a batch when one of its events is refused."""

    ALL_OR_NOTHING = 1
    INDEPENDENT = 2


# A msgspec struct: one is made for every event, in a quarter of the time of a slotted class.
class Draft(msgspec.Struct):
    """An event between its request and its response.

    It is one object for speed. Its fields are set in three states:

        requested   by the API. Not changed afterwards.
        validated   by `validate_draft`: `definition`, `properties` and `coercions`, or `error`. Repeated, and all of it
                    replaced, each time the catalog turns out to have changed.
        decided     by the commit: `event` and `matches`, or `error`. Read by the API once `Batch.done` is set.

    The request: either `contact_id` or `email`, which is lower-cased, is filled. `given` is the payload, `occurred_at`
    in microseconds. `rules` are those of the sender's dialect, in place of the project's. `invalid` is the error of a
    request that could not be read; such a draft is refused without being validated.

    `encoded` holds the JSON texts of properties and coercions once they were needed. A `duplicate` repeats an earlier
    send with the same idempotency key and has the event and matches of that one.
    """

    # requested
    name: str
    contact_id: str
    email: str
    given: dict[str, Any]
    occurred_at: int | None = None
    idempotency_key: str = ""
    rules: Rules | None = None
    invalid: Exception | None = None
    # validated
    error: Exception | None = None
    definition: LiveDefinition | None = None
    properties: dict[str, Any] = {}
    coercions: tuple[Coercion, ...] = ()
    # decided
    event: Event | None = None
    matches: tuple[tuple[Match, Automation], ...] = ()
    duplicate: bool = False
    encoded: tuple[str, str] | None = None

    def fingerprint(self) -> str:
        """Return a digest of the request, which distinguishes a repeated send from a reused idempotency key."""
        content = (self.name, self.contact_id, self.email, self.given, self.occurred_at)
        return sha256(msgspec.json.encode(content, order="deterministic")).hexdigest()[:32]


class Batch:
    """Drafts of one project that are decided in one transaction. `done` is resolved when they are decided and durable.

    Its drafts were validated by `snapshot`.
    """

    __slots__ = ("done", "drafts", "mode", "snapshot")

    def __init__(
        self, snapshot: CatalogSnapshot, drafts: Sequence[Draft], mode: BatchMode, done: asyncio.Future[None]
    ) -> None:
        self.snapshot = snapshot
        self.drafts = drafts
        self.mode = mode
        self.done = done

    def rejected(self) -> bool:
        """Return whether the batch is rejected as a whole."""
        return self.mode is BatchMode.ALL_OR_NOTHING and any(draft.error is not None for draft in self.drafts)

    def worth_storing(self) -> bool:
        """Return whether a commit could still accept something.

        A refused draft with an idempotency key may repeat an accepted one, which only the database knows.
        """
        every = self.mode is BatchMode.ALL_OR_NOTHING
        for draft in self.drafts:
            if (draft.error is None or draft.idempotency_key != "") is not every:
                return not every
        return every

    def check(self) -> None:
        """Raise BatchRejected if the batch was rejected as a whole."""
        if self.rejected():
            raise batch_rejected(self.drafts)


def batch_rejected(drafts: Sequence[Draft]) -> BatchRejected:
    """Return one error for an all-or-nothing batch, with the violations under the paths of their events."""
    failed = [(index, draft.error) for index, draft in enumerate(drafts) if draft.error]
    violations = [violation for index, error in failed for violation in _violations(index, error)]
    first = f"events[{failed[0][0]}]: {failed[0][1]}"
    return BatchRejected(
        f"{len(failed)} of {len(drafts)} events {'was' if len(failed) == 1 else 'were'} rejected, so none was stored."
        f" The first one: {first}",
        violations=violations[:MAX_REPORTED],
    )


def _violations(index: int, error: Exception) -> list[Violation]:
    place = f"events[{index}]"
    inner: Sequence[Violation] = getattr(error, "violations", ())
    if not inner:
        return [Violation(place, getattr(error, "reason", "INTERNAL"), str(error))]
    return [replace(one, path=f"{place}.{one.path}") for one in inner]


def check_idempotency_key(key: str) -> str:
    """Return the key. Raise InvalidArgument if it is too long or not printable."""
    if len(key) > MAX_IDEMPOTENCY_KEY or not (key.isascii() and key.isprintable()):
        message = f"idempotency_key must be at most {MAX_IDEMPOTENCY_KEY} printable ASCII characters"
        raise InvalidArgument.at("idempotency_key", "INVALID_ARGUMENT", message)
    return key
