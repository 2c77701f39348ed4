"""Changes of a project by each RPC that makes any."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from signalbox.v1 import (
    automations_pb2,
    contacts_pb2,
    event_definitions_pb2,
    match_stream_pb2,
    projects_pb2,
    refusals_pb2,
)
from tests.support.automations import automate, started
from tests.support.consumers import EARLIEST, PARK, acknowledge, ids, pull, subscribe
from tests.support.messages import ADA, ANYTHING, ORDER, ORDER_SCHEMA, event

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.support.service import Client, Service

ALL = match_stream_pb2.ParkedSelection(all=True)


class Changer:
    """Makes each change of a project, once with effect and once without; methods are named after the RPCs."""

    def __init__(self, service: Service, client: Client, project_id: str) -> None:
        """`project_id` is that of the entry."""
        self.client, self.admin, self.project_id = client, service.admin, project_id

    async def change(self, action: str) -> None:
        """Make the changes of an RPC."""
        await getattr(self, re.sub("(?<!^)([A-Z])", r"_\1", action).lower())()

    async def create_event_definition(self) -> None:
        definition = event_definitions_pb2.EventDefinition(name="fresh", schema=ORDER_SCHEMA)
        request = event_definitions_pb2.CreateEventDefinitionRequest(event_definition=definition, validate_only=True)
        await self.client.definitions.CreateEventDefinition(request)
        request.validate_only = False
        await self.client.definitions.CreateEventDefinition(request)
        await refused(self.client.definitions.CreateEventDefinition(request))

    async def update_event_definition(self) -> None:
        request = event_definitions_pb2.UpdateEventDefinitionRequest(event_definition=ORDER, validate_only=True)
        request.description = "changed"
        await self.client.definitions.UpdateEventDefinition(request)
        request.validate_only = False
        await twice(self.client.definitions.UpdateEventDefinition, request)
        request.etag = "999"
        await refused(self.client.definitions.UpdateEventDefinition(request))

    async def rollback_revision(self) -> None:
        await self.client.redefine(event_definitions_pb2.Schema())
        request = event_definitions_pb2.RollbackRevisionRequest(event_definition=ORDER, number=1)
        await twice(self.client.definitions.RollbackRevision, request)

    async def delete_event_definition(self) -> None:
        request = event_definitions_pb2.DeleteEventDefinitionRequest(event_definition=ORDER)
        await self.client.definitions.DeleteEventDefinition(request)
        await refused(self.client.definitions.DeleteEventDefinition(request))

    async def undelete_event_definition(self) -> None:
        deleted = await self.client.undefine()
        request = event_definitions_pb2.UndeleteEventDefinitionRequest(id=deleted.id)
        await self.client.definitions.UndeleteEventDefinition(request)
        await refused(self.client.definitions.UndeleteEventDefinition(request))

    async def quarantine(self) -> None:
        quarantining = projects_pb2.UpdateProjectRequest(
            project=self.client.project, refused_events=projects_pb2.REFUSED_EVENTS_QUARANTINE
        )
        await self.admin.projects.UpdateProject(quarantining)
        await refused(self.client.send(event(name="unheard_of")))

    async def reingest_refused_events(self) -> None:
        await self.quarantine()
        await self.client.define("unheard_of", ANYTHING)
        request = refusals_pb2.ReingestRefusedEventsRequest(
            filter=refusals_pb2.RefusedEventFilter(), validate_only=True
        )
        await self.client.quarantine.ReingestRefusedEvents(request)
        request.validate_only = False
        await twice(self.client.quarantine.ReingestRefusedEvents, request)

    async def discard_refused_events(self) -> None:
        await self.quarantine()
        request = refusals_pb2.DiscardRefusedEventsRequest(filter=refusals_pb2.RefusedEventFilter(), validate_only=True)
        await self.client.quarantine.DiscardRefusedEvents(request)
        request.validate_only = False
        await twice(self.client.quarantine.DiscardRefusedEvents, request)

    async def create_automation(self) -> None:
        automation = automations_pb2.Automation(name="Welcome", event_name=ORDER)
        request = automations_pb2.CreateAutomationRequest(automation=automation, validate_only=True)
        await self.client.automations.CreateAutomation(request)
        request.validate_only = False
        await self.client.automations.CreateAutomation(request)
        automation.name = ""
        await refused(
            self.client.automations.CreateAutomation(automations_pb2.CreateAutomationRequest(automation=automation))
        )

    async def update_automation(self) -> None:
        made = await automate(self.client)
        request = automations_pb2.UpdateAutomationRequest(id=made.id, name="Farewell")
        await twice(self.client.automations.UpdateAutomation, request)

    async def activate_automation(self) -> None:
        made = await automate(self.client, active=False)
        await twice(self.client.automations.ActivateAutomation, automations_pb2.ActivateAutomationRequest(id=made.id))

    async def pause_automation(self) -> None:
        made = await automate(self.client)
        request = automations_pb2.PauseAutomationRequest(id=made.id)
        await twice(self.client.automations.PauseAutomation, request)

    async def delete_automation(self) -> None:
        made = await automate(self.client, active=False)
        request = automations_pb2.DeleteAutomationRequest(id=made.id)
        await self.client.automations.DeleteAutomation(request)
        await refused(self.client.automations.DeleteAutomation(request))

    async def await_event(self) -> None:
        request = automations_pb2.AwaitEventRequest(run_id=(await self._run()).id, event_name="paid")
        await self.client.automations.AwaitEvent(request)

    async def complete_run(self) -> None:
        request = automations_pb2.CompleteRunRequest(run_id=(await self._run()).id)
        await twice(self.client.automations.CompleteRun, request)

    async def cancel_run(self) -> None:
        request = automations_pb2.CancelRunRequest(run_id=(await self._run()).id)
        await twice(self.client.automations.CancelRun, request)

    async def _run(self) -> automations_pb2.Run:
        await automate(self.client)
        return await started(self.client)

    async def upsert_contact(self) -> None:
        await self.client.upsert("grace@example.com", {"plan": "pro"})
        await self.client.upsert("grace@example.com", {"plan": "pro"})
        await self.client.send()

    async def delete_contact(self) -> None:
        await self.client.forget(ADA)
        await refused(self.client.contacts.DeleteContact(contacts_pb2.DeleteContactRequest(email=ADA)))

    async def erase_contact(self) -> None:
        request = contacts_pb2.EraseContactRequest(email=ADA, validate_only=True)
        await self.client.contacts.EraseContact(request)
        request.validate_only = False
        await twice(self.client.contacts.EraseContact, request)

    async def create_subscription(self) -> None:
        await subscribe(self.client)
        request = match_stream_pb2.CreateSubscriptionRequest(subscription=match_stream_pb2.Subscription(name="engine"))
        await refused(self.client.matches.CreateSubscription(request))

    async def update_subscription(self) -> None:
        await subscribe(self.client)
        request = match_stream_pb2.UpdateSubscriptionRequest(subscription="engine", max_attempts=3)
        await twice(self.client.matches.UpdateSubscription, request)

    async def seek_subscription(self) -> None:
        await subscribe(self.client)
        request = match_stream_pb2.SeekSubscriptionRequest(subscription="engine", start=EARLIEST)
        await self.client.matches.SeekSubscription(request)
        request.etag = "999"
        await refused(self.client.matches.SeekSubscription(request))

    async def delete_subscription(self) -> None:
        await subscribe(self.client)
        request = match_stream_pb2.DeleteSubscriptionRequest(subscription="engine")
        await self.client.matches.DeleteSubscription(request)
        await refused(self.client.matches.DeleteSubscription(request))

    async def replay_parked_matches(self) -> None:
        await self._park()
        request = match_stream_pb2.ReplayParkedMatchesRequest(subscription="engine", selection=ALL, dry_run=True)
        await self.client.matches.ReplayParkedMatches(request)
        request.dry_run = False
        await twice(self.client.matches.ReplayParkedMatches, request)

    async def discard_parked_matches(self) -> None:
        await self._park()
        request = match_stream_pb2.DiscardParkedMatchesRequest(subscription="engine", selection=ALL, dry_run=True)
        await self.client.matches.DiscardParkedMatches(request)
        request.dry_run = False
        await twice(self.client.matches.DiscardParkedMatches, request)

    async def _park(self) -> None:
        await automate(self.client)
        await subscribe(self.client)
        await self.client.send()
        nack = match_stream_pb2.NackDeliveries(delivery_ids=ids(await pull(self.client, wait=5)), action=PARK)
        await acknowledge(self.client, nacks=[nack])

    async def create_project(self) -> None:
        # Its entry is of the new project.
        request = projects_pb2.CreateProjectRequest(project=projects_pb2.Project(name=f"{self.client.project} again"))
        self.project_id = (await self.admin.projects.CreateProject(request)).project.id
        await refused(self.admin.projects.CreateProject(request))

    async def update_project(self) -> None:
        request = projects_pb2.UpdateProjectRequest(
            project=self.client.project, name_case=projects_pb2.NAME_CASE_INSENSITIVE
        )
        await twice(self.admin.projects.UpdateProject, request)

    async def delete_project(self) -> None:
        found = await self.admin.projects.GetProject(projects_pb2.GetProjectRequest(project=self.project_id))
        request = projects_pb2.DeleteProjectRequest(project=self.project_id, confirm_name=found.project.name)
        request.validate_only = True
        await self.admin.projects.DeleteProject(request)
        request.validate_only = False
        await self.admin.projects.DeleteProject(request)
        await refused(self.admin.projects.DeleteProject(request))

    async def create_api_key(self) -> None:
        await self.admin.projects.CreateApiKey(projects_pb2.CreateApiKeyRequest(project=self.client.project))
        request = projects_pb2.CreateApiKeyRequest(project=self.client.project, scopes=["everything"])
        await refused(self.admin.projects.CreateApiKey(request))

    async def rotate_api_key(self) -> None:
        made = await self.admin.projects.CreateApiKey(projects_pb2.CreateApiKeyRequest(project=self.client.project))
        request = projects_pb2.RotateApiKeyRequest(id=made.api_key.id)
        await self.admin.projects.RotateApiKey(request)
        request.grace.FromSeconds(31 * 86_400)
        await refused(self.admin.projects.RotateApiKey(request))

    async def revoke_api_key(self) -> None:
        made = await self.admin.projects.CreateApiKey(projects_pb2.CreateApiKeyRequest(project=self.client.project))
        await twice(self.admin.projects.RevokeApiKey, projects_pb2.RevokeApiKeyRequest(id=made.api_key.id))


async def twice(call: Callable[[Any], Awaitable[Any]], request: Any) -> None:
    """Make a call again, which then changes nothing."""
    await call(request)
    await call(request)


async def refused(call: Awaitable[Any]) -> None:
    with pytest.raises(grpc.aio.AioRpcError):
        await call
