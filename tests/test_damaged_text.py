"""Text that is not UTF-8, in any column: no call fails as an internal error, and persons are erased all the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import grpc
import pytest
from sqlalchemy import Table, Text

from automation.subscriptions.tables import subscription
from automation.tables import automation, automation_match, automation_version, run
from registry.storage.tables import event_definition, event_definition_revision
from server.storage.tables import api_key, audit_entry, contact, event, project, refused_event
from signalbox.v1 import (
    audit_pb2,
    automations_pb2,
    contacts_pb2,
    event_definitions_pb2,
    event_ingest_pb2,
    match_stream_pb2,
    projects_pb2,
    refusals_pb2,
)
from tests.support import messages
from tests.support.automations import automate, change
from tests.support.consumers import EARLIEST, PARK, acknowledge, ids, pull, subscribe
from tests.support.contract import METHODS, call_method
from tests.support.messages import ADA, BOB, ORDER, struct
from tests.support.quarantine import KEEP
from tests.support.refusals import refusal, verdict

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from tests.support.service import Client, Service
    from tests.support.stores import Store

pytestmark = [pytest.mark.lasting, pytest.mark.parametrize("backend", ["sqlite"], indirect=True)]

_PROJECT: Final = "(SELECT key FROM project WHERE id = '{0}' OR name = '{0}')"
_PROJECT_ID: Final = "(SELECT id FROM project WHERE id = '{0}' OR name = '{0}')"
_AUTOMATIONS: Final = "(SELECT key FROM automation WHERE project_key = {})".replace("{}", _PROJECT)
_DEFINITIONS: Final = "(SELECT id FROM event_definition WHERE project_id = {})".replace("{}", _PROJECT_ID)
OWN: Final = {
    api_key: f"project_key = {_PROJECT}",
    audit_entry: f"project_id = {_PROJECT_ID}",
    automation: f"project_key = {_PROJECT}",
    automation_match: f"project_key = {_PROJECT}",
    automation_version: f"automation_key IN {_AUTOMATIONS}",
    contact: f"project_key = {_PROJECT}",
    event: f"project_key = {_PROJECT}",
    event_definition: f"project_id = {_PROJECT_ID}",
    event_definition_revision: f"definition_id IN {_DEFINITIONS}",
    project: f"key = {_PROJECT}",
    refused_event: f"project_key = {_PROJECT}",
    run: f"project_key = {_PROJECT}",
    subscription: f"project_key = {_PROJECT}",
}
"""The rows of one project, in each table that a call reads text of."""


AS_BYTES: Final = (automation, automation_match, automation_version, event_definition, run, subscription)
"""Tables whose text is also stored as bytes, as other programs may do: SQLite has no types of columns."""


COLUMNS: Final = [
    pytest.param(table, column.name, kind, id=f"{table.name}.{column.name}{'-bytes' if kind == 'BLOB' else ''}")
    for kind, tables in (("TEXT", OWN), ("BLOB", AS_BYTES))
    for table in tables
    for column in table.columns
    if isinstance(column.type, Text)
]


async def damage(store: Store, client: Client, table: Table, column: str, kind: str = "TEXT") -> None:
    """Append a byte that is in no text of UTF-8 to a column of all rows of a project."""
    damaged = f"CAST(CAST(\"{column}\" AS BLOB) || x'ff' AS {kind})"
    own = OWN[table].format(client.project)
    await store.execute(f'UPDATE "{table.name}" SET "{column}" = {damaged} WHERE {own}')  # noqa: S608


class Shop:
    """A project that has something of everything."""

    def __init__(self, service: Service, client: Client) -> None:
        self.client = client
        self._service = service
        self._requests: dict[str, dict[str, Any]] = {}

    @classmethod
    async def open(cls, service: Service) -> Shop:
        client = await service.shop(refused_events=KEEP)
        shop = cls(service, client)
        made = await automate(client)
        await subscribe(client, start=EARLIEST)
        ada = await client.upsert(ADA, {"plan": "pro"})
        receipt = await client.send(messages.event({"order_total": "3"}, key=f"{client.project}-once"))
        await client.upsert(BOB)
        await refusal(client.send(messages.event({"order_total": "a lot"})))
        deliveries = await pull(client, wait=5)
        nack = match_stream_pb2.NackDeliveries(delivery_ids=ids(deliveries), action=PARK)
        await acknowledge(client, nacks=[nack])
        refused = (await client.quarantine.ListRefusedEvents(refusals_pb2.ListRefusedEventsRequest())).refused_events
        run_id = deliveries[0].match.run_id
        again = messages.event({"order_total": "3"}, key=f"{client.project}-once")
        by_id = event_ingest_pb2.EventInput(name=ORDER, contact_id=ada.id, properties=struct({"order_total": 1}))
        subscribed = {"subscription": "engine"}
        defined = {"event_definition": ORDER}
        shop._requests = {
            "Projects.WhoAmI": {},
            "Contacts.GetContact": {"id": ada.id},
            "Contacts.ListContacts": {},
            "Contacts.UpsertContact": {"email": ADA, "properties": struct({"plan": "none"})},
            "EventDefinitions.GetEventDefinition": defined,
            "EventDefinitions.ListEventDefinitions": {},
            "EventDefinitions.ListRevisions": defined,
            "EventDefinitions.ListDependents": defined,
            "EventDefinitions.UpdateEventDefinition": {**defined, "description": "of a shop"},
            "EventIngest.GetEvent": {"id": receipt.event.id},
            "EventIngest.ListEvents": {"page_size": 1},
            "EventIngest.SendEvent": {"event": by_id},
            "EventIngest.SendEvents": {"events": [again, messages.event({"order_total": 1}, email=BOB)]},
            "Automations.GetAutomation": {"id": made.id},
            "Automations.ListAutomations": {},
            "Automations.ExplainEvent": {"event_id": receipt.event.id},
            "Automations.ListRuns": {},
            "Automations.GetRun": {"id": run_id},
            "MatchStream.GetSubscription": subscribed,
            "MatchStream.ListSubscriptions": {},
            "MatchStream.ListParkedMatches": subscribed,
            "MatchStream.PullMatches": {**subscribed, "max_matches": 10},
            "MatchStream.UpdateSubscription": {**subscribed, "max_attempts": 7},
            "Automations.CompleteRun": {"run_id": run_id, "outcome": automations_pb2.RUN_OUTCOME_COMPLETED},
            "Automations.PauseAutomation": {"id": made.id},
            "Quarantine.ListRefusedEvents": {},
            "Quarantine.GetRefusedEvent": {"id": refused[0].id},
            "Quarantine.ReingestRefusedEvents": {"filter": refusals_pb2.RefusedEventFilter()},
            "Contacts.DeleteContact": {"email": BOB},
            "Quarantine.DiscardRefusedEvents": {"filter": refusals_pb2.RefusedEventFilter()},
            "Contacts.EraseContact": {"id": ada.id},
        }
        return shop

    async def call(self, method: str) -> Any:
        return await call_method(self.client.channel, METHODS[method], self.client.metadata, **self._requests[method])

    async def calls(self) -> dict[str, grpc.StatusCode]:
        """Make every call. Return the status of each."""
        statuses = {method: await status(self.call(method)) for method in self._requests}
        admin = self._service.admin
        listed = admin.audit.ListAuditEntries(audit_pb2.ListAuditEntriesRequest())
        statuses["AuditLog.ListAuditEntries"] = await status(listed)
        statuses["Projects.ListProjects"] = await status(
            admin.projects.ListProjects(projects_pb2.ListProjectsRequest())
        )
        return statuses


async def status(call: Awaitable[Any]) -> grpc.StatusCode:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


@pytest.mark.parametrize(("table", "column", "kind"), COLUMNS)
async def test_damaged_text_makes_no_call_fail_as_an_internal_error(
    service: Service, served_store: Store, table: Table, column: str, kind: str
) -> None:
    shop = await Shop.open(service)
    await damage(served_store, shop.client, table, column, kind)
    statuses = await shop.calls()
    assert {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN}.isdisjoint(statuses.values()), statuses
    if table is not api_key and (table.name, column) != ("contact", "id"):
        assert statuses["Contacts.EraseContact"] is grpc.StatusCode.OK
    if table is not project:
        assert statuses["Projects.ListProjects"] is grpc.StatusCode.OK


@pytest.mark.parametrize("kind", ["TEXT", "BLOB"])
async def test_an_event_of_a_contact_with_a_damaged_address_is_recorded_and_the_contact_deleted(
    service: Service, served_store: Store, kind: str
) -> None:
    shop = await service.shop()
    ada = await shop.upsert(ADA)
    await shop.send()
    await damage(served_store, shop, contact, "email", kind)
    sent = event_ingest_pb2.EventInput(name=ORDER, contact_id=ada.id, properties=struct({"order_total": 1}))
    assert (await shop.send(sent)).event.contact_id == ada.id
    shown = f"{ADA}\ufffd"
    assert (await shop.contacts.GetContact(contacts_pb2.GetContactRequest(id=ada.id))).contact.email == shown
    assert [each.email for each in await shop.log()] == [shown, shown]
    deleted = await shop.contacts.DeleteContact(contacts_pb2.DeleteContactRequest(id=ada.id))
    assert deleted.contact.id == ada.id
    assert not (await shop.contacts.ListContacts(contacts_pb2.ListContactsRequest())).contacts


async def test_damaged_properties_of_a_contact_are_not_overwritten(service: Service, served_store: Store) -> None:
    shop = await service.shop()
    ada = await shop.upsert(ADA, {"plan": "pro"})
    where = f"id = '{ada.id}'"
    await served_store.execute(
        f"UPDATE contact SET properties = CAST(x'7b2261223a22ff227d' AS TEXT) WHERE {where}"  # noqa: S608
    )
    assert await verdict(shop.upsert(ADA, {"plan": "none"})) == (grpc.StatusCode.FAILED_PRECONDITION, "ROW_UNREADABLE")
    found = (await shop.contacts.GetContact(contacts_pb2.GetContactRequest(id=ada.id))).contact
    assert found.unreadable_reason


async def test_a_list_continues_after_a_damaged_id(service: Service, served_store: Store) -> None:
    shop = await service.project()
    made = [await shop.upsert(f"{number}@example.com") for number in range(4)]
    for index, first in ((1, "x'ff'"), (2, "x'c3'")):
        damaged = f"CAST(CAST(substr(id, 1, 30) AS BLOB) || {first} AS TEXT)"
        await served_store.execute(f"UPDATE contact SET id = {damaged} WHERE id = '{made[index].id}'")  # noqa: S608
    found: list[str] = []
    token = ""
    while not found or token:
        request = contacts_pb2.ListContactsRequest(page_size=1, page_token=token)
        page = await shop.contacts.ListContacts(request)
        found += [each.email for each in page.contacts]
        token = page.next_page_token
        assert len(found) < 10
    assert sorted(found) == [each.email for each in made]


@pytest.mark.parametrize("column", ["erasure", "name_case", "unknown_contacts"])
async def test_a_project_with_a_damaged_rule_has_that_of_a_new_project_until_it_is_changed(
    service: Service, served_store: Store, column: str, caplog: pytest.LogCaptureFixture
) -> None:
    shop = await service.shop(unknown_contacts=projects_pb2.UNKNOWN_CONTACTS_CREATE)
    await damage(served_store, shop, project, column)
    request = projects_pb2.GetProjectRequest(project=shop.project)
    found = (await service.admin.projects.GetProject(request)).project
    assert found.unknown_contacts == (
        projects_pb2.UNKNOWN_CONTACTS_REJECT if column == "unknown_contacts" else projects_pb2.UNKNOWN_CONTACTS_CREATE
    )
    assert found.id in caplog.text
    deletion = projects_pb2.DeleteProjectRequest(project=shop.project, confirm_name=found.name)
    await service.admin.projects.DeleteProject(deletion)


async def test_a_definition_with_a_damaged_schema_is_refused_by_name(service: Service, served_store: Store) -> None:
    shop = await service.shop()
    await damage(served_store, shop, event_definition_revision, "schema")
    request = event_definitions_pb2.GetEventDefinitionRequest(event_definition=ORDER)
    found = await refusal(shop.definitions.GetEventDefinition(request))
    assert (found.code, found.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "ROW_UNREADABLE")


async def spoil(store: Store, client: Client, table: Table, column: str) -> None:
    """Replace a column of all rows of a project by a valid text that is none of its words."""
    own = OWN[table].format(client.project)
    await store.execute(f'UPDATE "{table.name}" SET "{column}" = \'spoilt\' WHERE {own}')  # noqa: S608


@pytest.mark.parametrize("column", ["state", "entry_rule"])
@pytest.mark.parametrize("way_out", ["delete", "set"])
async def test_an_automation_with_a_damaged_rule_is_named_and_can_be_set_again_or_deleted(
    service: Service, served_store: Store, column: str, way_out: str
) -> None:
    shop = await service.shop()
    made = await automate(shop, active=False)
    await spoil(served_store, shop, automation, column)
    # The catalog is read again with the next change.
    await shop.define("other")
    refused = await refusal(shop.send())
    assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "ROW_UNREADABLE")
    assert made.id in refused.message
    listed = await shop.automations.ListAutomations(automations_pb2.ListAutomationsRequest())
    assert [(each.id, getattr(each, column)) for each in listed.automations] == [(made.id, 0)]
    assert column in listed.automations[0].unreadable_reason
    renamed = await change(shop, made, name="renamed")
    assert column in renamed.unreadable_reason
    if way_out == "delete":
        await shop.automations.DeleteAutomation(automations_pb2.DeleteAutomationRequest(id=made.id))
    else:
        await shop.automations.ActivateAutomation(automations_pb2.ActivateAutomationRequest(id=made.id))
        found = await change(shop, made, entry_rule=automations_pb2.ENTRY_RULE_ONCE_PER_CONTACT)
        assert (found.unreadable_reason, found.name) == ("", "renamed")
        assert found.state == automations_pb2.AUTOMATION_STATE_ACTIVE
    assert (await shop.send()).event.position == 1


async def test_an_automation_with_a_damaged_state_can_be_paused(service: Service, served_store: Store) -> None:
    shop = await service.shop()
    made = await automate(shop)
    await spoil(served_store, shop, automation, "state")
    await shop.automations.PauseAutomation(automations_pb2.PauseAutomationRequest(id=made.id))
    assert not (await shop.send()).match_count


@pytest.mark.parametrize("column", ["filter", "order"])
async def test_a_subscription_with_a_damaged_rule_delivers_nothing_and_can_be_deleted(
    service: Service, served_store: Store, column: str
) -> None:
    shop = await service.shop()
    await automate(shop)
    await subscribe(shop, start=EARLIEST)
    await spoil(served_store, shop, subscription, column)
    await shop.send()
    unreadable = (grpc.StatusCode.FAILED_PRECONDITION, "ROW_UNREADABLE")
    assert await verdict(pull(shop)) == unreadable
    change = match_stream_pb2.UpdateSubscriptionRequest(subscription="engine", max_attempts=7)
    assert await verdict(shop.matches.UpdateSubscription(change)) == unreadable
    [listed] = (await shop.matches.ListSubscriptions(match_stream_pb2.ListSubscriptionsRequest())).subscriptions
    assert listed.unreadable_reason
    await shop.matches.DeleteSubscription(match_stream_pb2.DeleteSubscriptionRequest(subscription="engine"))
    await subscribe(shop, start=EARLIEST)
    assert len(await pull(shop)) == 1
