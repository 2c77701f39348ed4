"""What an erasure leaves in the files of a database, and which columns may hold something about a person."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from sqlalchemy import LargeBinary, Text

from automation.tables import metadata as automation_metadata
from registry.storage.tables import metadata as registry_metadata
from server.current_call.context import REQUEST_ID
from server.storage.migrations import metadata as migrations_metadata
from server.storage.tables import metadata as server_metadata
from signalbox.v1 import contacts_pb2, match_stream_pb2, projects_pb2
from tests.support.automations import automate, await_event, complete, started
from tests.support.consumers import EARLIEST, PARK, RETRY, acknowledge, ids, pull, subscribe
from tests.support.messages import ANYTHING, event, struct
from tests.support.refusals import verdict
from tests.support.service import serving
from tests.support.stores import PostgresStore, SqliteStore

if TYPE_CHECKING:
    from tests.support.service import Client
    from tests.support.stores import Store

PERSON: Final = "ada.traces@example.com"
QUARANTINE = projects_pb2.REFUSED_EVENTS_QUARANTINE
ON_MATCH = projects_pb2.UNKNOWN_CONTACTS_CREATE_ON_MATCH

ERASED: Final = "erased"
"""Set to empty, or to what is kept and does not contain the address."""
DROPPED: Final = "its rows are deleted"
SEALED: Final = "replaced by a digest"
CONFIGURED: Final = "written by the project's own people, about no contact"
GENERATED: Final = "made by the server: an id, a state, a version, a digest of a secret"

COLUMNS: Final = {
    "alembic_version": {},
    "api_key": {
        "id": GENERATED,
        "digest": GENERATED,
        "dialect": CONFIGURED,
        "scopes": CONFIGURED,
        "description": CONFIGURED,
        "hint": GENERATED,
        "name": CONFIGURED,
        "previous_digest": GENERATED,
    },
    "audit_entry": {
        "id": GENERATED,
        "project_id": GENERATED,
        "key_id": GENERATED,
        "api": GENERATED,
        # Given by the caller, to find a call again; stored without the addresses that the mask knows.
        "request_id": ERASED,
        "action": GENERATED,
        "resource_type": GENERATED,
        "resource_id": GENERATED,
        "before_json": ERASED,
        "after_json": ERASED,
        "omitted": ERASED,
    },
    "automation": {
        "id": GENERATED,
        "name": CONFIGURED,
        "event_name": CONFIGURED,
        "condition": CONFIGURED,
        "state": GENERATED,
        "entry_rule": CONFIGURED,
        "labels": CONFIGURED,
        "attributes": CONFIGURED,
    },
    "automation_match": {"id": GENERATED, "kind": GENERATED, "run_id": GENERATED, "event_name": CONFIGURED},
    "automation_version": {
        "state": GENERATED,
        "event_name": CONFIGURED,
        "condition": CONFIGURED,
        "entry_rule": CONFIGURED,
    },
    "contact": {"id": GENERATED, "email": ERASED, "properties": ERASED},
    "contact_erasure": {"email": DROPPED},
    "event": {
        "id": GENERATED,
        "name": CONFIGURED,
        "definition_id": GENERATED,
        "email": ERASED,
        "properties": ERASED,
        "coercions": ERASED,
        "idempotency_key": SEALED,
        "fingerprint": SEALED,
        # Leads to the traces of the sender.
        "traceparent": ERASED,
    },
    "event_definition": {
        "id": GENERATED,
        "project_id": GENERATED,
        "name": CONFIGURED,
        "description": CONFIGURED,
        "compatibility": CONFIGURED,
    },
    "event_definition_revision": {"definition_id": GENERATED, "schema": CONFIGURED, "layout": CONFIGURED},
    "project": {
        "id": GENERATED,
        "name": CONFIGURED,
        "undefined_events": CONFIGURED,
        "unknown_contacts": CONFIGURED,
        "name_case": CONFIGURED,
        "erasure": CONFIGURED,
        "refused_events": CONFIGURED,
    },
    "run": {
        "id": GENERATED,
        "status": GENERATED,
        "wait_event": CONFIGURED,
        "wait_condition": ERASED,
        "reason": ERASED,
        "attributes": ERASED,
    },
    "refused_event": {
        "id": DROPPED,
        "name": DROPPED,
        "faults": DROPPED,
        "door": DROPPED,
        "key_id": DROPPED,
        "request_id": DROPPED,
        "idempotency_key": DROPPED,
        "contact_id": DROPPED,
        "email": DROPPED,
        "error": DROPPED,
        "content": DROPPED,
        "request": DROPPED,
    },
    "schema_migration": {"name": GENERATED, "cursor": GENERATED},
    "server_secret": {"name": GENERATED, "secret": GENERATED},
    "server_setting": {"name": GENERATED, "value": CONFIGURED},
    "subscription": {"id": GENERATED, "name": CONFIGURED, "filter": CONFIGURED, "order": CONFIGURED},
    "subscription_delivery": {"state": DROPPED, "consumer_id": DROPPED, "last_failure": DROPPED},
    "subscription_parked": {"cause": DROPPED, "last_failure": DROPPED, "consumer_id": DROPPED},
    "subscription_push": {
        "url": CONFIGURED,
        "secrets": CONFIGURED,
        "headers": CONFIGURED,
        "pause_reason": GENERATED,
        "owner": GENERATED,
        # Of a request: the id of its match, the status of the response, and an error in the server's words.
        "attempts": GENERATED,
        "wanted_by": GENERATED,
    },
    "used_key": {"table_name": GENERATED},
}
"""What an erasure does with each column of text, by table."""


def test_every_column_of_text_says_what_an_erasure_does_with_it() -> None:
    """Whoever adds a column decides whether it may hold something about a person, and has it erased then."""
    found: dict[str, set[str]] = {"alembic_version": set()}
    for metadata in (registry_metadata, automation_metadata, server_metadata, migrations_metadata):
        for table in metadata.sorted_tables:
            texts = {column.name for column in table.columns if isinstance(column.type, Text | LargeBinary)}
            if texts:
                found[table.name] = texts
    assert found == {table: set(columns) for table, columns in COLUMNS.items()}


async def leave_traces(client: Client) -> None:
    """Have something about the person stored in every place that can hold it."""
    client.metadata.append((REQUEST_ID, f"import-of-{PERSON}"))
    await client.define("note", ANYTHING)
    for wrong in ({"order_total": PERSON}, {"order_total": {PERSON.upper(): 1}}):
        assert (await verdict(client.send(event(wrong, email=PERSON, key=f"refused {PERSON}"))))[
            1
        ] == "PAYLOAD_REJECTED"
    await client.send(event({"order_total": "5"}, email=PERSON, key=f"before {PERSON}"))
    await client.upsert(PERSON.upper(), {"alias": PERSON.title(), PERSON: 1})
    await automate(client)
    await automate(client, "note")
    for name in ("leased", "waiting", "parked"):
        await subscribe(client, name, EARLIEST)
    runs = [await started(client, event({"order_total": "7"}, email=PERSON, key=f"{n} {PERSON}")) for n in range(3)]
    await client.send(
        event({"to": {PERSON.upper(): [PERSON]}, "text": f"x {PERSON} " * 1_000}, name="note", email=PERSON)
    )
    await await_event(client, runs[0], condition=f'contact.email == "{PERSON}"', attributes=struct({"to": PERSON}))
    await complete(client, runs[1], attributes=struct({"to": PERSON}), reason=f"sent to {PERSON}")
    for name in ("leased", "waiting", "parked"):
        deliveries = await pull(client, name=name, consumer_id=f"engine of {PERSON}")
        assert len(deliveries) == 4
        nack = match_stream_pb2.NackDeliveries(delivery_ids=ids(deliveries), reason=f"no mailbox {PERSON}")
        nack.action = PARK if name == "parked" else RETRY
        if name != "leased":
            await acknowledge(client, name, nacks=[nack])


async def columns_with(store: Store, text: str) -> set[str]:
    """Return the columns, of all tables that the database has, in which a text is found in any letter case."""
    if isinstance(store, SqliteStore):
        return _columns_of_sqlite(store, text)
    assert isinstance(store, PostgresStore)
    found = set()
    async with store.connected() as connection:
        columns = await connection.fetch(
            "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = current_schema()"
        )
        for table, column in columns:
            query = f"""SELECT EXISTS (SELECT FROM "{table}" WHERE position($1 IN lower("{column}"::text)) > 0
                OR position($2 IN lower("{column}"::text)) > 0)"""  # noqa: S608 - names of the catalog
            if await connection.fetchval(query, text, text.encode().hex()):
                found.add(f"{table}.{column}")
    return found


def _columns_of_sqlite(store: SqliteStore, text: str) -> set[str]:
    found = set()
    with closing(sqlite3.connect(store.path)) as connection:
        for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            for _, column, *_ in connection.execute(f'PRAGMA table_info("{table}")').fetchall():
                query = f"""SELECT 1 FROM "{table}" WHERE instr(lower(CAST("{column}" AS TEXT)), ?) LIMIT 1"""  # noqa: S608
                if connection.execute(query, (text,)).fetchone():
                    found.add(f"{table}.{column}")
    return found


async def file_bytes(store: Store) -> bytes:
    """Return the bytes of all files of the database, after everything in them that is not used was removed."""
    if isinstance(store, SqliteStore):
        with closing(sqlite3.connect(store.path)) as connection:
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return b"".join(path.read_bytes() for path in store.path.parent.glob(f"{store.path.name}*"))
    assert isinstance(store, PostgresStore)
    async with store.connected() as connection:
        await connection.execute("VACUUM (FULL, ANALYZE)")
        await connection.execute("CHECKPOINT")
        folder = await connection.fetchval("SELECT current_setting('data_directory')")
        number = await connection.fetchval("SELECT oid FROM pg_database WHERE datname = current_database()")
    return _all_bytes(Path(folder) / "base" / str(number))


def _all_bytes(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file())


async def test_no_byte_of_an_erased_address_is_left(store: Store) -> None:
    if isinstance(store, PostgresStore):
        store.altered = True
    async with serving(store.url) as service:
        client = await service.shop(unknown_contacts=ON_MATCH, refused_events=QUARANTINE)
        await leave_traces(client)
        before = await columns_with(store, PERSON)
        assert before == {
            "audit_entry.after_json",
            "contact.email",
            "contact.properties",
            "event.email",
            "event.properties",
            "event.idempotency_key",
            "refused_event.content",
            "refused_event.email",
            "refused_event.error",
            "refused_event.idempotency_key",
            "run.wait_condition",
            "run.reason",
            "run.attributes",
            "subscription_delivery.consumer_id",
            "subscription_delivery.last_failure",
            "subscription_parked.consumer_id",
            "subscription_parked.last_failure",
        }
        done = await client.contacts.EraseContact(contacts_pb2.EraseContactRequest(email=PERSON))
        assert (done.event_count, done.run_count, done.dropped_delivery_count) == (5, 4, 12)
        assert done.refused_event_count == 2
        assert await columns_with(store, PERSON) == set()
    stored = (await file_bytes(store)).lower()
    assert b"engine" not in stored  # nor its consumer
    assert b"order_completed" in stored
    assert PERSON.encode() not in stored


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
async def test_sqlite_overwrites_what_an_erasure_deletes(store: Store) -> None:
    """Without VACUUM: what is left are copies that earlier changes of pages made."""
    assert isinstance(store, SqliteStore)
    async with serving(store.url) as service:
        client = await service.shop(unknown_contacts=ON_MATCH)
        await client.define("note", ANYTHING)
        await client.upsert(PERSON)
        await client.send(event({"by": f"{PERSON} " * 3_000}, name="note", email=PERSON))
        await client.contacts.EraseContact(contacts_pb2.EraseContactRequest(email=PERSON))
    with closing(sqlite3.connect(store.path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert PERSON.encode() not in store.path.read_bytes()


@pytest.mark.parametrize("known", [True, False], ids=["contact", "address"])
async def test_an_erasure_finds_an_address_in_request_ids_that_were_stored_unmasked(store: Store, known: bool) -> None:
    async with serving(store.url) as running:
        service = running.by_requests()
        client = await service.project(unknown_contacts=ON_MATCH)
        await client.define("note", ANYTHING)
        await client.upsert("bob@example.com")
        if known:
            await client.upsert(PERSON)
        await client.send(event({}, name="note", email=PERSON))
        unmasked = f"UPDATE audit_entry SET request_id = 'for-{PERSON.upper()}'"  # noqa: S608
        await store.execute(f"{unmasked} WHERE action <> 'UpsertContact' AND project_id <> ''")
        await store.execute("UPDATE audit_entry SET request_id = 'of another' WHERE action = 'UpsertContact'")
        assert "audit_entry.request_id" in await columns_with(store, PERSON)
        await client.contacts.EraseContact(contacts_pb2.EraseContactRequest(email=PERSON))
        assert await columns_with(store, PERSON) == set()
        left = [row for row in await store.rows("audit_entry") if "of another" in row]
        assert len(left) == (2 if known else 1)
