"""Backtests: the validation results of a candidate schema on recorded events."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

import msgspec

from registry.coercion.report import CoercedPayload
from registry.coercion.validation import compile_schema
from registry.definitions.schema import check_schema
from registry.errors import PayloadRejected
from registry.paths import without_indexes
from registry.personal.masking import PersonalPaths
from registry.sql.unreadable_rows import UNREADABLE, UNREADABLE_ROWS
from registry.storage import definition_store, revision_store
from server.current_call.personal_access import personal_shown
from server.errors import Stopping
from server.storage.events.history import name_range, recorded_payloads
from server.storage.events.reading import EventFilter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from sqlalchemy import Connection

    from registry.coercion.validation import Coercer
    from registry.definitions.event_definitions import Revision
    from registry.definitions.schema import Schema
    from registry.errors import Violation
    from server.auth.caller import Caller
    from server.storage.database import Database
    from server.storage.events.history import NameRange, RecordedPayload

CHUNK_EVENTS: Final = 1_000
PROGRESS_SECONDS: Final = 0.25
SLICE_SECONDS: Final = 0.001
"""How long events are compared before the event loop is released, for at least as long again."""
DEFAULT_SAMPLES: Final = 10
MAX_REASONS: Final = 100
MAX_UNKNOWN: Final = 1_000
"""How many different undeclared properties are counted as reasons of their own; later ones are not counted."""
SAMPLE_CHARACTERS: Final = 300_000
"""No more samples of an outcome are kept once they hold this many characters of payload."""


NOT_HIDDEN: Final = PersonalPaths()


class Outcome(StrEnum):
    """How the candidate's result differs from that of the compared revision."""

    NEWLY_REJECTED = "newly_rejected"
    NEWLY_ACCEPTED = "newly_accepted"
    DIFFERENTLY_COERCED = "differently_coerced"


@dataclass(frozen=True, slots=True)
class BacktestScope:
    """The revision to compare with (0 for the latest) and the events (0 for no limit). Times in microseconds."""

    revision: int = 0
    received_from: int | None = None
    received_until: int | None = None
    max_events: int = 0
    max_samples: int = DEFAULT_SAMPLES


@dataclass(frozen=True, slots=True)
class Progress:
    """How many events were compared, of how many."""

    compared: int
    events: int


