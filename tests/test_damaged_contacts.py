"""A contact whose address was damaged: the others, their events and their deliveries do not suffer from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from signalbox.v1 import contacts_pb2 as pb
from signalbox.v1 import match_stream_pb2
from tests.support.automations import automate
from tests.support.consumers import EARLIEST, acknowledge, ids, positions, pull, subscribe
from tests.support.messages import ADA, BOB, event

if TYPE_CHECKING:
    from tests.support.service import Service
    from tests.support.stores import Store

pytestmark = pytest.mark.lasting


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
@pytest.mark.parametrize("damaged", ["7bff", "eda080", "c3"])
async def test_a_damaged_address_is_read_with_replacements(service: Service, served_store: Store, damaged: str) -> None:
    shop = await service.shop()
    ada, bob = await shop.upsert(ADA), await shop.upsert(BOB)
    await automate(shop)
    await subscribe(shop)
    for email in (ADA, BOB):
        await shop.send(event(email=email))
    await served_store.execute(f"UPDATE contact SET email = CAST(x'{damaged}' AS TEXT) WHERE id = '{ada.id}'")  # noqa: S608
    listed = {each.id: each.email for each in (await shop.contacts.ListContacts(pb.ListContactsRequest())).contacts}
    assert (listed[bob.id], "\ufffd" in listed[ada.id]) == (BOB, True)
    assert (await shop.contacts.GetContact(pb.GetContactRequest(id=ada.id))).contact.email == listed[ada.id]
    assert [each.email for each in await shop.log()] == [listed[ada.id], BOB]
    deliveries = await pull(shop, wait=5)
    assert positions(deliveries) == [1, 2]
    await acknowledge(shop, ack=match_stream_pb2.AckDeliveries(delivery_ids=ids(deliveries)))
    watch: Any = shop.matches.WatchMatches(match_stream_pb2.WatchMatchesRequest(start=EARLIEST))
    assert [each.position for each in (await watch.read()).matches] == [1, 2]
    watch.cancel()
    await shop.contacts.EraseContact(pb.EraseContactRequest(id=ada.id))
    assert [each.id for each in (await shop.contacts.ListContacts(pb.ListContactsRequest())).contacts] == [bob.id]
