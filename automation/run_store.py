"""The SQL of runs.

Every function takes an open connection and neither begins nor ends a transaction. Writers read before they write, so
the caller lets only one transaction at a time write the runs of a project. Times are microseconds UTC.

The status of a run changes as follows; a run that has ended never changes again:

    from                      to                             by
    -                         QUEUED                         new_run_values: a match started it
    QUEUED                    RUNNING                        mark_running: its newest match was delivered
    QUEUED, RUNNING, WAITING  WAITING                        set_run_waiting: an engine awaits an event
    WAITING                   QUEUED                         resume_runs: the event came, or the wait timed out
    QUEUED, RUNNING, WAITING  COMPLETED, FAILED or SKIPPED   finish_run: an engine reports the outcome
    QUEUED, RUNNING, WAITING  CANCELLED                      cancel_run, cancel_runs, cancel_runs_of_contacts
"""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import and_, bindparam, case, func, select, update

from automation.bulk import DIALECTS, among, chunks, execute_many, packed, spans
from automation.errors import RunFinished, RunMovedOn, RunNotFound, RunWithoutContact
from automation.match_log import matches_at
from automation.prepared_statements import Prepared
from automation.runs import OPEN, Run, RunStatus, Wait
from automation.tables import TIMED, WAITING, hidden_from_planner, run
from registry.etags import check_etag
from registry.log_ids import position_of
from registry.unreadable_rows import load_reported

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from sqlalchemy import ColumnElement, Connection

    from automation.matches import Match

COUNTED = 10_000
"""Waiting runs are counted up to this number."""

_run = run.c
_run_project = hidden_from_planner(_run.project_key)


def get_run(connection: Connection, project_pk: int, run_id: str) -> Run:
    """Return one run. Raise RunNotFound."""
    number = position_of(run_id)
    if number is None:
        raise RunNotFound(run_id)
    row = connection.execute(
        select(run).where(_run.project_key == project_pk, _run.number == number, _run.id == run_id)
    ).one_or_none()
    if row is None:
        raise RunNotFound(run_id)
    return to_run(row)


def run_counts(connection: Connection, automation_keys: Sequence[int]) -> dict[int, tuple[int, int]]:
    """Return the numbers of all runs and of completed runs of automations, by the keys of the automations."""
    completed = func.sum(case((_run.status == RunStatus.COMPLETED, 1), else_=0))
    query = select(_run.automation_key, func.count(), completed).where(_run.automation_key.in_(automation_keys))
    return {row[0]: (row[1], row[2]) for row in connection.execute(query.group_by(_run.automation_key))}


def newest_runs(connection: Connection, project_pk: int, automation_keys: Sequence[int]) -> dict[int, Run]:
    """Return the newest run of each automation, by the keys of the automations."""
    numbers = select(func.max(_run.number)).where(_run.automation_key.in_(automation_keys))
    newest = list(connection.scalars(numbers.group_by(_run.automation_key)))
    rows = connection.execute(select(run).where(_run.project_key == project_pk, _run.number.in_(newest)))
    return {row.automation_key: to_run(row) for row in rows}


def waiting_runs(connection: Connection, project_pk: int, contact_keys: Sequence[int]) -> list[Run]:
    """Return the waiting runs of contacts, oldest first."""
    rows = _WAITING_OF.rows(connection, project=project_pk, contacts=packed(connection, contact_keys))
    return sorted((to_run(_named(row)) for row in rows), key=lambda waiting_run: waiting_run.number)


def entries_of(
    connection: Connection, project_pk: int, automation_keys: Sequence[int], contact_keys: Sequence[int]
) -> dict[tuple[int, int], bool]:
    """Return the pairs of automations and contacts with a run, each with whether such a run is still open."""
    entries: dict[tuple[int, int], bool] = {}
    automations, contacts = packed(connection, automation_keys), packed(connection, contact_keys)
    for automation_key, contact_key, status in _ENTRIES.rows(
        connection, project=project_pk, automations=automations, contacts=contacts
    ):
        pair = automation_key, contact_key
        entries[pair] = entries.get(pair, False) or status in OPEN
    return entries


