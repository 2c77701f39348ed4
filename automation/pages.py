"""Pages of rows that keep attributes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import Row

PAGE_CHARACTERS: Final = 1_000_000
"""So much of attributes is in a page, or one item: clients refuse answers beyond 4 MiB by default."""


def page_of(rows: Iterable[Row[Any]], limit: int) -> tuple[list[Row[Any]], bool]:
    """Take rows up to the limit or to PAGE_CHARACTERS of attributes; say whether there are more."""
    taken: list[Row[Any]] = []
    room = PAGE_CHARACTERS
    for row in rows:
        room -= len(row.attributes)
        if len(taken) == limit or (taken and room < 0):
            return taken, True
        taken.append(row)
    return taken, False
