"""Pages of rows whose sizes callers determine."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sqlalchemy import Connection, Row, Select

PAGE_CHARACTERS: Final = 1_000_000
"""The most text that one request reads, decodes and writes for a page, unless a single item is larger."""

UNBOUNDED: Final = sys.maxsize
"""For pages addressed by number, which must have exactly the number of items asked for."""

_ROWS_AT_ONCE: Final = 100


def page_of(
    rows: Iterable[Row[Any]], limit: int, size: Callable[[Row[Any]], int], room: int = PAGE_CHARACTERS
) -> tuple[list[Row[Any]], bool]:
    """Take rows, at least one, up to the limit or to `room` characters; return them and whether there are more."""
    taken: list[Row[Any]] = []
    for row in rows:
        room -= size(row)
        if len(taken) == limit or (taken and room < 0):
            return taken, True
        taken.append(row)
    return taken, False


def read_page(
    connection: Connection, query: Select[Any], limit: int, size: Callable[[Row[Any]], int]
) -> tuple[list[Row[Any]], bool]:
    """Read the rows of a page, as `page_of` does; a long page is read in chunks."""
    options = {"yield_per": _ROWS_AT_ONCE} if limit > _ROWS_AT_ONCE else {}
    with connection.execute(query.limit(limit + 1), execution_options=options) as rows:
        return page_of(rows, limit, size)
