"""Statements whose texts are written once, for both kinds of database, and then sent to the driver.

SQLAlchemy takes 40 to 150 us to prepare a statement and read its rows; SQLite takes 3 us to run it. So statements that
every delivery needs are written by SQLAlchemy when they are first used, and sent to the driver from then on.

On SQLite they go to the connection of the driver itself. It releases the interpreter while it looks for the next row,
and may have to wait for a busy event loop to get it back. So where it can, a statement about many rows takes and
returns them as one JSON text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec
from sqlalchemy import func, select
from sqlalchemy.dialects import postgresql, sqlite

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Mapping, Sequence

    from sqlalchemy import Connection, Dialect, Select
    from sqlalchemy.sql.base import Executable

_DIALECTS: Final[Mapping[str, Dialect]] = {
    "sqlite": sqlite.dialect(),
    "postgresql": postgresql.asyncpg.dialect(),  # type: ignore[no-untyped-call]
}


class Prepared:
    """A statement, or one for each kind of database. Its parameters are given by name, with the types of the driver.

    Rows come as the driver returns them: a Boolean of SQLite is an integer.
    """

    def __init__(self, statement: Executable, on_postgresql: Executable | None = None) -> None:
        self._statements: dict[str, Any] = {
            "sqlite": statement,
            "postgresql": statement if on_postgresql is None else on_postgresql,
        }
        self._texts: dict[str, tuple[str, tuple[str, ...], dict[str, Any]]] = {}

    def text(self, dialect: str) -> tuple[str, tuple[str, ...], dict[str, Any]]:
        """Return the text for a kind of database, the names of its parameters in order, and those that are constant."""
        text = self._texts.get(dialect)
        if text is None:
            compiled = self._statements[dialect].compile(dialect=_DIALECTS[dialect])
            fixed = {name: value for name, value in compiled.params.items() if value is not None}
            text = self._texts[dialect] = str(compiled), tuple(compiled.positiontup or ()), fixed
        return text

    def rows(self, connection: Connection, **values: Any) -> Sequence[Any]:
        """Run the statement and return its rows."""
        dialect = connection.dialect.name
        text, names, fixed = self.text(dialect)
        parameters = tuple([values[name] if name in values else fixed[name] for name in names])
        if dialect == "sqlite":
            return _driver(connection).execute(text, parameters).fetchall()
        return connection.exec_driver_sql(text, parameters).fetchall()

    def row(self, connection: Connection, **values: Any) -> Any:
        """Run the statement and return its only row, None if there is none."""
        rows = self.rows(connection, **values)
        return rows[0] if rows else None

    def run(self, connection: Connection, **values: Any) -> int:
        """Run the statement, which returns no rows, and return the number of rows that it changed."""
        dialect = connection.dialect.name
        text, names, fixed = self.text(dialect)
        parameters = tuple([values[name] if name in values else fixed[name] for name in names])
        if dialect == "sqlite":
            return _driver(connection).execute(text, parameters).rowcount
        return connection.exec_driver_sql(text, parameters).rowcount


def _driver(connection: Connection) -> sqlite3.Connection:
    """Return the connection of the driver. Of a reading connection it is `plain`, for the thread that the read has."""
    driver: Any = connection.connection.driver_connection
    plain: sqlite3.Connection = getattr(driver, "plain", driver)
    return plain


class PreparedList(Prepared):
    """A query for many rows, which SQLite returns as one JSON text.

    `query` makes it for a kind of database; `decode` decodes the text, to rows of another type if need be.
    """

    def __init__(
        self, query: Callable[[str], Select[Any]], decode: Callable[[str], Sequence[Any]] = msgspec.json.decode
    ) -> None:
        columns = query("sqlite").subquery().c
        super().__init__(select(func.json_group_array(func.json_array(*columns))), query("postgresql"))
        self._decode = decode

    def rows(self, connection: Connection, **values: Any) -> Sequence[Any]:
        """Run the query and return its rows."""
        rows = super().rows(connection, **values)
        return self._decode(rows[0][0]) if connection.dialect.name == "sqlite" else rows
