"""Stored rows that cannot be read: their page is answered, each shows its reason, and the server reports them."""

from __future__ import annotations

import json
import re
import sys
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from server.rpc.messages.structs import read_struct
from signalbox.v1 import automations_pb2, contacts_pb2, event_definitions_pb2
from signalbox.v1 import match_stream_pb2 as pb
from tests.support.automations import automate
from tests.support.bridge import calling
from tests.support.consumers import EARLIEST, pull, record, subscribe
from tests.support.messages import ADA, ORDER, event, schema, struct
from tests.support.refusals import verdict

if TYPE_CHECKING:
    from google.protobuf.struct_pb2 import Struct

    from tests.support.service import Client, Service
    from tests.support.stores import Store

pytestmark = pytest.mark.lasting
# What is stored is read from the rows alike over both databases, which the list of events shows.
on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)

LARGEST = sys.float_info.max
REFUSED = (grpc.StatusCode.FAILED_PRECONDITION, "ROW_UNREADABLE")

DAMAGES = {
    "NaN": '{"n": NaN}',
    "no JSON": "{",
    "no text": "",
    "no object": "[1]",
    "half a pair": r'{"n": "\ud800"}',
    "too deep for a message": '{"n":' * 33 + "1" + "}" * 33,
    "too deep to decode": '{"n":' + "[" * 20_000 + "]" * 20_000 + "}",
}
HUGE = json.dumps({"n": 10**308 * 9, "list": [-(10**400)]})

every_damage = pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
one_damage = pytest.mark.parametrize("damage", ['{"n": NaN}', "[1]"])


async def counted(service: Service, table: str) -> float:
    """Return how many unreadable rows of a table the metrics count."""
    text = (await service.http.get("/metrics")).text
    found = re.search(rf'^signalbox_unreadable_rows_total{{table="{table}"}} (\S+)$', text, re.MULTILINE)
    return float(found[1]) if found else 0.0


async def plant(store: Store, table: str, column: str, text: str, where: str) -> None:
    quoted = text.replace("'", "''")
    await store.execute(f"UPDATE {table} SET {column} = '{quoted}' WHERE {where}")  # noqa: S608 - of these tests


async def contacts(client: Client) -> dict[str, contacts_pb2.Contact]:
    answer = await client.contacts.ListContacts(contacts_pb2.ListContactsRequest())
    return {each.email: each for each in answer.contacts}


async def listed(client: Client) -> dict[str, automations_pb2.Automation]:
    answer = await client.automations.ListAutomations(automations_pb2.ListAutomationsRequest())
    return {each.name: each for each in answer.automations}


def check_shown(shown: Any, values: Struct, reported: str = "") -> None:
    """Expect a row that is shown without what cannot be read, and with the reason."""
    assert read_struct(values) == {}
    assert 0 < len(shown.unreadable_reason) < 400
    assert not reported or shown.unreadable_reason in reported


