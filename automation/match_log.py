"""Reading a project's match log in its order: its start, its places in time, what a filter lets through.

The log is gapless, and `matched_at` never falls as positions rise: a time is found by bisection, without an index.
Only its oldest part may be missing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import bindparam, false, func, select

from automation.run_store import to_match
from automation.store import automations_by_key, has_labels
from automation.tables import automation_match

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import Connection, Select

    from automation.automations import Automation
    from automation.runs import Match
    from automation.subscriptions import MatchFilter

READ_LIMIT: Final = 1_000
"""So many matches of the log are looked through at once."""

AutomationLookup = Callable[["Connection", list[int]], "Mapping[int, Automation]"]
"""Gives automations, deleted ones too, by their keys."""

_match = automation_match.c


def first_kept(connection: Connection, project_key: int) -> int | None:
    """Give the position of the oldest match that is kept, None where there is none."""
    first: int | None = connection.scalar(select(func.min(_match.position)).where(_match.project_key == project_key))
    return first


def first_since(connection: Connection, project_key: int, time: int, first: int, head: int) -> int:
    """Find the first of the matches from `first` to `head` that was recorded at a time or later, else `head` + 1."""
    low, high = first, head + 1
    while low < high:
        middle = (low + high) // 2
        if connection.execute(_MATCHED_AT, {"project": project_key, "middle": middle}).scalar_one() < time:
            low = middle + 1
        else:
            high = middle
    return low


def read_filtered(connection: Connection, project_key: int, wanted: MatchFilter, after: int, limit: int) -> list[Match]:
    """Read, from behind a position, what a filter lets through of the next READ_LIMIT matches."""
    within = (_match.project_key == project_key) & (_match.position > after) & (_match.position <= after + READ_LIMIT)
    query = filtered(connection, select(automation_match).where(within), wanted)
    return [to_match(row) for row in connection.execute(query.order_by(_match.position).limit(limit))]


def filtered(
    connection: Connection, query: Select[Any], wanted: MatchFilter, automations: AutomationLookup = automations_by_key
) -> Select[Any]:
    """Narrow a reading of the log to what a filter lets through; labels are those that automations have now.

    `automations` is asked only where the filter names automations or labels.
    """
    if wanted.event_names:
        query = query.where(_match.event_name.in_(wanted.event_names))
    if wanted.automation_ids or wanted.labels:
        seen = list(connection.scalars(query.with_only_columns(_match.automation_key).distinct()))
        known = automations(connection, seen).values() if seen else ()
        keys = [
            each.key
            for each in known
            if has_labels(each, wanted.labels) and (not wanted.automation_ids or each.id in wanted.automation_ids)
        ]
        query = query.where(_match.automation_key.in_(keys) if keys else false())
    return query


_MATCHED_AT = select(_match.matched_at).where(
    _match.project_key == bindparam("project"), _match.position == bindparam("middle")
)
