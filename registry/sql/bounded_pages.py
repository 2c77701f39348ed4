"""Pages of lists whose filters no index covers.

A page of such a list examines a bounded number of rows, in the order of the list. If too few of them pass the filters,
the page is shorter than requested, and the next page continues after the last row examined. So no page takes longer
because the table is larger or because few rows pass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from sqlalchemy import Connection, Select

K = TypeVar("K")

EXAMINED_ROWS: Final = 500
"""The most rows that a page examines through an index, where each takes 2 to 20 us, the most if they are far apart."""

EXAMINED_LOG_ROWS: Final = 20_000
"""The most rows that a page examines in the order in which they are stored, where each takes 0.1 to 0.3 us."""


def last_examined_key(connection: Connection, candidates: Select[tuple[K]], count: int) -> K | None:
    """Return the candidate at which a page stops examining: the one numbered `count`, None if there are fewer."""
    found: Any = connection.scalar(candidates.limit(1).offset(count - 1))
    last_examined: K | None = found
    return last_examined