@every_damage
async def test_an_event_is_shown_with_its_reason_beside_the_others(
    service: Service, shop: Client, served_store: Store, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    receipts = [await shop.send(event({"currency": "EUR"})) for _ in range(3)]
    await plant(served_store, "event", "properties", damage, "position = 2")
    before = await counted(service, "event")
    log = await shop.log()
    assert [each.position for each in log] == [1, 2, 3]
    assert [bool(each.unreadable_reason) for each in log] == [False, True, False]
    assert [bool(read_struct(each.properties)) for each in log] == [True, False, True]
    check_shown(log[1], log[1].properties, caplog.text)
    assert await shop.get(receipts[1].event.id) == log[1]
    assert await counted(service, "event") == before + 2
    assert caplog.text.count(receipts[1].event.id) == 1
    explained = automations_pb2.ExplainEventRequest(event_id=receipts[1].event.id)
    assert await verdict(shop.automations.ExplainEvent(explained)) == REFUSED


@on_sqlite
@every_damage
async def test_a_backtest_skips_and_counts_an_unreadable_event(
    service: Service, shop: Client, served_store: Store, damage: str
) -> None:
    for _ in range(3):
        await shop.send(event({"currency": "EUR"}))
    await plant(served_store, "event", "properties", damage, "position = 2")
    before = await counted(service, "event")
    request = event_definitions_pb2.BacktestSchemaRequest(event_definition=ORDER, schema=schema(currency="number"))
    *_, last = [answer async for answer in shop.definitions.BacktestSchema(request)]
    assert (last.report.event_count, last.report.newly_rejected_count, last.report.unreadable_count) == (2, 2, 1)
    assert await counted(service, "event") == before + 1


async def test_an_event_with_coercions_of_an_unknown_kind_is_shown_with_its_reason(
    shop: Client, served_store: Store
) -> None:
    await shop.send()
    await plant(served_store, "event", "coercions", '[["x","odd",1,2]]', "position = 1")
    (found,) = await shop.log()
    check_shown(found, found.properties)
    assert not found.coercions


@one_damage
async def test_an_event_whose_key_is_sent_again_does_not_fail_the_batch(
    shop: Client, served_store: Store, damage: str
) -> None:
    sent = event()
    sent.idempotency_key = "once"
    await shop.send(sent)
    await plant(served_store, "event", "properties", damage, "position = 1")
    results = await shop.send_all([event(), sent, event()])
    assert [each.WhichOneof("outcome") for each in results] == ["receipt"] * 3
    assert await shop.positions() == [1, 2, 3]


@one_damage
async def test_a_contact_is_shown_with_its_reason_and_is_not_changed_but_deleted(
    service: Service, shop: Client, served_store: Store, damage: str
) -> None:
    await shop.upsert("bob@example.com", {"plan": "pro"})
    await plant(served_store, "contact", "properties", damage, f"email = '{ADA}'")
    before = await counted(service, "contact")
    found = await contacts(shop)
    check_shown(found[ADA], found[ADA].properties)
    assert read_struct(found["bob@example.com"].properties) == {"plan": "pro"}
    assert not found["bob@example.com"].unreadable_reason
    assert await counted(service, "contact") == before + 1
    answer = await shop.contacts.GetContact(contacts_pb2.GetContactRequest(email=ADA))
    assert answer.contact == found[ADA]
    rows = await served_store.rows("contact")
    assert await verdict(shop.upsert(properties={"plan": "pro"})) == REFUSED
    assert await served_store.rows("contact") == rows
    await automate(shop, condition='contact.properties.plan == "pro"')
    assert (await shop.send()).event.position == 1
    assert (await shop.forget()).unreadable_reason
    assert list(await contacts(shop)) == ["bob@example.com"]


@one_damage
@pytest.mark.parametrize("column", ["labels", "attributes"])
async def test_an_unreadable_automation_is_shown_with_the_reason_and_still_matches(
    service: Service, shop: Client, served_store: Store, damage: str, column: str
) -> None:
    made = await automate(shop, labels={"team": "a"}, attributes=struct({"steps": [1]}))
    await automate(shop, name="Sound", labels={"team": "a"})
    await plant(served_store, "automation", column, damage, "name = 'Welcome'")
    # Another automation makes the server read the catalog again.
    await automate(shop, name="Newest")
    before = await counted(service, "automation")
    found = await listed(shop)
    assert await counted(service, "automation") == before + 1
    assert set(found) == {"Welcome", "Sound", "Newest"}
    assert found["Welcome"].unreadable_reason.startswith(f"{column}: ")
    assert not found["Sound"].unreadable_reason
    assert dict(found["Welcome"].labels) == ({} if column == "labels" else {"team": "a"})
    assert read_struct(found["Welcome"].attributes) == ({"steps": [1]} if column == "labels" else {})
    request = automations_pb2.GetAutomationRequest(id=made.id)
    assert (await shop.automations.GetAutomation(request)).automation == found["Welcome"]
    labelled = automations_pb2.ListAutomationsRequest(labels={"team": "a"})
    names = [each.name for each in (await shop.automations.ListAutomations(labelled)).automations]
    assert names == (["Sound"] if column == "labels" else ["Sound", "Welcome"])
    assert (await shop.send()).match_count == 3


@on_sqlite
@one_damage
@pytest.mark.parametrize("column", ["labels", "attributes"])
async def test_a_change_of_an_automation_keeps_unreadable_values_until_they_are_replaced(
    shop: Client, store: Store, damage: str, column: str
) -> None:
    made = await automate(shop)
    await plant(store, "automation", column, damage, "name = 'Welcome'")
    paused = (await shop.automations.PauseAutomation(automations_pb2.PauseAutomationRequest(id=made.id))).automation
    assert paused.unreadable_reason
    assert any(damage in row for row in await store.rows("automation"))
    change = automations_pb2.UpdateAutomationRequest(id=made.id)
    if column == "labels":
        change.labels["team"] = "b"
    else:
        change.attributes.update({"steps": [2]})
    changed = (await shop.automations.UpdateAutomation(change)).automation
    assert not changed.unreadable_reason
    assert (await listed(shop))["Welcome"] == changed
    assert (dict(changed.labels), read_struct(changed.attributes)) == (
        ({"team": "b"}, {}) if column == "labels" else ({}, {"steps": [2]})
    )


async def test_a_match_of_an_automation_with_damaged_labels_parks_alone(shop: Client, served_store: Store) -> None:
    await automate(shop)
    await automate(shop, name="Sound")
    await subscribe(shop, start=EARLIEST)
    await record(shop, 1)
    await plant(served_store, "automation", "labels", "[1]", "name = 'Welcome'")
    assert [each.match.automation_name for each in await pull(shop)] == ["Sound"]
    request = pb.ListParkedMatchesRequest(subscription="engine")
    (parked,) = (await shop.matches.ListParkedMatches(request)).parked_matches
    assert parked.cause == pb.ParkedMatch.CAUSE_UNREADABLE


@one_damage
async def test_an_unreadable_run_is_shown_with_the_reason_and_ends_without_losing_its_attributes(
    service: Service, shop: Client, store: Store, damage: str
) -> None:
    await automate(shop)
    await shop.send()
    await shop.send()
    await plant(store, "run", "attributes", damage, "number = 1")
    before = await counted(service, "run")
    runs = list((await shop.automations.ListRuns(automations_pb2.ListRunsRequest())).runs)
    assert [bool(each.unreadable_reason) for each in runs] == [False, True]
    check_shown(runs[1], runs[1].attributes)
    assert await counted(service, "run") == before + 1
    assert (await shop.automations.GetRun(automations_pb2.GetRunRequest(id=runs[1].id))).run == runs[1]
    ended = automations_pb2.CompleteRunRequest(run_id=runs[1].id, outcome=automations_pb2.RUN_OUTCOME_COMPLETED)
    assert (await shop.automations.CompleteRun(ended)).run.unreadable_reason
    assert any(damage in row for row in await store.rows("run"))


async def test_numbers_beyond_the_range_are_read_as_the_largest_double_everywhere(
    shop: Client, served_store: Store
) -> None:
    await automate(shop)
    receipt = await shop.send()
    for table, column in (("event", "properties"), ("contact", "properties"), ("automation", "attributes")):
        await plant(served_store, table, column, HUGE, "1 = 1")
    wanted = {"n": LARGEST, "list": [-LARGEST]}
    for values in (
        (await shop.log())[0].properties,
        (await shop.get(receipt.event.id)).properties,
        (await contacts(shop))[ADA].properties,
        (await listed(shop))["Welcome"].attributes,
    ):
        assert read_struct(values) == wanted


@on_sqlite
@pytest.mark.parametrize(
    ("dialect", "call"),
    [
        ("autosend", "GET /v1/contacts/CONTACT"),
        ("emailsendx", "GET /api/v1/contacts"),
        ("emailsendx", "GET /api/v1/contacts/CONTACT"),
        ("arsel", "GET /v1/contacts"),
        ("arsel", "GET /v1/contacts/CONTACT"),
        ("emailsendx", "GET /api/v1/automations"),
        ("opensend", "GET /automations"),
    ],
)
async def test_every_dialect_answers_beside_unreadable_rows(
    service: Service, shop: Client, served_store: Store, dialect: str, call: str
) -> None:
    contact = await shop.upsert()
    await automate(shop)
    await plant(served_store, "contact", "properties", "{", "1 = 1")
    await plant(served_store, "automation", "attributes", "{", "1 = 1")
    async with calling(service, shop, dialect) as caller:
        answer = await caller.call(call.replace("CONTACT", contact.id))
    assert answer.status_code == 200, answer.text
