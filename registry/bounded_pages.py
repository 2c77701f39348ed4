"""Pages of lists whose filters no index covers.

A page of such a list examines a bounded number of rows, in the order of the list. If it finds too few within them, it
is shorter than requested, and the next page continues after the last row examined: no page takes longer because the
table is larger or because few rows pass the filters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, TypeVar

from registry.page_sizes import read_page

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection, Row, Select

K = TypeVar("K")

EXAMINED_ROWS: Final = 2_000
"""The most rows that a page examines through an index, where each takes 2 to 5 us."""

EXAMINED_LOG_ROWS: Final = 20_000
"""The most rows that a page examines in the order in which they are stored, where each takes 0.1 to 0.3 us."""


class BoundedRows(NamedTuple, Generic[K]):
    """A page of rows. `more` says whether the list goes on: after the row `resume` if that is set, else after the last.

    `resume` is the last row examined, where that is not the last row of the page.
    """

    rows: list[Row[Any]]
    more: bool
    resume: K | None = None


def edge_of(connection: Connection, candidates: Select[tuple[K]], count: int) -> K | None:
    """Return the candidate with the number `count`, in the order of the query; None if there are fewer."""
    found: Any = connection.scalar(candidates.limit(1).offset(count - 1))
    edge: K | None = found
    return edge


def read_bounded(
    connection: Connection,
    within: Callable[[K | None], Select[Any]],
    edge: K | None,
    limit: int,
    size: Callable[[Row[Any]], int],
) -> BoundedRows[K]:
    """Return a page of the rows up to and including an edge, or of all rows if it is None.

    `within` returns the filtered query of those rows, in order.
    """
    rows, more = read_page(connection, within(edge), limit, size)
    if more or edge is None:
        return BoundedRows(rows, more)
    return BoundedRows(rows, more=True, resume=edge)
