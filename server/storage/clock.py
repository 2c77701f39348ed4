"""The time by which a server measures leases, retries and waits, and dates what it records.

    SQLite        the clock of the process, which follows no step of the system clock (`registry.times.steady_clock`)
    PostgreSQL    the clock of the database, which all its servers share, read in the transaction that uses it

Between transactions a server on PostgreSQL estimates the time of the database, to know when the next lease ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from registry.times.timestamps import now_micros

if TYPE_CHECKING:
    from sqlalchemy import Connection

DATABASE_MICROS: Final = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
"""PostgreSQL's expression for the present instant."""

_SELECT_MICROS: Final = f"SELECT {DATABASE_MICROS}"


class _Estimate:
    """How far the clock of the database is ahead of this process's, in microseconds. A process has one database."""

    ahead = 0


def transaction_time(connection: Connection) -> int:
    """Return the present instant within a transaction. Call it once the transaction holds its locks."""
    if connection.dialect.name != "postgresql":
        return now_micros()
    now = int(connection.exec_driver_sql(_SELECT_MICROS).scalar_one())
    _Estimate.ahead = now - now_micros()
    return now


def log_time(head_read_at: int) -> int:
    """Return the time of entries appended to a log.

    `head_read_at` is the time at which PostgreSQL read the log's head row, 0 on SQLite.
    """
    return head_read_at or now_micros()


def database_now() -> int:
    """Return the present instant outside of a transaction, as `transaction_time` would; on PostgreSQL an estimate."""
    return now_micros() + _Estimate.ahead
