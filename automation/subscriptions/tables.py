"""The tables of subscriptions. As the tables that every event writes, they hold no NULL.

A match has a row in `subscription_delivery` from its first delivery until it is settled or parked: all rows are at or
before the subscription's read position, and the first one holds the floor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import BigInteger, Boolean, Column, Float, Index, Integer, Table, Text, false, literal_column

from automation.tables import metadata

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement

# SQLite numbers rows by itself only where the column is exactly INTEGER.
_Key = BigInteger().with_variant(Integer(), "sqlite")

subscription = Table(
    "subscription",
    metadata,
    Column("key", _Key, primary_key=True, autoincrement=True),
    Column("project_key", _Key, nullable=False),
    Column("id", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("filter", Text, nullable=False),
    Column("order", Text, nullable=False),
    Column("ack_deadline", BigInteger, nullable=False),
    Column("max_attempts", Integer, nullable=False),
    Column("initial_delay", BigInteger, nullable=False),
    Column("max_delay", BigInteger, nullable=False),
    Column("multiplier", Float(53), nullable=False),
    Column("read_position", BigInteger, nullable=False),
    Column("floor_position", BigInteger, nullable=False),
    Column("last_serial", BigInteger, nullable=False),
    Column("seek_serial", BigInteger, nullable=False),
    Column("version", Integer, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("pushes", Boolean, nullable=False, server_default=false()),
)
Index("subscription_by_id", subscription.c.project_key, subscription.c.id, unique=True)
Index("subscription_by_name", subscription.c.project_key, subscription.c.name, unique=True)

# `attempt` is the number of the newest one, 0 before the first. `due_at` is when the lease ends or the match is due.
# `contact_key` is filled only where the subscription delivers in the order of contacts.
subscription_delivery = Table(
    "subscription_delivery",
    metadata,
    Column("subscription_key", _Key, primary_key=True, autoincrement=False),
    Column("match_position", BigInteger, primary_key=True, autoincrement=False),
    Column("state", Text, nullable=False),
    Column("serial", BigInteger, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("consumer_id", Text, nullable=False),
    Column("due_at", BigInteger, nullable=False),
    Column("contact_key", _Key, nullable=False),
    Column("replayed", Boolean, nullable=False),
    Column("last_failure", Text, nullable=False),
    sqlite_with_rowid=False,
)
_delivery = subscription_delivery.c
# Written as a literal, here and in the queries: SQLite takes a partial index for no bound value.
_with_contact = _delivery.contact_key != literal_column("0")
Index("delivery_by_due", _delivery.subscription_key, _delivery.state, _delivery.due_at)
Index(
    "delivery_of_consumer",
    _delivery.subscription_key,
    _delivery.consumer_id,
    _delivery.state,
    _delivery.match_position,
)
REPLAYED: ColumnElement[bool] = literal_column("replayed", Boolean)
Index(
    "delivery_replayed",
    _delivery.subscription_key,
    _delivery.match_position,
    sqlite_where=REPLAYED,
    postgresql_where=REPLAYED,
)
Index(
    "delivery_by_contact",
    _delivery.subscription_key,
    _delivery.contact_key,
    _delivery.match_position,
    sqlite_where=_with_contact,
    postgresql_where=_with_contact,
)

subscription_parked = Table(
    "subscription_parked",
    metadata,
    Column("subscription_key", _Key, primary_key=True, autoincrement=False),
    Column("match_position", BigInteger, primary_key=True, autoincrement=False),
    Column("automation_key", _Key, nullable=False),
    Column("contact_key", _Key, nullable=False),
    Column("cause", Text, nullable=False),
    Column("attempt_count", Integer, nullable=False),
    Column("last_failure", Text, nullable=False),
    Column("consumer_id", Text, nullable=False),
    Column("parked_at", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
_parked = subscription_parked.c
Index("parked_by_time", _parked.subscription_key, _parked.parked_at, _parked.match_position)

# `secrets`, `headers` and `attempts` are JSON; `attempts` are the last requests. One server, the `owner`, pushes until
# `owned_until`. `version` counts the changes of how it pushes.
subscription_push = Table(
    "subscription_push",
    metadata,
    Column("subscription_key", _Key, primary_key=True, autoincrement=False),
    Column("url", Text, nullable=False),
    Column("secrets", Text, nullable=False),
    Column("headers", Text, nullable=False),
    Column("timeout", BigInteger, nullable=False),
    Column("max_in_flight", Integer, nullable=False),
    Column("paused_at", BigInteger, nullable=False),
    Column("pause_reason", Text, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("owner", Text, nullable=False),
    Column("owned_until", BigInteger, nullable=False),
    Column("attempts", Text, nullable=False),
    Column("wanted_by", Text, nullable=False, server_default=""),
)