def entries_before(
    connection: Connection,
    project_pk: int,
    automation_keys: Collection[int],
    contact_key: int,
    position: int,
    *,
    open_only: bool,
) -> dict[int, str]:
    """Return the automations that a contact had entered before the event at a position, with the id of the first run.

    With `open_only`, only those with a run that was still open at that event.
    """
    query = select(_run.automation_key, _run.id).where(
        _run_project == project_pk,
        _run.contact_key == contact_key,
        _run.automation_key.in_(automation_keys),
        _run.event_position < position,
    )
    if open_only:
        query = query.where((_run.finished_position == 0) | (_run.finished_position >= position))
    return {row.automation_key: row.id for row in connection.execute(query.order_by(_run.number.desc()))}


def awaited_conditions(connection: Connection, project_pk: int) -> list[tuple[int, str, str]]:
    """Return the distinct conditions of waiting runs: key of the automation, name of the event, condition."""
    query = select(_run.automation_key, _run.wait_event, _run.wait_condition).distinct()
    query = query.where(WAITING, _run_project == project_pk, _run.wait_condition != "")
    return [(row.automation_key, row.wait_event, row.wait_condition) for row in connection.execute(query)]


def due_projects(connection: Connection, now: int) -> list[int]:
    """Return the projects with waiting runs whose timeout has passed."""
    return list(connection.scalars(select(_run.project_key).where(TIMED, _run.timeout_at <= now).distinct()))


def due_runs(connection: Connection, project_pk: int, now: int, limit: int) -> list[Run]:
    """Return waiting runs of a project whose timeout has passed, the longest overdue first."""
    query = select(run).where(TIMED, _run.timeout_at <= now, _run_project == project_pk)
    return [to_run(row) for row in connection.execute(query.order_by(_run.timeout_at).limit(limit))]


def waiting_counts(connection: Connection, now: int) -> tuple[int, int]:
    """Count the waiting runs of all projects, and those of them whose time is over, each up to COUNTED."""
    waiting = select(_run.number).where(WAITING).limit(COUNTED).subquery()
    overdue = select(_run.number).where(TIMED, _run.timeout_at <= now).limit(COUNTED).subquery()
    counts = (select(func.count()).select_from(rows).scalar_subquery() for rows in (waiting, overdue))
    row = connection.execute(select(*counts)).one()
    return row[0], row[1]


def next_timeout(connection: Connection) -> int | None:
    """Return the time of the next timeout in any project; None if no run has one."""
    timeout_at: int | None = connection.scalar(select(func.min(_run.timeout_at)).where(TIMED))
    return timeout_at


def resume_runs(connection: Connection, project_pk: int, positions: Mapping[int, int], now: int) -> None:
    """Set waiting runs to queued, each with its newest match; `positions` has those of the matches by run number."""
    if positions:
        rows = [{"of": number, "at": position} for number, position in positions.items()]
        connection.execute(_RESUME, [{**row, "project": project_pk, "now": now} for row in rows])


def mark_running(connection: Connection, project_pk: int, matches: Iterable[Match]) -> None:
    """Set queued runs to running whose newest matches were delivered."""
    pairs = sorted((match.run_number, match.position) for match in matches)
    if connection.dialect.name != "sqlite":
        # Row by row and in one order: steps of several subscriptions may change the same runs.
        execute_many(connection, _MARK_RUNNING, [{"project": project_pk, "of": of, "at": at} for of, at in pairs])
    elif found := spans(pairs):
        for span in found:
            _MARK_SPAN_RUNNING.run(connection, project=project_pk, **span._asdict())
    elif pairs:
        # The newest match of a run is no other run's, so the two lists are as good as pairs.
        numbers, positions = zip(*pairs, strict=True)
        _MARK_ALL_RUNNING.run(
            connection, project=project_pk, numbers=packed(connection, numbers), positions=packed(connection, positions)
        )


