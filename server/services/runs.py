"""The runs of automations, as engines move them."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from automation import run_store as store
from automation import run_transitions
from automation.automation_store import automation_ids, automation_key
from automation.errors import RunFinished, RunNotFound
from automation.match_log import matches_at
from automation.run_pages import RunFilter, list_runs
from automation.runs import Wait
from registry.log_ids import position_of
from registry.names import check_event_name
from registry.times.timestamps import now_micros
from server.errors import InvalidArgument
from server.services.automations import check_condition, parse_ahead
from server.storage.clock import transaction_time
from server.storage.contacts import contact_ids, contact_key
from server.storage.events.reading import event_ids
from server.storage.projects.heads import lock_heads
from server.storage.transactions import applied

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from sqlalchemy import Connection

    from automation.matches import MatchKind
    from automation.runs import Run, RunOutcome, RunStatus
    from server.paging import Page, PageRequest
    from server.services.contacts import ContactRef
    from server.sharing.work_thread import WorkThread
    from server.storage.database import Database
    from server.storage.projects.heads import Head

MIN_TIMEOUT: Final = 1_000_000
MAX_TIMEOUT: Final = 366 * 86_400 * 1_000_000
"""The bounds of the time that a run waits for an event, in microseconds."""

MAX_REASON: Final = 1_000
"""The most characters of the reason with which a run ends."""


@dataclass(frozen=True, slots=True)
class RunView:
    """A run with the public ids of its automation, contact, event and newest match.

    `contact_id` is empty if there is none, and `event_id` if that event has been deleted. `match_id` is empty and
    `match_kind` None if that match has been deleted.
    """

    run: Run
    automation_id: str
    contact_id: str
    event_id: str
    match_id: str
    match_kind: MatchKind | None


@dataclass(frozen=True, slots=True)
class RunQuery:
    """A filter of runs; empty fields match all."""

    statuses: Sequence[RunStatus] = ()
    automation_id: str = ""
    contact: ContactRef | None = None


@dataclass(frozen=True, slots=True)
class AwaitedEvent:
    """The event that a run waits for; `timeout` in microseconds, None to wait forever."""

    event_name: str
    condition: str = ""
    timeout: int | None = None


@dataclass(frozen=True, slots=True)
class EngineUpdate:
    """The additions of an engine to its request: the id of the match that it works on, if known, and new attributes."""

    match_id: str = ""
    attributes: Mapping[str, Any] | None = field(default=None, hash=False)


class Runs:
    """Reads and moves runs. Each is moved under the lock of its project's head, in line with the events."""

    def __init__(
        self, database: Database, thread: WorkThread, count: Callable[[RunStatus], None] = lambda _: None
    ) -> None:
        """`count` is called with each status that a run takes; conditions are parsed in the thread."""
        self._count = count
        self._database = database
        self._thread = thread

    async def get(self, project_pk: int, run_id: str) -> RunView:
        """Read a run. Raise RunNotFound."""
        return await self._database.read(
            lambda connection: _views(connection, project_pk, [store.get_run(connection, project_pk, run_id)])[0]
        )

    async def list(self, project_pk: int, query: RunQuery, request: PageRequest) -> Page[RunView]:
        """List runs, newest first; none if the automation or contact does not exist. A page may be short."""
        limit, filters = request.limit(), ("runs", project_pk, query)
        (before,) = request.cursor(filters, int) or (None,)
        views, resume = await self._database.read(
            lambda connection: _found(connection, project_pk, query, limit, before)
        )
        return request.page(
            views,
            filters,
            lambda view: (view.run.number,),
            more=resume is not None,
            resume=None if resume is None else (resume,),
        )

    async def list_after(
        self, project_pk: int, query: RunQuery, limit: int, after_id: str
    ) -> tuple[Sequence[RunView], bool]:
        """List runs, newest first, after an id, and whether there are more. Raise InvalidArgument.

        The caller continues after the last run, so a page is short only at the end of the list.
        """
        before = position_of(after_id) if after_id else None
        if after_id and before is None:
            message = f'"{after_id[:60]}" is not the ID of a run'
            raise InvalidArgument.at("after", "INVALID_ARGUMENT", message)
        found: list[RunView] = []
        while len(found) <= limit:
            rest = limit + 1 - len(found)
            views, before = await self._database.read(
                partial(_found, project_pk=project_pk, query=query, limit=rest, before=before)
            )
            found += views
            if before is None:
                break
        return found[:limit], len(found) > limit

    async def get_of_automation(self, project_pk: int, automation_id: str, run_id: str) -> RunView:
        """Read a run of one automation. Raise RunNotFound."""
        found = await self.get(project_pk, run_id)
        if found.automation_id != automation_id:
            raise RunNotFound(run_id)
        return found

    async def await_event(self, project_pk: int, run_id: str, awaited: AwaitedEvent, engine: EngineUpdate) -> RunView:
        """Let a run wait for the next event of its contact, or until the timeout.

        Raise InvalidName, InvalidArgument, ConditionInvalid, RunNotFound, RunFinished, RunMovedOn and
        RunWithoutContact.
        """
        check_event_name(awaited.event_name, "event_name")
        _check_timeout(awaited.timeout)
        await parse_ahead(self._thread, project_pk, awaited.condition)

        def park(connection: Connection, head: Head, current: Run) -> Run:
            run_transitions.check_newest(connection, project_pk, current, engine.match_id)
            check_condition(connection, project_pk, awaited.event_name, awaited.condition)
            now = now_micros()
            timeout_at = 0 if awaited.timeout is None else transaction_time(connection) + awaited.timeout
            wait = Wait(awaited.event_name, awaited.condition, head.position, timeout_at)
            return run_transitions.set_run_waiting(connection, project_pk, current, wait, engine.attributes, now)

        return await self._move(project_pk, run_id, park)

    async def complete(
        self, project_pk: int, run_id: str, outcome: RunOutcome, reason: str, engine: EngineUpdate
    ) -> RunView:
        """Finish a run; one that has finished with this outcome stays as it is.

        Raise InvalidArgument, RunNotFound, RunFinished and RunMovedOn.
        """
        _check_reason(reason)

        def complete(connection: Connection, head: Head, current: Run) -> Run:
            run_transitions.check_newest(connection, project_pk, current, engine.match_id)
            return run_transitions.finish_run(
                connection, project_pk, current, outcome.status, reason, head.position, now_micros(), engine.attributes
            )

        return await self._move(project_pk, run_id, complete)

    async def cancel(
        self, project_pk: int, run_id: str, reason: str, etag: str, statuses: Collection[RunStatus] = ()
    ) -> RunView:
        """Cancel a run; a cancelled one stays as it is. With `statuses` only one that has one of them.

        Raise InvalidArgument, RunNotFound, RunFinished, also for another status, and EtagMismatch.
        """
        _check_reason(reason)

        def cancel(connection: Connection, head: Head, current: Run) -> Run:
            if statuses and current.status not in statuses:
                raise RunFinished(current.id, current.status)
            return run_transitions.cancel_run(
                connection, project_pk, current, reason, etag, head.position, now_micros()
            )

        return await self._move(project_pk, run_id, cancel)

    async def _move(self, project_pk: int, run_id: str, move: Callable[[Connection, Head, Run], Run]) -> RunView:
        def work(connection: Connection) -> tuple[RunView, bool]:
            head = lock_heads(connection, [project_pk])[project_pk]
            before = store.get_run(connection, project_pk, run_id)
            moved = move(connection, head, before)
            return _views(connection, project_pk, [moved])[0], moved.status is not before.status

        def count(moved: tuple[RunView, bool]) -> None:
            view, changed = moved
            if changed:
                self._count(view.run.status)

        view, _ = await applied(self._database.write(work), count)
        return view


