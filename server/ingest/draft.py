"""An event on its way into the log, and the batch that it is decided with."""

from __future__ import annotations

from dataclasses import replace
from enum import Enum
from hashlib import sha256
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from registry.errors import Violation
from server.current_call import context as call_context
from server.errors import BatchRejected, InvalidArgument, StorageUnavailable

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping, Sequence

    from sqlalchemy import Connection

    from automation.automations import Automation
    from automation.matches import Match
    from automation.matching import LiveAutomations
    from registry.coercion.report import Coercion
    from server.ingest.catalog import CatalogSnapshot, LiveDefinition
    from server.ingest.pre_evaluated import PreEvaluated
    from server.model import Event, Rules

MAX_IDEMPOTENCY_KEY = 255

MAX_REPORTED = 100
"""The most violations in the error of a rejected batch."""

EVENT_BYTES = 512
"""The size that is assumed for an event if the size of its request is unknown."""


UNIT_BYTES = 1_024
"""A batch costs a unit for each event, and one for each KiB, which take the writer about the same time."""

OnRelease: TypeAlias = "Callable[[Connection, Sequence[str]], None]"
"""Is called with the ids of refused events that leave the quarantine."""


class BatchMode(Enum):
    """What becomes of a batch when one of its events is refused."""

    ALL_OR_NOTHING = 1
    INDEPENDENT = 2


class UnreadableRequest(msgspec.Struct, frozen=True):
    """A request that could not be read as an event: it and its size, the parameters of its path, and what it names.

    The names are empty where they cannot be found, and are not validated.
    """

    request: Callable[[], bytes]
    size: int
    name: str = ""
    contact_id: str = ""
    email: str = ""
    idempotency_key: str = ""
    params: Mapping[str, str] = {}