def set_run_waiting(
    connection: Connection, project_pk: int, current: Run, wait: Wait, attributes: Mapping[str, Any] | None, now: int
) -> Run:
    """Set an open run to waiting; attributes that are None stay. Raise RunFinished and RunWithoutContact."""
    if current.status not in OPEN:
        raise RunFinished(current.id, current.status)
    if not current.contact_key:
        raise RunWithoutContact(current.id)
    kept = current.attributes if attributes is None else attributes
    return _write(connection, project_pk, current, now, status=RunStatus.WAITING, wait=wait, attributes=kept)


def finish_run(
    connection: Connection,
    project_pk: int,
    current: Run,
    status: RunStatus,
    reason: str,
    head: int,
    now: int,
    attributes: Mapping[str, Any] | None = None,
) -> Run:
    """Finish an open run; a run that was finished with the same status stays as it is.

    `head` is the position of the newest event. Attributes that are None stay. Raise RunFinished.
    """
    if current.status is status:
        return current
    if current.status not in OPEN:
        raise RunFinished(current.id, current.status)
    at = max(now, current.updated_at)
    ended = {"status": status, "reason": reason, "wait": None, "finished_at": at, "finished_position": head}
    kept = current.attributes if attributes is None else attributes
    return _write(connection, project_pk, current, now, attributes=kept, **ended)


def cancel_run(
    connection: Connection, project_pk: int, current: Run, reason: str, etag: str, head: int, now: int
) -> Run:
    """Cancel an open run; a cancelled one stays as it is. Raise EtagMismatch and RunFinished."""
    check_etag(etag, current.etag)
    return finish_run(connection, project_pk, current, RunStatus.CANCELLED, reason, head, now)


def cancel_runs(connection: Connection, project_pk: int, automation_key: int, reason: str, head: int, now: int) -> int:
    """Cancel the open runs of an automation. Return their number."""
    return _cancel(connection, project_pk, _run.automation_key == automation_key, reason, head, now)


def cancel_runs_of_contacts(
    connection: Connection, project_pk: int, contact_keys: Sequence[int], reason: str, head: int, now: int
) -> int:
    """Cancel the open runs of contacts; `head` is the position of the newest event. Return their number."""
    return sum(
        _cancel(connection, project_pk, _run.contact_key.in_(chunk), reason, head, now)
        for chunk in chunks(contact_keys)
    )


def _cancel(
    connection: Connection, project_pk: int, narrowed: ColumnElement[bool], reason: str, head: int, now: int
) -> int:
    open_runs = and_(_run_project == project_pk, narrowed, _run.status.in_([*OPEN]))
    at = case((_run.updated_at > now, _run.updated_at), else_=now)
    ended = {
        "status": RunStatus.CANCELLED,
        "reason": reason,
        "updated_at": at,
        "finished_at": at,
        "finished_position": head,
        "version": _run.version + 1,
        **_wait_columns(None),
    }
    return connection.execute(update(run).where(open_runs).values(ended)).rowcount


def check_newest(connection: Connection, project_pk: int, current: Run, match_id: str) -> None:
    """Raise RunMovedOn unless the id is empty or that of the run's newest match."""
    if not match_id:
        return
    newest = matches_at(connection, project_pk, [current.match_position]).get(current.match_position)
    # The id of a deleted match still contains its position.
    if (position_of(match_id) != current.match_position) if newest is None else (match_id != newest.id):
        raise RunMovedOn(current.id, newest.id if newest else "")


def new_run_values(project_pk: int, match: Match) -> tuple[Any, ...]:
    """Return the values, in the order of the columns, of the run that a match starts."""
    return (
        project_pk,
        match.run_number,
        match.run_id,
        match.automation_key,
        match.contact_key,
        match.event_position,
        RunStatus.QUEUED,
        match.position,
        "",
        "",
        0,
        0,
        "",
        "{}",
        1,
        match.matched_at,
        match.matched_at,
        0,
        0,
    )


