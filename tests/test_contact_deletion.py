"""Deleted contacts: their runs have ended, their matches are marked, and their events have no address."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
from grpc import StatusCode

from signalbox.v1 import automations_pb2 as pb
from signalbox.v1 import contacts_pb2, match_stream_pb2, projects_pb2
from tests.support.automations import (
    automate,
    await_event,
    complete,
    get_run,
    list_runs,
    matches_of,
    started,
)
from tests.support.bridge import http_client
from tests.support.consumers import EARLIEST, PARK, Engine, parked, pull, subscribe
from tests.support.messages import ADA, BOB, event
from tests.support.refusals import verdict

if TYPE_CHECKING:
    from signalbox.v1 import match_pb2
    from tests.support.service import Client, Service

pytestmark = pytest.mark.lasting

CONTACT_NOT_FOUND = (StatusCode.NOT_FOUND, "CONTACT_NOT_FOUND")
CANCELLED, COMPLETED, QUEUED = pb.RUN_STATUS_CANCELLED, pb.RUN_STATUS_COMPLETED, pb.RUN_STATUS_QUEUED
ON_MATCH = projects_pb2.UNKNOWN_CONTACTS_CREATE_ON_MATCH


@pytest_asyncio.fixture
async def till(shop: Client) -> Client:
    """The shop, with Bob and an automation on orders."""
    await shop.upsert(BOB)
    await automate(shop)
    return shop


async def bulk_delete(service: Service, client: Client, *contact_ids: str) -> int:
    """Delete contacts together, which is Arsel's word; return how many were there."""
    secret = await service.secret(client.project, projects_pb2.DIALECT_ARSEL)
    async with http_client(service) as http:
        answer = await http.post(
            "/v1/contacts/bulk-delete",
            json={"contact_ids": contact_ids},
            headers={"authorization": f"Bearer {secret}"},
        )
    deleted: int = answer.json()["deleted"]
    return deleted


async def test_the_open_runs_of_a_deleted_contact_are_cancelled(till: Client) -> None:
    running, queued, waiting, ended = [await started(till) for _ in range(4)]
    await subscribe(till, start=EARLIEST)
    assert len(await pull(till, 1)) == 1
    await await_event(till, waiting, seconds=3_600)
    ended = await complete(till, ended)
    bobs = await started(till, event(email=BOB))
    await till.forget()
    for run in (running, queued, waiting):
        after = await get_run(till, run.id)
        assert (after.status, after.reason) == (CANCELLED, "The contact was deleted")
        assert (after.HasField("wait"), after.HasField("finished_at"), after.etag != run.etag) == (False, True, True)
    assert await get_run(till, ended.id) == ended
    assert await get_run(till, bobs.id) == bobs
    assert {each.status for each in await list_runs(till, contact_id=queued.contact_id)} == {CANCELLED, COMPLETED}
    assert await verdict(complete(till, queued)) == (StatusCode.FAILED_PRECONDITION, "RUN_FINISHED")
    assert await verdict(await_event(till, queued)) == (StatusCode.FAILED_PRECONDITION, "RUN_FINISHED")


async def test_contacts_deleted_together_end_their_runs_and_take_no_further_event(
    service: Service, till: Client
) -> None:
    runs = [await started(till, event(email=email)) for email in (ADA, BOB)]
    assert await bulk_delete(service, till, *(run.contact_id for run in runs), "nobody") == 2
    for run, email in zip(runs, (ADA, BOB), strict=True):
        assert (await get_run(till, run.id)).status == CANCELLED
        assert await verdict(till.send(event(email=email))) == CONTACT_NOT_FOUND
        assert await verdict(till.send(event(contact_id=run.contact_id))) == CONTACT_NOT_FOUND


async def test_a_match_of_a_deleted_contact_is_marked_wherever_it_is_read(till: Client) -> None:
    run, bobs = await started(till), await started(till, event(email=BOB))
    for name in ("streamed", "pulled", "put aside"):
        await subscribe(till, name, EARLIEST)
    await put_all_aside(till, "put aside")
    await till.forget()
    for read in (streamed, pulled, put_aside, watched):
        deleted, kept = sorted(await read(till), key=lambda match: match.position)
        assert (deleted.contact_deleted, deleted.contact_id, deleted.run_id) == (True, run.contact_id, run.id)
        assert deleted.event.email == ""
        assert (kept.contact_deleted, kept.run_id, kept.event.email) == (False, bobs.id, BOB)


async def put_all_aside(client: Client, name: str) -> None:
    engine = await Engine.open(client, name)
    await engine.nack(await engine.deliveries(2), action=PARK)
    await engine.close()


async def streamed(client: Client) -> list[match_pb2.Match]:
    engine = await Engine.open(client, "streamed")
    taken = await engine.deliveries(2)
    await engine.ack(taken)
    await engine.close()
    return [each.match for each in taken]


async def pulled(client: Client) -> list[match_pb2.Match]:
    return [each.match for each in await pull(client, name="pulled")]


async def put_aside(client: Client) -> list[match_pb2.Match]:
    return [each.match for each in await parked(client, "put aside")]


async def watched(client: Client) -> list[match_pb2.Match]:
    call = client.matches.WatchMatches(match_stream_pb2.WatchMatchesRequest(start=EARLIEST))
    found: list[match_pb2.Match] = []
    async for answer in call:
        found += answer.matches
        if len(found) == 2:
            break
    call.cancel()
    return found


async def test_a_new_contact_of_the_same_address_has_nothing_to_do_with_the_deleted_one(till: Client) -> None:
    run = await started(till)
    await till.forget()
    await till.upsert()
    (match,) = await matches_of(till)
    assert (match.contact_deleted, match.event.email, match.contact_id != run.contact_id) == (False, ADA, True)
    assert (await get_run(till, run.id)).status == CANCELLED
    assert (await get_run(till, match.run_id)).status == QUEUED


async def test_a_deletion_changes_nothing_in_another_project(service: Service) -> None:
    here, there = await service.shop(unknown_contacts=ON_MATCH), await service.shop(unknown_contacts=ON_MATCH)
    recorded = (await there.send(event(email=BOB))).event
    assert (recorded.contact_id, recorded.email) == ("", BOB)
    await automate(there)
    run = await started(there)
    for client in (here, there):
        await client.upsert(BOB)
    for email in (ADA, BOB):
        await here.forget(email)
    assert await there.get(recorded.id) == recorded
    assert (await there.get(run.event_id)).email == ADA
    assert await get_run(there, run.id) == run
    (match,) = await matches_of(there)
    assert not match.contact_deleted


async def test_contacts_are_deleted_while_events_are_sent(till: Client) -> None:
    """Both lock the head of the project: neither may wait for the other in a circle."""
    deleted = asyncio.Event()

    async def send_on() -> int:
        count = 0
        while not deleted.is_set():
            await till.send(event({"order_total": count}))
            count += 1
        return count

    senders = [asyncio.ensure_future(send_on()) for _ in range(4)]
    contacts = [(await till.upsert(f"user{number}@example.com")).id for number in range(20)]
    for contact_id in contacts:
        await till.contacts.DeleteContact(contacts_pb2.DeleteContactRequest(id=contact_id))
    deleted.set()
    assert all(await asyncio.gather(*senders))
