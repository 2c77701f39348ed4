"""Who changed what: every audited RPC leaves one entry, in the transaction of its change."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc
import pytest
import pytest_asyncio
from google.protobuf.json_format import MessageToDict

from server.background import audit_retention, key_use
from server.current_call import context as call_context
from server.rpc.contract import SERVICES
from signalbox.v1 import (
    audit_pb2,
    event_definitions_pb2,
    match_stream_pb2,
    options_pb2,
    projects_pb2,
)
from tests.support.bridge import calling
from tests.support.changes import Changer
from tests.support.messages import INDEPENDENT, ORDER, event
from tests.support.refusals import refusal, verdict
from tests.support.service import ADMIN_KEY, serving

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.support.refusals import Refusal
    from tests.support.service import Client, Service
    from tests.support.stores import Store

pytestmark = pytest.mark.lasting

AUDITED = {
    method.name
    for service in SERVICES
    for method in service.methods
    if method.GetOptions().Extensions[options_pb2.effect] == options_pb2.EFFECT_AUDITED
}

on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)


async def entries(service: Service, **wanted: Any) -> list[audit_pb2.AuditEntry]:
    """Return all entries as the admin key reads them, newest first."""
    request = audit_pb2.ListAuditEntriesRequest(filter=audit_pb2.AuditFilter(**wanted), page_size=1_000)
    found: list[audit_pb2.AuditEntry] = []
    while True:
        response = await service.admin.audit.ListAuditEntries(request)
        found += response.entries
        request.page_token = response.next_page_token
        if not request.page_token:
            return found


def test_every_rpc_says_what_it_changes() -> None:
    effects = {
        method.name: method.GetOptions().Extensions[options_pb2.effect]
        for service in SERVICES
        for method in service.methods
    }
    assert options_pb2.EFFECT_UNSPECIFIED not in effects.values()
    assert len(effects) == sum(len(service.methods) for service in SERVICES), "two RPCs have one name"


@pytest_asyncio.fixture
async def shop(service: Service) -> Client:
    return await service.by_requests().shop()


@on_sqlite
@pytest.mark.parametrize("action", sorted(AUDITED))
async def test_an_audited_rpc_leaves_one_entry_when_it_changes_something(service: Service, action: str) -> None:
    before = {entry.id for entry in await entries(service, action=action)}
    client = await service.shop()
    changer = Changer(service, client, client.project)
    await changer.change(action)
    left = [each for each in await entries(service, action=action) if each.id not in before]
    assert [(each.project_id, each.api) for each in left] == [(changer.project_id, "grpc")]
    [entry] = left
    assert entry.resource_id
    assert entry.request_id
    # Of an erased contact the entries keep no contents.
    assert (MessageToDict(entry.before) != MessageToDict(entry.after)) == (action != "EraseContact")


class Unrecorded:
    """Makes the first effective call of an RPC twice: its entry is refused, then it is not.

    The refused one must leave every row as it is, and everything that the server has in memory.
    """

    def __init__(self, store: Store, client: Client, action: str) -> None:
        self.store, self.client, self.action = store, client, action
        self.refused: Refusal | None = None

    def watch(self, watched: Client) -> None:
        """Put this in the place of the RPC in the stubs of a client."""
        for stub in watched.stubs():
            if (call := getattr(stub, self.action, None)) is not None:
                setattr(stub, self.action, partial(self._call, call))

    async def _call(self, call: Callable[[Any], Awaitable[Any]], request: Any) -> Any:
        if self.refused is not None or getattr(request, "validate_only", False) or getattr(request, "dry_run", False):
            return await call(request)
        decided = await self._decided()
        rows = await self.store.all_rows()
        async with self.store.refusing_entries(self.action):
            self.refused = await refusal(call(request))
        assert await self.store.all_rows() == rows, self.action
        assert await self._decided() == decided, self.action
        return await call(request)

    async def _decided(self) -> list[Any]:
        """Return how events are decided, by the snapshots, contacts and keys in the memory of the server."""
        sent = [event(), event(name=ORDER.upper()), event(name="fresh"), event(email="grace@example.com")]
        results = await self.client.send_all(sent, INDEPENDENT)
        return [(each.error.reason, each.receipt.event.revision, each.receipt.match_count) for each in results]


async def test_a_change_whose_entry_cannot_be_written_is_not_made(
    served_store: Store, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_use, "STORE_SECONDS", 3_600)
    # The rows of a deleted project go in the background.
    for action in sorted(AUDITED, key=lambda action: (action == "DeleteProject", action)):
        client = await service.shop()
        changer = Changer(service, client, client.project)
        unrecorded = Unrecorded(served_store, service.client(client.secret), action)
        changer.admin = service.client(ADMIN_KEY)
        unrecorded.watch(client)
        unrecorded.watch(changer.admin)
        await changer.change(action)
        assert unrecorded.refused is not None, action
        assert (unrecorded.refused.code, unrecorded.refused.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL"), action


async def test_an_entry_says_who_and_what_it_was_before_and_after(shop: Client) -> None:
    shop.metadata.append((call_context.REQUEST_ID, "plan-7"))
    await shop.definitions.UpdateEventDefinition(
        event_definitions_pb2.UpdateEventDefinitionRequest(event_definition=ORDER, description="An order")
    )
    newest, *_ = (await shop.audit.ListAuditEntries(audit_pb2.ListAuditEntriesRequest())).entries
    assert (newest.request_id, newest.action, newest.resource_type) == (
        "plan-7",
        "UpdateEventDefinition",
        "event_definition",
    )
    keys = await shop.audit.ListAuditEntries(
        audit_pb2.ListAuditEntriesRequest(filter=audit_pb2.AuditFilter(action="CreateApiKey"))
    )
    assert newest.key_id in {entry.resource_id for entry in keys.entries}
    before, after = MessageToDict(newest.before), MessageToDict(newest.after)
    assert after.pop("description") == "An order"
    differing = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    assert differing == {"etag", "updatedAt"}


@on_sqlite
async def test_no_secret_and_no_address_is_in_the_log(service: Service, shop: Client) -> None:
    secret = "sb_imported_secret_of_somebody"
    shop.metadata.append((call_context.REQUEST_ID, "signup-of-grace@example.com"))
    project = shop.project
    await service.admin.projects.CreateApiKey(projects_pb2.CreateApiKeyRequest(project=project, secret=secret))
    await shop.upsert("grace@example.com", {"plan": "sapphire"})
    push = match_stream_pb2.Push(url="https://93.184.216.34/hook", headers={"x-token": "ruby"}, paused=True)
    made = await shop.matches.CreateSubscription(
        match_stream_pb2.CreateSubscriptionRequest(subscription=match_stream_pb2.Subscription(name="hook", push=push))
    )
    rotated = await shop.matches.UpdateSubscription(
        match_stream_pb2.UpdateSubscriptionRequest(
            subscription="hook", push=match_stream_pb2.PushChanges(rotate_secret=True)
        )
    )
    text = json.dumps([MessageToDict(entry) for entry in await entries(service)])
    for hidden in (secret, "grace@", "sapphire", "ruby", *made.subscription.push.secrets):
        assert hidden not in text
    assert rotated.subscription.push.secrets[0] not in text
    newest, *_ = await entries(service)
    assert (newest.action, newest.resource_id) == ("UpdateSubscription", rotated.subscription.id)


@on_sqlite
async def test_a_change_over_rest_is_an_entry_of_its_dialect(service: Service, shop: Client) -> None:
    async with calling(service, shop, "resend") as client:
        await client.call("POST /contacts", {"email": "grace@example.com"}, {"x-request-id": "rest-1"})
    newest, *_ = await entries(service)
    assert (newest.action, newest.api, newest.request_id) == ("UpsertContact", "resend", "rest-1")


async def test_a_list_is_filtered_and_an_export_has_the_same_entries(service: Service, shop: Client) -> None:
    for number in range(30):
        await shop.upsert(f"{number}@example.com")
    everything = (await shop.audit.ListAuditEntries(audit_pb2.ListAuditEntriesRequest(page_size=1_000))).entries
    assert {entry.project_id for entry in everything} == {everything[0].project_id}
    exported = [
        entry
        async for response in shop.audit.ExportAuditEntries(audit_pb2.ExportAuditEntriesRequest())
        for entry in response.entries
    ]
    assert exported == everything[::-1]
    middle = everything[10]
    for wanted, count in (
        ({"action": "UpsertContact"}, 31),
        ({"resource_type": "event_definition"}, 1),
        ({"resource_id": middle.resource_id}, 1),
        ({"key_id": middle.key_id}, 32),
        ({"until": middle.occurred_at}, len(everything) - 11),
        ({"since": middle.occurred_at}, 11),
    ):
        found: list[audit_pb2.AuditEntry] = []
        request = audit_pb2.ListAuditEntriesRequest(filter=audit_pb2.AuditFilter(**wanted), page_size=9)
        while True:
            response = await shop.audit.ListAuditEntries(request)
            found += response.entries
            request.page_token = response.next_page_token
            if not request.page_token:
                break
        assert len(found) == count, wanted


async def test_a_key_reads_no_other_project(service: Service, shop: Client) -> None:
    other = (await service.admin.projects.ListProjects(projects_pb2.ListProjectsRequest())).projects[-1].id
    own = (await shop.audit.ListAuditEntries(audit_pb2.ListAuditEntriesRequest())).entries[0].project_id
    request = audit_pb2.ListAuditEntriesRequest(filter=audit_pb2.AuditFilter(project_id="other"))
    assert await verdict(shop.audit.ListAuditEntries(request)) == (grpc.StatusCode.NOT_FOUND, "PROJECT_NOT_FOUND")
    assert own in {entry.project_id for entry in await entries(service)}
    assert other


async def test_settings_that_differ_from_the_last_start_are_an_entry(database_url: str) -> None:
    for seconds, count in ((None, 1), (None, 1), (3_600.0, 2)):
        async with serving(database_url, match_retention_seconds=seconds) as service:
            found = await entries(service, action="StartServer")
            assert len(found) == count
    newest = found[0]
    assert (newest.api, newest.key_id, newest.resource_type) == ("server", "", "settings")
    assert MessageToDict(newest.before) == {"match_retention_seconds": "not set"}
    assert MessageToDict(newest.after) == {"match_retention_seconds": "3600.0"}
    assert ADMIN_KEY not in json.dumps([MessageToDict(entry) for entry in found])


async def test_old_entries_are_deleted(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_retention, "PORTION_ENTRIES", 2)
    monkeypatch.setattr(audit_retention, "SETTLING_SECONDS", 0.0)
    async with serving(database_url) as service:
        shop = await service.by_requests().shop()
        kept = len(await entries(service))
        assert kept > 4
        del shop
    async with serving(database_url, audit_retention_seconds=1e-6, match_retention_seconds=9) as service:
        found = await entries(service)
        while len(found) > 1:
            await asyncio.sleep(0.01)
            found = await entries(service)
