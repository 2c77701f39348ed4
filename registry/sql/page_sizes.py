"""Pages of rows, limited by number and by the size of what was stored: callers choose the sizes of their payloads."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sqlalchemy import Connection, Row, Select

PAGE_CHARACTERS: Final = 1_000_000
"""The most characters that one request reads, decodes and writes for a page, unless a single item is larger."""

UNBOUNDED: Final = sys.maxsize
"""No limit on characters, for pages addressed by number: they must have exactly the requested number of items."""

_ROWS_AT_ONCE: Final = 100
_ROWS_AT_ONCE_OF_SQLITE: Final = 10
"""Rows are fetched in parts of this many: a row may have a megabyte, which fills a page. On PostgreSQL the parts are
larger, because each takes a round trip."""


def page_of(
    rows: Iterable[Row[Any]], limit: int, size: Callable[[Row[Any]], int], room: int = PAGE_CHARACTERS
) -> tuple[list[Row[Any]], bool]:
    """Return a page of rows, and whether there are more.

    The page has at most `limit` rows of at most `room` characters together, unless the first row alone has more. `size`
    returns the characters of a row.
    """
    page: list[Row[Any]] = []
    for row in rows:
        room -= size(row)
        if len(page) == limit or (page and room < 0):
            return page, True
        page.append(row)
    return page, False


def read_page(
    connection: Connection, query: Select[Any], limit: int, size: Callable[[Row[Any]], int]
) -> tuple[list[Row[Any]], bool]:
    """Return a page of the rows of a query, as `page_of` does; a long page is read in chunks."""
    at_once = rows_at_once(connection)
    options = {"yield_per": at_once} if limit > at_once else {}
    with connection.execute(query.limit(limit + 1), execution_options=options) as rows:
        return page_of(rows, limit, size)


def rows_at_once(connection: Connection) -> int:
    """Return the number of rows of unknown size to fetch at a time."""
    return _ROWS_AT_ONCE_OF_SQLITE if connection.dialect.name == "sqlite" else _ROWS_AT_ONCE