def _views(connection: Connection, project_pk: int, runs: Sequence[Run]) -> list[RunView]:
    """Look up the public ids that runs refer to, in one query for each kind."""
    automations = automation_ids(connection, {run.automation_key for run in runs})
    contacts = contact_ids(connection, {run.contact_key for run in runs})
    events = event_ids(connection, project_pk, {run.event_position for run in runs})
    matches = matches_at(connection, project_pk, [run.match_position for run in runs])
    return [
        RunView(
            run,
            automations[run.automation_key],
            contacts.get(run.contact_key, ""),
            events.get(run.event_position, ""),
            match.id if match else "",
            match.kind if match else None,
        )
        for run in runs
        for match in (matches.get(run.match_position),)
    ]


def _found(
    connection: Connection, project_pk: int, query: RunQuery, limit: int, before: int | None
) -> tuple[list[RunView], int | None]:
    """Return a page of runs, and the number of the run after which the next one begins."""
    run_filter = _filter(connection, project_pk, query)
    if run_filter is None:
        return [], None
    found, resume = list_runs(connection, project_pk, run_filter, limit, before)
    return _views(connection, project_pk, found), resume


def _filter(connection: Connection, project_pk: int, query: RunQuery) -> RunFilter | None:
    """Return the filter with the keys of its automation and contact; None if one of them does not exist."""
    automation = contact = None
    if query.automation_id:
        automation = automation_key(connection, project_pk, query.automation_id)
        if automation is None:
            return None
    if query.contact is not None:
        name = query.contact
        contact = contact_key(connection, project_pk, contact_id=name.id, email=name.email)
        if contact is None:
            return None
    return RunFilter(query.statuses, automation, contact)


def _check_timeout(timeout: int | None) -> None:
    if timeout is not None and not MIN_TIMEOUT <= timeout <= MAX_TIMEOUT:
        message = f"timeout is {timeout / 1_000_000:g} s; it must be 1 second to 366 days, or unset to wait forever"
        raise InvalidArgument.at("timeout", "OUT_OF_RANGE", message)


def _check_reason(reason: str) -> None:
    if len(reason) > MAX_REASON:
        message = f"reason has {len(reason):,} characters; at most {MAX_REASON:,} are allowed"
        raise InvalidArgument.at("reason", "TOO_LARGE", message)
