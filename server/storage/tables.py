"""The server's own tables.

Rows of events refer to projects and contacts by a small integer, the column `key`, which never leaves the database:
with ids of 36 characters a commit of 500 events would write twice as many bytes, in 2.9 ms instead of 1.4 ms. In code
the `key` of a project is `project_pk`.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    false,
    literal_column,
)

metadata = MetaData()

# SQLite numbers rows only if the type of the column is exactly INTEGER.
_Key = BigInteger().with_variant(Integer(), "sqlite")

project = Table(
    "project",
    metadata,
    Column("key", _Key, primary_key=True, autoincrement=True),
    Column("id", Text, nullable=False, unique=True),
    Column("name", Text, nullable=False, unique=True),
    Column("undefined_events", Text, nullable=False),
    Column("unknown_contacts", Text, nullable=False),
    Column("name_case", Text, nullable=False),
    Column("events_per_second", BigInteger, nullable=False, server_default="0"),
    Column("event_burst", BigInteger, nullable=False, server_default="0"),
    Column("events_per_day", BigInteger, nullable=False, server_default="0"),
    Column("version", Integer, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("erasure", Text, nullable=False, server_default="delete_all"),
    # Whether a person was erased: idempotency keys may be sealed then (`server.storage.erasures.sealing`).
    Column("sealed", Boolean, nullable=False, server_default=false()),
    # In microseconds; 0 is for ever.
    Column("event_retention", BigInteger, nullable=False, server_default="0"),
    Column("refused_events", Text, nullable=False, server_default="drop"),
    # Once it is set, the project is read as missing, and its rows are about to be deleted.
    Column("deleted_at", BigInteger),
)

# One row for each project, locked and updated by every commit: the ends of its logs of events and matches, and the
# version of the catalog by which an event must have been validated. The automations have a version of their own as
# well: there may be thousands, which are compiled again only if they changed.
project_head = Table(
    "project_head",
    metadata,
    Column("project_key", _Key, primary_key=True, autoincrement=False),
    Column("catalog_version", BigInteger, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("received_at", BigInteger, nullable=False),
    Column("match_position", BigInteger, nullable=False, server_default="0"),
    Column("automations_version", BigInteger, nullable=False, server_default="0"),
)

api_key = Table(
    "api_key",
    metadata,
    Column("id", Text, primary_key=True),
    Column("project_key", _Key, nullable=False),
    Column("digest", LargeBinary, nullable=False, unique=True),
    Column("dialect", Text, nullable=False),
    Column("scopes", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("hint", Text, nullable=False),
    Column("demo", Boolean, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("revoked_at", BigInteger),
    Column("name", Text, nullable=False, server_default=""),
    Column("expires_at", BigInteger),
    Column("last_used_at", BigInteger),
    # The secret before the last rotation.
    Column("previous_digest", LargeBinary),
    Column("previous_expires_at", BigInteger),
)
Index("api_key_by_previous_digest", api_key.c.previous_digest, unique=True)
Index("api_key_by_project", api_key.c.project_key, api_key.c.id)

# Shared by all servers of the database: see `server.storage.server_secrets`.
server_secret = Table(
    "server_secret",
    metadata,
    Column("name", Text, primary_key=True),
    Column("secret", LargeBinary, nullable=False),
)

# Nothing reads it: `used_key` has taken its place. Servers of the release before still write to it.
used_project_key = Table(
    "used_project_key",
    metadata,
    Column("key", _Key, primary_key=True, autoincrement=False),
)

# Entries name their project by its ID, and outlive it. An ID is a UUIDv7 and begins with the time of the entry.
audit_entry = Table(
    "audit_entry",
    metadata,
    Column("id", Text, primary_key=True),
    Column("occurred_at", BigInteger, nullable=False),
    Column("project_id", Text, nullable=False),
    Column("key_id", Text, nullable=False),
    Column("api", Text, nullable=False),
    Column("request_id", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("resource_type", Text, nullable=False),
    Column("resource_id", Text, nullable=False),
    Column("before_json", Text, nullable=False),
    Column("after_json", Text, nullable=False),
    Column("omitted", Text, nullable=False),
)
Index("audit_entry_by_project", audit_entry.c.project_id, audit_entry.c.id)

# The settings of the server that started last, to notice that they differ.
server_setting = Table(
    "server_setting",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),
)

# A deleted contact keeps its row, without address and properties, so that its events still have its id. With
# `erased_at`, its events are erased too, or are about to be.
contact = Table(
    "contact",
    metadata,
    Column("key", _Key, primary_key=True, autoincrement=True),
    Column("id", Text, nullable=False),
    Column("project_key", _Key, nullable=False),
    Column("email", Text),
    Column("properties", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("deleted_at", BigInteger),
    Column("erased_at", BigInteger),
)
Index("contact_by_email", contact.c.project_key, contact.c.email, unique=True)
Index("contact_by_id", contact.c.project_key, contact.c.id, unique=True)

# The log. A value that does not apply is 0 or empty, never NULL: the SQLite driver takes ten times as long to bind a
# NULL. `email` is set only for events without a contact, `fingerprint` only with an idempotency key. An id contains the
# position (`registry.log_ids`), so it needs no index.
event = Table(
    "event",
    metadata,
    Column("project_key", _Key, primary_key=True, autoincrement=False),
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("id", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("definition_id", Text, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("contact_key", _Key, nullable=False),
    Column("email", Text, nullable=False),
    Column("properties", Text, nullable=False),
    Column("coercions", Text, nullable=False),
    Column("occurred_at", BigInteger, nullable=False),
    Column("received_at", BigInteger, nullable=False),
    Column("match_count", Integer, nullable=False),
    Column("idempotency_key", Text, nullable=False),
    Column("fingerprint", Text, nullable=False),
    Column("ignore_case", SmallInteger, nullable=False, server_default="0"),
    Column("erased_at", BigInteger, nullable=False, server_default="0"),
    Column("traceparent", Text, nullable=False, server_default=""),
    sqlite_with_rowid=False,
)
Index("event_by_name", event.c.project_key, event.c.name, event.c.position)
# On SQLite each commit writes whole pages. In an index by contact alone, nearly every event of a batch has a page of
# its own: with 1,000 contacts and a million events, it adds 3.7 KB and 15 us to an event. So the log is divided into
# segments, and the index has the contacts of each: 0.3 KB and 2 us. `events/by_contact.py` reads it. It begins with no
# project, or SQLite would prefer the primary key. PostgreSQL writes rows rather than pages, and has the plain index.
SEGMENT_BITS = 13
SEGMENT: ColumnElement[int] = event.c.position.bitwise_rshift(literal_column(str(SEGMENT_BITS)))
Index(
    "event_by_segment_and_contact",
    SEGMENT,
    event.c.contact_key,
    event.c.name,
    event.c.position,
).ddl_if(dialect="sqlite")
Index("event_by_contact", event.c.project_key, event.c.contact_key, event.c.position).ddl_if(dialect="postgresql")
Index(
    "event_by_idempotency_key",
    event.c.project_key,
    event.c.idempotency_key,
    unique=True,
    sqlite_where=event.c.idempotency_key != "",
    postgresql_where=event.c.idempotency_key != "",
)
# A literal, here and in the queries: SQLite does not use a partial index for a condition with a bound value. The
# condition leaves out `contact_key`, or SQLite would choose the index of contacts and read all events without one.
WITHOUT_CONTACT = event.c.email != literal_column("''")
Index(
    "event_without_contact",
    event.c.project_key,
    event.c.email,
    event.c.position,
    sqlite_where=WITHOUT_CONTACT,
    postgresql_where=WITHOUT_CONTACT,
)

# The erasures in progress: see `server.services.erasures`. `email` is empty if it is unknown, `contact_key` is 0 for an
# address that no contact has. Runs are erased up to and including the number `run_number`, events up to and including
# `position`, and none after `until_position`.
contact_erasure = Table(
    "contact_erasure",
    metadata,
    Column("key", _Key, primary_key=True, autoincrement=True),
    Column("project_key", _Key, nullable=False),
    Column("contact_key", _Key, nullable=False),
    Column("email", Text, nullable=False),
    Column("keeps", Boolean, nullable=False),
    Column("run_number", BigInteger, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("until_position", BigInteger, nullable=False),
    Column("erased_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
)

# The quarantine: see `server.storage.quarantine`. What a list filters by is in columns before `content`, which may be
# large, and `email` is as it was sent, to be found when a person's data are erased.
refused_event = Table(
    "refused_event",
    metadata,
    Column("project_key", _Key, primary_key=True, autoincrement=False),
    Column("id", Text, primary_key=True),
    Column("received_at", BigInteger, nullable=False),
    Column("byte_count", BigInteger, nullable=False),
    Column("name", Text, nullable=False),
    Column("faults", Text, nullable=False),
    Column("door", Text, nullable=False),
    Column("key_id", Text, nullable=False),
    Column("request_id", Text, nullable=False),
    Column("idempotency_key", Text, nullable=False),
    Column("contact_id", Text, nullable=False),
    Column("email", Text, nullable=False),
    Column("error", Text, nullable=False),
    Column("content", Text, nullable=False),
    Column("request", LargeBinary, nullable=False),
)
_keyed = refused_event.c.idempotency_key != ""
Index(
    "refused_event_by_idempotency_key",
    refused_event.c.project_key,
    refused_event.c.idempotency_key,
    refused_event.c.id,
    sqlite_where=_keyed,
    postgresql_where=_keyed,
)

# How much of its limits the quarantine of a project uses; changed only under the lock of the project's head.
quarantine = Table(
    "quarantine",
    metadata,
    Column("project_key", _Key, primary_key=True, autoincrement=False),
    Column("event_count", BigInteger, nullable=False),
    Column("byte_count", BigInteger, nullable=False),
)
