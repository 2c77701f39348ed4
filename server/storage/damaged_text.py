"""Reading rows whose text was damaged from outside: SQLite stores any bytes in any column.

PostgreSQL checks what it stores, and needs none of this.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection


@contextmanager
def reading_damaged_text(connection: Connection) -> Iterator[None]:
    """Let SQLite return text that is not UTF-8, with surrogates, in this context: otherwise the statement fails."""
    if connection.dialect.name != "sqlite":
        yield
        return
    driver: Any = connection.connection.driver_connection
    driver.text_factory = _decoded
    try:
        yield
    finally:
        driver.text_factory = str


def is_damaged(value: object) -> bool:
    """Return whether a stored text is none, or has bytes that are not UTF-8."""
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


def _decoded(value: bytes) -> str:
    return value.decode(errors="surrogateescape")
