"""Pages of runs, newest first.

The numbers of a project's runs are gapless. Candidates for a page are taken from the first of these that fits:

    filters                               candidates                       examined
    contact, with at most EXAMINED_ROWS   the contact's runs               all of them
    automation                            the index by automation          EXAMINED_ROWS
    others                                the runs themselves              EXAMINED_LOG_ROWS

They are filtered by the rest of the filters. So a page by status, or of a contact with very many runs, may be shorter
than requested (`registry.sql.bounded_pages`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import func, select

from automation.bulk import among, packed
from automation.run_store import to_run
from automation.tables import hidden_from_planner, run
from registry.sql.bounded_pages import EXAMINED_LOG_ROWS, EXAMINED_ROWS, last_examined_key
from registry.sql.page_sizes import read_page
from registry.sql.text_columns import as_text

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from sqlalchemy import ColumnElement, Connection, Select

    from automation.runs import Run, RunStatus

_run = run.c


@dataclass(frozen=True, slots=True)
class RunFilter:
    """A filter of runs; fields that are None or empty match all."""

    statuses: Collection[RunStatus] = ()
    automation_key: int | None = None
    contact_key: int | None = None


class RunPage(NamedTuple):
    """A page of runs. `resume` is the number of the run after which the next page begins, None if none."""

    runs: list[Run]
    resume: int | None


def list_runs(
    connection: Connection, project_pk: int, run_filter: RunFilter, limit: int, before: int | None = None
) -> RunPage:
    """Return a page of the runs with numbers below `before`."""
    query, last_examined = _examined(connection, project_pk, run_filter, before)
    rows, more = read_page(connection, query.order_by(_run.number.desc()), limit, lambda row: len(row.attributes))
    runs = [to_run(row) for row in rows]
    return RunPage(runs, runs[-1].number if more else last_examined)


def _examined(
    connection: Connection, project_pk: int, run_filter: RunFilter, before: int | None
) -> tuple[Select[Any], int | None]:
    """Return the query of a page, and the number of the last run that it examines if there are too many for a page."""
    newest = connection.scalar(select(func.max(_run.number)).where(_run.project_key == project_pk)) or 0
    before = newest + 1 if before is None else before
    # PostgreSQL would take a hidden project for one with few runs, and read all of them to sort these.
    is_sqlite = connection.dialect.name == "sqlite"
    in_project = (hidden_from_planner(_run.project_key) if is_sqlite else _run.project_key) == project_pk
    with_status = [_run.status.in_(list(run_filter.statuses))] if run_filter.statuses else []
    if run_filter.contact_key is not None:
        numbers = _numbers_of_contact(connection, in_project, run_filter, before)
        if len(numbers) <= EXAMINED_ROWS:
            # Nothing else about the number or the contact: SQLite would use another index for it.
            named = among(_run.number, "numbers", connection.dialect.name)
            query = select(*as_text(run)).where(_run.project_key == project_pk, named, *with_status)
            return query.params(numbers=packed(connection, numbers)), None
    return _of_many(connection, project_pk, in_project, run_filter, before, with_status)


def _of_many(
    connection: Connection,
    project_pk: int,
    in_project: ColumnElement[bool],
    run_filter: RunFilter,
    before: int,
    with_status: Sequence[ColumnElement[bool]],
) -> tuple[Select[Any], int | None]:
    rest = [*with_status]
    if run_filter.contact_key is not None:
        rest.append(_run.contact_key == run_filter.contact_key)
    if run_filter.automation_key is None:
        last_examined = before - EXAMINED_LOG_ROWS if rest and before - EXAMINED_LOG_ROWS > 1 else None
        candidates = [_run.project_key == project_pk, _run.number < before]
    else:
        candidates = [in_project, _run.automation_key == run_filter.automation_key, _run.number < before]
        ordered = select(_run.number).where(*candidates).order_by(_run.number.desc())
        last_examined = last_examined_key(connection, ordered, EXAMINED_ROWS) if rest else None
    query = select(*as_text(run)).where(*candidates, *rest)
    return query if last_examined is None else query.where(_run.number >= last_examined), last_examined


def _numbers_of_contact(
    connection: Connection, in_project: ColumnElement[bool], run_filter: RunFilter, before: int
) -> Sequence[int]:
    """Return the numbers of a contact's runs, in any order: all of them, or more than EXAMINED_ROWS.

    The index has them in the order of automations. If SQLite saw a range or an order of numbers, it would rather read
    all runs of the automation.
    """
    earlier = hidden_from_planner(_run.number) < before
    query = select(_run.number).where(in_project, _run.contact_key == run_filter.contact_key, earlier)
    if run_filter.automation_key is not None:
        query = query.where(_run.automation_key == run_filter.automation_key)
    return connection.scalars(query.limit(EXAMINED_ROWS + 1)).all()
