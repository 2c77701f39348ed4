"""Refused events whose rows were damaged: they are shown as such, erased, and can be discarded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from server.storage.address_search import AddressSearch
from server.storage.quarantine import search as refused_event_search
from signalbox.v1 import contacts_pb2, projects_pb2
from signalbox.v1 import refusals_pb2 as pb
from tests.support.automations import automate
from tests.support.messages import ADA, ORDER, event
from tests.support.quarantine import ALL, KEEP, counts, kept, refused_events, reingest
from tests.support.refusals import refusal

if TYPE_CHECKING:
    from tests.support.service import Client, Service
    from tests.support.stores import Store

BOB = "bob@example.com"
BAD = {"order_total": "a lot"}
NOT_UTF8 = "CAST(x'7bff' AS TEXT)"
DAMAGE = {
    "byte_count": "'abc'",
    "received_at": "'abc'",
    "request": "'abc'",
    "faults": NOT_UTF8,
    "name": "x'7bff'",
    "email": NOT_UTF8,
    "content": NOT_UTF8,
    "error": "x'7bff'",
    "idempotency_key": NOT_UTF8,
    "door": "x'7bff'",
    "received_at ": "9223372036854775807",
    "byte_count ": "9223372036854775807",
    "content ": """'{"name":"a","occurred_at":1000000000000000000,"properties":{}}'""",
    "content  ": """'{"name":"\\ud800","properties":{}}'""",
    "error ": """'{"reason":"\\ud800","message":"\\ud800"}'""",
}
OF_SQLITE = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)

pytestmark = pytest.mark.lasting


async def keep(client: Client, email: str) -> str:
    """Send an event that is refused and kept. Return its id."""
    await refusal(client.send(event(BAD, email=email)))
    return (await refused_events(client))[0].id


async def damage(store: Store, refused_id: str, column: str, value: str) -> None:
    await store.execute(f"UPDATE refused_event SET {column} = {value} WHERE id = '{refused_id}'")  # noqa: S608


async def discard(client: Client, request: pb.DiscardRefusedEventsRequest) -> int:
    return (await client.quarantine.DiscardRefusedEvents(request)).event_count


async def erase(client: Client, email: str) -> int:
    request = contacts_pb2.EraseContactRequest(email=email)
    return (await client.contacts.EraseContact(request)).refused_event_count


@OF_SQLITE
@pytest.mark.parametrize(("column", "value"), DAMAGE.items(), ids=DAMAGE)
async def test_a_damaged_event_is_shown_and_discarded(
    service: Service, served_store: Store, column: str, value: str
) -> None:
    shop = await service.shop(refused_events=KEEP)
    ids = [await keep(shop, BOB) for _ in range(3)]
    for refused_id in ids[:2]:
        await damage(served_store, refused_id, column, value)
    listed = await refused_events(shop)
    assert [each.id for each in listed] == ids[::-1]
    found = (await shop.quarantine.GetRefusedEvent(pb.GetRefusedEventRequest(id=ids[0]))).refused_event
    # Their values are still known: the size is counted again, and bytes are bytes.
    assert bool(found.unreadable_reason) == (column.strip() not in ("byte_count", "request"))
    assert 0 <= listed[0].received_at.seconds - found.received_at.seconds < 60
    assert sum((await counts(shop)).values()) == 3
    assert (await reingest(shop, dry_run=True)).refused_count == 3
    by_id = pb.DiscardRefusedEventsRequest(ids=pb.RefusedEventIds(ids=ids[:1]))
    assert await discard(shop, by_id) == 1
    assert await discard(shop, pb.DiscardRefusedEventsRequest(filter=ALL)) == 2
    events, size = await kept(shop)
    assert (events, size) == (0, 0 if column != "request" else size)


@OF_SQLITE
@pytest.mark.parametrize("value", [NOT_UTF8, "CAST(x'eda080' AS TEXT)", "'a' || char(0)"])
@pytest.mark.parametrize("way", ["discard", "erase"])
async def test_an_event_with_a_damaged_id_is_shown_and_deleted(
    service: Service, served_store: Store, value: str, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    shop = await service.shop(refused_events=KEEP)
    ids = [await keep(shop, BOB) for _ in range(3)]
    await damage(served_store, ids[1], "id", value)
    assert len(await refused_events(shop, name=ORDER)) == 3
    pages, token = 0, ""
    while pages == 0 or token:
        page = await shop.quarantine.ListRefusedEvents(pb.ListRefusedEventsRequest(page_size=1, page_token=token))
        token, pages = page.next_page_token, pages + 1
    assert pages == 3
    assert sum((await counts(shop)).values()) == 3
    assert (await reingest(shop)).refused_count == 3
    if way == "discard":
        assert await discard(shop, pb.DiscardRefusedEventsRequest(filter=ALL)) == 3
    else:
        assert await erase(shop, BOB) == 3
    assert await kept(shop) == (0, 0)
    assert caplog.text == caplog.text.encode(errors="ignore").decode()


@OF_SQLITE
@pytest.mark.parametrize("value", [NOT_UTF8, "x'7bff'"])
async def test_an_erasure_ends_beside_damaged_events(service: Service, served_store: Store, value: str) -> None:
    shop = await service.shop(refused_events=KEEP)
    ada, nameless, bob, other = [await keep(shop, email) for email in (ADA, ADA, BOB, BOB)]
    for refused_id in (ada, nameless, bob):
        await damage(served_store, refused_id, "content", value)
    await damage(served_store, nameless, "error", value)
    await damage(served_store, nameless, "email", value)
    await shop.upsert()
    assert await erase(shop, ADA) == 2
    assert [each.id for each in await refused_events(shop)] == [other, bob]


@OF_SQLITE
@pytest.mark.parametrize("erasure", [projects_pb2.ERASURE_DELETE_ALL, projects_pb2.ERASURE_KEEP_NOT_PERSONAL])
async def test_an_erasure_ends_beside_damaged_recorded_events(
    service: Service, served_store: Store, erasure: projects_pb2.Erasure.ValueType
) -> None:
    shop = await service.shop()
    await service.admin.projects.UpdateProject(projects_pb2.UpdateProjectRequest(project=shop.project, erasure=erasure))
    await shop.upsert()
    columns = ("properties", "coercions", "fingerprint", "idempotency_key", "traceparent")
    for column in columns:
        key = f"{shop.project}-{column}"
        await shop.send(event({"order_total": 1}, key=key))
        await served_store.execute(f"UPDATE event SET {column} = {NOT_UTF8} WHERE idempotency_key = '{key}'")  # noqa: S608
    erased = await shop.contacts.EraseContact(contacts_pb2.EraseContactRequest(email=ADA))
    assert erased.event_count == len(columns)


@OF_SQLITE
async def test_an_erasure_ends_beside_other_damaged_rows(service: Service, served_store: Store) -> None:
    shop = await service.shop()
    ada = await shop.upsert()
    await automate(shop)
    for _ in range(2):
        await shop.send(event({"order_total": 1}))
    for table, column, where in (
        ("run", "status", f"contact_key = (SELECT key FROM contact WHERE id = '{ada.id}')"),  # noqa: S608
        (
            "audit_entry",
            "resource_type",
            f"project_id IN (SELECT id FROM project WHERE name = '{shop.project}' OR id = '{shop.project}')",  # noqa: S608
        ),
        ("contact", "email", f"id = '{ada.id}'"),
    ):
        await served_store.execute(f"UPDATE {table} SET {column} = {NOT_UTF8} WHERE {where}")  # noqa: S608
    erased = await shop.contacts.EraseContact(contacts_pb2.EraseContactRequest(id=ada.id))
    assert (erased.event_count, erased.run_count > 0) == (2, True)


@pytest.mark.parametrize(
    "text",
    [
        r'{"who":"\u0061da@example.com"}',
        r'{"who":"\u0041DA\u0040Example.com"}',
        r'{"\u0061da\u0040example.com":1,"x":1e999}',
        r'{"who":"\u0061da@example.com","who":"bob"}',
        r'{"json":"{\"who\":\"\\u0061da@example.com\"}"}',
        r'{"who":"ada\u002B@example.com", \u0061da@example.com',
    ],
)
def test_an_address_is_found_by_its_escapes(text: str) -> None:
    assert AddressSearch(ADA).found_in(text)
    assert not AddressSearch("eda@example.com").found_in(text)


def test_escapes_of_every_character_of_an_address_are_found() -> None:
    address = '"a/b"+\u00fc\U0001f600@example.com'
    units = address.encode("utf-16-be").hex()
    escaped = "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))
    assert AddressSearch(address).found_in(escaped)
    assert AddressSearch(address).found_in('{"to":"\\"a\\/b\\"+\u00fc\U0001f600@example.com"}')
    assert not AddressSearch(address).found_in(escaped[1:].replace("\\", ""))


async def test_an_erasure_searches_large_events_in_several_reads(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refused_event_search, "_SEARCHED_CHARACTERS", 500)
    shop = await service.shop(refused_events=KEEP)
    left = [await keep(shop, email) for email in (ADA, BOB, ADA, BOB, BOB, ADA)]
    await shop.upsert()
    assert await erase(shop, ADA) == 3
    assert [each.id for each in await refused_events(shop)] == [left[4], left[3], left[1]]


async def test_an_address_that_is_escaped_in_a_kept_request_is_erased(service: Service) -> None:
    shop = await service.shop(refused_events=KEEP)
    key = await service.secret(shop.project, projects_pb2.DIALECT_RESEND)
    for body in (r'{"event":5,"email":"ada\u002Bnews@example.com"}', r'{"event":5,"email":"bob@example.com"}'):
        headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
        assert (await service.http.post("/events/send", content=body, headers=headers)).status_code >= 400
    await shop.upsert("ada+news@example.com")
    assert await erase(shop, "ada+news@example.com") == 1
    assert (await kept(shop))[0] == 1
