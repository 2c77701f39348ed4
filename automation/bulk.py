"""Reading and writing many rows with one statement."""

from __future__ import annotations

from functools import lru_cache
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import msgspec
from sqlalchemy import BigInteger, any_, bindparam, func, select
from sqlalchemy.dialects.postgresql import ARRAY

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from sqlalchemy import ColumnElement, Connection, Dialect, Insert, Update

T = TypeVar("T")

DIALECTS: Final = ("sqlite", "postgresql")

IN_LIST: Final = 10_000
"""The most values that are bound in one statement; SQLite allows 32,766."""

MAX_SPANS: Final = 4
"""Pairs of integers in more spans are given to a statement one by one."""


def execute_many(connection: Connection, statement: Insert | Update, rows: Sequence[dict[str, Any]]) -> None:
    """Run a statement for each row of values, which have the types of the driver.

    The values go to the driver directly, because SQLAlchemy takes longer to prepare a row than SQLite takes to write
    it. The statement is a constant of its module, with at least two parameters.
    """
    if rows:
        text, names, fixed = _compiled(statement, connection.dialect)
        values = itemgetter(*names)
        connection.exec_driver_sql(text, [values({**fixed, **row} if fixed else row) for row in rows])


@lru_cache
def _compiled(statement: Insert | Update, dialect: Dialect) -> tuple[str, list[str], dict[str, Any]]:
    """Return the text of a statement, the names of its parameters in order, and its constant parameters."""
    compiled: Any = statement.compile(dialect=dialect)
    fixed = {name: value for name, value in compiled.params.items() if value is not None}
    return str(compiled), compiled.positiontup, fixed


def chunks(items: Sequence[T], size: int = IN_LIST) -> Iterator[Sequence[T]]:
    """Yield the items in chunks that one statement can bind."""
    return (items[start : start + size] for start in range(0, len(items), size))


def among(column: ColumnElement[int], name: str, dialect: str) -> ColumnElement[bool]:
    """Return the condition that a column is among the integers of one parameter, which `packed` makes.

    There may be any number of integers. SQLAlchemy would take longer to write an IN list of as many parameters than the
    database takes to look them up.
    """
    if dialect == "sqlite":
        return column.in_(select(func.json_each(bindparam(name)).table_valued("value").c.value))
    return column == any_(bindparam(name, type_=ARRAY(BigInteger)))


def between(column: ColumnElement[int], first: ColumnElement[int], last: ColumnElement[int]) -> ColumnElement[bool]:
    """Return the condition `first <= column <= last` in a form for which PostgreSQL assumes that few rows meet it.

    With bounds that it knows, PostgreSQL compares them with the live rows of the last ANALYZE. Where these are few and
    all within the bounds it takes the smallest index without them, and visits the dead entries of that index. Values
    of subqueries are not known while a statement is planned, so the plan begins at the bounds.
    """
    return column.between(select(first).scalar_subquery(), select(last).scalar_subquery())


def packed(connection: Connection, integers: Sequence[int]) -> str | Sequence[int]:
    """Return the value of the parameter of `among` for these integers."""
    return msgspec.json.encode(integers).decode() if connection.dialect.name == "sqlite" else integers


def packed_pairs(connection: Connection, pairs: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """Return the parameters for pairs of integers: `pairs` as JSON on SQLite, the arrays `first` and `second` else."""
    if connection.dialect.name == "sqlite":
        return {"pairs": msgspec.json.encode(pairs).decode()}
    return {"first": [first for first, _ in pairs], "second": [second for _, second in pairs]}


class Span(NamedTuple):
    """The integers from `first` to `last`, each paired with the integer that is larger by `offset`."""

    first: int
    last: int
    offset: int


def spans(pairs: Iterable[tuple[int, int]]) -> list[Span]:
    """Return the spans of pairs whose first integers rise; none if there are more than MAX_SPANS.

    Most statements of a delivery are about consecutive matches. For a span SQLite makes no list of integers, which
    takes 30 us, and then 0.5 to 0.7 us for each of them.
    """
    found: list[Span] = []
    first = last = offset = 0
    for number, other in pairs:
        if number != last + 1 or other - number != offset or not first:
            if first:
                found.append(Span(first, last, offset))
            if len(found) == MAX_SPANS:
                return []
            first, offset = number, other - number
        last = number
    if first:
        found.append(Span(first, last, offset))
    return found
