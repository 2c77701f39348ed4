"""Searching names for a text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement

LONGEST_NAME: Final = 1_000
"""More characters than any name or address has. SQLite refuses patterns of more than 50,000 bytes."""


def name_contains(name: ColumnElement[Any], text: str, *, ignore_case: bool = False) -> ColumnElement[bool]:
    """Return whether a column contains a text, which may be of any length."""
    if len(text) > LONGEST_NAME:
        return sa.false()
    return name.icontains(text, autoescape=True) if ignore_case else name.contains(text, autoescape=True)
