"""Changing the schema of a database, of which each kind has its `Maintenance`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection

T = TypeVar("T")

PROGRESS_SECONDS: Final = 5.0
"""The interval between log lines of a long change."""


class SchemaChangeFailed(ValueError):
    """A change of the schema failed; the message says why. Completed steps are kept, and the next attempt continues."""


@dataclass(frozen=True, slots=True)
class NewIndex:
    """An index to build. Names and the condition are not quoted."""

    name: str
    table: str
    columns: tuple[str, ...]
    where: str = ""

    def statement(self, concurrently: str = "") -> str:
        """Return the statement that builds the index unless it exists."""
        where = f" WHERE {self.where}" if self.where else ""
        columns = ", ".join(self.columns)
        return f"CREATE INDEX {concurrently} IF NOT EXISTS {self.name} ON {self.table} ({columns}){where}"


class Maintenance(Protocol):
    """The right to change the schema, held until its context is left."""

    async def alter(self, work: Callable[[Connection], T]) -> T:
        """Run work that locks whole tables, briefly, in one transaction. It may run several times."""
        ...

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Run work that moves rows in one transaction."""
        ...

    async def build_index(self, index: NewIndex) -> None:
        """Build an index unless it exists; on PostgreSQL writes continue meanwhile."""
        ...
