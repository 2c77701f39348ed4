"""A project with resources of the largest size, and one call of each method of the contract that returns them.

The methods of `Largest` are named after those of the contract. Each calls with a client of default limits, which
refuses responses beyond 4 MiB, reads lists to their end, and asserts what it must have found.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
from tests.support.automations import automate, complete
from tests.support.consumers import EARLIEST, PARK, acknowledge, pull, subscribe
from tests.support.messages import INDEPENDENT, MATCHES, event, struct
from tests.support.refusals import refusal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from tests.support.service import Client, Service

LARGE = "large"
WIDE = "\U0001f600"
"""A character of four bytes."""

NUMBERS: dict[str, Any] = {"numbers": [7] * 9_900}
"""18 KB as JSON, 110 KB as a Struct."""
TEXT: dict[str, Any] = {"text": WIDE * 60_000}
COERCED: dict[str, Any] = {"a" * 255: [{"b" * 255: [str(number) for number in range(9_000)]}]}
"""Each of 9,000 items is coerced, and the path of each has 520 characters."""

_STRING = event_definitions_pb2.PROPERTY_TYPE_STRING
_NUMBER = event_definitions_pb2.PROPERTY_TYPE_NUMBER
_ARRAY = event_definitions_pb2.PROPERTY_TYPE_ARRAY
_OBJECT = event_definitions_pb2.PROPERTY_TYPE_OBJECT


def large_schema(number: int = 0) -> event_definitions_pb2.Schema:
    """Return a schema of 400 KB, a different one for each number."""
    properties = [
        event_definitions_pb2.Property(name=f"p_{number}_{index}", type=_STRING, description=WIDE * 2_000)
        for index in range(50)
    ]
    return event_definitions_pb2.Schema(properties=properties)


def coerced_schema() -> event_definitions_pb2.Schema:
    """Return the schema of COERCED."""
    inner = event_definitions_pb2.Property(name="b" * 255, type=_ARRAY, item_type=_NUMBER)
    outer = event_definitions_pb2.Property(name="a" * 255, type=_ARRAY, item_type=_OBJECT, properties=[inner])
    return event_definitions_pb2.Schema(properties=[outer])


class Largest:
    """The calls; `client` has default limits, `maker` has none."""

    def __init__(self, client: Client, maker: Client, admin: Client) -> None:
        self.client = client
        self.maker = maker
        self.admin = admin
        self.automations: list[automations_pb2.Automation] = []
        self.definitions: list[event_definitions_pb2.EventDefinition] = []
        self.events: list[str] = []
        self.runs: list[str] = []

    async def fill(self) -> None:
        """Store more resources of each kind than fit into a response."""
        self.definitions = [await self.maker.define(f"type_{number}", large_schema(number)) for number in range(11)]
        await self.maker.define("coerced", coerced_schema())
        for number in range(10):
            await self.maker.redefine(large_schema(100 + number), "type_0")
        for number in range(20):
            await self.maker.upsert(f"c{number}@example.com", {"text": WIDE * 15_000})
        fields = {"attributes": struct(NUMBERS), "labels": {f"{index:063}": WIDE * 255 for index in range(32)}}
        for number in range(10):
            self.automations.append(await automate(self.maker, LARGE, active=number < 2, name=WIDE * 255, **fields))
        await automate(self.maker, LARGE, active=False, condition=" || ".join(['properties.text == "a"'] * 300))
        await automate(self.maker, "coerced")
        sent = [event(TEXT, name=LARGE), event(NUMBERS, name=LARGE)] * 17
        receipts = await self.maker.send_all([*sent, event(COERCED, name="coerced")])
        self.events = [each.receipt.event.id for each in receipts]
        await subscribe(self.maker, "parking", EARLIEST)
        await subscribe(self.maker, "pulling", EARLIEST)
        for number in range(10):
            names = [f"{number}-{index}-{WIDE * 200}" for index in range(100)]
            await subscribe(self.maker, f"s-{number}", filter=match_stream_pb2.MatchFilter(event_names=names))
        unnamed = [event(TEXT, name=""), event(NUMBERS, name="")] * 15
        await self.maker.send_all(unnamed, INDEPENDENT)
        while deliveries := await pull(self.maker, 1_000, name="parking"):
            self.runs += (each.match.run_id for each in deliveries)
            nack = match_stream_pb2.NackDeliveries(
                delivery_ids=[each.delivery_id for each in deliveries], action=PARK, reason=WIDE * 1_000
            )
            await acknowledge(self.maker, "parking", nacks=[nack])
        for run_id in self.runs:
            run = automations_pb2.Run(id=run_id)
            await complete(
                self.maker, run, outcome=automations_pb2.RUN_OUTCOME_COMPLETED, attributes=struct(_text(15_000))
            )

    async def _list(
        self, call: Callable[[Any], Any], request: Any, items: Callable[[Any], Iterable[Any]], pages: int = 2
    ) -> list[Any]:
        """Read a list to its end with the largest page size; it must have at least `pages` pages."""
        if "page_size" in request.DESCRIPTOR.fields_by_name:
            request.page_size = 1_000
        found: list[Any] = []
        count = 0
        while True:
            page = await call(request)
            count += 1
            found += items(page)
            request.page_token = page.next_page_token
            if not page.next_page_token:
                assert count >= pages
                return found

    async def list_audit_entries(self) -> None:
        request = audit_pb2.ListAuditEntriesRequest()
        entries = await self._list(self.client.audit.ListAuditEntries, request, lambda page: page.entries, pages=1)
        assert {entry.action for entry in entries} >= {"CreateEventDefinition", "CreateAutomation"}

    async def export_audit_entries(self) -> None:
        responses = self.client.audit.ExportAuditEntries(audit_pb2.ExportAuditEntriesRequest())
        assert sum([len(response.entries) async for response in responses]) > 1

    async def create_event_definition(self) -> None:
        definition = event_definitions_pb2.EventDefinition(name="new", schema=large_schema())
        request = event_definitions_pb2.CreateEventDefinitionRequest(event_definition=definition, validate_only=True)
        made = (await self.client.definitions.CreateEventDefinition(request)).event_definition
        assert len(made.schema.properties) == 50

    async def get_event_definition(self) -> None:
        request = event_definitions_pb2.GetEventDefinitionRequest(event_definition="type_1")
        assert (await self.client.definitions.GetEventDefinition(request)).event_definition == self.definitions[1]

    async def list_event_definitions(self) -> None:
        call, request = (
            self.client.definitions.ListEventDefinitions,
            event_definitions_pb2.ListEventDefinitionsRequest(),
        )
        found = await self._list(call, request, lambda page: page.event_definitions)
        assert [each.name for each in found] == ["coerced", *(f"type_{number}" for number in reversed(range(11)))]

    async def update_event_definition(self) -> None:
        request = event_definitions_pb2.UpdateEventDefinitionRequest(
            event_definition="type_2", schema=large_schema(2), description="d" * 2_000
        )
        await self.client.definitions.UpdateEventDefinition(request)

    async def delete_event_definition(self) -> None:
        request = event_definitions_pb2.DeleteEventDefinitionRequest(event_definition="type_3")
        await self.client.definitions.DeleteEventDefinition(request)
        undelete = event_definitions_pb2.UndeleteEventDefinitionRequest(id=self.definitions[3].id)
        await self.client.definitions.UndeleteEventDefinition(undelete)

    async def undelete_event_definition(self) -> None:
        await self.delete_event_definition()

    async def list_revisions(self) -> None:
        request = event_definitions_pb2.ListRevisionsRequest(event_definition="type_0")
        found = await self._list(self.client.definitions.ListRevisions, request, lambda page: page.revisions)
        assert [each.number for each in found] == list(range(11, 0, -1))

    async def get_revision(self) -> None:
        request = event_definitions_pb2.GetRevisionRequest(event_definition="type_0", number=1)
        assert len((await self.client.definitions.GetRevision(request)).revision.schema.properties) == 50

    async def rollback_revision(self) -> None:
        request = event_definitions_pb2.RollbackRevisionRequest(event_definition="type_0", number=1, validate_only=True)
        await self.client.definitions.RollbackRevision(request)

    async def check_compatibility(self) -> None:
        request = event_definitions_pb2.CheckCompatibilityRequest(
            event_definition="type_0",
            schema=large_schema(7),
            compatibility=event_definitions_pb2.COMPATIBILITY_FULL_TRANSITIVE,
        )
        response = await self.client.definitions.CheckCompatibility(request)
        assert len(response.incompatibilities) + response.omitted_incompatibility_count == 1_000

    async def validate_event(self) -> None:
        request = event_definitions_pb2.ValidateEventRequest(event_definition="coerced", properties=struct(COERCED))
        response = await self.client.definitions.ValidateEvent(request)
        assert len(response.coercions) + response.omitted_coercion_count == 9_000
        assert response.omitted_coercion_count > 0

    async def backtest_schema(self) -> None:
        request = event_definitions_pb2.BacktestSchemaRequest(
            event_definition="coerced", schema=large_schema(), max_samples=100
        )
        *_, last = [each async for each in self.client.definitions.BacktestSchema(request)]
        assert last.report.event_count >= 1

    async def infer_event_definition(self) -> None:
        request = event_definitions_pb2.InferEventDefinitionRequest(
            name=LARGE, source=event_definitions_pb2.INFERENCE_SOURCE_RECORDED
        )
        assert (await self.client.definitions.InferEventDefinition(request)).sample_count > 10

    async def list_refused_events(self) -> None:
        call, request = self.client.quarantine.ListRefusedEvents, refusals_pb2.ListRefusedEventsRequest()
        found = await self._list(call, request, lambda page: page.refused_events)
        assert len({each.id for each in found}) == len(found) >= 30

    async def get_refused_event(self) -> None:
        page = await self.client.quarantine.ListRefusedEvents(refusals_pb2.ListRefusedEventsRequest(page_size=1))
        await self.client.quarantine.GetRefusedEvent(refusals_pb2.GetRefusedEventRequest(id=page.refused_events[0].id))

    async def count_refused_events(self) -> None:
        response = await self.client.quarantine.CountRefusedEvents(refusals_pb2.CountRefusedEventsRequest())
        assert response.event_count >= 30

    async def reingest_refused_events(self) -> None:
        request = refusals_pb2.ReingestRefusedEventsRequest(filter=refusals_pb2.RefusedEventFilter())
        response = await self.client.quarantine.ReingestRefusedEvents(request)
        assert len(response.still_refused) == response.refused_count >= 30

    async def discard_refused_events(self) -> None:
        request = refusals_pb2.DiscardRefusedEventsRequest(filter=refusals_pb2.RefusedEventFilter(), validate_only=True)
        assert (await self.client.quarantine.DiscardRefusedEvents(request)).event_count >= 30

    async def get_descriptor_set(self) -> None:
        request = event_definitions_pb2.GetDescriptorSetRequest()
        found = await self._list(self.client.definitions.GetDescriptorSet, request, lambda page: page.files)
        assert len(found) == len(set(found)) == 12

    async def get_json_schema(self) -> None:
        request = event_definitions_pb2.GetJsonSchemaRequest(event_definition="type_0", revision=1)
        found = (await self.client.definitions.GetJsonSchema(request)).json_schema
        assert len(found.fields["properties"].struct_value.fields) == 50

    async def list_dependents(self) -> None:
        request = event_definitions_pb2.ListDependentsRequest(event_definition="coerced")
        found = await self._list(self.client.definitions.ListDependents, request, lambda page: page.dependents, 1)
        assert len(found) == 2

    async def send_event(self) -> None:
        request = event_ingest_pb2.SendEventRequest(event=event(COERCED, name="coerced"), view=MATCHES)
        receipt = (await self.client.ingest.SendEvent(request)).receipt
        assert len(receipt.event.coercions) + receipt.event.omitted_coercion_count == receipt.coercion_count == 9_000

    async def send_events(self) -> None:
        sent = [event(NUMBERS, name=LARGE)] * 40
        request = event_ingest_pb2.SendEventsRequest(events=sent, mode=INDEPENDENT, view=MATCHES)
        _assert_cut([each.receipt for each in (await self.client.ingest.SendEvents(request)).results])

    async def stream_events(self) -> None:
        sent = [event(NUMBERS, name=LARGE)] * 40

        async def requests() -> AsyncIterator[event_ingest_pb2.StreamEventsRequest]:
            yield event_ingest_pb2.StreamEventsRequest(sequence=1, events=sent, view=MATCHES)

        (response,) = [each async for each in self.client.ingest.StreamEvents(requests())]
        _assert_cut([each.receipt for each in response.results])

    async def get_event(self) -> None:
        found = await self.client.get(self.events[-1])
        assert len(found.coercions) + found.omitted_coercion_count == 9_000

    async def list_events(self) -> None:
        call, request = self.client.ingest.ListEvents, event_ingest_pb2.ListEventsRequest(after_position=0)
        found = await self._list(call, request, lambda page: page.events)
        assert [each.position for each in found] == list(range(1, len(found) + 1))
        assert [each.id for each in found[: len(self.events)]] == self.events

    async def upsert_contact(self) -> None:
        request = contacts_pb2.UpsertContactRequest(email="c0@example.com", properties=struct(_text(16_350)))
        await self.client.contacts.UpsertContact(request)

    async def get_contact(self) -> None:
        request = contacts_pb2.GetContactRequest(email="c1@example.com")
        assert (await self.client.contacts.GetContact(request)).contact.properties == struct(_text(15_000))

    async def list_contacts(self) -> None:
        call, request = self.client.contacts.ListContacts, contacts_pb2.ListContactsRequest(search="c")
        found = await self._list(call, request, lambda page: page.contacts, 1)
        assert len({each.id for each in found}) == len(found) >= 19

    async def delete_contact(self) -> None:
        await self.maker.upsert("gone@example.com", _text(15_000))
        await self.client.contacts.DeleteContact(contacts_pb2.DeleteContactRequest(email="gone@example.com"))

    async def export_contact(self) -> None:
        request = contacts_pb2.ExportContactRequest(email="ada@example.com")
        records = [record async for record in self.client.contacts.ExportContact(request)]
        found = [record.event.id for record in records if record.HasField("event")]
        assert found[: len(self.events)] == self.events
        assert records[-1].end.event_count == len(found)

    async def erase_contact(self) -> None:
        await self.maker.upsert("erased@example.com", _text(15_000))
        await self.client.contacts.EraseContact(contacts_pb2.EraseContactRequest(email="erased@example.com"))

    async def create_automation(self) -> None:
        wanted = automations_pb2.Automation(name="new", event_name=LARGE, attributes=struct(NUMBERS))
        request = automations_pb2.CreateAutomationRequest(automation=wanted, validate_only=True)
        await self.client.automations.CreateAutomation(request)

    async def get_automation(self) -> None:
        request = automations_pb2.GetAutomationRequest(id=self.automations[0].id)
        assert (await self.client.automations.GetAutomation(request)).automation == self.automations[0]

    async def list_automations(self) -> None:
        call, request = self.client.automations.ListAutomations, automations_pb2.ListAutomationsRequest()
        found = await self._list(call, request, lambda page: page.automations, 1)
        assert len(found) == 12

    async def update_automation(self) -> None:
        request = automations_pb2.UpdateAutomationRequest(id=self.automations[9].id, attributes=struct(NUMBERS))
        await self.client.automations.UpdateAutomation(request)

    async def delete_automation(self) -> None:
        made = await automate(self.maker, LARGE, active=False, attributes=struct(NUMBERS))
        await self.client.automations.DeleteAutomation(automations_pb2.DeleteAutomationRequest(id=made.id))

    async def activate_automation(self) -> None:
        await self.client.automations.ActivateAutomation(
            automations_pb2.ActivateAutomationRequest(id=self.automations[0].id)
        )

    async def pause_automation(self) -> None:
        made = await automate(self.maker, "nothing", attributes=struct(NUMBERS))
        await self.client.automations.PauseAutomation(automations_pb2.PauseAutomationRequest(id=made.id))
        await self.client.automations.DeleteAutomation(automations_pb2.DeleteAutomationRequest(id=made.id))

    async def test_condition(self) -> None:
        condition = " || ".join(['properties.text == "a"'] * 300)
        request = automations_pb2.TestConditionRequest(condition=condition, event=event(TEXT, name=LARGE))
        response = await self.client.automations.TestCondition(request)
        assert len(response.trace) + response.omitted_clause_count == 301
        assert response.omitted_clause_count > 0

    async def explain_event(self) -> None:
        call, request = (
            self.client.automations.ExplainEvent,
            automations_pb2.ExplainEventRequest(event_id=self.events[0]),
        )
        found = await self._list(call, request, lambda page: page.explanations, 1)
        assert len(found) == 11

    async def list_runs(self) -> None:
        call, request = self.client.automations.ListRuns, automations_pb2.ListRunsRequest()
        found = await self._list(call, request, lambda page: page.runs)
        assert len({each.id for each in found}) == len(found) >= 69

    async def get_run(self) -> None:
        await self.client.automations.GetRun(automations_pb2.GetRunRequest(id=self.runs[0]))

    async def await_event(self) -> None:
        run = await self._open_run()
        request = automations_pb2.AwaitEventRequest(run_id=run, event_name="never", attributes=struct(_text(16_350)))
        await self.client.automations.AwaitEvent(request)

    async def complete_run(self) -> None:
        run, outcome = await self._open_run(), automations_pb2.RUN_OUTCOME_COMPLETED
        await self.client.automations.CompleteRun(automations_pb2.CompleteRunRequest(run_id=run, outcome=outcome))

    async def cancel_run(self) -> None:
        request = automations_pb2.CancelRunRequest(run_id=await self._open_run(), reason=WIDE * 1_000)
        await self.client.automations.CancelRun(request)

    async def _open_run(self) -> str:
        receipt = await self.maker.send(event({}, name="coerced"), MATCHES)
        return receipt.matches[0].run_id

    async def watch_matches(self) -> None:
        request = match_stream_pb2.WatchMatchesRequest(start=EARLIEST, max_matches=1_000)
        positions: list[int] = []
        async for response in self.client.matches.WatchMatches(request):
            positions += (each.position for each in response.matches)
            if len(positions) >= 69:
                break
        assert positions == list(range(1, len(positions) + 1))

    async def create_subscription(self) -> None:
        made = await subscribe(self.client, "new", filter=match_stream_pb2.MatchFilter(event_names=[WIDE * 255] * 1))
        await self.client.matches.DeleteSubscription(match_stream_pb2.DeleteSubscriptionRequest(subscription=made.id))

    async def get_subscription(self) -> None:
        await self.client.matches.GetSubscription(match_stream_pb2.GetSubscriptionRequest(subscription="s-0"))

    async def list_subscriptions(self) -> None:
        call, request = self.client.matches.ListSubscriptions, match_stream_pb2.ListSubscriptionsRequest()
        found = await self._list(call, request, lambda page: page.subscriptions, 1)
        assert len(found) == 12

    async def update_subscription(self) -> None:
        request = match_stream_pb2.UpdateSubscriptionRequest(subscription="s-0", max_attempts=7)
        await self.client.matches.UpdateSubscription(request)

    async def delete_subscription(self) -> None:
        await self.create_subscription()

    async def seek_subscription(self) -> None:
        request = match_stream_pb2.SeekSubscriptionRequest(subscription="s-0", start=EARLIEST)
        await self.client.matches.SeekSubscription(request)

    async def ping_subscription(self) -> None:
        # Nobody listens there.
        push = match_stream_pb2.Push(url=f"http://127.0.0.1:9/{'x' * 2_000}", paused=True)
        subscription = match_stream_pb2.Subscription(name="pushing", push=push)
        await self.client.matches.CreateSubscription(
            match_stream_pb2.CreateSubscriptionRequest(subscription=subscription, start=EARLIEST)
        )
        for _ in range(20):
            request = match_stream_pb2.PingSubscriptionRequest(subscription="pushing")
            assert (await self.client.matches.PingSubscription(request)).attempt.failure
        await self.client.matches.GetSubscription(match_stream_pb2.GetSubscriptionRequest(subscription="pushing"))
        await self.client.matches.DeleteSubscription(
            match_stream_pb2.DeleteSubscriptionRequest(subscription="pushing", force=True)
        )

    async def consume_matches(self) -> None:
        opening = match_stream_pb2.OpenConsumer(subscription="consuming", max_outstanding=10_000)
        await subscribe(self.client, "consuming", EARLIEST)
        call = self.client.matches.ConsumeMatches()
        await call.write(match_stream_pb2.ConsumeMatchesRequest(open=opening))
        count = 0
        async for response in call:
            count += len(response.deliveries.deliveries)
            if count >= 69:
                break
        call.cancel()
        request = match_stream_pb2.DeleteSubscriptionRequest(subscription="consuming", force=True)
        await self.client.matches.DeleteSubscription(request)

    async def pull_matches(self) -> None:
        count = 0
        while deliveries := await pull(self.client, 1_000, name="pulling"):
            count += len(deliveries)
        assert count >= 69
        await self.maker.matches.SeekSubscription(
            match_stream_pb2.SeekSubscriptionRequest(subscription="pulling", start=EARLIEST)
        )

    async def acknowledge_matches(self) -> None:
        ids = [f"{number:05}".ljust(255, "x") for number in range(10_000)]
        nacks = [
            match_stream_pb2.NackDeliveries(delivery_ids=ids[start : start + 1_000], action=PARK)
            for start in range(0, len(ids), 1_000)
        ]
        assert len(await acknowledge(self.client, "pulling", nacks=nacks)) == 10_000
        for refused in ([*nacks, nacks[0]], [match_stream_pb2.NackDeliveries(delivery_ids=["x" * 256], action=PARK)]):
            assert (await refusal(acknowledge(self.client, "pulling", nacks=refused))).reason == "INVALID_ARGUMENT"

    async def list_parked_matches(self) -> None:
        request = match_stream_pb2.ListParkedMatchesRequest(subscription="parking")
        found = await self._list(self.client.matches.ListParkedMatches, request, lambda page: page.parked_matches)
        assert len({each.match.id for each in found}) == len(found) == len(self.runs)

    async def replay_parked_matches(self) -> None:
        request = match_stream_pb2.ReplayParkedMatchesRequest(
            subscription="parking", selection=match_stream_pb2.ParkedSelection(all=True), dry_run=True
        )
        assert (await self.client.matches.ReplayParkedMatches(request)).match_count == len(self.runs)

    async def discard_parked_matches(self) -> None:
        request = match_stream_pb2.DiscardParkedMatchesRequest(
            subscription="parking", selection=match_stream_pb2.ParkedSelection(all=True), dry_run=True
        )
        assert (await self.client.matches.DiscardParkedMatches(request)).match_count == len(self.runs)

    async def create_project(self) -> None:
        await self.admin.projects.CreateProject(
            projects_pb2.CreateProjectRequest(project=projects_pb2.Project(name=WIDE * 255))
        )

    async def get_project(self) -> None:
        await self.admin.projects.GetProject(projects_pb2.GetProjectRequest(project=self.maker.project))

    async def list_projects(self) -> None:
        call, request = self.admin.projects.ListProjects, projects_pb2.ListProjectsRequest()
        assert await self._list(call, request, lambda page: page.projects, 1)

    async def update_project(self) -> None:
        await self.admin.projects.UpdateProject(projects_pb2.UpdateProjectRequest(project=self.maker.project))

    async def delete_project(self) -> None:
        found = await self.admin.projects.GetProject(projects_pb2.GetProjectRequest(project=self.maker.project))
        request = projects_pb2.DeleteProjectRequest(
            project=self.maker.project, confirm_name=found.project.name, validate_only=True
        )
        assert (await self.admin.projects.DeleteProject(request)).event_count

    async def create_api_key(self) -> None:
        request = projects_pb2.CreateApiKeyRequest(
            project=self.maker.project, dialect=projects_pb2.DIALECT_NATIVE, description=WIDE * 255
        )
        await self.admin.projects.CreateApiKey(request)

    async def list_api_keys(self) -> None:
        call, request = self.admin.projects.ListApiKeys, projects_pb2.ListApiKeysRequest(project=self.maker.project)
        assert await self._list(call, request, lambda page: page.api_keys, 1)

    async def rotate_api_key(self) -> None:
        request = projects_pb2.CreateApiKeyRequest(project=self.maker.project, description=WIDE * 255, name=WIDE * 255)
        made = await self.admin.projects.CreateApiKey(request)
        await self.admin.projects.RotateApiKey(projects_pb2.RotateApiKeyRequest(id=made.api_key.id))

    async def who_am_i(self) -> None:
        found = await self.maker.projects.WhoAmI(projects_pb2.WhoAmIRequest())
        assert found.project.id

    async def revoke_api_key(self) -> None:
        request = projects_pb2.CreateApiKeyRequest(project=self.maker.project, dialect=projects_pb2.DIALECT_NATIVE)
        made = await self.admin.projects.CreateApiKey(request)
        await self.admin.projects.RevokeApiKey(projects_pb2.RevokeApiKeyRequest(id=made.api_key.id))


def _text(count: int) -> dict[str, Any]:
    return {"text": WIDE * count}


def _assert_cut(receipts: list[event_ingest_pb2.EventReceipt]) -> None:
    """Every event is in the log under the id that is answered; the last ones are reported in brief."""
    assert len({each.event.id for each in receipts}) == 40
    assert receipts[0].event.properties["numbers"]
    assert not receipts[0].truncated
    assert receipts[-1].truncated
    assert not receipts[-1].event.HasField("properties")
    assert [each.match_count for each in receipts] == [2] * 40


async def filled(service: Service, client: Client) -> Largest:
    """Make the project; `client` speaks to the same server over a channel of default limits."""
    rules = {
        "undefined_events": projects_pb2.UNDEFINED_EVENTS_ACCEPT,
        "unknown_contacts": projects_pb2.UNKNOWN_CONTACTS_CREATE,
        "refused_events": projects_pb2.REFUSED_EVENTS_QUARANTINE,
    }
    maker = await service.project(**rules)
    own = type(client)(client.channel, maker.secret, maker.project)
    largest = Largest(own, maker, type(client)(client.channel, service.admin.secret))
    await largest.fill()
    return largest
