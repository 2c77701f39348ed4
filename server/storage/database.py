"""One interface to SQLite and PostgreSQL.

A store function is a plain function of an open `sqlalchemy.Connection`, written once for both databases. Both run it in
a transaction of SQLAlchemy's async engine (`server.storage.transactions`), and the event loop stays free: PostgreSQL
suspends the function at each statement, SQLite runs it in the thread of its connection. Only writes to SQLite have a
thread and an engine of their own (`server.storage.sqlite.writer` says why).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractAsyncContextManager

    from sqlalchemy import Connection

    from server.storage.schema_changes import Maintenance
    from server.storage.usage import ConnectionUse, DatabaseSize

T = TypeVar("T")


class Database(Protocol):
    """A database that runs store functions, `work`, in transactions.

    Work must change nothing but the database: it runs again if its connection was lost before the commit began.

    `read` and `write` roll back and re-raise the errors of the work. An error of the driver becomes a
    `server.errors.StorageError`, with the driver's error as its cause.
    """

    shared: bool
    """Whether other servers may work on the same database."""

    epoch: int
    """Changes when connections are lost: a failover or a restore may have undone commits that were read before."""

    async def read(self, work: Callable[[Connection], T], *, brief: bool = False, delivery: bool = False) -> T:
        """Run work in one read-only transaction, which sees one state of the database.

        Brief work, such as a query by key, and work that loads matches for delivery have connections of their own and
        never wait for long reads. Of each kind, work for one project (`server.sharing.current_project`) uses at most a
        share.
        """
        ...

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Run work in one transaction, durable when this returns. Projects take turns."""
        ...

    async def check(self) -> None:
        """Raise StorageError unless a write can be committed. Commits one that changes nothing."""
        ...

    async def close(self) -> None:
        """Finish running work and close every connection."""
        ...


class OpenDatabase(Database, Protocol):
    """A database whose schema can also be changed."""

    def maintenance(self) -> AbstractAsyncContextManager[Maintenance]:
        """Wait for the right to change the schema, and hold it while the context is open."""
        ...


class MeasuredDatabase(OpenDatabase, Protocol):
    """A database that also reports on itself."""

    kind: str
    """`sqlite` or `postgresql`."""

    async def version(self) -> str:
        """Return the version of the database's own software."""
        ...

    def connections(self) -> Mapping[str, ConnectionUse]:
        """Return the use of its connections, by kind of transaction."""
        ...

    async def size(self) -> DatabaseSize:
        """Return its size."""
        ...

    def on_checkpoint(self, report: Callable[[float], None]) -> None:
        """Set the function that is called with the duration of each checkpoint, in a thread of the database."""
        ...
