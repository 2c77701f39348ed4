"""Pre-evaluation: costly conditions are evaluated before the transaction that stores the events, and outside of it.

In the transaction all senders wait, and on PostgreSQL the event loop, too. So a batch has little room for evaluating
conditions there, COMMIT_COST. One that is likely to need more is pre-evaluated before it is queued; one that needed
more after all is deferred, pre-evaluated, and committed then.

    estimate   by the texts of the conditions, the size of the request, and what recent events of the name have cost
    evaluate   in one thread, a few milliseconds at a time, projects in turn; it ends when the caller gives up
    refuse     a batch that takes more than BATCH_COST, before anything is written; one event never does
    commit     decides again, with the same limits (`automation.matcher`), and takes the outcomes that still hold

An outcome holds if the condition would read the same values: the event is the same and validated by the same revision,
and the contact has the same address and properties. The automations may have changed: outcomes are known by the text of
the condition. What only the commit knows, such as the id of the event, is not known here; the `late` conditions that
read it have a small limit of their own instead.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

import msgspec

from automation.automations import EntryRule
from automation.conditions.costs import estimated
from automation.conditions.subject import Subject
from automation.matcher import EVENT_COST, EVENT_MATCHES, KnownOutcomes, OutcomeRecorder
from automation.matching import awaits, compiled
from automation.run_store import waiting_runs
from server.errors import BatchTooCostly
from server.ingest.contacts import CommitContacts, UnknownContactAction, unknown_contact_action
from server.ingest.draft import BatchMode
from server.ingest.pre_evaluated import PreEvaluated
from server.sharing.work_thread import SLICE_SECONDS
from server.storage.clock import database_now
from server.storage.contacts import contact_properties

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from sqlalchemy import Connection

    from automation.matcher import Matcher
    from automation.matching import EventName
    from automation.runs import Run
    from server.ingest.draft import Batch, Draft
    from server.model import Rules
    from server.sharing.work_thread import WorkThread
    from server.storage.database import Database

COMMIT_COST: Final = 100_000
COMMIT_EVENT_COST: Final = 100
"""What conditions may cost in the transaction of a batch: COMMIT_COST, and COMMIT_EVENT_COST for each of its events.

Costs are counted in steps of evaluation. 100,000 take about 15 ms; 100 take about as long as storing an event.
"""

BATCH_COST: Final = 2_000_000
BATCH_EVENT_COST: Final = 1_000
"""What conditions may cost on all events of a batch: BATCH_COST, about half a second, or BATCH_EVENT_COST for each
event if that is more, because large batches with many cheap conditions are common.
"""

BATCH_MATCHES: Final = 10_000
"""The most matches that are stored in one transaction: about 100 ms. An independent batch is divided."""


def estimated_cost(batch: Batch) -> float:
    """Return the likely cost of the conditions on the events of a batch.

    Raise BatchTooCostly if its events certainly have too many matches for one transaction.
    """
    if not batch.snapshot.automations:
        return 0.0
    # Of many events few differ in this, so names and rules are looked at once for each kind.
    each = [(draft.definition or draft.name, draft.rules) for draft in batch.drafts if draft.error is None]
    # A Counter takes three times as long for one event as all the rest here, and to hash rules takes 1 us.
    kinds = [(one, 1) for one in each] if len(each) < 2 else Counter(each).items()
    cost, matches = 0.0, 0
    for (defined, rules), count in kinds:
        name = defined if isinstance(defined, str) else defined.name
        ignore_case = (rules or batch.snapshot.rules).ignore_case
        matcher = batch.snapshot.automations.matcher(name, ignore_case=ignore_case)
        if matcher is not None:
            cost += count * matcher.usual_cost
            matches += count * min(matcher.always, EVENT_MATCHES)
            if matcher.growth:
                constant, *others = matcher.growth
                cost += count * constant + estimated((0.0, *others), batch.size)
    _check_matches(batch, matches)
    return cost


def room_of(batch: Batch) -> int:
    """Return what the conditions on a batch may cost in its transaction."""
    return COMMIT_COST + COMMIT_EVENT_COST * len(batch.drafts)


def event_name(draft: Draft, project_rules: Rules) -> EventName:
    """Return the name by which a draft's event is matched."""
    rules = draft.rules or project_rules
    return draft.definition.name if draft.definition else draft.name, rules.ignore_case


def _check_matches(batch: Batch, matches: int) -> None:
    if matches > BATCH_MATCHES and batch.mode is BatchMode.ALL_OR_NOTHING:
        raise BatchTooCostly.by_matches(BATCH_MATCHES)


