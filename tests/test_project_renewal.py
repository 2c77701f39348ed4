"""A project that is deleted and made anew, with the same name and key, has nothing of the old one."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from grpc import StatusCode
from grpc.aio import AioRpcError

from server.background import project_deletion
from signalbox.v1 import (
    automations_pb2,
    contacts_pb2,
    event_definitions_pb2,
    event_ingest_pb2,
    match_stream_pb2,
    refusals_pb2,
)
from signalbox.v1 import projects_pb2 as pb
from tests.support.automations import automate, await_event, get_run, list_runs, matches_of, started
from tests.support.consumers import EARLIEST, UNKNOWN, Engine, acknowledge, ids, pull, subscribe
from tests.support.messages import ADA, ANYTHING, BOB, event, schema
from tests.support.quarantine import refused_events
from tests.support.refusals import verdict

if TYPE_CHECKING:
    from tests.support.service import Client, Service
    from tests.support.stores import Store

NAME = "renewed shop"
SECRET = "sb_the-secret-that-callers-keep-0123456789"
BURST = 6
TOKEN_OF_ANOTHER = (StatusCode.INVALID_ARGUMENT, "INVALID_PAGE_TOKEN")
ENDED = (StatusCode.NOT_FOUND, "PROJECT_NOT_FOUND")
ONCE = automations_pb2.ENTRY_RULE_ONCE_PER_CONTACT


async def made(service: Service) -> Client:
    """Make the project, with the key that its callers have."""
    rules: Any = {"refused_events": pb.REFUSED_EVENTS_QUARANTINE, "events_per_second": 1, "event_burst": BURST}
    project = pb.Project(name=NAME, **rules)
    found = (await service.admin.projects.CreateProject(pb.CreateProjectRequest(project=project))).project
    await service.admin.projects.CreateApiKey(pb.CreateApiKeyRequest(project=found.id, secret=SECRET))
    return service.client(SECRET, found.id)


@pytest.fixture(params=["while the old rows are deleted", "after that"])
def rows_stay(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    stay = bool(request.param != "after that")
    monkeypatch.setattr(project_deletion, "LOOK_SECONDS", 3_600.0 if stay else 0.05)
    return stay


class Listing:
    """The lists of a project."""

    def __init__(self, service: Service, client: Client) -> None:
        place: Any = {"page_size": 1}
        contacts, automations, ingest = client.contacts, client.automations, client.ingest
        self.calls: dict[str, tuple[Any, Any]] = {
            "events": (ingest.ListEvents, event_ingest_pb2.ListEventsRequest(**place)),
            "contacts": (contacts.ListContacts, contacts_pb2.ListContactsRequest(**place)),
            "definitions": (
                client.definitions.ListEventDefinitions,
                event_definitions_pb2.ListEventDefinitionsRequest(**place),
            ),
            "automations": (automations.ListAutomations, automations_pb2.ListAutomationsRequest(**place)),
            "runs": (automations.ListRuns, automations_pb2.ListRunsRequest(**place)),
            "subscriptions": (client.matches.ListSubscriptions, match_stream_pb2.ListSubscriptionsRequest(**place)),
            "refused": (client.quarantine.ListRefusedEvents, refusals_pb2.ListRefusedEventsRequest(**place)),
            "keys": (service.admin.projects.ListApiKeys, pb.ListApiKeysRequest(project=NAME, **place)),
        }

    async def tokens(self) -> dict[str, str]:
        """Return the tokens of the second pages; there must be some everywhere."""
        found = {name: (await call(request)).next_page_token for name, (call, request) in self.calls.items()}
        assert all(found.values()), found
        return found

    async def lengths(self) -> dict[str, int]:
        """Return the lengths of the first pages."""
        pages = {name: await call(request) for name, (call, request) in self.calls.items()}
        return {name: len(page.ListFields()[0][1]) if page.ListFields() else 0 for name, page in pages.items()}

    async def refusals(self, tokens: dict[str, str]) -> set[Any]:
        """Return how the tokens of another project are refused."""
        verdicts = set()
        for name, (call, request) in self.calls.items():
            request.page_token = tokens[name]
            verdicts.add(await verdict(call(request)))
        return verdicts


async def test_a_project_made_anew_has_nothing_of_the_old_one(store: Store, rows_stay: bool, service: Service) -> None:
    old = await made(service)
    await service.admin.projects.CreateApiKey(pb.CreateApiKeyRequest(project=NAME))
    await old.define()
    await old.define("paid", ANYTHING)
    await old.upsert(BOB)
    known = await old.upsert(ADA, {"plan": "pro"})
    await automate(old, "paid", entry_rule=ONCE, name="Thanks")
    await automate(old, entry_rule=ONCE)
    await subscribe(old, "other")
    await subscribe(old)
    run = await started(old, event({"order_total": 1}, key="first"))
    await await_event(old, run)
    sent = (await old.send(event(name="paid", key="second"))).event
    (delivery, *_) = await pull(old, wait=5)
    for _ in range(2):
        await verdict(old.send(event({"order_total": "none"})))
    watch: Any = old.matches.WatchMatches(match_stream_pb2.WatchMatchesRequest(start=EARLIEST))
    cursor = (await watch.read()).cursor
    engine = await Engine.open(old)
    tokens = await Listing(service, old).tokens()
    await exhaust_quota(old)

    await service.admin.projects.DeleteProject(pb.DeleteProjectRequest(project=NAME, confirm_name=NAME))
    async with asyncio.timeout(2):
        assert await verdict(read_to_end(watch)) == ENDED
        assert await verdict(engine.ended()) == ENDED
    if not rows_stay:
        await rows_deleted(store, old)
    new = await made(service)

    lists = Listing(service, new)
    assert await lists.lengths() == dict.fromkeys(lists.calls, 0) | {"keys": 1}
    assert await lists.refusals(tokens) == {TOKEN_OF_ANOTHER}
    # Neither the old contact, nor its schema, idempotency keys, quota, entries or waiting runs.
    assert await verdict(new.send(event({"order_total": 1}))) == (StatusCode.NOT_FOUND, "DEFINITION_NOT_FOUND")
    await new.define("paid", schema(amount="string"))
    assert (await new.upsert()).id != known.id
    await automate(new, "paid", entry_rule=ONCE)
    await subscribe(new)
    (match,) = await matches_of(new, event({"amount": 7}, name="paid", key="first"))
    assert match.run_id not in {"", run.id}
    (again,) = await new.log()
    assert (again.position, dict(again.properties)) == (1, {"amount": "7"})
    for _ in range(BURST - 2):
        await new.send(event(name="paid"))
    assert [each.match.position for each in await pull(new, wait=5)] == [1]
    assert len(await list_runs(new)) == 1
    assert len(await refused_events(new)) == 1
    # What callers kept of the old one names nothing.
    assert await gone(new, sent.id, run.id, known.id) == {StatusCode.NOT_FOUND}
    (result,) = await acknowledge(new, ack=match_stream_pb2.AckDeliveries(delivery_ids=ids([delivery])))
    assert result.outcome == UNKNOWN
    start = match_stream_pb2.StartPoint(cursor=cursor)
    again_watched: Any = new.matches.WatchMatches(match_stream_pb2.WatchMatchesRequest(start=start))
    assert await verdict(again_watched.read()) == (StatusCode.INVALID_ARGUMENT, "CURSOR_INVALID")


async def exhaust_quota(client: Client) -> None:
    """Send more events than the project's rate allows."""
    sends = (client.send(event(name="paid")) for _ in range(2 * BURST))
    assert any(isinstance(each, AioRpcError) for each in await asyncio.gather(*sends, return_exceptions=True))


async def read_to_end(call: Any) -> None:
    """Read a stream until it ends with an error."""
    while True:
        await call.read()


async def gone(client: Client, event_id: str, run_id: str, contact_id: str) -> set[StatusCode]:
    """Return how calls are refused that name an event, a run and a contact of the old project."""
    calls = (
        client.get(event_id),
        get_run(client, run_id),
        client.contacts.GetContact(contacts_pb2.GetContactRequest(id=contact_id)),
        client.matches.GetSubscription(match_stream_pb2.GetSubscriptionRequest(subscription="other")),
    )
    return {(await verdict(call))[0] for call in calls}


async def rows_deleted(store: Store, client: Client) -> None:
    async with asyncio.timeout(20):
        while await store.rows(f"project WHERE id = '{client.project}'"):  # noqa: ASYNC110 - a background task has no event
            await asyncio.sleep(0.05)