# A msgspec struct: one is made for every event, in a quarter of the time of a slotted class.
class Draft(msgspec.Struct):
    """An event between its request and its response.

    It is one object for speed. Its fields are set in three states:

        requested   by the API. Not changed afterwards.
        validated   by `validate_draft`: `definition`, `properties` and `coercions` with their JSON texts `encoded`, or
                    `error`. Repeated, and all of it replaced, each time the catalog turns out to have changed.
        decided     by the commit: `event` and `matches`, or `error`. Read by the API once `Batch.done` is set.

    The request: either `contact_id` or `email`, which is lower-cased, is filled. `given` is the payload, `occurred_at`
    in microseconds. `rules` are those of the sender's dialect, in place of the project's. `invalid` is the error of a
    request that could not be read, which is `unread`; such a draft is refused without being validated.

    A draft that was refused before has the `refused_id` of that event in the quarantine, and `sent_at`, when it was
    refused: it occurred then, if the request gives no other time.

    `pre_evaluated` has the outcomes of conditions that were evaluated before the commit, at `pre_evaluated_at`.

    A `duplicate` repeats an earlier send with the same idempotency key and has the event and matches of that one.
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
    unread: UnreadableRequest | None = None
    refused_id: str = ""
    sent_at: int | None = None
    # validated
    error: Exception | None = None
    definition: LiveDefinition | None = None
    properties: dict[str, Any] = {}
    coercions: tuple[Coercion, ...] = ()
    omitted_coercions: int = 0
    encoded: tuple[str, str] = ("", "")
    # decided
    event: Event | None = None
    matches: tuple[tuple[Match, Automation], ...] = ()
    duplicate: bool = False
    # pre-evaluated
    pre_evaluated: tuple[PreEvaluated, ...] = ()
    pre_evaluated_at: int | None = None

    def occurred(self, now: int) -> int:
        """Return when the event occurred: when it was sent, unless the request says something else."""
        if self.occurred_at is not None:
            return self.occurred_at
        return now if self.sent_at is None else self.sent_at

    def fingerprint(self) -> str:
        """Return a digest of the request, which distinguishes a repeated send from a reused idempotency key."""
        content = (self.name, self.contact_id, self.email, self.given, self.occurred_at)
        return sha256(msgspec.json.encode(content, order="deterministic")).hexdigest()[:32]


class Batch:
    """Drafts of one project that are decided in one transaction. `done` is resolved when they are decided and durable.

    Its drafts were validated by `snapshot`. `size` is the number of bytes of the request, or an estimate of it, and
    `caller` is who sent it. If its drafts were refused before, `on_release` is called with those that leave the
    quarantine, in the transaction that records them.

    A large independent batch is decided in parts, each in a transaction of its own: they are batches too, and stand in
    the queue for the `whole`. If some parts fail, the drafts of these have the failure as their error.

    `units` are what it costs the writer, roughly.

    `pre_evaluated_by` are the automations whose conditions were evaluated before its commit, and `rounds` is how often
    a commit has deferred it. `traceparent` is stored with its events. While it is queued, `refused` is whether every
    event of it is.
    """

    __slots__ = (
        "_left",
        "_parts",
        "_whole",
        "caller",
        "done",
        "drafts",
        "mode",
        "on_release",
        "pre_evaluated_by",
        "refused",
        "rounds",
        "size",
        "snapshot",
        "traceparent",
        "units",
    )

    def __init__(
        self,
        snapshot: CatalogSnapshot,
        drafts: Sequence[Draft],
        mode: BatchMode,
        done: asyncio.Future[None],
        size: int = 0,
        *,
        on_release: OnRelease | None = None,
    ) -> None:
        self.caller = call_context.current()
        self.on_release = on_release
        self.snapshot = snapshot
        self.drafts = drafts
        self.mode = mode
        self.done = done
        self.size = size or EVENT_BYTES * len(drafts)
        self.units = len(drafts) + self.size / UNIT_BYTES
        self.pre_evaluated_by: LiveAutomations | None = None
        self.rounds = 0
        self.refused = False
        self.traceparent = ""
        # Not itself, and parts only while they are stored: events of a batch that refers to itself would stay in memory
        # until the next collection of garbage, which is rare (`server.process.runtime`).
        self._whole: Batch | None = None
        self._parts: list[Batch] = []
        self._left = 0

    @property
    def reingests(self) -> bool:
        """Whether its drafts were refused before."""
        return self.on_release is not None

    @property
    def whole(self) -> Batch:
        """The batch that this is a part of, or else this batch."""
        return self._whole or self

    def split(self, events: int) -> Sequence[Batch]:
        """Return the parts in which the batch is stored: one, or several of this many events."""
        if self.mode is BatchMode.ALL_OR_NOTHING or len(self.drafts) <= events:
            return (self,)
        loop = self.done.get_loop()
        for start in range(0, len(self.drafts), events):
            drafts = self.drafts[start : start + events]
            size = self.size * len(drafts) // len(self.drafts)
            part = Batch(self.snapshot, drafts, self.mode, loop.create_future(), size, on_release=self.on_release)
            part.pre_evaluated_by, part.rounds, part._whole, part.caller = (
                self.pre_evaluated_by,
                self.rounds,
                self,
                self.caller,
            )
            part.traceparent = self.traceparent
            self._parts.append(part)
        self._left = len(self._parts)
        return self._parts

    def abandoned(self) -> bool:
        """Return whether nobody waits for the result."""
        return self.done.done() or self.whole.done.done()

    def succeeded(self) -> bool:
        """Return whether it was decided, and its caller has the result."""
        return self.done.done() and not self.done.cancelled() and self.done.exception() is None

    def resolve(self, error: Exception | None = None) -> None:
        """Resolve `done`, unless nobody waits for it any more."""
        if self.done.done():
            return
        if error is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(error)
            # The caller may be gone; that is no news for the log.
            self.done.exception()
        if self._whole is not None:
            self._whole.part_resolved()

    def part_resolved(self) -> None:
        """Resolve this batch once each of its parts is: as a failure only if nothing of it was stored."""
        self._left -= 1
        if self._left:
            return
        parts, self._parts = self._parts, []
        failures = [(part, error) for part in parts if (error := part.done.exception()) is not None]
        if len(failures) == len(parts):
            doubtful = [error for _, error in failures if isinstance(error, StorageUnavailable)]
            # If a part may have been stored, the caller must know.
            self.resolve(doubtful[0] if doubtful else failures[0][1])  # type: ignore[arg-type]  # what it was given
            return
        for part, error in failures:
            for draft in part.drafts:
                draft.error = draft.error or error  # type: ignore[assignment]  # as above
                draft.event, draft.matches, draft.duplicate = None, (), False
        self.resolve()

    def all_refused(self) -> bool:
        """Return whether every event is refused, as far as validation can tell."""
        for draft in self.drafts:
            if draft.error is None:
                return self.rejected()
        return True

    def rejected(self) -> bool:
        """Return whether the batch is rejected as a whole."""
        return self.mode is BatchMode.ALL_OR_NOTHING and any(draft.error is not None for draft in self.drafts)

    def worth_storing(self) -> bool:
        """Return whether a commit could accept an event of the batch, or quarantine a refused one.

        A refused draft with an idempotency key may repeat an accepted one, which only the database knows.
        """
        if self.snapshot.rules.quarantines and any(
            draft.error is not None and not draft.refused_id for draft in self.drafts
        ):
            return True
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
    violations = chain.from_iterable(_violations(index, error) for index, error in failed)
    first = f"events[{failed[0][0]}]: {failed[0][1]}"
    return BatchRejected(
        f"{len(failed)} of {len(drafts)} events {'was' if len(failed) == 1 else 'were'} rejected, so none was stored."
        f" The first one: {first}",
        violations=[*islice(violations, MAX_REPORTED)],
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
