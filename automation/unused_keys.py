"""Keys that no row ever had, for tables whose rows are numbered by the database.

PostgreSQL never gives a key away again. SQLite does: it numbers a new row by the largest key in the table, and that of
a deleted row may have been larger. Servers remember much by keys, and so do rows that are deleted later than the row
to which they refer. A new row with the old key, perhaps of another project, would be shown what belongs to neither.

    a row is deleted     triggers of the database keep the largest key of each table (migration 0023), whoever deletes
    a row is inserted    with a key after that one, if the table has only smaller ones; otherwise SQLite numbers it
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from sqlalchemy import bindparam, func, select

from automation.prepared_statements import Prepared
from automation.tables import used_key

if TYPE_CHECKING:
    from sqlalchemy import Connection, Table


def first_unused_key(connection: Connection, table: Table) -> int | None:
    """Return the key with which to insert a row; None if the database finds one by itself.

    Rows that are inserted with it have the keys that follow.
    """
    if connection.dialect.name != "sqlite":
        return None
    row = _after_used(table).row(connection, name=table.name)
    return None if row is None else row[0]


def unused_key(connection: Connection, table: Table) -> dict[str, int]:
    """Return the column `key` of a row to insert, or nothing if the database finds one by itself."""
    key = first_unused_key(connection, table)
    return {} if key is None else {"key": key}


@cache
def _after_used(table: Table) -> Prepared:
    newest = select(func.coalesce(func.max(table.c.key), 0)).scalar_subquery()
    used = used_key.c.table_name == bindparam("name")
    return Prepared(select(used_key.c.key + 1).where(used, used_key.c.key >= newest))
