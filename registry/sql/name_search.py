"""The condition of a search for a part of a name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement

LONGEST_NAME: Final = 1_000
"""A longer text is in no name or address, so it is not searched for: SQLite refuses patterns beyond 50,000 bytes."""


def name_contains(name: ColumnElement[Any], text: str, *, ignore_case: bool = False) -> ColumnElement[bool]:
    """Return whether a column contains a text, which may be of any length."""
    if len(text) > LONGEST_NAME:
        return sa.false()
    return name.icontains(text, autoescape=True) if ignore_case else name.contains(text, autoescape=True)