_WAITING_OF = Prepared(
    *(
        select(run).where(WAITING, _run_project == bindparam("project"), among(_run.contact_key, "contacts", dialect))
        for dialect in DIALECTS
    )
)
_ENTRIES = Prepared(
    *(
        select(_run.automation_key, _run.contact_key, _run.status)
        .distinct()
        .where(
            _run_project == bindparam("project"),
            among(_run.automation_key, "automations", dialect),
            among(_run.contact_key, "contacts", dialect),
        )
        for dialect in DIALECTS
    )
)
_RESUME = (
    update(run)
    .where(_run.project_key == bindparam("project"), _run.number == bindparam("of"))
    .values(
        status=RunStatus.QUEUED,
        match_position=bindparam("at"),
        wait_event="",
        wait_condition="",
        wait_from=0,
        timeout_at=0,
        version=_run.version + 1,
        updated_at=bindparam("now"),
    )
)
_MARK_RUNNING = (
    update(run)
    .where(
        _run.project_key == bindparam("project"),
        _run.number == bindparam("of"),
        _run.match_position == bindparam("at"),
        _run.status == RunStatus.QUEUED,
    )
    .values(status=RunStatus.RUNNING)
)
_MARK_ALL_RUNNING = Prepared(
    update(run)
    .where(
        _run.project_key == bindparam("project"),
        among(_run.number, "numbers", "sqlite"),
        among(_run.match_position, "positions", "sqlite"),
        _run.status == RunStatus.QUEUED,
    )
    .values(status=RunStatus.RUNNING)
)
_MARK_SPAN_RUNNING = Prepared(
    update(run)
    .where(
        _run.project_key == bindparam("project"),
        _run.number.between(bindparam("first"), bindparam("last")),
        _run.match_position == _run.number + bindparam("offset"),
        _run.status == RunStatus.QUEUED,
    )
    .values(status=RunStatus.RUNNING)
)


def _write(connection: Connection, project_pk: int, current: Run, now: int, **changes: Any) -> Run:
    # The clock may step back; the times of a run must not.
    changed = replace(current, version=current.version + 1, updated_at=max(now, current.updated_at), **changes)
    columns = {
        "status": changed.status,
        "reason": changed.reason,
        "attributes": msgspec.json.encode(changed.attributes).decode(),
        "version": changed.version,
        "updated_at": changed.updated_at,
        "finished_at": changed.finished_at,
        "finished_position": changed.finished_position,
        **_wait_columns(changed.wait),
    }
    if current.unreadable:
        # Unreadable attributes stay as they are, unless they are replaced.
        if changed.attributes == current.attributes:
            del columns["attributes"]
        else:
            changed = replace(changed, unreadable="")
    own = and_(_run.project_key == project_pk, _run.number == current.number)
    connection.execute(update(run).where(own).values(columns))
    return changed


def _wait_columns(wait: Wait | None) -> dict[str, Any]:
    return {
        "wait_event": wait.event_name if wait else "",
        "wait_condition": wait.condition if wait else "",
        "wait_from": wait.from_position if wait else 0,
        "timeout_at": wait.timeout_at if wait else 0,
    }


def _named(row: Any) -> Any:
    """Return a row of the driver with the names of the columns."""
    return SimpleNamespace(**dict(zip(run.columns.keys(), row, strict=True)))


def to_run(row: Any) -> Run:
    """Return the run of a row."""
    status = RunStatus(row.status)
    waiting = status is RunStatus.WAITING
    attributes, unreadable = load_reported("run", row.id, row.attributes)
    return Run(
        number=row.number,
        id=row.id,
        automation_key=row.automation_key,
        contact_key=row.contact_key,
        event_position=row.event_position,
        status=status,
        match_position=row.match_position,
        wait=Wait(row.wait_event, row.wait_condition, row.wait_from, row.timeout_at) if waiting else None,
        reason=row.reason,
        attributes=attributes,
        version=row.version,
        created_at=row.created_at,
        updated_at=row.updated_at,
        finished_at=row.finished_at,
        finished_position=row.finished_position,
        unreadable=unreadable,
    )
