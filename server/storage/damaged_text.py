"""Reading rows whose text was damaged from outside: SQLite stores any bytes in any column.

A transaction that fails on such a text is run again with U+FFFD in place of the invalid bytes
(`replacing_damaged_text`), so that other rows can be read and changed. Where the bytes matter, a statement reads
damaged text as it is (`reading_damaged_text`). PostgreSQL checks text when it is stored, and needs none of this.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar

import sqlalchemy as sa

from registry.errors import RowUnreadable, SignalboxError
from registry.sql.unreadable_rows import UNREADABLE, UNREADABLE_ROWS, describe_error
from registry.values.stored_json import DamagedObject

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import Connection

T = TypeVar("T")

_UNDECODABLE: Final = re.compile("Could not decode to UTF-8 column '([^']*)'")


@contextmanager
def reading_damaged_text(connection: Connection) -> Iterator[None]:
    """Let SQLite return text that is not UTF-8, with surrogates, in this context: otherwise the statement fails."""
    if connection.dialect.name != "sqlite":
        yield
        return
    driver: Any = connection.connection.driver_connection
    before, driver.text_factory = driver.text_factory, _decoded
    try:
        yield
    finally:
        driver.text_factory = before


def replacing_damaged_text(work: Callable[[Connection], T], column: str) -> Callable[[Connection], T]:
    """Return work that reads text of SQLite with U+FFFD in place of bytes that are not UTF-8.

    It raises RowUnreadable with the name of the column if it cannot do with such a text.
    """

    def replacing(connection: Connection) -> T:
        driver: Any = connection.connection.driver_connection
        driver.text_factory = _replaced
        try:
            return work(connection)
        except SignalboxError:
            raise
        except UNREADABLE as error:
            raise RowUnreadable("column", column, describe_error(error)) from error
        finally:
            driver.text_factory = str

    return replacing


def report_damaged_text(error: BaseException | None) -> str | None:
    """Report a text that is not UTF-8 if a statement of SQLite failed on one. Return the name of its column."""
    found = _UNDECODABLE.match(str(error))
    if found is None:
        return None
    UNREADABLE_ROWS.report("column", found[1], ValueError("a text of it is not UTF-8"))
    return found[1]


def bound_text(text: str) -> Any:
    """Return a text for a statement: one with surrogates as the bytes that SQLite has stored."""
    if not is_damaged(text):
        return text
    return sa.cast(sa.literal(text.encode(errors="surrogateescape"), sa.LargeBinary), sa.Text)


def is_damaged(value: object) -> bool:
    """Return whether a stored value is not text, or text with bytes that are not UTF-8."""
    if not isinstance(value, str):
        return True
    return not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value)


def to_text(value: object) -> str:
    """Return a stored value as text, whatever it is, with surrogates for bytes that are not UTF-8."""
    if isinstance(value, str):
        return value
    return _decoded(value) if isinstance(value, bytes) else str(value)


def to_valid_text(value: object) -> str:
    """Return a stored value as text that a message can hold."""
    return to_text(value).encode(errors="replace").decode()


def _replaced(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        text = value.decode(errors="replace")
        return DamagedObject(text) if text.startswith("{") else text


def _decoded(value: bytes) -> str:
    return value.decode(errors="surrogateescape")