@dataclass(frozen=True, slots=True)
class Sample:
    """One event with different results; `before` or `after` is None if that side refuses it, with `violations`."""

    outcome: Outcome
    event_id: str
    position: int
    revision: int
    sent: dict[str, Any]
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    violations: tuple[Violation, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """The report; `reasons` counts newly rejected events by path, without array indexes, and reason.

    Unreadable and erased events were skipped; they are not among `events`.
    """

    revision: int
    events: int
    outcomes: Counter[Outcome]
    reasons: list[tuple[tuple[str, str], int]]
    samples: list[Sample]
    head: int
    unreadable: int
    erased: int = 0


class Backtests:
    """Compares schemas on recorded events. Changes nothing."""

    def __init__(self, database: Database, stopping: asyncio.Event) -> None:
        self._database = database
        self._stopping = stopping

    async def run(
        self, caller: Caller, name_or_id: str, candidate: Schema, scope: BacktestScope
    ) -> AsyncIterator[Progress | Report]:
        """Compare the results of two schemas on the recorded events of the definition's name.

        The revisions that validated the events when they were received do not matter. Yield progress first and
        repeatedly, and the report last. Raise InvalidSchema, DefinitionNotFound and
        RevisionNotFound, and Stopping at a shutdown.
        """
        check_schema(candidate)
        latest, compared, within = await self._database.read(
            lambda connection: _begin(connection, caller, name_or_id, scope)
        )
        hidden = PersonalPaths() if personal_shown() else PersonalPaths.of(latest, compared.schema, candidate)
        tally = _Tally(compile_schema(compared.schema), compile_schema(candidate), scope.max_samples, hidden)
        yield Progress(0, within.count)
        reported, position = monotonic(), within.low - 1
        while chunk := await self._read(caller.project_pk, within, position):
            await self._compare(chunk, tally)
            position = chunk[-1].position
            if monotonic() - reported >= PROGRESS_SECONDS:
                yield Progress(tally.compared, within.count)
                reported = monotonic()
        reasons = tally.reasons.most_common(MAX_REASONS)
        yield Report(
            revision=compared.number,
            events=tally.compared,
            outcomes=tally.outcomes,
            reasons=reasons,
            samples=tally.samples,
            head=within.head,
            unreadable=tally.unreadable,
            erased=tally.erased,
        )

    async def _read(self, project_pk: int, within: NameRange, after: int) -> list[RecordedPayload]:
        return await self._database.read(
            lambda connection: recorded_payloads(connection, project_pk, within, after, CHUNK_EVENTS)
        )

    async def _compare(self, events: Iterable[RecordedPayload], tally: _Tally) -> None:
        """Compare events in slices.

        The pauses leave the interpreter to the event loop and to the commits, which would wait for it otherwise.
        """
        began = monotonic()
        for event in events:
            tally.take(event)
            if (spent := monotonic() - began) > SLICE_SECONDS:
                if self._stopping.is_set():
                    raise Stopping
                await asyncio.sleep(spent)
                began = monotonic()


def _begin(
    connection: Connection, caller: Caller, name_or_id: str, scope: BacktestScope
) -> tuple[Schema, Revision, NameRange]:
    definition = definition_store.get_definition(connection, caller.project_id, name_or_id, deleted=True)
    compared = revision_store.get_revision(connection, definition.id, scope.revision or definition.revision, "revision")
    event_filter = EventFilter(definition.name, received_from=scope.received_from, received_until=scope.received_until)
    return definition.schema, compared, name_range(connection, caller.project_pk, event_filter, scope.max_events)


class _Tally:
    """The results of both sides so far, in bounded memory."""

    def __init__(
        self, compared: Coercer, candidate: Coercer, max_samples: int, hidden: PersonalPaths = NOT_HIDDEN
    ) -> None:
        self.compared = 0
        self.unreadable = 0
        self.erased = 0
        self.outcomes: Counter[Outcome] = Counter()
        self.reasons: Counter[tuple[str, str]] = Counter()
        self.samples: list[Sample] = []
        self._revision = compared
        self._candidate = candidate
        self._hidden = hidden
        self._unknown = 0
        self._places = dict.fromkeys(Outcome, max_samples)
        self._room = dict.fromkeys(Outcome, SAMPLE_CHARACTERS)

    def take(self, event: RecordedPayload) -> None:
        """Compare the results of both sides on an event."""
        if event.erased:
            self.erased += 1
            return
        try:
            sent = event.sent()
        except UNREADABLE as error:
            UNREADABLE_ROWS.report("event", event.id, error)
            self.unreadable += 1
            return
        before, after = _result(self._revision, sent), _result(self._candidate, sent)
        self.compared += 1
        outcome = _outcome(before, after)
        if outcome is None:
            return
        self.outcomes[outcome] += 1
        if outcome is Outcome.NEWLY_REJECTED:
            self._count_reasons(_violations(after))
        if self._places[outcome] and self._room[outcome] > 0:
            self._keep(outcome, event, sent, before, after)

    def _count_reasons(self, violations: Iterable[Violation]) -> None:
        for reason in {(without_indexes(one.path), one.reason) for one in violations}:
            if reason not in self.reasons and reason[1] == "UNKNOWN_PROPERTY":
                if self._unknown == MAX_UNKNOWN:
                    continue
                self._unknown += 1
            self.reasons[reason] += 1

    def _keep(
        self, outcome: Outcome, event: RecordedPayload, sent: dict[str, Any], before: _Side, after: _Side
    ) -> None:
        self._places[outcome] -= 1
        self._room[outcome] -= len(event.properties) + len(event.coercions)
        self.samples.append(
            Sample(
                outcome=outcome,
                event_id=event.id,
                position=event.position,
                revision=event.revision,
                sent=self._hidden.mask(sent),
                before=self._properties(before),
                after=self._properties(after),
                violations=self._hidden.mask_violations(_violations(before) or _violations(after)),
            )
        )

    def _properties(self, side: _Side) -> dict[str, Any] | None:
        return self._hidden.mask(side.properties) if isinstance(side, CoercedPayload) else None


_Side = CoercedPayload | PayloadRejected
"""The result of one side."""


def _result(coerce: Coercer, sent: dict[str, Any]) -> _Side:
    try:
        return coerce(sent)
    except PayloadRejected as rejection:
        return rejection


def _outcome(before: _Side, after: _Side) -> Outcome | None:
    """Return the difference; None if both accept with equal properties, or both refuse."""
    if type(before) is CoercedPayload:
        if type(after) is not CoercedPayload:
            return Outcome.NEWLY_REJECTED
        return None if _equal(before, after) else Outcome.DIFFERENTLY_COERCED
    return Outcome.NEWLY_ACCEPTED if type(after) is CoercedPayload else None


def _equal(one: CoercedPayload, other: CoercedPayload) -> bool:
    """Whether two results have the same JSON text: to Python, 1 and True are equal."""
    if not one.coercions and not other.coercions:
        return True
    return msgspec.json.encode(one.properties) == msgspec.json.encode(other.properties)


def _violations(side: _Side) -> tuple[Violation, ...]:
    return side.violations if isinstance(side, PayloadRejected) else ()
