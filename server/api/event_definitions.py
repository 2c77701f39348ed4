"""The service EventDefinitions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import UNSET

from registry.schema import Compatibility
from registry.store import DefinitionChanges
from server.api.definition_messages import read_schema, write_definition, write_revision
from server.api.enums import COMPATIBILITY
from server.errors import NotImplementedYet
from server.paging import PageRequest
from signalbox.v1 import event_definitions_pb2 as pb

if TYPE_CHECKING:
    from server.access import Caller
    from server.definitions import Definitions


class EventDefinitionsServicer:
    """Keeps definitions."""

    def __init__(self, definitions: Definitions) -> None:
        self._definitions = definitions

    async def CreateEventDefinition(
        self, request: pb.CreateEventDefinitionRequest, caller: Caller
    ) -> pb.CreateEventDefinitionResponse:
        asked = request.event_definition
        definition = await self._definitions.create(
            caller,
            asked.name,
            asked.description,
            read_schema(asked.schema),
            _read_compatibility(asked.compatibility) or Compatibility.NONE,
            validate_only=request.validate_only,
        )
        return pb.CreateEventDefinitionResponse(event_definition=write_definition(definition))

    async def GetEventDefinition(
        self, request: pb.GetEventDefinitionRequest, caller: Caller
    ) -> pb.GetEventDefinitionResponse:
        definition = await self._definitions.get(caller, request.event_definition)
        return pb.GetEventDefinitionResponse(event_definition=write_definition(definition))

    async def ListEventDefinitions(
        self, request: pb.ListEventDefinitionsRequest, caller: Caller
    ) -> pb.ListEventDefinitionsResponse:
        page = await self._definitions.list(
            caller,
            PageRequest(request.page_size, request.page_token),
            request.search,
            show_deleted=request.show_deleted,
        )
        return pb.ListEventDefinitionsResponse(
            event_definitions=map(write_definition, page.items), next_page_token=page.next_token
        )

    async def UpdateEventDefinition(
        self, request: pb.UpdateEventDefinitionRequest, caller: Caller
    ) -> pb.UpdateEventDefinitionResponse:
        definition = await self._definitions.update(
            caller,
            request.event_definition,
            _read_changes(request),
            request.etag,
            validate_only=request.validate_only,
            force=request.force,
        )
        return pb.UpdateEventDefinitionResponse(event_definition=write_definition(definition))

    async def DeleteEventDefinition(
        self, request: pb.DeleteEventDefinitionRequest, caller: Caller
    ) -> pb.DeleteEventDefinitionResponse:
        definition = await self._definitions.delete(caller, request.event_definition, request.etag)
        return pb.DeleteEventDefinitionResponse(event_definition=write_definition(definition))

    async def UndeleteEventDefinition(
        self, request: pb.UndeleteEventDefinitionRequest, caller: Caller
    ) -> pb.UndeleteEventDefinitionResponse:
        definition = await self._definitions.undelete(caller, request.id, request.etag)
        return pb.UndeleteEventDefinitionResponse(event_definition=write_definition(definition))

    async def ListRevisions(self, request: pb.ListRevisionsRequest, caller: Caller) -> pb.ListRevisionsResponse:
        page = await self._definitions.revisions(
            caller, request.event_definition, PageRequest(request.page_size, request.page_token)
        )
        return pb.ListRevisionsResponse(revisions=map(write_revision, page.items), next_page_token=page.next_token)

    async def GetRevision(self, request: pb.GetRevisionRequest, caller: Caller) -> pb.GetRevisionResponse:
        revision = await self._definitions.revision(caller, request.event_definition, request.number)
        return pb.GetRevisionResponse(revision=write_revision(revision))


def _read_compatibility(number: int) -> Compatibility | None:
    """Read a rule for changes. One that would not be kept is not taken."""
    compatibility = COMPATIBILITY.read_optional(number, "compatibility")
    if compatibility not in (None, Compatibility.NONE):
        raise NotImplementedYet(f"COMPATIBILITY_{compatibility.name}")
    return compatibility


def _read_changes(request: pb.UpdateEventDefinitionRequest) -> DefinitionChanges:
    compatibility = _read_compatibility(request.compatibility)
    return DefinitionChanges(
        description=request.description if request.HasField("description") else UNSET,
        schema=read_schema(request.schema) if request.HasField("schema") else UNSET,
        compatibility=compatibility or UNSET,
    )
