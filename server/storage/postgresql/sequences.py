"""Sequences that would return keys already in use, as after a restore of data alone: each new row would fail."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa
import structlog
from sqlalchemy.dialects.postgresql import REGCLASS

from automation.subscriptions.tables import subscription
from automation.tables import automation
from server.storage.tables import contact, contact_erasure, project

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import Connection, Table

log = structlog.get_logger()

NUMBERED = (project, contact, contact_erasure, automation, subscription)
"""The tables whose keys the database counts."""


def tables_to_repair(connection: Connection) -> list[Table]:
    """Return the tables whose sequences seem to need a repair; none on SQLite, which has no sequences."""
    if connection.dialect.name != "postgresql":
        return []
    return [table for table in NUMBERED if _largest(connection, table) > _last(connection, table)]


def repair_sequences(tables: Iterable[Table], connection: Connection) -> None:
    """Set the sequences of tables to their largest keys, unless they are past those."""
    for table in tables:
        # Otherwise another server might take the next number and insert its row before the sequence is set.
        connection.exec_driver_sql(f"LOCK TABLE {table.name} IN SHARE ROW EXCLUSIVE MODE")
        sequence = _sequence(connection, table)
        last, called = connection.exec_driver_sql(f"SELECT last_value, is_called FROM {sequence}").one()  # noqa: S608
        largest = _largest(connection, table)
        if last + called <= largest:
            connection.execute(sa.select(sa.func.setval(sequence, largest)))
            log.warning("sequence_repaired", table=table.name, was_at=last, set_to=largest)


def _largest(connection: Connection, table: Table) -> int:
    return int(connection.scalar(sa.select(sa.func.max(table.c.key))) or 0)


def _last(connection: Connection, table: Table) -> int:
    """Return the last number of a sequence, 0 if it has returned none."""
    sequence = sa.cast(sa.func.pg_get_serial_sequence(table.name, "key"), REGCLASS)
    return int(connection.scalar(sa.select(sa.func.pg_sequence_last_value(sequence))) or 0)


def _sequence(connection: Connection, table: Table) -> str:
    return str(connection.scalar(sa.select(sa.func.pg_get_serial_sequence(table.name, "key"))))
