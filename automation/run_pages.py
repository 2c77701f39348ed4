"""Pages of runs, newest first.

The numbers of a project's runs are gapless. Candidates for a page are taken from the first of these that fits:

    filters                               candidates                       examined
    contact, with at most EXAMINED_ROWS   the contact's runs               all of them
    automation                            the index by automation          EXAMINED_ROWS
    others                                the runs themselves              EXAMINED_LOG_ROWS

They are filtered by the rest of the filters. So a page by status, or of a contact with very many runs, may be shorter
than requested (`registry.bounded_pages`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import func, select

from automation.run_store import to_run
from automation.tables import hidden_from_planner, run
from registry.bounded_pages import EXAMINED_LOG_ROWS, EXAMINED_ROWS, edge_of, read_bounded

if TYPE_CHECKING:
    from collections.abc import Collection

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
    candidates, edge = _candidates(connection, project_pk, run_filter, before)
    filtered = _filtered(candidates, run_filter)

    def within(edge: int | None) -> Select[Any]:
        return filtered if edge is None else filtered.where(_run.number >= edge)

    rows, more, resume = read_bounded(connection, within, edge, limit, lambda row: len(row.attributes))
    runs = [to_run(row) for row in rows]
    return RunPage(runs, (resume or runs[-1].number) if more else None)


def _candidates(
    connection: Connection, project_pk: int, run_filter: RunFilter, before: int | None
) -> tuple[Select[Any], int | None]:
    """Return the query of the candidates, and the last one to examine if there are too many for a page."""
    newest = connection.scalar(select(func.max(_run.number)).where(_run.project_key == project_pk)) or 0
    before = newest + 1 if before is None else before
    query = select(run).where(_run.number < before).order_by(_run.number.desc())
    # PostgreSQL would take a hidden project for one with few runs, and read all of them to sort these.
    is_sqlite = connection.dialect.name == "sqlite"
    in_project = (hidden_from_planner(_run.project_key) if is_sqlite else _run.project_key) == project_pk
    if run_filter.contact_key is not None:
        of_contact = query.where(in_project, _run.contact_key == run_filter.contact_key)
        if _is_short(connection, of_contact, run_filter):
            return of_contact, None
    if run_filter.automation_key is not None:
        of_automation = query.where(in_project, _run.automation_key == run_filter.automation_key)
        is_exact = run_filter.contact_key is None and not run_filter.statuses
        return of_automation, None if is_exact else edge_of(
            connection, of_automation.with_only_columns(_run.number), EXAMINED_ROWS
        )
    examined = run_filter.contact_key is not None or run_filter.statuses
    edge = max(before - EXAMINED_LOG_ROWS, 1) if examined else 1
    return query.where(_run.project_key == project_pk), None if edge == 1 else edge


def _is_short(connection: Connection, of_contact: Select[Any], run_filter: RunFilter) -> bool:
    """Return whether a page may examine all runs of a contact; the index has them in the order of automations."""
    if run_filter.automation_key is not None:
        of_contact = of_contact.where(_run.automation_key == run_filter.automation_key)
    some = of_contact.with_only_columns(_run.number).order_by(None).limit(EXAMINED_ROWS + 1).subquery()
    return (connection.scalar(select(func.count()).select_from(some)) or 0) <= EXAMINED_ROWS


def _filtered(query: Select[Any], run_filter: RunFilter) -> Select[Any]:
    filters: list[ColumnElement[bool]] = []
    if run_filter.statuses:
        filters.append(_run.status.in_(list(run_filter.statuses)))
    if run_filter.automation_key is not None:
        filters.append(_run.automation_key == run_filter.automation_key)
    if run_filter.contact_key is not None:
        filters.append(_run.contact_key == run_filter.contact_key)
    return query.where(*filters)
