"""Retention: the deletion of old matches from the match log.

It has two steps:

    move_start       under the lock of the project's head: move the start of the log; from then on no one reads or
                     seeks to a position before it
    delete_matches   without a lock, in as many transactions as needed: delete the matches before the start

The second step needs no lock because a match before the start cannot come into use: the start is never moved past a
match that a subscription has not settled or parked. Matches that are parked, or are being delivered again after they
were parked, lie before the start and are skipped while that lasts (`deletable_matches`).

Runs are kept. They need no match, and an entry rule such as ONCE_PER_CONTACT depends on them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import bindparam, delete, func, insert, select, union_all, update

from automation.bulk import among, packed
from automation.match_log import LogStart, first_since, log_start, matched_at
from automation.subscriptions.tables import subscription, subscription_delivery, subscription_parked
from automation.tables import automation_match, match_log_start

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

_match = automation_match.c
_start = match_log_start.c


def next_start(connection: Connection, project_pk: int, before: int, head: int) -> LogStart | None:
    """Return the new start of the log; None if the log need not be shortened.

    Before it are the matches that were recorded before a time and that every subscription of the project has settled
    or parked. `head` is the position of the newest match.
    """
    current = log_start(connection, project_pk)
    if current.position > head or matched_at(connection, project_pk, current.position) >= before:
        return None
    position = first_since(connection, project_pk, before, current.position, head)
    floor = connection.scalar(
        select(func.min(subscription.c.floor_position)).where(subscription.c.project_key == project_pk)
    )
    if floor is not None:
        position = min(position, floor + 1)
    if position <= current.position:
        return None
    return LogStart(position, matched_at(connection, project_pk, position - 1) + 1)


def move_start(connection: Connection, project_pk: int, before: int, head: int) -> None:
    """Move the start of the log to its `next_start`.

    The caller holds the lock of the project's head, as every seek does: otherwise a seek could check a position and
    then store it after the start has moved past it.
    """
    start = next_start(connection, project_pk, before, head)
    if start is None:
        return
    own = _start.project_key == project_pk
    if not connection.execute(update(match_log_start).where(own).values(start._asdict())).rowcount:
        connection.execute(insert(match_log_start).values(project_key=project_pk, **start._asdict()))


def deletable_matches(
    connection: Connection, project_pk: int, after: int, limit: int
) -> tuple[Sequence[int], int | None]:
    """Return matches that can be deleted: after a position, before the start of the log, and in use by no subscription.

    At most `limit` matches are examined. Return the positions of the unused ones, and the position after which to
    continue, None at the end. One statement reads the matches in use: a replayed match moves from one table to the
    other, and two statements could miss it in both.
    """
    before = _match.position < log_start(connection, project_pk).position
    examined = select(_match.position).where(_match.project_key == project_pk, _match.position > after, before)
    positions = list(connection.scalars(examined.order_by(_match.position).limit(limit)))
    if not positions:
        return (), None
    own = select(subscription.c.key).where(subscription.c.project_key == project_pk)
    in_use = union_all(
        *(
            select(table.c.match_position).where(
                table.c.subscription_key.in_(own), table.c.match_position.between(positions[0], positions[-1])
            )
            for table in (subscription_parked, subscription_delivery)
        )
    )
    used = set(connection.scalars(in_use))
    return [position for position in positions if position not in used], positions[-1] if len(
        positions
    ) == limit else None


def delete_matches(connection: Connection, project_pk: int, positions: Sequence[int]) -> None:
    """Delete matches that `deletable_matches` returned."""
    parameters = {"project": project_pk, "positions": packed(connection, positions)}
    connection.execute(_DELETE[connection.dialect.name], parameters)


_DELETE = {
    dialect: delete(automation_match).where(
        _match.project_key == bindparam("project"), among(_match.position, "positions", dialect)
    )
    for dialect in ("sqlite", "postgresql")
}
