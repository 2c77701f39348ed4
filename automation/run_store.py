"""The SQL that reads runs; `automation.run_transitions` writes them. Times are microseconds UTC."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from sqlalchemy import bindparam, case, func, select

from automation.bulk import DIALECTS, among, packed
from automation.errors import RunNotFound
from automation.prepared_statements import Prepared
from automation.runs import OPEN, Run, RunStatus, Wait
from automation.tables import TIMED, WAITING, hidden_from_planner, run
from registry.log_ids import position_of
from registry.sql.text_columns import as_text, text_of
from registry.sql.unreadable_rows import load_reported, load_word

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from sqlalchemy import Connection

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
        select(*as_text(run)).where(_run.project_key == project_pk, _run.number == number, _run.id == run_id)
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
    rows = connection.execute(select(*as_text(run)).where(_run.project_key == project_pk, _run.number.in_(newest)))
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
    query = select(_run.automation_key, text_of(_run.id)).where(
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
    query = select(_run.automation_key, text_of(_run.wait_event), text_of(_run.wait_condition)).distinct()
    query = query.where(WAITING, _run_project == project_pk, _run.wait_condition != "")
    return [(row.automation_key, row.wait_event, row.wait_condition) for row in connection.execute(query)]


def due_projects(connection: Connection, now: int) -> list[int]:
    """Return the projects with waiting runs whose timeout has passed."""
    return list(connection.scalars(select(_run.project_key).where(TIMED, _run.timeout_at <= now).distinct()))


def due_runs(connection: Connection, project_pk: int, now: int, limit: int) -> list[Run]:
    """Return waiting runs of a project whose timeout has passed, the longest overdue first."""
    query = select(*as_text(run)).where(TIMED, _run.timeout_at <= now, _run_project == project_pk)
    return [to_run(row) for row in connection.execute(query.order_by(_run.timeout_at).limit(limit))]


def waiting_counts(connection: Connection, now: int) -> tuple[int, int]:
    """Count the waiting runs of all projects, and the overdue ones among them, each up to COUNTED."""
    waiting = select(_run.number).where(WAITING).limit(COUNTED).subquery()
    overdue = select(_run.number).where(TIMED, _run.timeout_at <= now).limit(COUNTED).subquery()
    counts = (select(func.count()).select_from(rows).scalar_subquery() for rows in (waiting, overdue))
    row = connection.execute(select(*counts)).one()
    return row[0], row[1]


def next_timeout(connection: Connection) -> int | None:
    """Return the time of the next timeout in any project; None if no run has one."""
    timeout_at: int | None = connection.scalar(select(func.min(_run.timeout_at)).where(TIMED))
    return timeout_at


_WAITING_OF = Prepared(
    *(
        select(*as_text(run)).where(
            WAITING, _run_project == bindparam("project"), among(_run.contact_key, "contacts", dialect)
        )
        for dialect in DIALECTS
    )
)
_ENTRIES = Prepared(
    *(
        select(_run.automation_key, _run.contact_key, text_of(_run.status))
        .distinct()
        .where(
            _run_project == bindparam("project"),
            among(_run.automation_key, "automations", dialect),
            among(_run.contact_key, "contacts", dialect),
        )
        for dialect in DIALECTS
    )
)


def _named(row: Any) -> Any:
    """Return a row of the driver with the names of the columns."""
    return SimpleNamespace(**dict(zip(run.columns.keys(), row, strict=True)))


def to_run(row: Any) -> Run:
    """Return the run of a row."""
    status = load_word(RunStatus, "run", row.id, row.status)
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
