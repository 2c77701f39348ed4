"""Text of SQLite, which stores any bytes in any column.

Columns of text are read as text. An ID that is not UTF-8 is read with U+FFFD in place of the invalid bytes: then a list
continues before or after it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import Text, cast

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Table


def as_text(table: Table) -> list[ColumnElement[Any]]:
    """Return the columns of a table for a SELECT, text columns cast to text."""
    return [text_of(column) if isinstance(column.type, Text) else column for column in table.columns]


def text_of(column: ColumnElement[str]) -> ColumnElement[str]:
    """Return a column to select as text, under its name."""
    return cast(column, Text).label(getattr(column, "name", None))


def before_damaged(row_id: str) -> str:
    """Return a text that sorts before an ID that was read with U+FFFD, and after all sound IDs before it.

    A list continues there: IDs are ASCII, so the damaged one sorts after all others that begin alike, and U+FFFD sorts
    before some of the bytes that it stands for, and after others. A sound ID is returned as it is.
    """
    sound, damage, _ = row_id.partition("\ufffd")
    return sound + "\x7f" if damage else row_id


def after_damaged(row_id: str) -> str:
    """Return a text that sorts after an ID that was read with U+FFFD; empty if no sound ID does."""
    sound, damage, _ = row_id.partition("\ufffd")
    if not damage:
        return row_id
    return sound[:-1] + chr(ord(sound[-1]) + 1) if sound else ""