class PreEvaluator:
    """Evaluates the conditions of batches in a thread."""

    def __init__(self, database: Database, thread: WorkThread) -> None:
        self._database = database
        self._thread = thread

    async def evaluate(self, batch: Batch) -> None:
        """Evaluate the conditions on the events of a batch. Raise BatchTooCostly.

        The contacts are read before the transaction, but not before the batch was sent: so whoever changes a contact
        and then sends an event finds the change in its matches.
        """
        about = await self._database.read(lambda connection: _read(connection, batch), brief=True)
        key = batch.snapshot.project_pk
        work = _Work(batch, about, partial(self._thread.give_way, key))
        await self._thread.run_in_slices(key, work.proceed)
        batch.pre_evaluated_by = batch.snapshot.automations


class _About(msgspec.Struct):
    """What was read about the contacts of a batch."""

    contacts: CommitContacts
    properties: Mapping[int, Mapping[str, Any]]
    waiting: Sequence[Run]


def _read(connection: Connection, batch: Batch) -> _About:
    project_pk = batch.snapshot.project_pk
    contacts = CommitContacts(connection, project_pk, {}, batch.drafts)
    keys = sorted(contacts.keys())
    return _About(contacts, contact_properties(connection, keys), waiting_runs(connection, project_pk, keys))


class _Work:
    """The pre-evaluation of one batch."""

    def __init__(self, batch: Batch, about: _About, pause: Callable[[], None]) -> None:
        self._batch = batch
        self._pause = pause
        self._about = about
        self._drafts = iter(batch.drafts)
        self._waiting: dict[int, list[Run]] = defaultdict(list)
        for run in about.waiting:
            self._waiting[run.contact_key].append(run)
        self._now = database_now()
        self._most = max(BATCH_COST, BATCH_EVENT_COST * len(batch.drafts))
        self._cost = self._matches = 0

    def proceed(self) -> bool:
        """Evaluate events for a short time. Return whether all are evaluated. Raise BatchTooCostly."""
        ends_at = perf_counter() + SLICE_SECONDS
        for draft in self._drafts:
            if draft.error is None:
                self._evaluate(draft)
            if perf_counter() > ends_at:
                return False
        return True

    def _evaluate(self, draft: Draft) -> None:
        name = event_name(draft, self._batch.snapshot.rules)
        matcher = self._batch.snapshot.automations.matcher(name[0], ignore_case=name[1])
        contact = self._about.contacts.find(draft)
        waiting = [run for run in self._waiting[contact.key] if _reads(run, name)] if contact is not None else []
        draft.pre_evaluated_at = self._now
        draft.pre_evaluated = tuple(
            self._with_contact(draft, subject, matcher, waiting) for subject in self._subjects(draft, name[0])
        )

    def _subjects(self, draft: Draft, name: str) -> Iterator[Subject]:
        """Yield what conditions read of the event, with each contact that it may have by the time of the commit."""
        contact = self._about.contacts.find(draft)
        action = unknown_contact_action(draft, draft.rules or self._batch.snapshot.rules)
        definition = draft.definition
        event = Subject(
            draft.properties,
            name,
            "",
            definition.revision if definition else 0,
            draft.occurred(self._now),
            self._now,
        )
        if contact is not None:
            properties = self._about.properties.get(contact.key, {})
            yield msgspec.structs.replace(
                event, contact_id=contact.id, email=contact.email or draft.email, contact_properties=properties
            )
            return
        if action in {UnknownContactAction.CREATE, UnknownContactAction.CREATE_ON_MATCH}:
            yield msgspec.structs.replace(event, contact_id="", email=draft.email, contact_properties={})
        if action in {UnknownContactAction.RECORD_WITHOUT, UnknownContactAction.CREATE_ON_MATCH}:
            yield event

    def _with_contact(
        self, draft: Draft, subject: Subject, matcher: Matcher | None, waiting: Sequence[Run]
    ) -> PreEvaluated:
        recorder = OutcomeRecorder(subject, self._pause)
        known = KnownOutcomes(recorder.costly)
        cost = 0
        for run in waiting:
            if cost < EVENT_COST and run.wait is not None:
                cost += recorder.outcome(compiled(run.wait.condition))[1]
        if matcher is not None:
            known.matcher, known.decision = matcher, matcher.decide(subject, recorder)
            cost += known.decision.cost
            if known.decision.by_late:
                known.outcomes = recorder.outcomes
            self._matches += sum(each.entry_rule is EntryRule.EVERY_TIME for each in known.decision.matching)
        self._cost += cost
        if self._cost > self._most:
            raise BatchTooCostly.by_cost(self._most)
        _check_matches(self._batch, self._matches)
        return PreEvaluated(subject, draft.definition.id if draft.definition else "", known)


def _reads(run: Run, name: EventName) -> bool:
    """Return whether a run waits for an event of a name that satisfies a condition."""
    wait = run.wait
    if wait is None or not wait.condition or wait.event_name.casefold() != name[0].casefold():
        return False
    return awaits(run, name)
