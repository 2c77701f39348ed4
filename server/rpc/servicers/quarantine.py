"""The service Quarantine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from server.paging import PageRequest
from server.rpc.messages.refused_events import (
    read_continuation,
    read_filter,
    read_selection,
    refused_event_message,
    write_counts,
    write_reingested,
)
from server.rpc.messages.response_size import write_page
from signalbox.v1 import refusals_pb2 as pb

if TYPE_CHECKING:
    from server.auth.caller import Caller
    from server.services.quarantine import Quarantine


class QuarantineServicer:
    """Reads and repairs refused events."""

    def __init__(self, quarantine: Quarantine) -> None:
        self._quarantine = quarantine

    async def ListRefusedEvents(
        self, request: pb.ListRefusedEventsRequest, caller: Caller
    ) -> pb.ListRefusedEventsResponse:
        page = await self._quarantine.list(
            caller.project_pk, read_filter(request.filter), PageRequest(request.page_size, request.page_token)
        )
        response = pb.ListRefusedEventsResponse()
        response.next_page_token = write_page(page, refused_event_message, response.refused_events)
        return response

    async def GetRefusedEvent(self, request: pb.GetRefusedEventRequest, caller: Caller) -> pb.GetRefusedEventResponse:
        refused = await self._quarantine.get(caller.project_pk, request.id)
        return pb.GetRefusedEventResponse(refused_event=refused_event_message(refused))

    async def CountRefusedEvents(
        self, request: pb.CountRefusedEventsRequest, caller: Caller
    ) -> pb.CountRefusedEventsResponse:
        refused = read_filter(request.filter)
        counts, use = await self._quarantine.count(
            caller.project_pk, refused, read_continuation(request.continue_after)
        )
        return write_counts(counts, use, self._quarantine)

    async def ReingestRefusedEvents(
        self, request: pb.ReingestRefusedEventsRequest, caller: Caller
    ) -> pb.ReingestRefusedEventsResponse:
        selection = read_selection(request)
        result = await self._quarantine.reingest(caller.project_pk, selection, validate_only=request.validate_only)
        return write_reingested(result)

    async def DiscardRefusedEvents(
        self, request: pb.DiscardRefusedEventsRequest, caller: Caller
    ) -> pb.DiscardRefusedEventsResponse:
        selection = read_selection(request)
        count, last = await self._quarantine.discard(caller.project_pk, selection, validate_only=request.validate_only)
        return pb.DiscardRefusedEventsResponse(event_count=count, continue_after=last)
