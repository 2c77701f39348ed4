from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf.json_format import MessageToDict
from grpc import StatusCode

from server.errors import InvalidArgument
from server.services.contacts import _check_size
from signalbox.v1 import contacts_pb2 as pb
from tests.support.messages import ADA, BOB, event, struct
from tests.support.refusals import refusal, verdict

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from tests.support.service import Client, Service
    from tests.support.stores import Store

pytestmark = [pytest.mark.lasting, pytest.mark.usefixtures("neighbour")]
# Invalid requests are refused before any database is asked.
on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)

NOT_FOUND = (StatusCode.NOT_FOUND, "CONTACT_NOT_FOUND")


def upsert(client: Client, email: str, etag: str = "", /, **properties: Any) -> Awaitable[pb.UpsertContactResponse]:
    request = pb.UpsertContactRequest(email=email, properties=struct(properties), etag=etag)
    return client.contacts.UpsertContact(request)


async def by_email(client: Client, email: str) -> pb.Contact:
    return (await client.contacts.GetContact(pb.GetContactRequest(email=email))).contact


async def by_id(client: Client, contact_id: str) -> pb.Contact:
    return (await client.contacts.GetContact(pb.GetContactRequest(id=contact_id))).contact


async def emails(client: Client, search: str = "") -> list[str]:
    return [each.email for each in (await client.contacts.ListContacts(pb.ListContactsRequest(search=search))).contacts]


async def test_a_contact_is_created_and_read_back_by_id_and_address(service: Service) -> None:
    client = await service.project()
    answer = await upsert(client, ADA, first_name="Ada", orders=3, tags=["a", {"b": None}])
    assert answer.created
    assert MessageToDict(answer.contact.properties) == {"first_name": "Ada", "orders": 3, "tags": ["a", {"b": None}]}
    assert await by_id(client, answer.contact.id) == answer.contact
    assert await by_email(client, ADA) == answer.contact


async def test_case_and_blanks_make_no_other_contact(service: Service) -> None:
    client = await service.project()
    first = (await upsert(client, "  Ada@Example.COM\t")).contact
    assert first.email == ADA
    again = await upsert(client, ADA)
    assert (again.created, again.contact) == (False, first)
    assert await by_email(client, "ADA@EXAMPLE.COM") == first


async def test_an_upsert_sets_what_it_names_and_removes_what_is_null(shop: Client) -> None:
    await upsert(shop, ADA, a=1, b=2, c=3)
    after = (await upsert(shop, ADA, b=None, c=4, d=None)).contact
    assert MessageToDict(after.properties) == {"a": 1, "c": 4}


async def test_the_etag_changes_with_every_change_and_with_nothing_else(shop: Client) -> None:
    first = (await upsert(shop, ADA, a=1)).contact
    assert (await upsert(shop, ADA, a=1)).contact == first
    changed = (await upsert(shop, ADA, first.etag, a=2)).contact
    refused = await refusal(upsert(shop, ADA, first.etag, a=3))
    assert (refused.code, refused.reason, refused.metadata) == (
        StatusCode.ABORTED,
        "ETAG_MISMATCH",
        {"etag": changed.etag},
    )
    assert await by_email(shop, ADA) == changed


async def test_an_etag_creates_no_contact(shop: Client) -> None:
    assert await verdict(upsert(shop, BOB, "1")) == NOT_FOUND
    assert await emails(shop) == [ADA]


async def test_many_upserts_of_one_address_make_one_contact(service: Service) -> None:
    client = await service.project()
    answers = await asyncio.gather(*(upsert(client, ADA, **{f"p{number}": number}) for number in range(10)))
    assert [answer.created for answer in answers].count(True) == 1
    assert len({answer.contact.id for answer in answers}) == 1
    assert len((await by_email(client, ADA)).properties.fields) == 10


