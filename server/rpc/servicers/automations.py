"""The service Automations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from automation.automation_store import AutomationFilter
from server.errors import ContactRequired, InvalidArgument
from server.paging import PageRequest
from server.rpc.messages.automations import (
    read_changes,
    read_engine_update,
    read_new_automation,
    write_automation,
    write_run,
)
from server.rpc.messages.enums import AUTOMATION_STATE, RUN_OUTCOME, RUN_STATUS
from server.rpc.messages.events import read_draft
from server.rpc.messages.explanations import read_contact, write_condition_test, write_event_explanation
from server.rpc.messages.response_size import write_page
from server.rpc.messages.times import read_duration
from server.services.contacts import ContactRef
from server.services.emails import normalize_email
from server.services.runs import AwaitedEvent, RunQuery
from signalbox.v1 import automations_pb2 as pb

if TYPE_CHECKING:
    from server.auth.caller import Caller
    from server.rpc.messages.typed_properties import TypedReaders
    from server.services.automations import Automations
    from server.services.explanations import Explanations
    from server.services.runs import Runs


class AutomationsServicer:
    """Manages automations and their runs, and explains how automations match events."""

    def __init__(self, automations: Automations, explanations: Explanations, runs: Runs, typed: TypedReaders) -> None:
        self._automations = automations
        self._typed = typed
        self._explanations = explanations
        self._runs = runs

    async def CreateAutomation(
        self, request: pb.CreateAutomationRequest, caller: Caller
    ) -> pb.CreateAutomationResponse:
        automation = await self._automations.create(
            caller.project_pk, read_new_automation(request.automation), validate_only=request.validate_only
        )
        return pb.CreateAutomationResponse(automation=write_automation(automation))

    async def GetAutomation(self, request: pb.GetAutomationRequest, caller: Caller) -> pb.GetAutomationResponse:
        automation = await self._automations.get(caller.project_pk, request.id)
        return pb.GetAutomationResponse(automation=write_automation(automation))

    async def ListAutomations(self, request: pb.ListAutomationsRequest, caller: Caller) -> pb.ListAutomationsResponse:
        automation_filter = AutomationFilter(
            request.event_name,
            AUTOMATION_STATE.read_optional(request.state, "state"),
            dict(sorted(request.labels.items())),
            request.search,
        )
        page = await self._automations.list(
            caller.project_pk, automation_filter, PageRequest(request.page_size, request.page_token)
        )
        response = pb.ListAutomationsResponse()
        response.next_page_token = write_page(page, write_automation, response.automations)
        return response

    async def UpdateAutomation(
        self, request: pb.UpdateAutomationRequest, caller: Caller
    ) -> pb.UpdateAutomationResponse:
        automation = await self._automations.update(
            caller.project_pk, request.id, read_changes(request), request.etag, validate_only=request.validate_only
        )
        return pb.UpdateAutomationResponse(automation=write_automation(automation))

    async def DeleteAutomation(
        self, request: pb.DeleteAutomationRequest, caller: Caller
    ) -> pb.DeleteAutomationResponse:
        automation, cancelled = await self._automations.delete(caller.project_pk, request.id, request.etag)
        return pb.DeleteAutomationResponse(automation=write_automation(automation), cancelled_run_count=cancelled)

    async def ActivateAutomation(
        self, request: pb.ActivateAutomationRequest, caller: Caller
    ) -> pb.ActivateAutomationResponse:
        automation = await self._automations.activate(caller.project_pk, request.id, request.etag)
        return pb.ActivateAutomationResponse(automation=write_automation(automation))

    async def PauseAutomation(self, request: pb.PauseAutomationRequest, caller: Caller) -> pb.PauseAutomationResponse:
        automation = await self._automations.pause(caller.project_pk, request.id, request.etag)
        return pb.PauseAutomationResponse(automation=write_automation(automation))

    async def TestCondition(self, request: pb.TestConditionRequest, caller: Caller) -> pb.TestConditionResponse:
        readers = await self._typed.needed(caller.project_pk, (request.event,))
        draft = read_draft(request.event, readers, contact_optional=True)
        contact = read_contact(request.contact) if request.HasField("contact") else None
        return write_condition_test(await self._explanations.test(caller.project_pk, request.condition, draft, contact))

    async def ExplainEvent(self, request: pb.ExplainEventRequest, caller: Caller) -> pb.ExplainEventResponse:
        key, page = caller.project_pk, PageRequest(request.page_size, request.page_token)
        if request.HasField("event"):
            readers = await self._typed.needed(key, (request.event,))
            draft = read_draft(request.event, readers)
            explained = await self._explanations.of_given(key, draft, request.automation_id, page)
        elif request.HasField("event_id"):
            explained = await self._explanations.of_recorded(key, request.event_id, request.automation_id, page)
        else:
            message = "The event is missing; set event_id or event"
            raise InvalidArgument.at("event_id", "REQUIRED", message)
        return write_event_explanation(explained)

    async def ListRuns(self, request: pb.ListRunsRequest, caller: Caller) -> pb.ListRunsResponse:
        page = await self._runs.list(
            caller.project_pk, _read_query(request), PageRequest(request.page_size, request.page_token)
        )
        response = pb.ListRunsResponse()
        response.next_page_token = write_page(page, write_run, response.runs)
        return response

    async def GetRun(self, request: pb.GetRunRequest, caller: Caller) -> pb.GetRunResponse:
        return pb.GetRunResponse(run=write_run(await self._runs.get(caller.project_pk, request.id)))

    async def AwaitEvent(self, request: pb.AwaitEventRequest, caller: Caller) -> pb.AwaitEventResponse:
        awaited = AwaitedEvent(request.event_name, request.condition, read_duration(request, "timeout"))
        run = await self._runs.await_event(caller.project_pk, request.run_id, awaited, read_engine_update(request))
        return pb.AwaitEventResponse(run=write_run(run))

    async def CompleteRun(self, request: pb.CompleteRunRequest, caller: Caller) -> pb.CompleteRunResponse:
        outcome = RUN_OUTCOME.read(request.outcome, "outcome")
        run = await self._runs.complete(
            caller.project_pk, request.run_id, outcome, request.reason, read_engine_update(request)
        )
        return pb.CompleteRunResponse(run=write_run(run))

    async def CancelRun(self, request: pb.CancelRunRequest, caller: Caller) -> pb.CancelRunResponse:
        run = await self._runs.cancel(caller.project_pk, request.run_id, request.reason, request.etag)
        return pb.CancelRunResponse(run=write_run(run))


def _read_query(request: pb.ListRunsRequest) -> RunQuery:
    contact = None
    if request.HasField("email"):
        contact = ContactRef(email=normalize_email(request.email))
    elif request.HasField("contact_id"):
        if not request.contact_id:
            raise ContactRequired
        contact = ContactRef(id=request.contact_id)
    statuses = tuple(RUN_STATUS.read(number, f"statuses[{index}]") for index, number in enumerate(request.statuses))
    return RunQuery(statuses, request.automation_id, contact)