@on_sqlite
@pytest.mark.parametrize("email", ["", "  ", "ada", "ada@", "@example.com", "a b@example.com", f"{'a' * 250}@b.de"])
async def test_what_is_no_address_is_refused(shop: Client, email: str) -> None:
    refused = await refusal(upsert(shop, email))
    assert (refused.code, refused.reason) == (StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT")
    assert refused.violations == (("email", "INVALID_EMAIL"),)


@on_sqlite
async def test_an_address_has_at_most_254_characters(shop: Client) -> None:
    longest = f"{'a' * 249}@b.de"
    assert len(longest) == 254
    assert (await upsert(shop, longest)).contact.email == longest
    assert (await refusal(upsert(shop, f"a{longest}"))).violations == (("email", "INVALID_EMAIL"),)


async def test_contacts_are_listed_newest_first_page_by_page(service: Service) -> None:
    client = await service.project()
    for number in range(5):
        await client.upsert(f"c{number}@example.com")
    pages, token = [], ""
    while True:
        answer = await client.contacts.ListContacts(pb.ListContactsRequest(page_size=2, page_token=token))
        pages.append([each.email[:2] for each in answer.contacts])
        token = answer.next_page_token
        if not token:
            break
    assert pages == [["c4", "c3"], ["c2", "c1"], ["c0"]]


async def test_a_search_finds_parts_of_addresses_in_any_case(service: Service) -> None:
    client = await service.project()
    for email in ("ada@example.com", "bob@sub.example.com", "50%_off@shop.test"):
        await client.upsert(email)
    assert await emails(client, "EXAMPLE") == ["bob@sub.example.com", "ada@example.com"]
    assert await emails(client, "%_") == ["50%_off@shop.test"]
    assert await emails(client, "_da@") == []


async def test_a_page_token_serves_no_other_search(service: Service) -> None:
    client = await service.project()
    await client.upsert(ADA)
    await client.upsert(BOB)
    token = (await client.contacts.ListContacts(pb.ListContactsRequest(page_size=1))).next_page_token
    other = pb.ListContactsRequest(page_size=1, page_token=token, search="ada")
    assert await verdict(client.contacts.ListContacts(other)) == (StatusCode.INVALID_ARGUMENT, "INVALID_PAGE_TOKEN")


async def test_a_deleted_contact_is_gone_from_the_database_but_for_its_id(shop: Client, store: Store) -> None:
    await shop.upsert("marked@example.com", {"secret_fact": "likes-marzipan"})
    sent = (await shop.send(event(email="marked@example.com"))).event
    deleted = (await shop.contacts.DeleteContact(pb.DeleteContactRequest(id=sent.contact_id))).contact
    assert deleted.email == "marked@example.com"
    for missing in (by_id(shop, sent.contact_id), by_email(shop, "marked@example.com")):
        assert await verdict(missing) == NOT_FOUND
    assert await emails(shop) == [ADA]
    kept = await shop.get(sent.id)
    assert (kept.contact_id, kept.email) == (sent.contact_id, "")
    rows = await store.rows("contact")
    assert not [row for row in rows if "marked@example.com" in str(row) or "marzipan" in str(row)]


async def test_a_deleted_address_makes_a_new_contact(shop: Client) -> None:
    old = await shop.forget()
    new = await upsert(shop, ADA)
    assert new.created
    assert new.contact.id != old.id


async def test_a_stale_etag_deletes_nothing(shop: Client) -> None:
    stale = (await by_email(shop, ADA)).etag
    await upsert(shop, ADA, a=1)
    request = pb.DeleteContactRequest(email=ADA, etag=stale)
    assert await verdict(shop.contacts.DeleteContact(request)) == (StatusCode.ABORTED, "ETAG_MISMATCH")
    assert await emails(shop) == [ADA]


@on_sqlite
async def test_a_contact_must_be_named(shop: Client) -> None:
    required = (StatusCode.INVALID_ARGUMENT, "CONTACT_REQUIRED")
    assert await verdict(shop.contacts.GetContact(pb.GetContactRequest())) == required
    assert await verdict(shop.contacts.DeleteContact(pb.DeleteContactRequest(id=""))) == required


async def test_another_projects_contact_is_not_found(service: Service) -> None:
    theirs, mine = await service.shop(), await service.project()
    ada = await by_email(theirs, ADA)
    assert await verdict(by_id(mine, ada.id)) == NOT_FOUND
    assert await verdict(by_email(mine, ADA)) == NOT_FOUND
    assert await verdict(mine.contacts.DeleteContact(pb.DeleteContactRequest(id=ada.id))) == NOT_FOUND
    assert await emails(mine) == []
    assert (await upsert(mine, ADA)).created
    assert await by_email(theirs, ADA) == ada


@on_sqlite
async def test_the_properties_of_a_contact_are_bounded(shop: Client) -> None:
    for properties, reason in (
        ({f"p{number}": number for number in range(1_001)}, "TOO_MANY_VALUES"),
        ({"text": "x" * 65_536}, "TOO_LARGE"),
    ):
        refused = await refusal(upsert(shop, ADA, **properties))
        assert refused.violations == (("properties", reason),)


async def test_upserts_add_up_to_no_more_than_one_may_hold(shop: Client) -> None:
    await upsert(shop, ADA, **{f"a{number}": number for number in range(1_000)})
    refused = await refusal(upsert(shop, ADA, one_more=True))
    assert refused.code is StatusCode.INVALID_ARGUMENT
    assert len((await by_email(shop, ADA)).properties.fields) == 1_000


def properties_of(count: int, size: int) -> dict[str, str]:
    """Make a number of properties that take a number of bytes as JSON."""
    made = {f"p{number}": "" for number in range(count)}
    made["p0"] = "x" * (size - len(json.dumps(made, separators=(",", ":"))))
    assert len(json.dumps(made, separators=(",", ":"))) == size
    return made


@pytest.mark.parametrize(
    ("count", "size", "fits"),
    [(1, 65_536, True), (1, 65_537, False), (1_000, 65_536, True), (1_000, 65_537, False), (1_001, 60_000, False)],
)
def test_a_contact_holds_up_to_1000_properties_and_64_kibibytes(count: int, size: int, fits: bool) -> None:
    properties = properties_of(count, size)
    if fits:
        _check_size(properties)
    else:
        with pytest.raises(InvalidArgument, match=f"would have {count:,} properties and {size:,} bytes") as refused:
            _check_size(properties)
        assert [(each.path, each.reason) for each in refused.value.violations] == [("properties", "TOO_LARGE")]
